# SPDX-License-Identifier: Apache-2.0
"""Which image files belong together, of two folders, of two patterns, or in a list."""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.frames import DiffmfError
from ...io.folders import natural
from ...io.paths import IMAGE_SUFFIXES, require_different

_WILD = re.compile(r'\*\*/|\*|\?|\[[^\]]+\]')
_AS_REGEX = {'**/': '((?:.*/)?)', '*': '([^/]*)', '?': '([^/])'}


class MatchError(DiffmfError):
    """There are no files that belong together, or it cannot be told which do."""


@dataclass(frozen=True)
class Match:
    """Two image files of one moment; name: of the fused image, with folders, without an ending."""

    name: str
    rgb: Path
    thermal: Path


def matches(
    inputs: Sequence[Path], *, names: str | None = None, recursive: bool = False
) -> tuple[list[Match], list[str]]:
    """Return the pairs of what a user has named, sorted by name, in which numbers count.

    Args:
        inputs: two folders; two patterns with *, ?, [] or **; one or two folders with names; or
            files, first all visible ones, then as many thermal ones in the same order.
        names: two patterns of file names with a {} each, such as 'rgb_{}.png thermal_{}.png';
            files belong together for which the same stands in place of it. Without them files of
            equal stems do.
        recursive: look in the folders below, too; files belong together in folders of the same
            name.

    Returns:
        The pairs, and a sentence for every file without a partner.

    Raises:
        MatchError: there is no pair, or inputs are something else.
        PathError: a file is its own partner, perhaps under another name.
    """
    if names is not None:
        sides = _named(inputs, names, recursive)
        if not sides[0].keys() & sides[1].keys():
            there = ' and '.join(_example(place, recursive) for place in dict.fromkeys(inputs))
            raise MatchError(f'there is no pair of images by --match {names!r}: {there}; expected '
                             'names in which the same stands in place of {}')
    elif len(inputs) == 2 and all(place.is_dir() for place in inputs):
        sides = [_of_folder(place, recursive, _stem) for place in inputs]
    elif len(inputs) == 2 and all(is_pattern(place) for place in inputs):
        sides = [_of_pattern(str(place)) for place in inputs]
    else:
        return _different(_in_order(inputs)), []
    if names is None:
        require_different(*inputs)
    found, problems = _joined(*sides)
    return _different(found), problems


def _different(found: list[Match]) -> list[Match]:
    """Return pairs of two files each. Raises PathError for one file in both places."""
    for match in found:
        require_different(match.rgb, match.thermal)
    return found


def is_pattern(place: Path) -> bool:
    """Return whether place is a pattern such as rgb/*.png, which the shell has left to us."""
    return bool(_WILD.search(str(place))) and not place.exists()


def _in_order(files: Sequence[Path]) -> list[Match]:
    """Return files as pairs: the first of the one half with the first of the other."""
    half = len(files) // 2
    folders = [place for place in files if place.is_dir()]
    if folders or not half or len(files) % 2:
        got = f'{folders[0]} is a folder' if folders and len(files) > 1 else f'got {len(files)}'
        alike = [folders[0] / file.name for file in files if folders and file not in folders]
        if len(alike) == 1 and alike[0].is_file():
            got += f', in which {alike[0]} goes with the other image'
        raise MatchError(
            'expected two images, two folders, two patterns, two videos, or as many visible '
            f'images as thermal ones (first all visible, then all thermal); {got}'
        )
    found = [
        Match(rgb.stem, rgb, thermal)
        for rgb, thermal in zip(files[:half], files[half:], strict=True)
    ]
    twice = _twice(found)
    # Of equal stems in several folders the folder is part of the name.
    found = [
        Match(
            f'{match.rgb.absolute().parent.name}/{match.name}' if match.name in twice
            else match.name,
            match.rgb,
            match.thermal,
        )
        for match in found
    ]
    if twice := _twice(found):
        raise MatchError(
            f'several visible images are called {min(twice)}, and so would the fused ones be: '
            'give each once, or fuse them into folders of their own'
        )
    return found


