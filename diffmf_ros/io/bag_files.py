# SPDX-License-Identifier: Apache-2.0
"""The folder of a bag: what in it is the bag's own, and how a new bag takes the place of another."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

import yaml

from ..core.frames import DiffmfError
from .writing import sync

METADATA = 'metadata.yaml'
# Key of the metadata's custom data that names further files of the bag, one a line.
EXTRA_FILES = 'diffmf_ros.files'


class BagError(DiffmfError):
    """A bag cannot be read or written."""


def require_bag_output(path: Path, *, overwrite: bool, inputs: Iterable = ()) -> None:
    """Raise an error, before long work begins, unless a bag may be written to path.

    Args:
        path: the bag folder to make.
        overwrite: whether a bag that exists may be replaced.
        inputs: files and folders that are read; None among them is left out.

    Raises:
        BagError: path holds an input or is one, exists and overwrite is False, is no bag, or has a name
            that rosbag2 storage cannot open.
    """
    if any(mark in str(path) for mark in '?#%'):
        raise BagError(f'the path of a bag must not contain ?, # or %, got {path}')
    if not path.exists():
        return
    read = [place for item in inputs if item is not None and Path(item).exists()
            for place in (Path(os.path.realpath(item)), *Path(os.path.realpath(item)).parents)]
    if any(path.samefile(place) for place in read):
        raise BagError(f'{path} is read as an input, so no bag is written there: choose another path')
    if not overwrite:
        raise BagError(f'{path} exists already: choose another path, or --overwrite to replace the bag')
    if not (path / METADATA).is_file():
        raise BagError(f'{path} exists and is not a bag, so it is not overwritten')
    own_files(path)


def own_files(folder: Path) -> set[str]:
    """Return the names of the files in a bag folder that belong to the bag. Raises BagError."""
    try:
        content = yaml.safe_load((folder / METADATA).read_text(encoding='utf-8'))
        about = content['rosbag2_bagfile_information']
        extra = (about.get('custom_data') or {}).get(EXTRA_FILES, '').splitlines()
        # Names alone: rosbag2's readers too look for the files in the folder itself.
        return {METADATA, *(PurePath(name).name for name in (*about['relative_file_paths'], *extra))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise BagError(f"{folder / METADATA} cannot be read, so it is not known which files are the bag's; "
                       'choose another path') from error


def place(staged: Path, target: Path) -> None:
    """Move a finished bag to target; of a bag that is there its own files are replaced, others stay.

    Without metadata.yaml while files move, so that a crash leaves no bag that looks whole and is not.
    """
    for file in staged.iterdir():
        sync(file)
    if not target.exists():
        staged.rename(target)
        sync(target.parent)
        return
    before, names = own_files(target), {file.name for file in staged.iterdir()}
    (target / METADATA).unlink()
    for name in sorted(names, key=lambda name: name == METADATA):
        if name == METADATA:
            for stale in before - names:
                (target / stale).unlink(missing_ok=True)
        (staged / name).replace(target / name)
    sync(target)
