# SPDX-License-Identifier: Apache-2.0
"""Checks of the paths that a command is given, before it begins to work."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.frames import DiffmfError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')
# Of the pictures and plots that are written.
PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
PLOTS = ('.png', '.svg', '.pdf')
FILM_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.m4v', '.webm', '.mpg', '.mpeg', '.ts', '.mjpg',
                 '.wmv')
# Endings of files that people read or write beside: none of them is the name of a folder.
FILE_SUFFIXES = (*IMAGE_SUFFIXES, '.webp', '.gif', '.svg', '.pdf', *FILM_SUFFIXES, '.db3', '.mcap',
                 '.yaml', '.yml', '.json', '.html', '.csv', '.txt', '.md', '.rrd', '.onnx',
                 '.safetensors', '.pth', '.pkl')


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted, without hidden ones such as macOS's ._0.png."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'))


class PathError(DiffmfError):
    """A path is missing, is given twice, or names another kind of thing than is written."""


def require_inputs(*paths: str | Path | None) -> None:
    """Raise PathError, naming all of them, when inputs are missing or cannot be read.

    Args:
        *paths: files and folders; None among them is left out.
    """
    wrong = [text for path in dict.fromkeys(paths) if path is not None and (text := _fault(path))]
    if wrong:
        raise PathError('; '.join(wrong))


def _fault(path: str | Path) -> str:
    """Return what is wrong with an input, or ''."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return f'{path} does not exist'
    except OSError as error:
        return f'{path} cannot be read: {error.strerror}'
    return '' if os.access(path, os.R_OK) else f'{path} cannot be read: no permission'


def require_different(rgb: Path, thermal: Path) -> None:
    """Raise PathError when both cameras are given the same file or folder, under any names."""
    if not is_same(rgb, thermal):
        return
    empty = ' (an empty name is the working directory)' if rgb == Path() else ''
    named = (f'{rgb} is given twice{empty}' if rgb == thermal
             else f'{rgb} and {thermal} are the same')
    kind = 'folders' if rgb.is_dir() else 'files'
    raise PathError(f'{named}: expected different {kind}, the visible and the thermal images')


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder; a path that is missing is like none."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def require_outside(path: Path, folders: Iterable[Path]) -> None:
    """Raise PathError for an output in a folder that is read, where it would be an input too.

    Args:
        path: the file or folder to write.
        folders: what is read; files among them do not matter.
    """
    real = Path(os.path.realpath(path))
    for folder in folders:
        if folder.is_dir() and (inside := Path(os.path.realpath(folder))) in (real, *real.parents):
            raise PathError(f'{path} lies in {folder}, which is read ({inside}): write to a place '
                            'outside of it')


def require_folder_name(path: Path, *, of: str, instead: str = 'NAME') -> None:
    """Raise PathError when the name of a folder to make has the ending of a file.

    Args:
        path: the folder; one that exists may have any name.
        of: what is put there, such as 'fused images'.
        instead: what to write in place of path; NAME stands for path without its ending.
    """
    if path.suffix.lower() in FILE_SUFFIXES and not path.is_dir():
        raise PathError(f'{path} is the name of a file, and a folder is made here for {of}: '
                        f'write {instead.replace("NAME", str(path.with_suffix("")))}')
