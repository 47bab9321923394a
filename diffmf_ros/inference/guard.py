# SPDX-License-Identifier: Apache-2.0
"""What happens when a network fails: offline pair by pair, live over time. Never an exception, never in silence."""

from dataclasses import dataclass, field
from functools import partial

from ..core.frames import FrameError
from .errors import NetworkFailure
from .ladder import Ladder
from .memory import give_back_memory, is_out_of_memory
from .network import Image, Job, Network
from .watchdog import Overrun, Watchdog


@dataclass(frozen=True)
class Attempt:
    """What came of giving a pair to the network: an image, or None and a warning that says why."""

    image: Image | None = None
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)


class Offline:
    """Gives every pair to the network, whatever became of the pairs before: the same pair, the same pixels."""

    largest_scale = 1.0

    def __init__(self, network: Network):
        self.network = network

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without."""
        return self.network.problems

    def fuse(self, job: Job, *, scale: float, timeout_s: float) -> Attempt:
        """Try to fuse a pair, however long it takes. Raises FrameError when a frame is not usable."""
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

    See Ladder for how it rests and recovers and Watchdog for how long it may take. A call that was given up
    goes on in its thread; until it comes back no other one begins, so what the network keeps from pair to pair
    has one user. For one thread at a time.
    """

    def __init__(self, network: Network):
        self.network = network
        self._ladder = Ladder()
        self._watchdog = Watchdog()
        self._scale = 1.0  # of the call in work

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without, and how the network fails until it has recovered."""
        late = self._watchdog.late
        hangs = ('the network hangs, its last call has not come back',) if late is not None and late.hangs else ()
        return *self.network.problems, *hangs, *filter(None, (self._ladder.problem,))

    @property
    def largest_scale(self) -> float:
        """The working size that the network is trusted with at present."""
        return self._ladder.largest

    def fuse(self, job: Job, *, scale: float, timeout_s: float) -> Attempt:
        """Try to fuse a pair. Raises FrameError when a frame is not usable.

        Waits timeout_s, or longer where that is the usual time; see Watchdog.call.
        """
        if why_not := self._resting():
            return Attempt(warnings=(why_not,))
        self._scale = min(scale, self._ladder.largest)
        try:
            image, timings_ms = self._watchdog.call(partial(self.network, job, scale=self._scale),
                                                    kind=job.kind(self._scale), timeout_s=timeout_s)
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
        self._failed(reason, out_of_memory=out_of_memory)  # here the error is gone, and what it referred to
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
    return str(error) if isinstance(error, NetworkFailure) else f'the network raised {type(error).__name__}: {error}'
