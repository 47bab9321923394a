# SPDX-License-Identifier: Apache-2.0
"""Calls in a thread of their own, for which nobody waits longer than is sensible."""

import statistics
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from typing import Any

# A call that takes so many usual times is not slow, it hangs.
USUAL_TIMES = 5
# The first call of a kind compiles, tunes and records: it may be in work for so long.
FIRST_CALL_S = 120.0
_REMEMBERED_TIMES = 9
_REMEMBERED_KINDS = 16


class Overrun(Exception):
    """A call took too long and is left to itself."""

    def __init__(self, limit_s: float):
        super().__init__(f'no result within {limit_s:.1f} s')


class Call:
    """A call in work. `answer` gets one (value, error) when it is done, whether anybody waits or not.

    new: there is no usual time of its kind yet.
    """

    def __init__(self, work: Callable[[], Any], kind: Hashable, *, new: bool):
        self.work, self.kind, self.new = work, kind, new
        self.answer: SimpleQueue = SimpleQueue()
        self.started_s = time.monotonic()
        self.took_s = 0.0

    @property
    def running(self) -> bool:
        """Whether it has not come back; nothing to ask once the answer was taken."""
        return self.answer.empty()

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started_s

    @property
    def hangs(self) -> bool:
        """Whether it runs longer than it may, given that nobody waits for it any more."""
        return self.running and (not self.new or self.age_s > FIRST_CALL_S)

    def run(self) -> None:
        """Do the work; in the thread."""
        try:
            outcome = self.work(), None
        except BaseException as error:  # it belongs to whoever called
            outcome = None, error
        self.took_s = self.age_s
        self.work = None  # with it go the images of the pair
        self.answer.put(outcome)


class Watchdog:
    """Runs one call at a time in a daemon thread. For one calling thread at a time.

    late is the call that was given up last, until forget(): while it runs there can be no other one, and its
    result reaches nobody. close() ends the thread after the call in work, without waiting for it.
    """

    def __init__(self):
        self.late: Call | None = None
        self._calls: SimpleQueue = SimpleQueue()
        self._usual_s: dict[Hashable, deque[float]] = {}
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name='network', daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, self._calls.put, None)

    def call(self, work: Callable[[], Any], *, kind: Hashable, timeout_s: float) -> Any:
        """Return work(); raises what it raises, or Overrun.

        kind is size and whatever else decides how long it takes. Waits for limit_s(). There must be no late call.
        """
        call = Call(work, kind, new=not self._usual_s.get(kind))
        limit_s = self.limit_s(kind, timeout_s)
        self._calls.put(call)
        try:
            value, error = call.answer.get(timeout=limit_s)
        except Empty:
            self.late = call
            raise Overrun(limit_s) from None
        if error is not None:
            raise error
        self._note(call)
        return value

    def limit_s(self, kind: Hashable, timeout_s: float) -> float:
        """Return the larger of timeout_s and USUAL_TIMES the median time of this kind, without its first call."""
        usual_s = self._usual_s.get(kind)
        return max(timeout_s, USUAL_TIMES * statistics.median(usual_s)) if usual_s else timeout_s

    def forget(self) -> BaseException | None:
        """Let go of the late call, which has come back. Return what it raised if there was no usual time for it."""
        call, self.late = self.late, None
        _, error = call.answer.get()
        if not call.new:
            return None  # it hung, whatever came of it, and is no measure of the usual time
        if error is None:
            self._note(call)
        return error

    def forget_times(self) -> None:
        """Every kind of call is new again."""
        self._usual_s.clear()

    def _note(self, call: Call) -> None:
        if call.kind in self._usual_s:
            self._usual_s[call.kind].append(call.took_s)
            return
        while len(self._usual_s) >= _REMEMBERED_KINDS:
            del self._usual_s[next(iter(self._usual_s))]
        self._usual_s[call.kind] = deque(maxlen=_REMEMBERED_TIMES)


def _serve(calls: SimpleQueue) -> None:
    """The thread. It knows the queue alone, so that a forgotten Watchdog is freed and ends it."""
    while (call := calls.get()) is not None:
        call.run()
        del call  # until the next one comes
