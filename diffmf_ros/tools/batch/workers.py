# SPDX-License-Identifier: Apache-2.0
"""Fuses many pairs of files, or many recordings, each a task that any process can take; a ledger
says what is done, so that a run that was stopped is taken up there."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ... import __version__
from ...core.frames import DiffmfError
from ...core.settings import LIVE_ONLY, Settings, iter_specs, with_changes
from ...inference.pipeline import FusionPipeline
from ...inference.weights_header import weights_path
from ...io.bags import BagReader, image_topic
from ...io.images import naming, read_image_pair, write_image
from ...io.writing import WriteError, cannot_write
from ..replay import fuse_bag
from ..replay_outputs import output
from .matching_files import Match
from .spreading import cores, spread

SHARD = 16  # pairs of files in a task of a cluster


@dataclass(frozen=True)
class Task:
    """A pair of files, and the file to make of it."""

    match: Match
    out: Path

    @property
    def inputs(self) -> tuple[Path, Path]:
        """The files that are read."""
        return self.match.rgb, self.match.thermal


@dataclass(frozen=True)
class FileOutcome:
    """What became of a pair of files; error is empty where the image was written.

    mode, warnings: as those of a FusionResult. note: what was noticed when the files were read.
    by: what fused, and where.
    """

    task: Task
    mode: str = ''
    warnings: tuple[str, ...] = ()
    note: str = ''
    error: str = ''
    by: str = ''


@dataclass(frozen=True)
class _Shard:
    tasks: tuple[Task, ...]
    settings: Settings
    overwrite: bool
    keep_order: bool


@dataclass(frozen=True)
class BagTask:
    """A recording, and the bag, video or files to make of it; topics: of RGB and thermal."""

    bag: Path
    out: Path
    settings: Settings
    topics: tuple[str, str]
    overwrite: bool
    inputs: tuple = ()


@dataclass(frozen=True)
class BagOutcome:
    """What became of a recording: counts as ReplayCounts.as_dict, or the error."""

    bag: Path
    out: Path
    counts: dict = field(default_factory=dict)
    error: str = ''


def fused_files(tasks: Sequence[Task], settings: Settings, *, jobs: int, overwrite: bool,
                keep_order: bool = False, ray: str | None = None) -> Iterator[FileOutcome]:
    """Fuse and write every pair, each by itself; yield what became of it, in the order of tasks.

    Args:
        tasks: pairs of files and what to make of them.
        settings: how to fuse. With several processes and threads 0, they share the CPUs.
        jobs: number of processes, each with a network of its own; 1: this one.
        overwrite: whether files that exist are replaced.
        keep_order: see read_image_pair().
        ray: address of a Ray cluster on whose machines the files have the same paths.

    Raises:
        WriteError: a file cannot be written: those that follow could not either.
        WorkerLost: see spread().
        DiffmfError: the settings cannot be used here.
    """
    jobs = min(jobs, len(tasks))
    if jobs > 1 and not settings.threads:
        settings = with_changes(settings, {'threads': max(1, cores() // jobs)})
    size = 1
    if ray is not None:
        # A task that is tried again finds what it has written before.
        size, overwrite, settings = SHARD, True, _anywhere(settings)
        tasks = [Task(Match(task.match.name, *(path.absolute() for path in task.inputs)),
                      task.out.absolute()) for task in tasks]
    shards = [_Shard(tuple(tasks[at:at + size]), settings, overwrite, keep_order)
              for at in range(0, len(tasks), size)]
    for outcomes in spread(_fused, shards, jobs=jobs, ray=ray):
        yield from outcomes


def replayed_bags(tasks: Sequence[BagTask], *, jobs: int,
                  ray: str | None = None) -> Iterator[BagOutcome]:
    """Fuse every recording; yield what became of it, in the order of tasks. See fused_files."""
    if ray is not None:
        tasks = [BagTask(task.bag.absolute(), task.out.absolute(), _anywhere(task.settings),
                         task.topics, task.overwrite, task.inputs) for task in tasks]
    yield from spread(_replayed, tasks, jobs=jobs, ray=ray)


def _anywhere(settings: Settings) -> Settings:
    """Return settings whose files are found from every folder."""
    named = {'weights': settings.weights_file, 'alignment.file': settings.alignment.file}
    return with_changes(settings, {name: str(Path(path).absolute())
                                   for name, path in named.items() if path})


@lru_cache(maxsize=1)
def _pipeline(settings: Settings) -> FusionPipeline:
    return FusionPipeline(settings)


def _fused(shard: _Shard) -> list[FileOutcome]:
    """Fuse some pairs. Raises WriteError, and DiffmfError for settings that cannot be used."""
    pipeline, outcomes = _pipeline(shard.settings), []
    by = f'{pipeline.description} on {pipeline.device}'
    for task in shard.tasks:
        try:
            pair, note = read_image_pair(*task.inputs, keep_order=shard.keep_order)
            with naming(*task.inputs):
                result = pipeline.fuse(pair)
            write_image(task.out, result.pixels, result.encoding, overwrite=shard.overwrite)
        except WriteError:
            raise
        except DiffmfError as error:
            outcomes.append(FileOutcome(task, error=str(error), by=by))
        else:
            outcomes.append(FileOutcome(task, result.mode.value, tuple(result.warnings), note,
                                        by=by))
    return outcomes


def _replayed(task: BagTask) -> BagOutcome:
    """Fuse one recording with a pipeline of its own: nothing of one is in the next."""
    try:
        with BagReader(task.bag) as reader:
            topics = [image_topic(reader, topic) for topic in task.topics]
            reader.require(*topics)
            rate_hz = reader.rate_hz(topics[0])
            with output(task.out, rate_hz=rate_hz, overwrite=task.overwrite,
                        inputs=(task.bag, *task.inputs)) as out:
                counts = fuse_bag(reader, out, FusionPipeline(task.settings), task.settings.sync,
                                  from_tf=task.settings.alignment.from_tf,
                                  rgb_topic=task.topics[0], thermal_topic=task.topics[1])
    except DiffmfError as error:
        return BagOutcome(task.bag, task.out, error=f'{task.bag}: {error}')
    return BagOutcome(task.bag, task.out, counts.as_dict())


LEDGER = '.diffmf_fuse.jsonl'


class Ledger:
    """The file LEDGER in the folder of the results: what was begun, and what is done.

    Files are written whole or not at all, so one that was begun and is another one now is done,
    too: the process may have been killed before it could say so.
    """

    def __init__(self, folder: Path, settings: Settings, *, more: Sequence[str] = ()):
        """Read what is done in folder; a line that was cut by a power loss is passed over.

        Args:
            folder: of the results.
            settings: how they are made.
            more: what else they depend on, beside their inputs.
        """
        self._folder, self._path = folder, folder / LEDGER
        self._begun: dict[str, dict] = {}
        self._done: dict[str, dict] = {}
        with suppress(OSError):
            for line in self._path.read_text(encoding='utf-8').splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    (self._done if entry['done'] else self._begun)[entry['out']] = entry
        weights = weights_path(settings) if settings.model != 'classical' else ''
        # The number of threads changes the time alone.
        values = {
            item.name: item.value
            for item in iter_specs(settings)
            if item.name != 'threads' and not item.name.startswith(LIVE_ONLY)
        }
        self._basis = [__version__, values, _stat(weights), _stat(settings.alignment.file),
                       *more]

    def done(self, out: Path, *inputs: Path) -> bool:
        """Return whether out was made of these inputs, as they are now, in the same way as now."""
        name, now = self._name(out), _stat(out)
        entry = self._done.get(name) or self._begun.get(name)
        if not out.is_file() or entry is None or entry['of'] != self._of(inputs):
            return False
        return (entry['file'] == now) == entry['done']

    def begin(self, items: Iterable[tuple[Path, tuple[Path, ...]]]) -> None:
        """Say what is going to be made: files, and of which inputs each. Raises WriteError."""
        self._write(
            {'out': self._name(out), 'of': self._of(inputs), 'file': _stat(out), 'done': False}
            for out, inputs in items
        )

    def note(self, out: Path, *inputs: Path) -> None:
        """Say that out is made. Raises WriteError."""
        self._write(
            [{'out': self._name(out), 'of': self._of(inputs), 'file': _stat(out), 'done': True}]
        )

    def _write(self, entries: Iterable[dict]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open('a', encoding='utf-8') as file:
                file.write(
                    ''.join(f'\n{json.dumps(entry)}' for entry in entries)
                )  # after a line that was cut, too
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _name(self, out: Path) -> str:
        return str(out.relative_to(self._folder))

    def _of(self, inputs: tuple[Path, ...]) -> str:
        known = [self._basis, *(_stat(path) for path in inputs)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _stat(path: str | Path) -> list:
    """Return what tells one content of a file from another; of a missing one its name."""
    if not str(path):
        return []
    with suppress(OSError, ValueError):
        about = Path(path).stat()
        return [str(path), about.st_size, about.st_mtime_ns]
    return [str(path)]
