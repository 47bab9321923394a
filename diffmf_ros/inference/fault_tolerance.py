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
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ..core.frames import RGB, THERMAL, FrameError, Mode
from ..core.imaging import classical
from ..core.settings import Settings
from ..core.sync.adaptive_scale import steps_from
from .errors import NetworkFailure
from .host_path import HostPath, StageClock
from .memory import give_back_memory, is_out_of_memory
from .network import Image, Network, PreparedPair
from .prepare import Preparation

ALONE = {RGB: Mode.RGB_ONLY, THERMAL: Mode.THERMAL_ONLY}


class StandIn:
    """Makes an image of every usable pair. problem: why classical fusion failed on the last pair,
    or nothing."""

    def __init__(self, inputs: Preparation):
        self.problem = ''
        self._inputs = inputs
        self._path = HostPath(classical.fuse)

    def __call__(self, job: PreparedPair, settings: Settings,
                 stage: StageClock) -> tuple[Image, Mode, tuple[str, ...]]:
        """Return image, mode and warnings. Raises FrameError when a frame is not usable."""
        try:
            image = job.run(self._path, scale=1.0, stage=stage)
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is the image of the grid's camera
            self.problem = f'classical fusion raised {type(error).__name__}: {error}'
        else:
            self.problem = ''
            return image, Mode.CLASSICAL, ()
        frame = job.pair.rgb if job.mapping.grid == RGB else job.pair.thermal
        return (self._inputs.image(frame, settings), ALONE[frame.stream],
                (f'{self.problem}; the {frame.stream} image was passed on',))


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
    """A call in work.

    `answer` gets one (value, error) when it is done, whether anybody waits or not.

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

    late is the call that was given up last, until forget(): while it runs there can be no other
    one, and its result reaches nobody. close() ends the thread after the call in work, without
    waiting for it.
    """

    def __init__(self):
        self.late: Call | None = None
        self._calls: SimpleQueue = SimpleQueue()
        self._usual_s: dict[Hashable, deque[float]] = {}
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name='network',
                                        daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, self._calls.put, None)

    def call(self, work: Callable[[], Any], *, kind: Hashable, timeout_s: float) -> Any:
        """Return work(); raises what it raises, or Overrun.

        kind is size and whatever else decides how long it takes. Waits for limit_s(). There must
        be no late call.
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
        """Return the larger of timeout_s and USUAL_TIMES the median time of this kind, without its
        first call."""
        usual_s = self._usual_s.get(kind)
        return max(timeout_s, USUAL_TIMES * statistics.median(usual_s)) if usual_s else timeout_s

    def forget(self) -> BaseException | None:
        """Let go of the late call, which has come back.

        Return what it raised if there was no usual time for it.
        """
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


# Pairs without the network after one failure, two in a row, three ... : 1, 2, 4 ... up to this, 2
# s at 30 Hz.
LONGEST_PAUSE = 64
# A size that failed so often in a row is too much.
FAILURES_PER_STEP = 2
# Pairs in a row after which a failure is over: a second at 30 Hz, so that a report every second
# shows each one.
RECOVERED = 32
LONGEST_PATIENCE = 4096


class Ladder:
    """Steps down when the network fails and up again when it works. For one thread at a time.

    After every failure the network rests for some pairs, longer for each failure in a row. After
    two in a row, or when memory ran out, the working size goes one step down
    (core/sync/adaptive_scale.py). At the smallest size it stays, and what is left is classical
    fusion with an attempt every LONGEST_PAUSE pairs. After RECOVERED pairs that worked the size
    goes one step up; a step up that is undone doubles the number of pairs to wait for, up to
    LONGEST_PATIENCE, until a size has held for longer than that.
    """

    def __init__(self):
        self.largest = 1.0  # working size that the network is trusted with
        self.failures = 0  # in a row
        self.pause = 0  # pairs that the network still rests
        self._last_reason = ''
        self._at_this_size = 0
        self._worked = 0
        self._since_step = 0
        self._patience = RECOVERED
        self._went_up = False

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence, until RECOVERED pairs in a row have worked; then empty."""
        if not self._last_reason:
            return ''
        times = {0: 'lately', 1: ''}.get(self.failures, f'{self.failures} times in a row')
        return f'the network failed{times and " "}{times}: {self._last_reason}'

    def admits(self) -> bool:
        """Whether the network may have the next pair; ask once a pair."""
        if self.pause:
            self.pause -= 1
            return False
        return True

    def succeeded(self) -> None:
        """Note a pair that worked."""
        self.failures = self._at_this_size = 0
        self._worked += 1
        self._since_step += 1
        if self._worked >= RECOVERED:
            self._last_reason = ''
        if self.largest < 1 and self._since_step >= self._patience:
            self._step_to(min(step for step in steps_from(1.0) if step > self.largest))

    def failed(self, reason: str, *, scale: float, out_of_memory: bool = False) -> None:
        """Note a pair that failed at this working size."""
        self._last_reason, self._worked = reason, 0
        self.failures += 1
        self._at_this_size += 1
        self.pause = min(2 ** (self.failures - 1), LONGEST_PAUSE)
        smaller = [step for step in steps_from(1.0) if step < scale]
        if smaller and (out_of_memory or self._at_this_size >= FAILURES_PER_STEP):
            if self._since_step > LONGEST_PATIENCE:
                self._patience = RECOVERED
            elif self._went_up:
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            self._step_to(smaller[0])

    def _step_to(self, scale: float) -> None:
        self._went_up = scale > self.largest
        self.largest = scale
        self._at_this_size = self._since_step = 0


