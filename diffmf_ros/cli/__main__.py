# SPDX-License-Identifier: Apache-2.0
"""Entry point of `diffmf`. Ctrl-C ends it in one line, also while it loads its libraries."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command line."""
    # Half-loaded libraries turn an interrupt into errors of their own; nothing is written yet.
    signal.signal(signal.SIGINT, _end_at_once)
    from .main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        _say()
        sys.exit(INTERRUPTED)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    _say()
    os._exit(INTERRUPTED)


def _say() -> None:
    print('error: interrupted', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
