# SPDX-License-Identifier: Apache-2.0
"""Atomic output files that never replace an input, nor another file unless asked to."""

import errno
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from ..core.frames import DiffmfError

_REASONS = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EROFS: 'the file system is read-only',
    errno.EACCES: 'no permission to write there',
    errno.EPERM: 'no permission to write there',
    errno.ENOENT: 'no file or folder can be made there',  # as in /proc
    errno.ENOTDIR: 'a part of its path is a file, not a folder',
    errno.EEXIST: 'a part of its path is a file, not a folder',  # mkdir says so
    errno.EISDIR: 'it is a folder',
    errno.ENAMETOOLONG: 'the name is too long',
}
# Of a name, in a temporary one: with what is added it must fit the 255 bytes of a file system.
_KEPT_CHARACTERS = 40
_PARTIAL = re.compile(r'\..*\.([^.]*)-(\d+)\.partial')
_unfinished: set[Path] = set()  # half-written files and folders of this process
_LARGEST_RESULT = 1 << 20  # bytes of a JSON file of a command that replaces its own
# What no command looks for in a folder of inputs.
_NEVER_READ = ('.json', '.html', '.mp4', '.csv')


class WriteError(DiffmfError):
    """A file cannot be written, or must not be."""


def cannot_write(path: str | Path, error: OSError) -> WriteError:
    """Return the error of a path that could not be written, with the OSError's reason."""
    return WriteError(f'{path} cannot be written: {reason_of(error)}')


def reason_of(error: Exception) -> str:
    """Return why the system refused, in words; of SQLite, too, which has no numbers for it."""
    text = str(error)
    if not isinstance(error, OSError):
        return _REASONS[errno.ENOSPC] if 'disk is full' in text else text
    return _REASONS.get(error.errno or 0) or error.strerror or text


def require_output(path: str | Path | None, *, overwrite: bool, inputs: Iterable = ()) -> None:
    """Raise an error, before long work begins, unless a file can be written to path.

    Args:
        path: the file to write; None is no file.
        overwrite: whether a file that exists may be replaced. An input never is.
        inputs: files and folders that are read; None among them is left out.

    Raises:
        WriteError: path is an input or lies in a folder of inputs and exists, is a folder, exists
            and overwrite is False, or its folder cannot be written to; or its disk is full.
    """
    if path is None:
        return
    path = Path(path)
    try:
        if is_stream(path):
            return
        _require_free(path, overwrite=overwrite, inputs=inputs)
        with tempfile.TemporaryFile(dir=_existing_folder(path)) as file:
            file.write(b'0')  # which a full disk refuses
    except OSError as error:
        raise cannot_write(path, error) from error


def require_ending(path: Path, endings: Sequence[str], *, what: str) -> None:
    """Raise WriteError unless the name of a file to write has an ending of its kind.

    Args:
        path: the file.
        endings: in lower case, such as '.json'; the first one is proposed.
        what: is written, such as 'an image'.
    """
    if path.suffix.lower() in endings:
        return
    if path.is_dir():
        raise WriteError(f'{path} cannot be written: it is a folder, and {what} is a file: write '
                         f'{path / "NAME"}{endings[0]}')
    instead = str(path.with_suffix(endings[0])) if path.name else f'NAME{endings[0]}'
    if path.name and not path.suffix:
        instead += f', or {path / "NAME"}{endings[0]} for a folder {path}'
    allowed = ' or '.join(filter(None, (', '.join(endings[:-1]), endings[-1])))
    raise WriteError(f'{path} cannot be written: {what} has a name that ends in {allowed}: write '
                     f'{instead}')


def require_result_output(path: str | Path | None, keys: Iterable[str], *,
                          inputs: Iterable = ()) -> None:
    """Raise an error unless the JSON file of a command can be written to path.

    Args:
        path: the file to write; None is no file.
        keys: those of the object that the command writes. A file of another run of it, which has
            just these, may be replaced.
        inputs: as require_output() has them.

    Raises:
        WriteError: as require_output() does; and for any other file that exists.
    """
    require_output(path, overwrite=True, inputs=inputs)
    if path is not None and Path(path).is_file() and not _is_result(Path(path), set(keys)):
        raise WriteError(f'{path} exists already and is no result of this command, so it is not '
                         f'replaced: choose another path')


def _is_result(path: Path, keys: set[str]) -> bool:
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST_RESULT else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(content) == keys


