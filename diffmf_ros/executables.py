# SPDX-License-Identifier: Apache-2.0
"""Entry points of the ROS executables.

A signal that comes while their libraries load ends them at once: nothing has been made yet, and
half-loaded libraries turn an exception into errors of their own.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from .core.packages import broken, missing

_ENDS = (signal.SIGINT, signal.SIGTERM)


def fusion_node() -> int:
    """Run the fusion node; return the exit code."""
    return _run('ros.fusion_node', keeps_memory=True)


def bag_player() -> int:
    """Run the bag player; return the exit code."""
    return _run('ros.bag_player')


def recorder() -> int:
    """Run the recorder; return the exit code."""
    return _run('ros.recorder')


def viewer() -> int:
    """Run the server of the web page; return the exit code."""
    return _run('tools.view.viewer')


def _run(module: str, *, keeps_memory: bool = False) -> int:
    """Run main() of a module of this package, which takes the signals over.

    Returns 2 where a library of ROS is not installed, or cannot be imported.
    """
    for number in _ENDS:
        signal.signal(number, _leave)
    try:
        if keeps_memory:  # before there are threads: memory of those that exist stays apart
            import_module('.inference.memory', __package__).keep_freed_memory()
        with _watched():
            main = import_module(f'.{module}', __package__).main
    except Exception as error:
        found = missing(error) if isinstance(error, ModuleNotFoundError) else ''
        if not (text := found or broken(error)):
            raise
        print(f'error: {text}', file=sys.stderr)
        return 2
    return main()


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


@contextmanager
def _watched() -> Iterator[None]:
    """Let a thread end the process, too: a handler waits while the main thread is in a library."""
    signals, wake_up = os.pipe()
    os.set_blocking(wake_up, False)
    signal.set_wakeup_fd(wake_up)
    threading.Thread(target=_watch, args=(signals,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(wake_up)


def _watch(signals: int) -> None:
    while number := os.read(signals, 1):
        if number[0] in _ENDS:
            os._exit(0)
    os.close(signals)