@dataclass(frozen=True)
class Attempt:
    """What came of giving a pair to the network: an image, or None and a warning that says why."""

    image: Image | None = None
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)


class Offline:
    """Gives every pair to the network, whatever became of the pairs before.

    The same pair, the same pixels.
    """

    largest_scale = 1.0

    def __init__(self, network: Network):
        self.network = network

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without."""
        return self.network.problems

    def fuse(self, job: PreparedPair, *, scale: float, timeout_s: float) -> Attempt:
        """Try to fuse a pair, however long it takes.

        Raises FrameError when a frame is not usable.
        """
        try:
            image, timings_ms = self.network(job, scale=scale)
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is a classical image of this pair
            return Attempt(warnings=(_reason(error),))
        return Attempt(image, timings_ms=timings_ms)

    def close(self) -> None:
        """Nothing to end."""


class Live:
    """Gives pairs to the network as long as it answers, and lets it rest, smaller, when it fails.

    See Ladder for how it rests and recovers and Watchdog for how long it may take. A call that was
    given up goes on in its thread; until it comes back no other one begins, so what the network
    keeps from pair to pair has one user. For one thread at a time.
    """

    def __init__(self, network: Network):
        self.network = network
        self._ladder = Ladder()
        self._watchdog = Watchdog()
        self._scale = 1.0  # of the call in work

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without, and how the network fails until it has
        recovered."""
        late = self._watchdog.late
        hangs = ('the network hangs, its last call has not come '
                 'back',) if late is not None and late.hangs else ()
        return *self.network.problems, *hangs, *filter(None, (self._ladder.problem,))

    @property
    def largest_scale(self) -> float:
        """The working size that the network is trusted with at present."""
        return self._ladder.largest

    def fuse(self, job: PreparedPair, *, scale: float, timeout_s: float) -> Attempt:
        """Try to fuse a pair. Raises FrameError when a frame is not usable.

        Waits timeout_s, or longer where that is the usual time; see Watchdog.call.
        """
        if why_not := self._resting():
            return Attempt(warnings=(why_not,))
        self._scale = min(scale, self._ladder.largest)
        try:
            image, timings_ms = self._watchdog.call(partial(self.network, job, scale=self._scale),
                                                    kind=job.kind(self._scale),
                                                    timeout_s=timeout_s)
        except FrameError:
            raise
        except Overrun as overrun:
            if self._watchdog.late.new:
                return Attempt(warnings=(_PREPARES,))
            reason, out_of_memory = f'the network gave {overrun}', False
        except Exception as error:  # whatever it is, there is a classical image of this pair
            reason, out_of_memory = _reason(error), is_out_of_memory(error)
        else:
            self._ladder.succeeded()
            return Attempt(image, self._limited(scale), timings_ms)
        # here the error is gone, and what it referred to
        self._failed(reason, out_of_memory=out_of_memory)
        return Attempt(warnings=(reason,))

    def close(self) -> None:
        """End the thread. One that hangs is left behind."""
        self._watchdog.close()

    def _resting(self) -> str:
        """Return why the network does not get the next pair; empty when it does."""
        late = self._watchdog.late
        if late is not None:
            if late.running:
                return 'the network hangs' if late.hangs else _PREPARES
            error = self._watchdog.forget()
            if error is not None and not isinstance(error, FrameError):
                self._failed(_reason(error), out_of_memory=is_out_of_memory(error))
        return '' if self._ladder.admits() else self._ladder.problem

    def _failed(self, reason: str, *, out_of_memory: bool) -> None:
        self._ladder.failed(reason, scale=self._scale, out_of_memory=out_of_memory)
        if out_of_memory:
            self.network.renew()
            self._watchdog.forget_times()
            give_back_memory()

    def _limited(self, scale: float) -> tuple[str, ...]:
        if self._scale == scale:
            return ()
        return (f'working size {self._scale:g} instead of {scale:g}, because the network failed',)


_PREPARES = 'the network prepares for images of this size'


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(
        error, NetworkFailure) else f'the network raised {type(error).__name__}: {error}'