def is_input(path: Path, inputs: Iterable) -> bool:
    """Return whether path is an existing input, under any name, or lies in a folder of inputs.

    A report or a video (.json, .html, .mp4, .csv) in a folder of inputs is none of them.
    """
    if not path.exists():
        return False
    known = [_identity(Path(item)) for item in inputs if item is not None and Path(item).exists()]
    real = Path(os.path.realpath(path))
    places = (real,) if real.suffix.lower() in _NEVER_READ else (real, *real.parents)
    return any(_identity(place) in known for place in places)


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside path; it becomes path when the block ends without an error.

    The temporary file exists, is empty, has the ending of path and the mode that the umask gives.
    A link is followed. Folders that are missing are made. With an error, Ctrl-C or a kill inside
    the block, path stays what it was. A device or a pipe is yielded itself.

    Raises:
        WriteError: for every OSError of the block, and when path exists and overwrite is False.
    """
    path, partial = Path(path), None
    try:
        if is_stream(path):
            yield path
            return
        real = Path(os.path.realpath(path))
        partial = real.with_name(partial_name(real.stem) + real.suffix)
        make_folder(real.parent)
        clear_stale(real.parent)
        _unfinished.add(partial)
        os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666))
        yield partial
        sync(partial)
        _require_free(path, overwrite=overwrite)
        partial.replace(real)
        sync(real.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            _unfinished.discard(partial)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder, and those above it that are missing, for good: a power cut keeps them.

    Returns:
        Those that were made, the lowest one first.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync(place.parent)
    return missing


def unfinished_folder(path: Path) -> Path:
    """Make a hidden folder beside path, for its owner alone, in which it is to be written.

    It is registered for remove_unfinished before it is there: a signal may come in between.
    """
    folder = path.parent / f'{partial_name(path.name)}-{secrets.token_hex(4)}'
    _unfinished.add(folder)
    folder.mkdir(mode=0o700)
    return folder


def remove_unfinished() -> None:
    """Remove the half-written files of this process, which ends without unwinding its stack."""
    for path in list(_unfinished):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def partial_name(stem: str) -> str:
    """Return how the name of a file or folder begins that this process is still writing."""
    return f'.{stem[:_KEPT_CHARACTERS]}.{_machine()}-{os.getpid()}.partial'


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return what names this machine, or this container, where process numbers mean the same.

    On a disk that several share, a number that is free here may be a process that writes there.
    """
    try:
        space = f'-{os.stat("/proc/self/ns/pid").st_ino}'
    except OSError:
        space = ''
    return re.sub(r'\W', '_', os.uname().nodename[:_KEPT_CHARACTERS]) + space


@lru_cache(maxsize=256)
def clear_stale(folder: Path) -> None:
    """Remove the half-written files of killed processes in folder, once a process, with a note."""
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _PARTIAL.match(entry.name)
            if not found or found[1] != _machine() or _alive(int(found[2])):
                continue
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
                removed.append(entry.name)
    if removed:
        print(f'removed from {folder} what a run that was killed had left half written: '
              f'{", ".join(sorted(removed)[:3])}{" ..." if len(removed) > 3 else ""}',
              file=sys.stderr)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def write_bytes(path: str | Path, data: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write all of a file or nothing. Raises WriteError as replacing() does."""
    with replacing(path, overwrite=overwrite) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write all of a UTF-8 text or nothing.

    What UTF-8 lacks, as in odd file names, becomes an escape.
    """
    write_bytes(path, text.encode('utf-8', errors='backslashreplace'), overwrite=overwrite)


def _require_free(path: Path, *, overwrite: bool, inputs: Iterable = ()) -> None:
    if is_input(path, inputs):
        raise WriteError(f'{path} is read as an input, so it is not written to: choose another '
                         f'path')
    if path.is_dir():
        raise WriteError(f'{path} cannot be written: it is a folder')
    if path.exists() and not overwrite:
        raise WriteError(f'{path} exists already; --overwrite replaces it')


def is_stream(path: Path) -> bool:
    """Whether path is a device, a pipe or the like, which has no content to lose.

    Raises:
        WriteError: path names an output of the process that goes to a file.
    """
    if str(path) in ('/dev/stdout', '/dev/stderr', '/dev/fd/1', '/dev/fd/2') and path.is_file():
        raise WriteError(f'{path} is a file here, and what it holds would be lost: name a file of '
                         'its own; --json - adds to the standard output')
    return path.exists() and not path.is_file() and not path.is_dir()


def _existing_folder(path: Path) -> Path:
    """Return the folder of path, or the lowest one above it that exists."""
    return next(folder for folder in Path(os.path.realpath(path)).parents if folder.exists())


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # of a folder into which one may write alone
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
