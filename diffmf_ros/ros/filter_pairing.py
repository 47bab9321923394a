# SPDX-License-Identifier: Apache-2.0
"""Pairing by the synchronizers of message_filters, for those who want these, behind the interface
of ClosestPairing.

What they are fed is only a header with a stamp, and the frame: they own no subscription, so the
quality of service, the transports and the decoding stay those of this package. They never forget
when a clock jumps; so a new one is made then. Their approximate policy can give pairs out of
order: a pair that is not newer than the last one is dropped.
"""

from collections import Counter
from types import SimpleNamespace

from builtin_interfaces.msg import Time

from ..core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ..core.settings import SyncSettings
from ..core.sync.pairing import ClosestPairing
from ..core.sync.stream_measures import ClockJumpDetector, StampKind

QUEUE_SIZE = 10
# No offset makes a stamp negative, which rclpy refuses; only differences of stamps matter to a
# synchronizer.
_SHIFT_NS = 1_000_000_000
_STAMP_LIMIT_NS = 2**31 * 1_000_000_000


class FilterPairing:
    """Pairs frames by message_filters' ApproximateTimeSynchronizer or TimeSynchronizer (policy
    'exact').

    Queues hold ten frames. approximate: a frame takes the closest frame of the other stream that
    is waiting when it arrives, at most max_distance away. exact: equal stamps, after the offsets.

    `dropped` counts the frames that left without a partner, by reason: 'unpaired' (pushed out by
    newer ones), 'out_of_order' (in a pair that is not newer than the last one), 'bad_stamp'
    (negative, or beyond the year 2038), 'late', 'duplicate' and 'clock_jump' as for
    ClosestPairing.
    """

    def __init__(self, settings: SyncSettings):
        """Raises DiffmfError when message_filters is missing or settings.hold_last_ms is above 0.
        """
        if settings.hold_last_ms > 0:
            raise DiffmfError(f'sync.hold_last_ms is {settings.hold_last_ms:g} and sync.policy is '
                              f'{settings.policy}, '
                              'but only closest can hold a thermal frame: set hold_last_ms to 0, '
                              'or policy to closest')
        self._filters = _message_filters(settings.policy)
        self._settings = settings
        self._offsets_ns = {RGB: round(settings.rgb_offset_ms * 1e6),
                            THERMAL: round(settings.thermal_offset_ms * 1e6)}
        self.dropped: Counter[str] = Counter()
        self.hold_ms = 0.0  # see ClosestPairing
        self._jumps = ClockJumpDetector()
        self._start()

    @property
    def pending(self) -> int:
        """Number of frames that wait for a partner."""
        return sum(len(queue) for queue in self._synchronizer.queues)

    def add(self, frame: Frame) -> list[Pair]:
        """Take a frame; return the pairs that it completes.

        Stamps of both streams rise until a clock jump.
        """
        stamp_ns = frame.stamp_ns + self._offsets_ns[frame.stream]
        if not 0 <= stamp_ns + _SHIFT_NS < _STAMP_LIMIT_NS:
            self._drop('bad_stamp', 1)
            return []
        verdict = self._jumps.judge(frame.stream, stamp_ns)
        if verdict is StampKind.STALE:
            self._drop('clock_jump', 1)
            return []
        if verdict is StampKind.JUMP:
            self._drop('clock_jump', self.pending)
            self._start()
        refusal = self._refusal(frame.stream, stamp_ns)
        if refusal:
            self._drop(refusal, 1)
            return []
        before = self.pending
        self._completed: list[tuple] = []
        self._inputs[frame.stream].signalMessage(_message(frame, stamp_ns))
        self._drop('unpaired', before + 1 - self.pending - 2 * len(self._completed))
        return [pair for rgb, thermal in self._completed if (pair := self._pair(rgb, thermal))]

    def flush(self) -> list[Pair]:
        """Nothing more will come; what waits has no partner. A frame after that starts afresh."""
        self._drop('unpaired', self.pending)
        self._jumps.reset()
        self._start()
        return []

    def reset(self) -> None:
        """Forget all frames and stamps, because the clock of the node was set back or a new
        recording starts."""
        self._drop('clock_jump', self.pending)
        self._jumps.reset()
        self._start()

    def _start(self) -> None:
        self._last_ns = (-_SHIFT_NS - 1, -_SHIFT_NS - 1)
        self._completed = []
        self._inputs = {stream: self._filters.SimpleFilter() for stream in (RGB, THERMAL)}
        sources = [self._inputs[RGB], self._inputs[THERMAL]]
        if self._settings.policy == 'exact':
            self._synchronizer = self._filters.TimeSynchronizer(sources, QUEUE_SIZE)
        else:
            # The synchronizer takes what is nearer than its slop; max_distance itself is
            # permitted.
            slop_s = (round(self._settings.max_distance_ms * 1e6) + 1.5) / 1e9
            self._synchronizer = self._filters.ApproximateTimeSynchronizer(
                sources, QUEUE_SIZE, slop_s)
        # It holds a lock while it calls: an exception there would stop it for good, so this only
        # collects.
        self._synchronizer.registerCallback(lambda rgb,
                                            thermal: self._completed.append((rgb, thermal)))

    def _refusal(self, stream: str, stamp_ns: int) -> str | None:
        """Return why a frame cannot be in a pair any more: 'duplicate', 'late' or None."""
        number = 0 if stream == RGB else 1
        if stamp_ns == self._last_ns[number] or stamp_ns + _SHIFT_NS in self._synchronizer.queues[
                number]:
            return 'duplicate'
        return 'late' if stamp_ns < self._last_ns[number] else None

    def _pair(self, rgb, thermal) -> Pair | None:
        stamps_ns = rgb.stamp_ns, thermal.stamp_ns
        if stamps_ns[0] <= self._last_ns[0] or stamps_ns[1] <= self._last_ns[1]:
            self._drop('out_of_order', 2)
            return None
        self._last_ns = stamps_ns
        return Pair(rgb=rgb.frame, thermal=thermal.frame, offset_ns=stamps_ns[1] - stamps_ns[0])

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] += count


def _message(frame: Frame, stamp_ns: int):
    """The least that a synchronizer takes for a message, with the frame in it."""
    seconds, nanoseconds = divmod(stamp_ns + _SHIFT_NS, 1_000_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=Time(sec=seconds, nanosec=nanoseconds)),
                           frame=frame, stamp_ns=stamp_ns)


def _message_filters(policy: str):
    """The module; it is no part of a bare installation, and only these policies need it."""
    try:
        import message_filters
    except ImportError as error:
        raise DiffmfError(
            f'sync.policy {policy} needs the Python module message_filters ({error}): install the '
            f'package '
            'ros-<distro>-message-filters, or set sync.policy to closest') from error
    return message_filters


def make_pairing(settings: SyncSettings) -> ClosestPairing | FilterPairing:
    """Return what pairs by settings.policy.

    Raises DiffmfError when the policy needs message_filters and that is not installed, or cannot
    hold frames.
    """
    return ClosestPairing(settings) if settings.policy == 'closest' else FilterPairing(settings)
