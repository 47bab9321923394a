# SPDX-License-Identifier: Apache-2.0
"""A sign of life of a long command: a bar in a terminal, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FIRST_S, EVERY_S = 2.0, 10.0


@contextmanager
def progress(what: str, total: float, *, unit: str = '') -> Iterator[Callable[[float], None]]:
    """Yield a function that says how much of total is done.

    Args:
        what: what is going on, such as 'fusing'.
        total: when it is done.
        unit: of total; empty: it is a number of pieces.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            *([] if unit else [MofNCompleteColumn()]),
        )
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    due_s = time.monotonic() + FIRST_S

    def report(done: float) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + EVERY_S
            console.print(f'{what}: {done:.0f} of {total:.0f} {unit}'.rstrip(), highlight=False)

    yield report
