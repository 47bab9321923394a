# SPDX-License-Identifier: Apache-2.0
"""Closest-stamp pairing of an RGB and a thermal stream of any rates.

The rule, without a hold. Take all combinations of an RGB and a thermal frame at most max_distance
apart (after the offsets), closest first. Where one frame is equally close to two of the other
camera, the combination in which RGB is the earlier one goes first. A combination becomes a pair
when both frames are free and it crosses no pair that was made before. So frames that are each
other's closest are always a pair, and what they leave over between them is matched in the same
way: two cameras of one rate half a period apart, whose closest partners disagree under jitter,
lose half as many frames by that.

The rule with a hold (hold_last_ms, or by itself beside a slower thermal camera: see
Hold). Every RGB frame is for itself: it gets the closest thermal frame that is at most
max_distance apart (of two equally close the later), else the newest one that is at most the hold
older, else it leaves unpaired. `Pair.held` marks the latter, and a thermal frame that was in the
pair before already.

A pair comes out as soon as no frame that can still arrive would change it, together with what was
left over before it; a frame leaves unpaired when all that can still arrive is too far away;
nothing waits for a further pair. What can still arrive is predicted, because to wait for the next
frame of the slower camera would cost up to its whole period. A stream is trusted to keep at least
half of the smallest of its recent gaps, and to be no more than a second behind the other one: for
so long, and no longer, a silent camera holds frames up. With a hold RGB frames should not wait,
and a wrong guess costs little. So what is usual counts then: the next gap is as far below the
smallest recent one as that is below the median, and a stream is no more behind the other than it
was of late, and one frame.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from statistics import median_low

from ..frames import RGB, Frame, Pair
from ..settings import SyncSettings
from .stream_measures import ClockJumpDetector, StampKind

NEVER_NS = 1 << 63
_CAPACITY = 64
_RECENT = 16
_ENOUGH = 4
_PATIENCE_NS = 1_000_000_000
# Held from a thermal period of this many RGB periods on: beside 30 Hz, that is 21 Hz and less.
# Cameras of nearly one rate lose few frames, and a pair of their closest frames is worth more.
BEGIN_RATIO, END_RATIO = 1.4, 1.25
# A period and this part of it, for jitter: a frame that is dropped is not replaced.
MARGIN = 1.25
# Frames of a slower camera say too little about what moves now.
LONGEST_PERIOD_NS = 500_000_000


class Hold:
    """Largest age of a held thermal frame before its RGB frame, `hold_ns`; 0: no frame is held.

    fixed_ms is the value of the settings; below 0 it follows the usual periods of both cameras.
    """

    def __init__(self, fixed_ms: float):
        self._automatic = fixed_ms < 0
        self.hold_ns = 0 if self._automatic else round(fixed_ms * 1e6)

    def reset(self) -> None:
        """Start again: other recordings may have other periods."""
        if self._automatic:
            self.hold_ns = 0

    def follow(self, rgb_period_ns: int, thermal_period_ns: int) -> int:
        """Return how long a thermal frame may be held by the present periods.

        Args:
            rgb_period_ns, thermal_period_ns: periods of the streams in nanoseconds; 0 for one that
                is not known, which changes nothing.

        Returns:
            hold_ns.
        """
        if self._automatic and rgb_period_ns and thermal_period_ns:
            slower = thermal_period_ns / rgb_period_ns
            held = slower >= (END_RATIO if self.hold_ns
                              else BEGIN_RATIO) and thermal_period_ns <= LONGEST_PERIOD_NS
            self.hold_ns = round(MARGIN * thermal_period_ns) if held else 0
        return self.hold_ns


class _Stream:
    """Frames of one camera that have not left, in the order of their corrected stamps.

    shortest_gap_ns and usual_gap_ns are the smallest and the median of the recent gaps, 0 while
    there are too few to rely on. left_ns is the newest stamp that left in a pair; with a hold that
    thermal frame itself may still be here.
    """

    def __init__(self, offset_ms: float):
        self.offset_ns = round(offset_ms * 1e6)
        self.left_ns = -NEVER_NS
        self.clear(-NEVER_NS)

    def clear(self, stamp_ns: int) -> None:
        """Start again at stamp_ns: keep the offset, and an older newest stamp that left."""
        self.stamps_ns: list[int] = []
        self.frames: list[Frame] = []
        self.newest_ns = -NEVER_NS
        self.gaps_ns: deque[int] = deque(maxlen=_RECENT)
        self.shortest_gap_ns = self.usual_gap_ns = 0
        self.lags_ns: deque[int] = deque(maxlen=_RECENT)
        if self.left_ns >= stamp_ns:
            self.left_ns = -NEVER_NS

    def waiting(self, count: int) -> int:
        """How many of the oldest count frames have not been in a pair."""
        return max(count - bisect_right(self.stamps_ns, self.left_ns), 0)

    def next_ns(self, other: '_Stream') -> int:
        """No frame that is still to come is trusted to be earlier."""
        return max(self.newest_ns + self.shortest_gap_ns // 2, other.newest_ns - _PATIENCE_NS)

    def expected_ns(self, other: '_Stream') -> int:
        """No frame that is still to come is expected earlier, going by what is usual of late."""
        gap_ns = max(2 * self.shortest_gap_ns - self.usual_gap_ns, 0)
        lag_ns = max(0, *self.lags_ns) + other.shortest_gap_ns if len(
            self.lags_ns) >= _ENOUGH else _PATIENCE_NS
        return max(self.newest_ns + gap_ns, other.newest_ns - min(lag_ns, _PATIENCE_NS))

    def insert(self, stamp_ns: int, frame: Frame, other: '_Stream') -> str:
        """Put a frame in its place; return why that cannot be done: 'duplicate', 'late' or ''."""
        index = bisect_left(self.stamps_ns, stamp_ns)
        if stamp_ns == self.left_ns or stamp_ns in self.stamps_ns[index:index + 1]:
            return 'duplicate'
        if stamp_ns < self.left_ns:
            return 'late'
        if self.newest_ns > -NEVER_NS:
            self.gaps_ns.append(abs(stamp_ns - self.newest_ns))
            if len(self.gaps_ns) >= _ENOUGH:
                self.shortest_gap_ns = min(self.gaps_ns)
                self.usual_gap_ns = median_low(self.gaps_ns)
        if other.newest_ns > -NEVER_NS:
            self.lags_ns.append(other.newest_ns - stamp_ns)
        self.stamps_ns.insert(index, stamp_ns)
        self.frames.insert(index, frame)
        self.newest_ns = max(self.newest_ns, stamp_ns)
        return ''

    def forget(self, count: int) -> int:
        """Remove the oldest count frames; return how many of them have not been in a pair."""
        waiting = self.waiting(count)
        del self.stamps_ns[:count], self.frames[:count]
        return waiting


class ClosestPairing:
    """Pairs the frames of two streams while they arrive.

    `dropped` counts the frames that left without a partner, by reason: 'unpaired' (none was close
    enough and free), 'late' (older than one of its stream that has left in a pair), 'duplicate'
    (of a stamp that is here or left last), 'clock_jump' (stamps went back, see ClockJumpDetector,
    or reset) and 'overflow' (more than 64 frames were waiting).
    """

    def __init__(self, settings: SyncSettings):
        self.dropped: Counter[str] = Counter()
        self._rgb = _Stream(settings.rgb_offset_ms)
        self._thermal = _Stream(settings.thermal_offset_ms)
        self._max_distance_ns = round(settings.max_distance_ms * 1e6)
        self._max_cost = max_cost_of(self._max_distance_ns)
        self._hold = Hold(settings.hold_last_ms)
        self._jumps = ClockJumpDetector()

    @property
    def hold_ms(self) -> float:
        """Largest age at present of a held thermal frame before its RGB frame.

        0: no frame is held.
        """
        return self._hold.hold_ns / 1e6

    @property
    def pending(self) -> int:
        """Number of frames that wait for a partner."""
        return sum(stream.waiting(len(stream.frames)) for stream in (self._rgb, self._thermal))

    def add(self, frame: Frame) -> list[Pair]:
        """Take a frame; return the pairs that are now certain.

        RGB stamps rise strictly from pair to pair, thermal stamps too unless the frame is held,
        until the clock jumps. Frames of one stream may overtake each other as long as no newer one
        has left in a pair.

        Args:
            frame: the next frame of either stream.

        Returns:
            Pairs in the order of their stamps.
        """
        own, other = (self._rgb,
                      self._thermal) if frame.stream == RGB else (self._thermal, self._rgb)
        stamp_ns = frame.stamp_ns + own.offset_ns
        verdict = self._jumps.judge(frame.stream, stamp_ns)
        if verdict is StampKind.STALE:
            self._drop('clock_jump', 1)
            return []
        if verdict is StampKind.JUMP:
            self._forget_all(stamp_ns)
        if refusal := own.insert(stamp_ns, frame, other):
            self._drop(refusal, 1)
            return []
        if len(own.frames) > _CAPACITY:
            self._drop('overflow', own.forget(1))
        return self._settle(ended=False)

    def flush(self) -> list[Pair]:
        """Return the remaining pairs when nothing more will come.

        A frame after that starts afresh.

        Returns:
            Pairs in the order of their stamps.
        """
        pairs = self._settle(ended=True)
        self._drop('unpaired', self.pending)
        for stream in (self._rgb, self._thermal):
            stream.clear(-NEVER_NS)
        self._hold.reset()
        self._jumps.reset()
        return pairs

    def reset(self) -> None:
        """Forget all frames and stamps: the clock was set back, or a new recording starts."""
        self._forget_all(-NEVER_NS)
        self._jumps.reset()

    def _forget_all(self, stamp_ns: int) -> None:
        self._drop('clock_jump', self.pending)
        self._rgb.clear(stamp_ns)
        self._thermal.clear(stamp_ns)
        self._hold.reset()

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] += count

    def _settle(self, *, ended: bool) -> list[Pair]:
        hold_ns = self._hold.follow(self._rgb.usual_gap_ns, self._thermal.usual_gap_ns)
        if hold_ns:
            return self._settle_held(ended, hold_ns)
        # What was held until now has been in a pair.
        if held := bisect_right(self._thermal.stamps_ns, self._thermal.left_ns):
            self._thermal.forget(held)
        return self._settle_closest(ended)

    def _settle_closest(self, ended: bool) -> list[Pair]:
        """Let all frames leave about which nothing can change any more."""
        rgb, thermal, pairs = self._rgb, self._thermal, []
        # Each matters to the frames of the other camera alone.
        rgb_next_ns = NEVER_NS if ended or not thermal.frames else rgb.next_ns(thermal)
        thermal_next_ns = NEVER_NS if ended or not rgb.frames else thermal.next_ns(rgb)
        left = (0, 0)
        for indices in final_pairs(rgb.stamps_ns, thermal.stamps_ns, rgb_next_ns, thermal_next_ns,
                                   self._max_cost) if rgb.frames and thermal.frames else ():
            pairs.append(self._pair(indices[0] - left[0], indices[1] - left[1]))
            del thermal.stamps_ns[0], thermal.frames[0]
            left = indices[0] + 1, indices[1] + 1
        while rgb.frames and closest(rgb.stamps_ns[0], thermal.stamps_ns, thermal_next_ns,
                                     self._max_cost, thermal=True) == (None, True):
            self._drop('unpaired', rgb.forget(1))
        while thermal.frames and closest(thermal.stamps_ns[0], rgb.stamps_ns, rgb_next_ns,
                                         self._max_cost, thermal=False) == (None, True):
            self._drop('unpaired', thermal.forget(1))
        return pairs

    def _settle_held(self, ended: bool, hold_ns: int) -> list[Pair]:
        """Release RGB frames with a final thermal frame, and replaced thermal frames."""
        rgb, thermal, pairs = self._rgb, self._thermal, []
        thermal_next_ns = NEVER_NS if ended else thermal.expected_ns(rgb)
        while rgb.frames:
            index, certain = held_thermal(
                rgb.stamps_ns[0], thermal.stamps_ns, thermal_next_ns, self._max_cost, hold_ns)
            if not certain:
                break
            if index is None:
                self._drop('unpaired', rgb.forget(1))
            else:
                pairs.append(self._pair(0, index))
        oldest_ns = rgb.stamps_ns[0] if rgb.frames else rgb.next_ns(thermal)
        self._drop('unpaired',
                   thermal.forget(max(bisect_right(thermal.stamps_ns, oldest_ns) - 1, 0)))
        return pairs

    def _pair(self, rgb_index: int, thermal_index: int) -> Pair:
        """The frames at these indices; those before them leave, and the RGB frame itself."""
        rgb, thermal = self._rgb, self._thermal
        if rgb_index or thermal_index:
            self._drop('unpaired', rgb.forget(rgb_index) + thermal.forget(thermal_index))
        rgb_ns, thermal_ns = rgb.stamps_ns[0], thermal.stamps_ns[0]
        held = thermal_ns == thermal.left_ns or rgb_ns - thermal_ns > self._max_distance_ns
        pair = Pair(rgb=rgb.frames[0], thermal=thermal.frames[0], offset_ns=thermal_ns - rgb_ns,
                    held=held)
        rgb.left_ns, thermal.left_ns = rgb_ns, thermal_ns
        del rgb.stamps_ns[0], rgb.frames[0]
        return pair


def max_cost_of(distance_ns: int) -> int:
    """Return a bound of the cost of a distance, for closest().

    The cost is twice the distance, and one more where thermal is earlier: of two equal distances
    the later thermal wins.

    Args:
        distance_ns: largest distance of a pair in nanoseconds.

    Returns:
        Above the cost of every pair at most that far apart, at most that of all others.
    """
    return 2 * distance_ns + 2


def closest(stamp_ns: int, others_ns: Sequence[int], next_ns: int, max_cost: int, *,
            thermal: bool) -> tuple[int | None, bool]:
    """Find the stamp of the other stream that is closest to a stamp.

    Args:
        stamp_ns: the stamp.
        others_ns: stamps of the other stream, rising.
        next_ns: no stamp of the other stream before it can come any more.
        max_cost: see max_cost_of().
        thermal: whether the other stream is the thermal one.

    Returns:
        Its index, None where no stamp costs less than max_cost, and whether that is final.
    """
    best, best_cost = None, max_cost
    after = bisect_left(others_ns, stamp_ns)
    for index in range(max(after - 1, 0), min(after + 1, len(others_ns))):
        offset_ns = others_ns[index] - stamp_ns
        cost = 2 * abs(offset_ns) + ((offset_ns < 0) if thermal else (offset_ns > 0))
        if cost < best_cost:
            best, best_cost = index, cost
    # What may still come lies at next_ns or later.
    later_ns = max(next_ns - stamp_ns, 0)
    return best, 2 * later_ns + (not thermal and later_ns > 0) >= best_cost


def final_pairs(rgb_ns: Sequence[int], thermal_ns: Sequence[int], rgb_next_ns: int,
                thermal_next_ns: int, max_cost: int) -> list[tuple[int, int]]:
    """Return the pairs that nothing still to come can change.

    The first mutually closest pair splits the stamps: to its left nothing can come any more, to
    its right the same question is asked again. Behind a thermal stamp that must wait all others
    must: what is unknown lies in the future.

    Args:
        rgb_ns, thermal_ns: stamps of both streams, rising.
        rgb_next_ns, thermal_next_ns: no stamp before it can come any more.
        max_cost: see max_cost_of().

    Returns:
        Indices (rgb, thermal), both rising.
    """
    if not rgb_ns:
        return []
    for thermal, stamp_ns in enumerate(thermal_ns):
        rgb, certain = closest(stamp_ns, rgb_ns, rgb_next_ns, max_cost, thermal=False)
        if not certain:
            return []
        if rgb is None:
            continue
        back, certain = closest(rgb_ns[rgb], thermal_ns, thermal_next_ns, max_cost, thermal=True)
        if back != thermal:
            continue
        if not certain:
            return []
        left = final_pairs(rgb_ns[:rgb], thermal_ns[:thermal], NEVER_NS, NEVER_NS,
                           max_cost) if rgb and thermal else []
        later_rgb_ns, later_thermal_ns = rgb_ns[rgb + 1:], thermal_ns[thermal + 1:]
        right = final_pairs(later_rgb_ns, later_thermal_ns, rgb_next_ns, thermal_next_ns,
                            max_cost) if later_rgb_ns and later_thermal_ns else []
        return [*left, (rgb, thermal), *((r + rgb + 1, t + thermal + 1) for r, t in right)]
    return []


def held_thermal(stamp_ns: int, thermal_ns: Sequence[int], next_ns: int, max_cost: int,
                 hold_ns: int) -> tuple[int | None, bool]:
    """Find the thermal stamp for an RGB stamp, whether it was used before or not.

    Args:
        stamp_ns: the RGB stamp.
        thermal_ns: thermal stamps, rising.
        next_ns: no thermal stamp before it can come any more.
        max_cost: see max_cost_of().
        hold_ns: how much older a thermal stamp may be.

    Returns:
        The index of the closest one in max_cost, else of the newest that is at most hold_ns older,
        else None; and whether that is final.
    """
    index, certain = closest(stamp_ns, thermal_ns, next_ns, max_cost, thermal=True)
    if index is None:
        older = bisect_right(thermal_ns, stamp_ns) - 1
        if older >= 0 and stamp_ns - thermal_ns[older] <= hold_ns:
            index = older
    return index, certain
