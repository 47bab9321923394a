# SPDX-License-Identifier: Apache-2.0
"""Matching of stamps: clock jumps, the hold of a thermal frame, final pairs of two streams."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from enum import Enum

from ..frames import RGB, THERMAL

# A stamp so far behind the newest of its stream is a jump; less: one frame overtook another. Two
# frames of a 9 Hz camera span 0.22 s, and a transport that keeps only the newest frames does not
# reorder more; a shorter recording in a loop cannot be told from that.
JUMP_NS = 250_000_000


class StampKind(Enum):
    """Kind of a stamp: NORMAL, JUMP (forget both streams), STALE (before the jump: refuse it)."""

    NORMAL = 'normal'
    JUMP = 'jump'
    STALE = 'stale'


class ClockJumpDetector:
    """Detector of jumps in the stamps of both streams, which start again as in a looped recording.

    Stamps are judged in the order of arrival. Until the other stream jumps too, its stamps above
    the midpoint of the jump are old and are dropped; this ends too when the first stream reaches
    the midpoint itself.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all stamps."""
        self._newest_ns: dict[str, int] = {}
        self._behind: str | None = None
        self._middle_ns = 0

    def judge(self, stream: str, stamp_ns: int) -> StampKind:
        """Return the kind of the next stamp of a stream.

        Args:
            stream: rgb or thermal.
            stamp_ns: in nanoseconds, after the offsets.

        Returns:
            NORMAL, JUMP or STALE.
        """
        other = THERMAL if stream == RGB else RGB
        newest_ns = self._newest_ns.get(stream, stamp_ns)
        if stamp_ns < newest_ns - JUMP_NS:
            self._newest_ns = {stream: stamp_ns}
            self._behind, self._middle_ns = other, (newest_ns + stamp_ns) // 2
            return StampKind.JUMP
        if stream == self._behind:
            if stamp_ns > self._middle_ns and self._newest_ns[other] <= self._middle_ns:
                return StampKind.STALE
            self._behind = None
        self._newest_ns[stream] = max(newest_ns, stamp_ns)
        return StampKind.NORMAL


# Held from a thermal period of this many RGB periods on: beside 30 Hz, that is 21 Hz and less.
# Cameras of nearly one rate lose few frames, and a pair of their closest frames is worth more.
BEGIN_RATIO = 1.4
END_RATIO = 1.25
# A period and this part of it, for jitter: a frame that is dropped is not replaced.
MARGIN = 1.25
# Frames of a slower camera say too little about what moves now.
LONGEST_PERIOD_NS = 500_000_000


class AutomaticHold:
    """Follows the usual periods of both cameras.

    `hold_ns` is how much older than an RGB frame the thermal frame may be; 0: no frame is held.
    """

    def __init__(self) -> None:
        self.hold_ns = 0

    def reset(self) -> None:
        """Start again: other recordings may have other periods."""
        self.hold_ns = 0

    def follow(self, rgb_period_ns: int, thermal_period_ns: int) -> int:
        """Return how long a thermal frame may be held by the present periods.

        Args:
            rgb_period_ns, thermal_period_ns: periods of the streams in nanoseconds; 0 for one that
                is not known, which changes nothing.

        Returns:
            hold_ns.
        """
        if rgb_period_ns and thermal_period_ns:
            slower = thermal_period_ns / rgb_period_ns
            held = slower >= (END_RATIO if self.hold_ns
                              else BEGIN_RATIO) and thermal_period_ns <= LONGEST_PERIOD_NS
            self.hold_ns = round(MARGIN * thermal_period_ns) if held else 0
        return self.hold_ns


class FixedHold:
    """The same for a time that somebody has chosen."""

    def __init__(self, hold_ns: int):
        self.hold_ns = hold_ns

    def reset(self) -> None:
        """Nothing is learned here."""

    def follow(self, rgb_period_ns: int, thermal_period_ns: int) -> int:
        """Return how long a thermal frame may be held, whatever the periods are.

        Args:
            rgb_period_ns, thermal_period_ns: not used.

        Returns:
            hold_ns.
        """
        return self.hold_ns


NEVER_NS = 1 << 63


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
