# SPDX-License-Identifier: Apache-2.0
"""When a training should end before its last iteration: a signal came, or its time is up."""

import signal
import threading
import time
from enum import IntEnum


class Stop(IntEnum):
    """Why a training ends early; a number, for the processes to agree on. Signals have their own."""

    NO = 0
    TIME_IS_UP = 1
    INTERRUPTED = int(signal.SIGINT)
    TERMINATED = int(signal.SIGTERM)


class StopRequests:
    """While this context is open, SIGINT and SIGTERM are requests, and minutes after it opened is one too.

    A second signal does what it did before. Outside the main thread signals are left alone.
    """

    def __init__(self, minutes: float):
        self._signal, self._end, self._handlers = Stop.NO, time.monotonic() + 60 * minutes, {}

    @property
    def current(self) -> Stop:
        """What is requested now; a signal rather than the time."""
        return self._signal or (Stop.TIME_IS_UP if time.monotonic() >= self._end else Stop.NO)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._request)
                              for number in (Stop.INTERRUPTED, Stop.TERMINATED)}
        return self

    def __exit__(self, *error):
        self._restore()

    def _request(self, number, frame):
        self._signal = Stop(number)
        self._restore()

    def _restore(self):
        while self._handlers:
            signal.signal(*self._handlers.popitem())
