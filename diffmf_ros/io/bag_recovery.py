# SPDX-License-Identifier: Apache-2.0
"""Files of a recording: their places, and repair of recordings cut short by a power cut."""

import io
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path, PosixPath, PurePath
from typing import IO, Any

import yaml

from ..core.file_kinds import what_is
from ..core.frames import DiffmfError
from .paths import require_folder_name
from .writing import sync

METADATA = 'metadata.yaml'
# Key of the metadata's custom data that names further files of the bag, one a line.
EXTRA_FILES = 'diffmf_ros.files'


class BagError(DiffmfError):
    """A bag cannot be read or written."""


class UriPath(PosixPath):
    """A path whose text is quoted, as rosbags puts it into a URI of SQLite.

    There ?, # and % mean something, and only UTF-8 is allowed.
    """

    def __str__(self) -> str:
        name = os.fsencode(os.fspath(self))
        return ''.join(chr(byte) if byte < 128 and byte not in b'?#%' else f'%{byte:02X}'
                       for byte in name)

    def __fspath__(self) -> str:
        return super().__str__()


def require_bag_output(path: Path, *, overwrite: bool, inputs: Iterable = ()) -> None:
    """Raise an error, before long work begins, unless a bag may be written to path.

    Args:
        path: the bag folder to make.
        overwrite: whether a bag that exists may be replaced.
        inputs: files and folders that are read; None among them is left out.

    Raises:
        BagError: path holds an input or is one, exists and overwrite is False, or is no bag.
        PathError: path has the name of a file.
    """
    require_folder_name(path, of='a bag')
    if not path.exists():
        return
    read = [place for item in inputs if item is not None and Path(item).exists()
            for place in (Path(os.path.realpath(item)), *Path(os.path.realpath(item)).parents)]
    if any(path.samefile(place) for place in read):
        raise BagError(f'{path} is read as an input, so no bag is written there: choose another '
                       f'path')
    if not overwrite:
        raise BagError(f'{path} exists already: choose another path, or --overwrite to replace '
                       f'the bag')
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
        return {METADATA,
                *(PurePath(name).name for name in (*about['relative_file_paths'], *extra))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise BagError(f"{folder / METADATA} cannot be read, so it is not known which files are "
                       f"the bag's; "
                       'choose another path') from error


def place(staged: Path, target: Path) -> None:
    """Move a finished bag to target, replacing the files of a bag there; other files stay.

    Without metadata.yaml while files move, so that a crash or a power cut leaves no bag that looks
    whole and is not.
    """
    for file in (*staged.iterdir(), staged):
        sync(file)
    if not target.exists():
        staged.rename(target)
        sync(target.parent)
        return
    before, names = own_files(target), {file.name for file in staged.iterdir()}
    (target / METADATA).unlink()
    sync(target)
    for name in sorted(names, key=lambda name: name == METADATA):
        if name == METADATA:
            for stale in before - names:
                (target / stale).unlink(missing_ok=True)
            sync(target)
        (staged / name).replace(target / name)
    sync(target)


_MAGIC = b'\x89MCAP0\r\n'
# Ending of a storage file -> how it begins.
_STARTS = {'.db3': b'SQLite format 3\0', '.mcap': _MAGIC}
STORAGE_SUFFIXES = tuple(_STARTS)
_HEAD = 9  # bytes of a record before its content: operation, length
_FOOTER, _DATA_END = 0x02, 0x0F
# A footer of 20 bytes that names no summary, so that readers scan the records.
_END = bytes([_FOOTER]) + (20).to_bytes(8, 'little') + bytes(20) + _MAGIC


def storage_of(folder: Path) -> Path:
    """Return the only storage file of a bag folder without metadata.

    Raises BagError for none or several.
    """
    files = sorted(path for path in folder.iterdir()
                   if path.suffix in STORAGE_SUFFIXES and not path.name.startswith('.'))
    if not files:
        raise BagError(f'{folder} is not a finished bag: it has no {METADATA} and no .db3 or '
                       f'.mcap file (a folder of images: diffmf fuse)')
    if len(files) > 1:
        raise BagError(f'{folder} is not a finished bag: it has no {METADATA} and several storage '
                       f'files; open one of them itself: {", ".join(path.name for path in files)}')
    return files[0]


def damage(error: Exception) -> str:
    """Return what a storage plugin says of a file, its paths as they are, and what to do."""
    text = ' '.join(str(error).split())
    if 'Cannot open database' in text:  # it names a URI: see UriPath
        text = os.fsdecode(re.sub(rb'%([0-9A-F]{2})', lambda quoted: bytes.fromhex(
            quoted[1].decode()), text.encode()))
    if 'malformed' in text:
        text += ('; copy the bag again, or save what is left with '
                 '`sqlite3 OLD.db3 .recover | sqlite3 NEW.db3`')
    return text


def wrong_files(path: Path) -> list[str]:
    """Return 'name: content' for files of a bag whose content contradicts their ending."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [f'{file.name}: {what_is(file) or "its content is not that of such a file"}'
            for file in files if file.is_file()
            and (file.suffix in _STARTS and not _begins_well(file)
                                   or file.name == METADATA and not _is_metadata(file))]


def _is_metadata(file: Path) -> bool:
    try:
        return bool(own_files(file.parent))
    except BagError:
        return False


def opened(path: Path) -> tuple[object, bool]:
    """Return what rosbags reads of a storage file, and whether the file was cut short.

    Raises BagError.
    """
    if not _begins_well(path):
        raise BagError(f'cannot read the bag {path}: {wrong_files(path)[0].partition(": ")[2]}')
    if path.suffix == '.db3':
        return path, _rolled_back(path)
    with path.open('rb') as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _HEAD:
            raise BagError(f'cannot read the bag {path}: it ends before the first record, so '
                           f'nothing was stored')
        file.seek(size - len(_MAGIC))
        if file.read() == _MAGIC:
            return path, False
        return CutMcap(path, _whole_records(file, size)), True


def _begins_well(path: Path) -> bool:
    start = _STARTS[path.suffix]
    with path.open('rb') as file:
        return file.read(len(start)) == start


class CutMcap:
    """An MCAP file up to its last whole record, as far as rosbags uses a path."""

    def __init__(self, path: Path, end: int):
        self.path, self.suffix, self._end = path, path.suffix, end

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.path.exists()

    def is_dir(self) -> bool:
        """Return False: it is a file."""
        return False

    def open(self, mode: str) -> io.BufferedReader:
        """Return the records and an end, opened for reading."""
        return io.BufferedReader(_Ended(self.path.open(mode), self._end))


class _Ended(io.RawIOBase):
    """The first `end` bytes of a file, followed by _END."""

    def __init__(self, file: IO[bytes], end: int):
        self._file, self._end, self._place = file, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place,
                 os.SEEK_END: self._end + len(_END)}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place < self._end:
            self._file.seek(self._place)
            data = self._file.read(min(len(buffer), self._end - self._place))
        else:
            data = _END[self._place - self._end:][:len(buffer)]
        buffer[:len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _whole_records(file: io.BufferedReader, size: int) -> int:
    """Return where the last whole record before the end of the data ends."""
    place = len(_MAGIC)
    while place + _HEAD <= size:
        file.seek(place)
        head = file.read(_HEAD)
        after = place + _HEAD + int.from_bytes(head[1:], 'little')
        # 0 is no operation: a file system that lost power can leave zeros.
        if head[0] in (0, _FOOTER, _DATA_END) or after > size:
            break
        place = after
    return place


def _rolled_back(path: Path) -> bool:
    """Return whether a writer of the SQLite file was killed.

    What it had not committed is undone then.
    """
    journal = path.with_name(f'{path.name}-journal')
    if not journal.exists() or not journal.stat().st_size:
        return False
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute('SELECT count(*) FROM sqlite_master').fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise BagError(f'{path} was cut short and cannot be brought back to its last commit there '
                       f'({error}): copy it and {journal.name} to a folder that can be written '
                       f'to') from error
    return True
