# SPDX-License-Identifier: Apache-2.0
"""Read and write rosbag2 recordings without a ROS installation.

Bags are written at metadata version 8, which Humble, Jazzy and later all read (version 9 fails on
Humble). A reader compares what it yields with what the bag declares, because a bag whose metadata
disagrees with its storage file otherwise reads as silently empty.
"""

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ..core.file_kinds import explained
from ..core.frames import FrameError
from .bag_recovery import (
    EXTRA_FILES,
    METADATA,
    STORAGE_SUFFIXES,
    BagError,
    UriPath,
    damage,
    opened,
    place,
    require_bag_output,
    storage_of,
    wrong_files,
)
from .writing import clear_stale, make_folder, reason_of, sync, unfinished_folder

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STORAGES = ('sqlite3', 'mcap')
METADATA_VERSION = 8
_ZSTD = b'\x28\xb5\x2f\xfd'  # how a message begins that rosbag2 has compressed
# Recordings made by the project start here, so that the same input gives the same bytes.
START_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class Topic:
    """What a bag declares about one topic."""

    msgtype: str
    count: int


@dataclass(frozen=True)
class Message:
    """Recorded message; raw is its CDR encoding, stamp_ns the time of recording."""

    topic: str
    stamp_ns: int
    msgtype: str
    raw: bytes


def type_store() -> Typestore:
    """Return a rosbags type store; Image and CameraInfo are the same in every ROS 2 release."""
    return get_typestore(Stores.ROS2_HUMBLE)


