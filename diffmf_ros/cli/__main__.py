# SPDX-License-Identifier: Apache-2.0
"""Entry point of `diffmf`. Ctrl-C and SIGTERM end it in one line, also while libraries load."""

import _signal
import sys

if __name__ == '__main__' or sys.argv[0].endswith('diffmf'):  # when this is the program
    # At once, as what else is imported takes a while: Ctrl-C ends it without a word until then.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import math
import os
import signal
import time
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
AT_ONCE_S = 1.0  # `timeout` sends SIGTERM to the process and to its group: twice
_came_s: dict[int, float] = {}  # when each signal came last


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGINT of a job in the background
            signal.signal(number, interrupt)
    from .main import main as run

    try:
        run()
    except KeyboardInterrupt:
        _say()
        sys.exit(_cleaned())
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's, of every KeyboardInterrupt
            sys.exit(_cleaned())
        raise


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or end at once while a library is imported.

    Half-loaded libraries turn the exception into errors of their own, and torch aborts.
    One of the same kind that comes at once after it changes nothing: what cleans up goes on.
    """
    before_s, _came_s[number] = _came_s.get(number, -math.inf), time.monotonic()
    if _came_s[number] - before_s < AT_ONCE_S:
        return
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            _say()
            os._exit(_cleaned())
        frame = frame.f_back
    raise KeyboardInterrupt


def _cleaned() -> int:
    """Remove what is half written, also where the signal came just after it was made.

    Returns the exit code.
    """
    writing = sys.modules.get('diffmf_ros.io.writing')
    getattr(writing, 'remove_unfinished', lambda: None)()
    return TERMINATED if signal.SIGTERM in _came_s else INTERRUPTED


def _say() -> None:
    print('error: interrupted', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
