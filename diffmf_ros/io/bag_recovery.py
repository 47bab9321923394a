# SPDX-License-Identifier: Apache-2.0
"""Recordings that were cut short: what was stored until then, in a form that rosbags opens.

Of an MCAP file whole records are read, as if the file ended behind the last one; the file itself is left
alone. A SQLite file whose writer was killed is brought back to its last commit, as SQLite does whenever
such a file is opened for writing; rosbags opens it as unchangeable and would read half a transaction.
"""

import io
import os
import sqlite3
from pathlib import Path
from typing import IO, Any

from ..core.file_kinds import what_is
from .bag_files import METADATA, BagError, own_files

_MAGIC = b'\x89MCAP0\r\n'
# Ending of a storage file -> how it begins.
_STARTS = {'.db3': b'SQLite format 3\0', '.mcap': _MAGIC}
STORAGE_SUFFIXES = tuple(_STARTS)
_HEAD = 9  # bytes of a record before its content: operation, length
_FOOTER, _DATA_END = 0x02, 0x0F
# A footer of 20 bytes that names no summary, so that readers scan the records.
_END = bytes([_FOOTER]) + (20).to_bytes(8, 'little') + bytes(20) + _MAGIC


def storage_of(folder: Path) -> Path:
    """Return the only storage file of a bag folder without metadata. Raises BagError for none or several."""
    files = sorted(path for path in folder.iterdir() if path.suffix in STORAGE_SUFFIXES)
    if not files:
        raise BagError(f'{folder} is not a finished bag: it has no {METADATA} and no .db3 or .mcap file')
    if len(files) > 1:
        raise BagError(f'{folder} is not a finished bag: it has no {METADATA} and several storage files; open one of '
                       f'them itself: {", ".join(path.name for path in files)}')
    return files[0]


def wrong_files(path: Path) -> list[str]:
    """Return 'name: what it is' for every file of a bag, or for a storage file, that is not what its ending says."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [f'{file.name}: {what_is(file) or "its content is not that of such a file"}' for file in files
            if file.is_file() and (file.suffix in _STARTS and not _begins_well(file)
                                   or file.name == METADATA and not _is_metadata(file))]


def _is_metadata(file: Path) -> bool:
    try:
        return bool(own_files(file.parent))
    except BagError:
        return False


def opened(path: Path) -> tuple[object, bool]:
    """Return what rosbags reads of a storage file, and whether the file was cut short. Raises BagError."""
    if not _begins_well(path):
        raise BagError(f'cannot read the bag {path}: {wrong_files(path)[0].partition(": ")[2]}')
    if path.suffix == '.db3':
        return path, _rolled_back(path)
    with path.open('rb') as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _HEAD:
            raise BagError(f'cannot read the bag {path}: it ends before the first record, so nothing was stored')
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
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end + len(_END)}[whence]
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
    """Return whether a writer of the SQLite file was killed; what it had not committed is undone then."""
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
        raise BagError(f'{path} was cut short and cannot be brought back to its last commit there ({error}): copy it '
                       f'and {journal.name} to a folder that can be written to') from error
    return True
