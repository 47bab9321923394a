# SPDX-License-Identifier: Apache-2.0
"""Closest-stamp pairing of an RGB and a thermal stream of any rates.

A pair is an RGB and a thermal frame, at most max_distance apart after the offsets, each of which is
the closest of its stream to the other. Of two equally close frames the one counts for which RGB comes
first: so two cameras half a period out of step keep all their pairs. Such pairs never cross.

A pair comes out as soon as no frame that can still arrive would change it. Waiting for the next frame
of the slower camera would cost up to its whole period, so a stream is trusted to keep at least half of
the smallest of its recent gaps: its next stamp is no earlier than the newest one plus that.
"""

from bisect import bisect_left
from collections import Counter, deque
from itertools import pairwise

from .frames import RGB, THERMAL, Frame, Pair
from .settings import SyncSettings

_CLOCK_JUMP_NS = 1_000_000_000
_CAPACITY = 64
_GAPS = 16
_GAPS_TO_TRUST = 4
_NEVER_NS = 1 << 63


class _Stream:
    """Newest frames of one camera in the order of their corrected stamps.

    The first `settled` of them have left, in a pair or without one (their frame is None); the stamps
    stay, because a frame that has left can still be the closest one to a frame of the other stream.
    """

    def __init__(self, offset_ms: float):
        self.offset_ns = round(offset_ms * 1e6)
        self.clear()

    def clear(self) -> None:
        """Forget everything but the offset."""
        self.stamps_ns: list[int] = []
        self.frames: list[Frame | None] = []
        self.settled = 0
        self.settled_ns = -_NEVER_NS
        self.newest_ns = -_NEVER_NS
        self.gaps_ns: deque[int] = deque(maxlen=_GAPS)
        self.ended = False

    @property
    def pending(self) -> int:
        return len(self.frames) - self.settled

    @property
    def earliest_next_ns(self) -> int:
        """No frame that is still to come has an earlier stamp."""
        if self.ended:
            return _NEVER_NS
        trusted = len(self.gaps_ns) >= _GAPS_TO_TRUST
        return self.newest_ns + (min(self.gaps_ns) // 2 if trusted else 0)

    def refusal(self, stamp_ns: int) -> str | None:
        """Why a frame of this stamp cannot be inserted any more: 'duplicate', 'late' or None."""
        index = bisect_left(self.stamps_ns, stamp_ns)
        if index < len(self.stamps_ns) and self.stamps_ns[index] == stamp_ns:
            return 'duplicate'
        return 'late' if stamp_ns <= self.settled_ns else None

    def insert(self, stamp_ns: int, frame: Frame) -> bool:
        """Put a frame in its place; return whether a pending frame had to leave for it."""
        index = bisect_left(self.stamps_ns, stamp_ns)
        self.stamps_ns.insert(index, stamp_ns)
        self.frames.insert(index, frame)
        self.gaps_ns.extend(b - a for a, b in pairwise(self.stamps_ns[max(index - 1, 0):index + 2]))
        self.newest_ns = self.stamps_ns[-1]
        overflow = len(self.frames) > _CAPACITY and self.settled == 0
        if overflow:
            self.settle()
        if len(self.frames) > _CAPACITY:
            del self.stamps_ns[0], self.frames[0]
            self.settled -= 1
        return overflow

    def settle(self) -> Frame:
        """Let the oldest pending frame leave."""
        frame, self.frames[self.settled] = self.frames[self.settled], None
        self.settled_ns = self.stamps_ns[self.settled]
        self.settled += 1
        return frame


class ClosestPairing:
    """Pairs the frames of two streams while they arrive.

    `dropped` counts the frames that left without a partner, by reason: 'unpaired' (none was close
    enough, or closest to it), 'late' (older than a frame of its stream that has left), 'duplicate' (of
    a stamp that was there), 'clock_jump' (stamps went back by more than a second, as when a bag
    starts again: both streams are cleared) and 'overflow' (the other stream is silent).
    """

    def __init__(self, settings: SyncSettings):
        self.dropped: Counter[str] = Counter()
        self._rgb = _Stream(settings.rgb_offset_ms)
        self._thermal = _Stream(settings.thermal_offset_ms)
        # Above the cost of every permitted pair, below that of all others; see _cost.
        self._reach = 2 * round(settings.max_distance_ms * 1e6) + 2
        self._before_jump: _Stream | None = None

    def add(self, frame: Frame) -> list[Pair]:
        """Take a frame; return the pairs that are now certain, stamps of both streams strictly rising.

        Frames of one stream may overtake each other as long as no newer one has left.
        """
        streams = {RGB: (self._rgb, self._thermal), THERMAL: (self._thermal, self._rgb)}
        own, other = streams[frame.stream]
        stamp_ns = frame.stamp_ns + own.offset_ns
        if stamp_ns < own.newest_ns - _CLOCK_JUMP_NS:
            self.dropped['clock_jump'] += own.pending + other.pending
            own.clear()
            other.clear()
            self._before_jump = other
        elif own is self._before_jump:
            # Still under way when the other stream jumped: it would pass for its future.
            if stamp_ns > other.newest_ns + _CLOCK_JUMP_NS:
                self.dropped['clock_jump'] += 1
                return []
            self._before_jump = None
        refusal = own.refusal(stamp_ns)
        if refusal:
            self.dropped[refusal] += 1
            return []
        if own.insert(stamp_ns, frame):
            self.dropped['overflow'] += 1
        return self._settle()

    def flush(self) -> list[Pair]:
        """Nothing more will come: return the remaining pairs. A frame after that starts afresh."""
        self._rgb.ended = self._thermal.ended = True
        pairs = self._settle()
        self._rgb.clear()
        self._thermal.clear()
        self._before_jump = None
        return pairs

    def _settle(self) -> list[Pair]:
        """Decide on thermal frames, then on RGB frames, oldest first, until one must wait.

        Nothing behind an undecided frame could be decided: what is unknown lies in the future.
        """
        rgb, thermal, pairs = self._rgb, self._thermal, []
        while thermal.pending:
            partner, certain = self._closest(thermal.stamps_ns[thermal.settled], rgb)
            if not certain:
                break
            back = None
            if partner is not None and rgb.frames[partner] is not None:
                back, certain = self._closest(rgb.stamps_ns[partner], thermal)
            if back != thermal.settled:
                thermal.settle()
                self.dropped['unpaired'] += 1
            elif certain:
                pairs.append(self._pair(partner))
            else:
                break
        while rgb.pending:
            partner, certain = self._closest(rgb.stamps_ns[rgb.settled], thermal)
            if not certain or (partner is not None and thermal.frames[partner] is not None):
                break
            rgb.settle()
            self.dropped['unpaired'] += 1
        return pairs

    def _pair(self, partner: int) -> Pair:
        """The oldest pending thermal frame with the RGB frame at index partner; older RGB leaves."""
        while self._rgb.settled < partner:
            self._rgb.settle()
            self.dropped['unpaired'] += 1
        rgb, thermal = self._rgb.settle(), self._thermal.settle()
        return Pair(rgb=rgb, thermal=thermal, offset_ns=self._thermal.settled_ns - self._rgb.settled_ns)

    def _closest(self, stamp_ns: int, other: _Stream) -> tuple[int | None, bool]:
        """Index of the closest frame in reach of the other stream (or None), and whether that is final."""
        sign = 1 if other is self._thermal else -1
        best, best_cost = None, self._reach
        after = bisect_left(other.stamps_ns, stamp_ns)
        for index in range(max(after - 1, 0), min(after + 1, len(other.stamps_ns))):
            cost = _cost(sign * (other.stamps_ns[index] - stamp_ns))
            if cost < best_cost:
                best, best_cost = index, cost
        future_cost = _cost(sign * max(other.earliest_next_ns - stamp_ns, 0))
        return best, future_cost >= best_cost


def _cost(offset_ns: int) -> int:
    """Distance (thermal minus RGB) as a number without ties: on equal ones the later thermal wins."""
    return 2 * abs(offset_ns) + (offset_ns < 0)
