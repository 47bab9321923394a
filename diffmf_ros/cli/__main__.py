# SPDX-License-Identifier: Apache-2.0
"""Entry point of `diffmf`. Ctrl-C ends it in one line, also while it loads libraries."""

import _signal
import sys

if __name__ == '__main__' or sys.argv[0].endswith('diffmf'):  # when this is the program
    # At once, as what else is imported takes a while: Ctrl-C ends it without a word until then.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a job in the background
        signal.signal(signal.SIGINT, interrupt)
    from .main import main as run

    try:
        run()
    except KeyboardInterrupt:
        _say()
        sys.exit(INTERRUPTED)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or end at once while a library is imported.

    Half-loaded libraries turn the exception into errors of their own, and torch aborts.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            writing = sys.modules.get('diffmf_ros.io.writing')
            getattr(writing, 'remove_unfinished', lambda: None)()
            _say()
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _say() -> None:
    print('error: interrupted', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