class BagReader:
    """A rosbag2 folder, or a single .db3 or .mcap file, opened for reading (a context manager).

    A recording that was cut short is read as far as it was stored; `note` says so then. Entering
    raises BagError when the path is missing, cannot be read, or holds no message.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.topics: dict[str, Topic] = {}
        self.note = ''
        self.start_ns = 0
        self.duration_ns = 0
        self._store = type_store()
        self._reader: Reader | None = None

    def __enter__(self) -> 'BagReader':
        self._check_path()
        try:
            source = self._source()
            reader = Reader(UriPath(source) if isinstance(source, Path) else source)
            reader.open()
        except BagError:
            raise
        except Exception as error:  # storage plugins let sqlite, yaml and struct errors through
            reasons = (damage(error), *wrong_files(self.path))
            raise BagError(f'cannot read the bag {self.path}: {"; ".join(reasons)}') from error
        if reader.message_count == 0:
            reader.close()
            raise BagError(f'the bag {self.path} is empty: it declares no message'
                           + ', and was cut before its first block of them ended' * bool(self.note)
                           )
        self._reader = reader
        for connection in reader.connections:
            known = self.topics.get(connection.topic, Topic(connection.msgtype, 0))
            self.topics[connection.topic] = Topic(known.msgtype, known.count + connection.msgcount)
        self.start_ns = reader.start_time
        self.duration_ns = reader.end_time - 1 - reader.start_time
        return self

    def __exit__(self, *exc_info: object) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _check_path(self) -> None:
        if not self.path.exists():
            raise BagError(f'there is no bag at {self.path}')
        if not self.path.is_dir() and self.path.suffix not in STORAGE_SUFFIXES:
            raise BagError(explained(f'expected a bag folder or a .db3 or .mcap file, got '
                                     f'{self.path} (images and videos: diffmf fuse)', self.path))

    def _source(self) -> Any:
        """Return the path for rosbags, or that of the repaired part of a cut recording."""
        if (self.path / METADATA).exists():
            return self.path
        source, cut = opened(storage_of(self.path) if self.path.is_dir() else self.path)
        if cut or self.path.is_dir():
            self.note = f'{self.path} was cut short: what was stored until then is read'
        return source

    def has(self, name: str) -> bool:
        """Return whether a topic has messages."""
        return name in self.topics and self.topics[name].count > 0

    def require(self, *names: str) -> None:
        """Require topics with messages; BagError lists the topics that exist."""
        missing = [name for name in names if not self.has(name)]
        if missing:
            there = ', '.join(f'{name} ({t.msgtype}, {t.count})' for name,
                              t in sorted(self.topics.items()))
            raise BagError(f'the bag {self.path} has no messages on {", ".join(missing)}; it has '
                           f'{there}')

    def rate_hz(self, name: str) -> float:
        """Return the usual number of messages a second of a topic, by its first hundred.

        At least 1.
        """
        stamps_ns = [message.stamp_ns for message in islice(self.messages([name]), 100)]
        steps_ns = sorted(b - a for a, b in pairwise(stamps_ns))
        return max(1.0, 1e9 / max(steps_ns[len(steps_ns) // 2], 10**6)) if steps_ns else 1.0

    def messages(self, topics: list[str] | tuple[str, ...] | None = None) -> Iterator[Message]:
        """Yield the messages of the named topics (None: of all) in the order of their recording.

        Raises BagError for a missing topic, for damaged storage, and at the end when the storage
        held another number of messages than the bag declares.
        """
        if self._reader is None:
            raise BagError(f'the bag {self.path} is not open: use it in a with statement')
        wanted = tuple(self.topics) if topics is None else tuple(topics)
        if topics is not None:
            self.require(*wanted)
        seen: Counter[str] = Counter()
        for message in self._stored(wanted):
            seen[message.topic] += 1
            yield message
        for name in wanted:
            if seen[name] != self.topics[name].count:
                raise BagError(f'the bag {self.path} declares {self.topics[name].count} messages '
                               f'on {name} but yields {seen[name]}: it is cut short, or its '
                               f'metadata.yaml '
                               f'disagrees '
                               'with the storage file; opening the .db3 or .mcap file itself may '
                               'help')

    def _stored(self, wanted: tuple[str, ...]) -> Iterator[Message]:
        assert self._reader is not None, 'messages() opened it'
        connections = [c for c in self._reader.connections if c.topic in wanted]
        stored = iter(self._reader.messages(connections))
        while True:
            try:
                connection, stamp_ns, raw = next(stored)
            except StopIteration:
                return
            # as above; never around the yield, which is the caller's code
            except Exception as error:
                raise BagError(f'the bag {self.path} is damaged: {damage(error)}') from error
            yield Message(connection.topic, stamp_ns, connection.msgtype, bytes(raw))

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """Return the rosbags message object of CDR bytes.

        Raise BagError when they do not decode.
        """
        if msgtype not in self._store.types:
            raise BagError(f'the message type {msgtype} is not known, so its messages cannot be '
                           f'decoded')
        try:
            return self._store.deserialize_cdr(raw, msgtype)
        # a short buffer surfaces as struct, index, value or assertion error
        except Exception as error:
            raise BagError(f'a {msgtype} of the bag {self.path} is damaged: {error}') from error

    def require_readable(self, message: Message) -> Any:
        """Return the message object.

        Raises FrameError for a damaged one, BagError for a bag of compressed ones.
        """
        try:
            return self.deserialize(message.raw, message.msgtype)
        except BagError as error:
            if is_compressed(message.raw):
                raise BagError(f'the messages of {self.path} are compressed: open the folder of '
                               f'the bag, with its {METADATA}, which says how') from error
            raise FrameError(str(error), reason='damaged_message') from error


class BagWriter:
    """Writes a new rosbag2 folder (a context manager).

    The bag grows in a hidden folder beside `path` and takes its place when the block ends without
    an error, so a failed or interrupted run never leaves a bag that looks valid. An existing path
    is refused; with overwrite=True the files of an existing *bag* are replaced, others in its
    folder stay. A path that is one of `inputs`, or holds one, is always refused.

    With keep=True, for what cannot be made again: the bag grows in path.unfinished/, and whatever
    ends the block or the process, what commit() stored stays there, for BagReader to read.
    """

    def __init__(self, path: str | Path, storage: str = 'sqlite3', *, overwrite: bool = False,
                 inputs: Iterable = (), keep: bool = False):
        if storage not in STORAGES:
            raise BagError(f'storage must be one of {", ".join(STORAGES)}; got {storage!r}')
        self.path = Path(path)
        self.count = 0
        self._plugin = StoragePlugin[storage.upper()]
        self._overwrite, self._inputs = overwrite, tuple(inputs)
        self._store = type_store()
        self._connections: dict[str, Any] = {}
        self._staging: Path | None = None
        self._made: list[Path] = []
        self._keep, self._failed = keep, False

    def __enter__(self) -> 'BagWriter':
        require_bag_output(self.path, overwrite=self._overwrite, inputs=self._inputs)
        try:
            self._made = make_folder(self.path.absolute().parent)
            self._staging = self._made_staging()
            self._writer = Writer(self._staging / self.path.name, version=METADATA_VERSION,  # type: ignore[arg-type]
                                  storage_plugin=self._plugin)
            self._writer.path = UriPath(self._writer.path)
            self._writer.open()
            if self._keep:
                for folder in (self.folder, self._staging, self._staging.parent):
                    sync(folder)
        except (OSError, sqlite3.Error) as error:
            self._remove_staging()
            raise self._failure(error) from error
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None,
                 traceback: TracebackType | None) -> None:
        kept = False
        try:
            if self._failed or exc_type is not None and not self._keep:
                kept = self._keep and self.count > 0
                self._abort()
            elif self.count == 0:
                self._abort()
                if exc_type is None:
                    raise BagError(f'no message was written, so {self.path} was not made')
            else:
                kept = self._keep
                self._finish()
                kept = False
        except (OSError, sqlite3.Error) as error:
            self._abort()
            raise self._failure(error) from error
        finally:
            if not kept:
                self._remove_staging()

    def _remove_staging(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()

    def _made_staging(self) -> Path:  # type: ignore[return]
        if not self._keep:
            clear_stale(Path(os.path.realpath(self.path.parent)))
            return unfinished_folder(self.path)
        for number in count(1):
            folder = self.path.with_name(
                f'{self.path.name}.unfinished{"" if number == 1 else f"-{number}"}')
            with suppress(FileExistsError):
                folder.mkdir()
                return folder

    def commit(self) -> None:
        """Bring what was written so far to the disk, where it outlives this process.

        Raises BagError.
        """
        storage: Any = self._writer and self._writer.storage
        try:
            if self._plugin is StoragePlugin.SQLITE3:
                storage.conn.commit()
            elif storage.chunk.msgs:
                storage.close_chunk()
                storage.bio.flush()
                os.fsync(storage.bio.fileno())
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def _finish(self) -> None:
        storage = self._writer.storage.path.name  # type: ignore[union-attr]  # beside it SQLite keeps its journal
        extra = {file.name for file in self.folder.iterdir() if not file.name.startswith(storage)}
        if extra:
            self._writer.set_custom_data(EXTRA_FILES, '\n'.join(sorted(extra)))
        self._writer.close()
        require_bag_output(self.path, overwrite=self._overwrite, inputs=self._inputs)
        place(self.folder, self.path)

    def _abort(self) -> None:
        with suppress(OSError, sqlite3.Error):  # the disk is full, perhaps
            self._writer.abort()

    def _failure(self, error: OSError | sqlite3.Error) -> BagError:
        """Return what kept the bag from being written as an error of one line.

        The storage is not finished then.
        """
        self._failed = True
        text = f'cannot write a bag at {self.path}: {reason_of(error)}'
        if self._keep and self.count:
            text += f'; what was stored until then is in {self.folder}'
        return BagError(text)

    def write(self, topic: str, msgtype: str, message: Any, stamp_ns: int) -> None:
        """Append a message recorded at stamp_ns: CDR bytes or an object of `type_store()`."""
        if msgtype not in self._store.types:
            raise BagError(f'the message type {msgtype} is not known and cannot be written')
        if stamp_ns < 0:
            raise BagError(f'a recording time must not be negative, got {stamp_ns} ns on {topic}')
        is_raw = isinstance(message, (bytes, bytearray, memoryview))
        raw = message if is_raw else self._store.serialize_cdr(message, msgtype)
        try:
            self._writer.write(self._connection(topic, msgtype), stamp_ns, raw)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        self.count += 1

    def _connection(self, topic: str, msgtype: str) -> Any:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype,
                                                                   typestore=self._store)
        connection = self._connections[topic]
        if connection.msgtype != msgtype:
            raise BagError(f'{topic} carries {connection.msgtype}, got a {msgtype}')
        return connection

    @property
    def folder(self) -> Path:
        """Where the bag grows: files put here end up in the bag folder.

        Readers ignore all but their own.
        """
        return Path(os.fspath(self._writer.path))


def image_topic(reader: BagReader, topic: str) -> str:
    """Return topic, or its compressed form (image_transport's name) if only that exists."""
    both = topic, f'{topic}/compressed'
    return next((name for name in both if reader.has(name)), topic)


def is_compressed(raw: bytes) -> bool:
    """Whether rosbag2 has compressed this message by itself."""
    return raw.startswith(_ZSTD)
