# SPDX-License-Identifier: Apache-2.0
"""Fuses many pairs of image files, in one process or in several, to the same bytes."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...core.frames import DiffmfError
from ...core.settings import Settings, with_changes
from ...inference.pipeline import FusionPipeline
from ...io.images import read_image_pair, write_image
from ...io.writing import WriteError
from .matching_files import Match

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


class WorkerLost(DiffmfError):
    """A process that fused has ended by itself."""


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
class Outcome:
    """What became of a pair of files; error is empty where the image was written.

    mode, warnings: as those of a FusionResult. note: what was noticed when the files were read.
    """

    task: Task
    mode: str = ''
    warnings: tuple[str, ...] = ()
    note: str = ''
    error: str = ''
    by: str = ''


def cores() -> int:
    """Return how many CPUs this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )


def fused_files(
    tasks: Sequence[Task], settings: Settings, *, jobs: int, overwrite: bool
) -> Iterator[Outcome]:
    """Fuse and write every pair, each by itself; yield what became of it, in the order of tasks.

    Args:
        tasks: pairs of files and what to make of them.
        settings: how to fuse. With several processes and threads 0, they share the CPUs.
        jobs: number of processes, each with a network of its own; 1: this one.
        overwrite: whether files that exist are replaced.

    Raises:
        WriteError: a file cannot be written: those that follow could not either.
        WorkerLost: a process has ended, perhaps for want of memory.
        DiffmfError: the settings cannot be used here.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from (_fused(task, settings, overwrite) for task in tasks)
        return
    if not settings.threads:
        settings = with_changes(settings, {'threads': max(1, cores() // jobs)})
    # Of a fresh interpreter: a copy of this one, with the threads of torch and OpenCV, may hang.
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context('spawn'), initializer=_start
    )
    try:
        waiting = [pool.submit(_fused, task, settings, overwrite) for task in tasks]
        for future in waiting:
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(
            f'one of {jobs} processes has ended, perhaps for want of memory; run the same '
            'command again, with fewer --jobs: what is done is kept'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """Leave Ctrl-C to the process above, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(ctypes, 'CDLL') and os.name == 'posix':
        prctl = getattr(ctypes.CDLL(None), 'prctl', None)
        if prctl is not None:
            prctl(_DIE_WITH_PARENT, signal.SIGKILL)


@lru_cache(maxsize=1)
def _pipeline(settings: Settings) -> FusionPipeline:
    return FusionPipeline(settings)


def _fused(task: Task, settings: Settings, overwrite: bool) -> Outcome:
    """Fuse one pair. Raises WriteError, and DiffmfError for settings that cannot be used."""
    pipeline = _pipeline(settings)
    by = f'{pipeline.description} on {pipeline.device}'
    try:
        pair, note = read_image_pair(task.match.rgb, task.match.thermal)
        result = pipeline.fuse(pair)
        write_image(task.out, result.pixels, result.encoding, overwrite=overwrite)
    except WriteError:
        raise
    except DiffmfError as error:
        return Outcome(task, error=str(error), by=by)
    return Outcome(task, result.mode.value, tuple(result.warnings), note, by=by)
