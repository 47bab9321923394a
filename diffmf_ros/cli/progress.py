# SPDX-License-Identifier: Apache-2.0
"""Signs of life of a long command: a bar in a terminal, else a line now and then; and what it says
before."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..core.settings import Settings
from ..tools.batch.spreading import cores

FIRST_S, EVERY_S = 2.0, 10.0
# Of the load average over the CPUs. At 13, one thread took a quarter of the time of two.
BUSY = 2.0
Item = TypeVar('Item')
_shown = threading.Event()  # whether the command has shown by itself that it works


def shows_itself() -> None:
    """Say no more that the command is at work: what it shows by itself says so."""
    _shown.set()


@contextmanager
def signs_of_life(command: str) -> Iterator[None]:
    """Say on the standard error, after 2 s and every 10 s, that a command is at work.

    That ends with the block, and as soon as the command shows its progress.
    """
    _shown.clear()
    thread = threading.Thread(target=_say_at_work, args=(command,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _shown.set()
        thread.join()


def _say_at_work(command: str) -> None:
    start_s, due_s = time.monotonic(), FIRST_S
    while not _shown.wait(due_s):
        if sys.stderr is None:  # closed by the shell
            return
        with suppress(OSError, ValueError):  # closed since
            print(f'{command}: at work for {time.monotonic() - start_s:.0f} s', file=sys.stderr,
                  flush=True)
        due_s = EVERY_S


@contextmanager
def progress(what: str, total: float, *, unit: str = '') -> Iterator[Callable[[float], None]]:
    """Yield a function that says how much of total is done; the end of the block is all of it.

    Args:
        what: what is going on, such as 'fusing'.
        total: when it is done.
        unit: of total; empty: it is a number of pieces.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        shows_itself()
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            *([] if unit else [MofNCompleteColumn()]),
        )
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
            bar.update(task, completed=total)
        return
    due_s = time.monotonic() + FIRST_S

    def report(done: float) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + EVERY_S
            shows_itself()
            console.print(f'{what}: {done:.0f} of {total:.0f} {unit}'.rstrip(), highlight=False)

    yield report


def tracked(items: Iterable[Item], what: str, total: float) -> Iterator[Item]:
    """Yield the items, and say after each how many of total are done."""
    with progress(what, total) as report:
        for number, item in enumerate(items, start=1):
            yield item
            report(number)


def say_already(done: int, total: int) -> None:
    """Say on the standard error how many results of an earlier run are not made again."""
    if done:
        typer.echo(f'{done} of {total} are there already, made with the same settings: not made '
                   'again', err=True)


def hint_threads(settings: Settings, device: str) -> None:
    """Say on the standard error that one thread may be faster, where that is likely.

    Args:
        settings: those of the run; a number of threads that the user chose stays.
        device: where the network runs, as FusionPipeline.device says.
    """
    load, cpus = os.getloadavg()[0], cores()
    if settings.threads or settings.model == 'classical' or not device.startswith('cpu'):
        return
    if load > BUSY * cpus:
        typer.echo(f'note: {load:.0f} processes want the {cpus} CPUs of this machine, and the '
                   'threads of a network wait for each other then: --threads 1 can be several '
                   'times as fast', err=True)


@contextmanager
def announced() -> Iterator[Callable[[str], None]]:
    """Yield a function that says what begins, for work that has no count."""
    shows_itself()
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: console.print(what, highlight=False, markup=False, soft_wrap=True)
        return
    with console.status('') as status:
        yield status.update
