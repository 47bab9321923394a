# SPDX-License-Identifier: Apache-2.0
"""Spreads tasks over this process, several processes, or the machines of a Ray cluster."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ...core.frames import DiffmfError
from ...io.writing import remove_unfinished

RETRIES = 3  # of a task whose machine or process is lost
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


class WorkerLost(DiffmfError):
    """A process or a machine that worked has ended by itself."""


def cores() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(work: Callable[[Any], Any], tasks: Sequence, *, jobs: int = 1,
           ray: str | None = None) -> Iterator[Any]:
    """Yield work(task) of every task, in their order.

    Args:
        work: a function that can be pickled; what it raises ends all.
        tasks: what it is given; it must mean the same on every machine, as absolute paths do.
        jobs: number of processes here; 1: this one.
        ray: address of a Ray cluster, which then does the work; 'auto' finds one on this machine.

    Raises:
        WorkerLost: a process has ended, or a machine for the fourth time, or there is no cluster.
    """
    if ray is not None:
        yield from _on_cluster(work, tasks, ray)
    elif min(jobs, len(tasks)) <= 1:
        yield from map(work, tasks)
    else:
        yield from _in_processes(work, tasks, min(jobs, len(tasks)))


def _in_processes(work: Callable[[Any], Any], tasks: Sequence, jobs: int) -> Iterator[Any]:
    # Of a fresh interpreter: a copy of this one, with the threads of torch and OpenCV, may hang.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context('spawn'),
                               initializer=end_with_parent)
    try:
        with interrupts_blocked():  # new processes inherit that: Ctrl-C is for this one
            futures = [pool.submit(work, task) for task in tasks]
        for future in futures:
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(f'one of {jobs} processes has ended, perhaps for want of memory; run the '
                         'same command again, with fewer --jobs: what is done is kept') from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread and in the processes that it starts, until the block ends.

    Another thread of this process may still receive it, and Python then raises it here at once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Leave Ctrl-C to the process above, and end with it, however that ends.

    SIGTERM, which may be sent to all of a group, ends this process, without half-written files.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    prctl = getattr(ctypes.CDLL(None), 'prctl', None)
    if prctl is not None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # ended while this process began
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    remove_unfinished()
    os._exit(128 + number)


def _on_cluster(work: Callable[[Any], Any], tasks: Sequence, address: str) -> Iterator[Any]:
    import ray  # heavy, and an extra

    try:
        ray.init(address=address, log_to_driver=False, logging_level='ERROR')
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WorkerLost(f'there is no Ray cluster at {address}: {reason}; start one with `ray '
                         'start --head`') from error
    try:
        # Processes that end are replaced; errors of the work itself are not tried again.
        remote = ray.remote(max_retries=RETRIES)(work)
        for reference in [remote.remote(task) for task in tasks]:
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DiffmfError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise WorkerLost(f'a worker of the Ray cluster was lost {RETRIES + 1} times: '
                         f'{str(error).strip().splitlines()[0]}; run the same command again: what '
                         'is done is kept') from error
    finally:
        ray.shutdown()
