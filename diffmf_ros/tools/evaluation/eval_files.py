# SPDX-License-Identifier: Apache-2.0
"""Folders of visible, thermal and fused images of equal stems.

Matched, read, and what is wrong with each.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...core.frames import RGB, THERMAL, DiffmfError
from ...core.settings import ThermalSettings
from ...io.folders import natural
from ...io.images import gray_of, read_picture
from ...io.paths import IMAGE_SUFFIXES, images_in, is_same, require_different
from .scoring import luminance


class EvaluationError(DiffmfError):
    """Nothing of what was asked for can be evaluated."""


class UnusableImage(DiffmfError):
    """One image cannot be scored; the others can."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f'{file}: {reason}')
        self.file, self.reason = file, reason


@dataclass(frozen=True)
class Problem:
    """An image that was not scored: its stem, the file that is missing or not usable, and why."""

    name: str
    file: str
    reason: str


@dataclass(frozen=True)
class Images:
    """The images of one stem, all uint8 of one size.

    Visible and fused are as in their files: H x W, or H x W x 3 in BGR.
    """

    name: str
    visible: np.ndarray = field(repr=False)
    vi_y: np.ndarray = field(repr=False)
    ir: np.ndarray = field(repr=False)
    fused: np.ndarray | None = field(repr=False)

    @property
    def fused_file(self) -> np.ndarray:
        """The fused image of an evaluation of files."""
        assert self.fused is not None
        return self.fused


@dataclass(frozen=True)
class Source:
    """The files of one stem of a data set, by kind.

    Empty where something is missing, which is a problem then.

    name tells the images of several data sets apart: DATASET/STEM there, else the stem.
    """

    dataset: str
    stem: str
    name: str
    files: dict[str, Path]


def data_sets(*, rgb: Path | None, thermal: Path | None, pairs: Path | None,
              fused: Path | None) -> dict[str, dict[str, Path]]:
    """Return {data set: {kind: folder}} of rgb and thermal, or of every folder below pairs with vi
    and ir.

    A data set is called after the folder that holds its images. fused, where given, holds the
    fused images, with pairs in a folder for each set. Raises EvaluationError for other
    combinations and where there is nothing.
    """
    if pairs is None:
        if rgb is None or thermal is None:
            raise EvaluationError('expected two folders of images (--rgb and --thermal), or one '
                                  'with vi and ir below (--pairs)')
        name = Path(os.path.realpath(rgb)).parent.name  # realpath takes links in a circle, too
        return {name: {'visible': rgb, 'thermal': thermal} | ({'fused': fused} if fused else {})}
    if rgb or thermal:
        raise EvaluationError('expected --pairs, or --rgb and --thermal, not both')
    homes = sorted(path.parent for path in pairs.rglob('vi') if (path.parent / 'ir').is_dir())
    if not homes:
        raise EvaluationError(f'no pairs at or below {pairs}: expected folders vi and ir with '
                              f'files of equal names')
    if fused and (missing := [home.name for home in homes if home != pairs
                              and not (fused / home.name).is_dir()]):
        raise EvaluationError(f'{fused} has no folder {", ".join(missing)}: with --pairs, --fused '
                              'is expected to hold a folder for each data set')
    return {Path(os.path.realpath(home)).name: {'visible': home / 'vi', 'thermal': home / 'ir'}
            | ({'fused': fused / home.name if home != pairs else fused} if fused else {})
            for home in homes}


def sources(sets: dict[str, dict[str, Path]]) -> tuple[list[Source], list[Problem]]:
    """Return the images of data_sets by set and stem, and a problem for everything that one lacks.
    """
    result, problems = [], []
    for dataset, folders in sets.items():
        found, wrong = matched(folders)
        for stem in sorted(found.keys() | {problem.name for problem in wrong}, key=natural):
            name = f'{dataset}/{stem}' if len(sets) > 1 else stem
            result.append(Source(dataset, stem, name, found.get(stem, {})))
        problems += wrong
    return result, problems


def matched(folders: dict[str, Path]) -> tuple[dict[str, dict[str, Path]], list[Problem]]:
    """Return {stem: {kind: file}} of what every folder has, and a problem for every other stem.

    Stems are in the order of natural(): 2 before 10.
    folders maps 'visible', 'thermal' and perhaps 'fused' to a folder. Raises EvaluationError when
    one is missing or holds no image.
    """
    require_different(folders['visible'], folders['thermal'])
    files = {kind: _by_stem(folder) for kind, folder in folders.items()}
    found, problems = {}, []
    for stem in sorted(set().union(*files.values()), key=natural):
        there = {kind: paths.get(stem, []) for kind, paths in files.items()}
        wrong = [Problem(stem, str(folders[kind] / stem),
                         f'no {kind} image of this name in {folders[kind]}')
                 for kind, paths in there.items() if not paths]
        wrong += [Problem(stem, str(paths[1]),
                          f'{paths[0].name} has the same stem; which of them is meant?')
                  for paths in there.values() if len(paths) > 1]
        wrong = wrong or _same_file(stem, there)
        problems += wrong
        if not wrong:
            found[stem] = {kind: paths[0] for kind, paths in there.items()}
    return found, problems


def _same_file(stem: str, there: dict[str, list[Path]]) -> list[Problem]:
    """Return a problem where one file is both the visible and the thermal image."""
    (visible,), (thermal,) = there['visible'], there['thermal']
    if not is_same(visible, thermal):
        return []
    return [Problem(stem, str(thermal), f'it is the same file as {visible}')]


def image_count(sets: dict[str, dict[str, Path]]) -> int:
    """Return the number of visible images of data_sets.

    Raises EvaluationError for a folder of any kind that has none.
    """
    found = [{kind: _by_stem(folder) for kind, folder in folders.items()}
             for folders in sets.values()]
    return sum(len(files['visible']) for files in found)


def read_images(name: str, files: dict[str, Path], thermal: ThermalSettings) -> Images:
    """Read the files of one stem; thermal of 16 bit goes through the gain control of the node.

    Raises UnusableImage: unreadable, not 8-bit (visible, fused), without a finite value, or sizes
    that differ.
    """
    pixels: dict[str, np.ndarray] = {}
    for kind, file in files.items():
        try:
            frame = read_picture(file, stream=THERMAL if kind == 'thermal' else RGB)
            pixels[kind] = (gray_of(frame, file, thermal) if kind == 'thermal'
                            else frame.pixels)
        except DiffmfError as error:
            said = str(error).removeprefix(f'{file}').removeprefix(':').lstrip()
            raise UnusableImage(file, said) from error
    height, width = pixels['visible'].shape[:2]
    for kind, file in files.items():
        own_height, own_width = pixels[kind].shape[:2]
        if (own_height, own_width) != (height, width):
            raise UnusableImage(file, f'{own_width}x{own_height} pixels, but the visible image '
                                f'has {width}x{height}: '
                                'a registered pair has one size')
    return Images(name, pixels['visible'], luminance(pixels['visible']), pixels['thermal'],
                  pixels.get('fused'))


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise EvaluationError(f'{folder} is not a folder')
    files: dict[str, list[Path]] = {}
    for path in images_in(folder):
        files.setdefault(path.stem, []).append(path)
    if not files:
        raise EvaluationError(f'{folder} holds no image ({", ".join(IMAGE_SUFFIXES)}); subfolders '
                              f'are not searched')
    return files
