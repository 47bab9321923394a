# SPDX-License-Identifier: Apache-2.0
"""What happens when a network fails, hangs or runs out of memory.

Back-off, time-out, classical fusion, one camera.
"""

import statistics
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..core.frames import RGB, THERMAL, FrameError, Issue, Level, Mode
from ..core.imaging import classical
from . import NetworkFailure
from .memory import give_back_memory, is_out_of_memory
from .prepare import CpuBackend, Painter, PreparedPair
from .working_size import RECOVERED, TrustedScale

if TYPE_CHECKING:
    from .network import Network

ALONE = {RGB: Mode.RGB_ONLY, THERMAL: Mode.THERMAL_ONLY}


@dataclass(frozen=True)
class Fused:
    """What came of a pair: what makes its image, and how, at which working size of the network.

    No image: the network did not give one, and the warnings say why.
    """

    image: Painter | None = None
    mode: Mode = Mode.FUSED
    warnings: tuple[str, ...] = ()
    scale: float = 1.0


class ClassicalFallback:
    """Makes an image of every usable pair. issues: why classical fusion failed on the last pair,
    or none."""

    def __init__(self) -> None:
        self.issues: tuple[Issue, ...] = ()
        self._backend = CpuBackend(classical.fuse)

    def fuse(self, prepared: PreparedPair) -> 'Fused':
        """Return what came of a pair. Raises FrameError when a frame is not usable."""
        try:
            image = self._backend.fuse(prepared, scale=1.0)
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is the image of the grid's camera
            problem = f'classical fusion raised {type(error).__name__}: {error}'
            self.issues = _degraded(problem)
        else:
            self.issues = ()
            return Fused(image, Mode.CLASSICAL)
        grid = prepared.mapping.grid
        return Fused(partial(prepared.image_of, grid), ALONE[grid],
                     (f'{problem}; the {grid} image was passed on',))


# A call that takes so many usual times is not slow, it hangs.
USUAL_TIMES = 5
# The first call of a kind compiles, tunes and records: it may be in work for so long.
FIRST_CALL_S = 120.0
_REMEMBERED_TIMES = 9
_REMEMBERED_KINDS = 16


class CallTimeout(Exception):
    """A call took too long and is left to itself.

    unmeasured: there is no usual time of its kind yet.
    """

    def __init__(self, limit_s: float, *, unmeasured: bool):
        super().__init__(f'no result within {limit_s:.1f} s')
        self.unmeasured = unmeasured


class Call:
    """A call in work.

    `answer` gets one (value, error) when it is done, whether anybody waits or not.

    unmeasured: there is no usual time of its kind yet.
    """

    def __init__(self, work: Callable[[], Any], kind: Hashable, *, unmeasured: bool):
        self.work, self.kind, self.unmeasured = work, kind, unmeasured
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
        return self.running and (not self.unmeasured or self.age_s > FIRST_CALL_S)

    def run(self) -> None:
        """Do the work; in the thread."""
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = self.work(), None
        except BaseException as error:  # it belongs to whoever called
            outcome = None, error
        self.took_s = self.age_s
        del self.work  # with it go the images of the pair
        self.answer.put(outcome)


class TimedThread:
    """Runs one call at a time in a daemon thread. For one calling thread at a time.

    abandoned is the call that was given up last, until forget(): while it runs there can be no
    other one, and its result reaches nobody. close() ends the thread after the call in work,
    without waiting for it.
    """

    def __init__(self):
        self.abandoned: Call | None = None
        self._calls: SimpleQueue = SimpleQueue()
        self._usual_s: dict[Hashable, deque[float]] = {}
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name='network',
                                        daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, self._calls.put, None)

    def call(self, work: Callable[[], Any], *, kind: Hashable, timeout_s: float,
             meanwhile: Callable[[], None] | None = None) -> Any:
        """Return work(); raises what it raises, or CallTimeout.

        kind is size and whatever else decides how long it takes. Waits for limit_s(), and calls
        meanwhile first, which must not raise. There must be no abandoned call.
        """
        call = Call(work, kind, unmeasured=not self._usual_s.get(kind))
        limit_s = self.limit_s(kind, timeout_s)
        self._calls.put(call)
        if meanwhile is not None:
            meanwhile()
        try:
            value, error = call.answer.get(timeout=max(
                limit_s - (time.monotonic() - call.started_s), 0))
        except Empty:
            self.abandoned = call
            raise CallTimeout(limit_s, unmeasured=call.unmeasured) from None
        if error is not None:
            raise error
        self._note(call)
        return value

    def limit_s(self, kind: Hashable, timeout_s: float) -> float:
        """Return the larger of timeout_s and USUAL_TIMES the median time of this kind, without its
        first call."""
        usual_s = self._usual_s.get(kind)
        return max(timeout_s, USUAL_TIMES * statistics.median(usual_s)) if usual_s else timeout_s

    def forget(self) -> BaseException | None:
        """Let go of the abandoned call, which has come back.

        Return what it raised if there was no usual time for it.
        """
        call, self.abandoned = self.abandoned, None
        if call is None:
            return None
        _, error = call.answer.get()
        if not call.unmeasured:
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
    """Run calls. Knows the queue alone, so that a forgotten TimedThread is freed and ends it."""
    while (call := calls.get()) is not None:
        call.run()
        del call  # until the next one comes


