# SPDX-License-Identifier: Apache-2.0
"""Recognition of a file's real content, for errors about files that cannot be read."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD_BYTES = 4096
CHECKPOINT = ('it is a checkpoint of PyTorch, which can run code when it is opened; weights are '
              '.safetensors files '
               '(`diffmf convert-weights` converts those of the authors of S4Fusion)')
PNG, JPEG = 'it is a PNG image', 'it is a JPEG image'
# First bytes of a file -> what it is.
_STARTS = (
    (b'version https://git-lfs', 'it is a Git LFS pointer, not the file itself: run `git lfs '
     'pull` where it came from'),
    (b'SQLite format 3\0', 'it is an SQLite database, perhaps the .db3 of a bag'),
    (b'\x89MCAP', 'it is an MCAP recording'),
    (b'#ROSBAG V', 'it is a bag of ROS 1: convert it with `rosbags-convert`'),
    (b'\x28\xb5\x2f\xfd', 'it is compressed with Zstandard: unpack it with `zstd -d`'),
    (b'\x1f\x8b', 'it is compressed with gzip: unpack it with `gunzip`'),
    (b'7z\xbc\xaf\x27\x1c', 'it is a 7z archive: unpack it'),
    (b'\x89PNG', PNG),
    (b'\xff\xd8\xff', JPEG),
    (b'%PDF', 'it is a PDF document'),
    (b'%YAML:1.0', 'it is a file of OpenCV FileStorage'),
)
_PICKLES = tuple(bytes((0x80, version)) for version in range(2, 6))


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name of an existing file that is UTF-8, for libraries that end the process else.

    It is the path itself, or a link to it that lasts as long as the block.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            suffix = path.suffix.encode(errors='ignore').decode()
            link = Path(folder) / f'link{suffix}'
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def what_is(path: str | Path) -> str:
    """Return what a file really is, as a clause such as 'it is empty'.

    Empty text when that is not known.

    Args:
        path: a file; one that cannot be read gives an empty text.

    Returns:
        The clause.
    """
    try:
        with Path(path).open('rb') as file:
            return what_holds(file.read(_HEAD_BYTES))
    except OSError:
        return ''


def what_holds(head: bytes) -> str:
    """Return what a file with this beginning is, as what_is does.

    Args:
        head: its first 4096 bytes, or all of it.

    Returns:
        A clause; empty text when that is not known.
    """
    if not head:
        return 'it is empty: copy it again'
    if not head.strip(b'\0'):
        return 'it begins with zeros alone, as after a power loss or a failed copy: copy it again'
    for start, text in _STARTS:
        if head.startswith(start):
            return text
    start = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if start.startswith((b'<!doctype html', b'<html')):
        return 'it is an HTML page, as of a download that failed: get the file itself'
    if head.startswith(b'PK\x03\x04'):
        return CHECKPOINT if b'data.pkl' in head else 'it is a zip archive: unpack it'
    if head.startswith(_PICKLES):
        return CHECKPOINT
    if head[8:10] == b'{"':
        return 'it is a safetensors file'
    return ''


def looked_in(path: str | Path) -> str:
    """Return in which folder a relative path is looked up, as a clause; '' for an absolute one.

    Args:
        path: as the user wrote it.
    """
    return '' if Path(path).is_absolute() else f' (looked for in {os.getcwd()})'


def explained(message: str, path: str | Path, *, but: tuple[str, ...] = ()) -> str:
    """Return message, with what the file really is behind it when that is known, in one line.

    Args:
        message: what went wrong.
        path: the file that it is about.
        but: clauses of what_is that say nothing here, because they name what was expected.

    Returns:
        The whole message.
    """
    found = what_is(path)
    text = ' '.join(message.split())
    return f'{text}; {found}' if found and found not in but else text