def _twice(found: list[Match]) -> set[str]:
    """Return the names that several pairs have."""
    return {name for name, count in Counter(match.name for match in found).items() if count > 1}


def _named(inputs: Sequence[Path], names: str, recursive: bool) -> list[dict[str, list[Path]]]:
    patterns = names.split()
    if len(patterns) != 2 or any(pattern.count('{}') != 1 for pattern in patterns):
        raise MatchError(
            'expected two patterns with one {} each, such as '
            f"'rgb_{{}}.png thermal_{{}}.png'; got {names!r}"
        )
    if len(inputs) not in (1, 2) or not all(place.is_dir() for place in inputs):
        raise MatchError(
            'expected one folder, or one for each pattern, beside the patterns of names; got '
            f'{" ".join(map(str, inputs))}'
        )
    return [
        _of_folder(place, recursive, _asked(pattern))
        for place, pattern in zip((inputs[0], inputs[-1]), patterns, strict=True)
    ]


def _example(folder: Path, recursive: bool) -> str:
    """Return that a folder has a file such as its first image, as a clause."""
    images = sorted(path for paths in _of_folder(folder, recursive, _stem).values()
                    for path in paths)
    return f'{folder} has {images[0].name}' if images else f'{folder} has no images'


def _asked(pattern: str) -> Callable[[Path], str | None]:
    before, after = map(re.escape, pattern.split('{}'))
    regex = re.compile(f'{before}(.+){after}')

    def key(path: Path) -> str | None:
        found = regex.fullmatch(path.name)
        return found and str(path.with_name(found[1]))

    return key


def _stem(path: Path) -> str | None:
    return str(path.with_suffix('')) if path.suffix.lower() in IMAGE_SUFFIXES else None


def _of_folder(
    folder: Path, recursive: bool, key: Callable[[Path], str | None]
) -> dict[str, list[Path]]:
    """Return {key of the path below folder: files}, without hidden ones such as ._0.png."""
    files = folder.rglob('*') if recursive else folder.iterdir()
    return _grouped(
        (key(relative), path)
        for path in sorted(files)
        if not (relative := path.relative_to(folder)).name.startswith('.') and _is_image(path)
    )


def _is_image(path: Path) -> bool:
    """Whether path may be meant as an image: also a link to nowhere, which then is named."""
    return path.is_file() or path.is_symlink() and not path.exists()


def _of_pattern(pattern: str) -> dict[str, list[Path]]:
    """Return {what stands for the wildcards: files}."""
    regex, place = '', 0
    for wild in _WILD.finditer(pattern):
        regex += re.escape(pattern[place : wild.start()]) + _AS_REGEX.get(
            wild[0], f'({wild[0].replace("[!", "[^")})'
        )
        place = wild.end()
    whole = re.compile(regex + re.escape(pattern[place:]), re.DOTALL)
    found = sorted(glob.glob(pattern, recursive=True))
    return _grouped(
        (''.join(match.groups()), Path(path))
        for path in found
        if (match := whole.fullmatch(path)) and _is_image(Path(path))
    )


def _grouped(files: Iterable[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for key, path in files:
        if key is not None:
            groups.setdefault(key, []).append(path)
    return groups


def _joined(
    rgb: dict[str, list[Path]], thermal: dict[str, list[Path]]
) -> tuple[list[Match], list[str]]:
    found, problems = [], []
    for key in sorted(rgb.keys() | thermal.keys(), key=natural):
        there, others = rgb.get(key, []), thermal.get(key, [])
        if len(there) == len(others) == 1:
            found.append(Match(key, there[0], others[0]))
        elif not there or not others:
            missing = 'thermal' if there else 'visible'
            problems += [f'{path}: there is no {missing} image for it' for path in there or others]
        else:
            twice = there if len(there) > 1 else others
            problems.append(f'{twice[0]} and {twice[1]} share one name: which of them is meant?')
    if not found:
        raise MatchError(
            'there is no pair of images; expected two folders with images of equal names, or '
            "the names by --match 'rgb_{}.png thermal_{}.png' (a bag: diffmf replay)"
            + ''.join(f'; {text}' for text in problems[:2])
        )
    return found, problems