# Pairs without the network after one failure, two in a row, three ... : 1, 2, 4 ... up to this, 2
# s at 30 Hz.
LONGEST_PAUSE = 64


class RetryPolicy:
    """Lets a network rest that fails: longer for each failure in a row. For one thread at a time.
    """

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.pause = 0  # pairs that the network still rests
        self._last_reason = ''
        self._worked = 0

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence, until RECOVERED pairs in a row have worked; then empty."""
        if not self._last_reason:
            return ''
        times = {0: 'lately', 1: ''}.get(self.failures, f'{self.failures} times in a row')
        return f'the network failed{times and " "}{times}: {self._last_reason}'

    def admits(self) -> bool:
        """Return whether the network may have the next pair; ask once a pair."""
        if self.pause:
            self.pause -= 1
            return False
        return True

    def succeeded(self) -> None:
        """Note a pair that worked."""
        self.failures = 0
        self._worked += 1
        if self._worked >= RECOVERED:
            self._last_reason = ''

    def failed(self, reason: str) -> None:
        """Note a pair that failed."""
        self._last_reason, self._worked = reason, 0
        self.failures += 1
        self.pause = min(2 ** (self.failures - 1), LONGEST_PAUSE)


class DirectRunner:
    """Gives every pair to the network, whatever became of the pairs before.

    The same pair, the same pixels.
    """

    def __init__(self, network: 'Network'):
        self.network, self.trusted = network, TrustedScale()

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What does not work and is done without."""
        return _degraded(*self.network.problems)

    def fuse(self, prepared: PreparedPair, *, scale: float, timeout_s: float,
             meanwhile: Callable[[], None] | None = None) -> Fused:
        """Try to fuse a pair, however long it takes; nothing is done meanwhile.

        Raises FrameError when a frame is not usable.
        """
        try:
            return Fused(self.network.backend.fuse(prepared, scale=scale), scale=scale)
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is a classical image of this pair
            return Fused(warnings=(_reason(error),))

    def close(self) -> None:
        """Nothing to end."""


class FaultTolerantRunner:
    """Gives pairs to the network as long as it answers; backs off, and shrinks, when it fails.

    See RetryPolicy for the pauses, TrustedScale for the sizes, and TimedThread for how long a call
    may take. A timed-out call keeps its thread; no new call starts before it returns, so what the
    network keeps from pair to pair has one user. For one thread at a time.
    """

    def __init__(self, network: 'Network'):
        self.network, self.trusted = network, TrustedScale()
        self._retry = RetryPolicy()
        self._calls = TimedThread()
        self._scale = 1.0  # of the call in work

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What does not work and is done without, and how the network fails until it has
        recovered."""
        abandoned = self._calls.abandoned
        hangs = ('the network hangs, its last call has not come '
                 'back',) if abandoned is not None and abandoned.hangs else ()
        return _degraded(*self.network.problems, *hangs,
                         *filter(None, (self._retry.problem,)))

    def fuse(self, prepared: PreparedPair, *, scale: float, timeout_s: float,
             meanwhile: Callable[[], None] | None = None) -> Fused:
        """Try to fuse a pair. Raises FrameError when a frame is not usable.

        Waits timeout_s, or longer where that is the usual time, and calls meanwhile while the
        network works, if it does; see TimedThread.call.
        """
        if why_not := self._resting():
            return Fused(warnings=(why_not,))
        self._scale = scale
        call = partial(self._calls.call, kind=prepared.kind(self._scale), timeout_s=timeout_s,
                       meanwhile=meanwhile)
        try:
            image = self.network.backend.fuse(prepared, scale=self._scale, call=call)
        except FrameError:
            raise
        except CallTimeout as timeout:
            if timeout.unmeasured:
                return Fused(warnings=(_PREPARES,))
            reason, out_of_memory = f'the network gave {timeout}', False
        except Exception as error:  # whatever it is, there is a classical image of this pair
            reason, out_of_memory = _reason(error), is_out_of_memory(error)
        else:
            self._retry.succeeded()
            self.trusted.succeeded()
            return Fused(image, scale=scale)
        # here the error is gone, and what it referred to
        self._failed(reason, out_of_memory=out_of_memory)
        return Fused(warnings=(reason,))

    def close(self) -> None:
        """End the thread. One that hangs is left behind."""
        self._calls.close()

    def _resting(self) -> str:
        """Return why the network does not get the next pair; empty when it does."""
        abandoned = self._calls.abandoned
        if abandoned is not None:
            if abandoned.running:
                return 'the network hangs' if abandoned.hangs else _PREPARES
            error = self._calls.forget()
            if error is not None and not isinstance(error, FrameError):
                self._failed(_reason(error), out_of_memory=is_out_of_memory(error))
        return '' if self._retry.admits() else self._retry.problem

    def _failed(self, reason: str, *, out_of_memory: bool) -> None:
        self._retry.failed(reason)
        self.trusted.failed(scale=self._scale, out_of_memory=out_of_memory)
        if out_of_memory:
            self.network.renew()
            self._calls.forget_times()
            give_back_memory()


_PREPARES = 'the network prepares for images of this size'


def _degraded(*problems: str) -> tuple[Issue, ...]:
    return tuple(Issue('network_degraded', text, level=Level.ERROR) for text in problems)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(
        error, NetworkFailure) else f'the network raised {type(error).__name__}: {error}'
