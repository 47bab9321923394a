# SPDX-License-Identifier: Apache-2.0
"""Matching of stamps: final pairs of two streams, and how long a thermal frame is held."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

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


def cost(offset_ns: int) -> int:
    """Return a distance without ties: of two equal ones the later thermal wins.

    Args:
        offset_ns: thermal minus RGB, in nanoseconds.

    Returns:
        The cost, which grows with the distance.
    """
    return 2 * abs(offset_ns) + (offset_ns < 0)


def max_cost_of(distance_ns: int) -> int:
    """Return a bound of cost() for a distance.

    Args:
        distance_ns: largest distance of a pair in nanoseconds.

    Returns:
        Above the cost of every pair at most that far apart, at most that of all others.
    """
    return 2 * distance_ns + 2


def closest_thermal(stamp_ns: int, thermal_ns: Sequence[int], next_ns: int,
                    max_cost: int) -> tuple[int | None, bool]:
    """Find the thermal stamp closest to an RGB stamp.

    Args:
        stamp_ns: the RGB stamp.
        thermal_ns: thermal stamps, rising.
        next_ns: no thermal stamp before it can come any more.
        max_cost: see max_cost_of().

    Returns:
        Its index, None where no stamp costs less than max_cost, and whether that is final.
    """
    return _closest(stamp_ns, thermal_ns, next_ns, max_cost, 1)


def closest_rgb(stamp_ns: int, rgb_ns: Sequence[int], next_ns: int,
                max_cost: int) -> tuple[int | None, bool]:
    """Find the RGB stamp closest to a thermal stamp.

    Args:
        stamp_ns: the thermal stamp.
        rgb_ns: RGB stamps, rising.
        next_ns: no RGB stamp before it can come any more.
        max_cost: see max_cost_of().

    Returns:
        Its index, None where no stamp costs less than max_cost, and whether that is final.
    """
    return _closest(stamp_ns, rgb_ns, next_ns, max_cost, -1)


def _closest(stamp_ns: int, others_ns: Sequence[int], next_ns: int, max_cost: int,
             sign: int) -> tuple[int | None, bool]:
    best, best_cost = None, max_cost
    after = bisect_left(others_ns, stamp_ns)
    for index in range(max(after - 1, 0), min(after + 1, len(others_ns))):
        candidate = cost(sign * (others_ns[index] - stamp_ns))
        if candidate < best_cost:
            best, best_cost = index, candidate
    return best, cost(sign * max(next_ns - stamp_ns, 0)) >= best_cost


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
        rgb, certain = closest_rgb(stamp_ns, rgb_ns, rgb_next_ns, max_cost)
        if not certain:
            return []
        if rgb is None:
            continue
        back, certain = closest_thermal(rgb_ns[rgb], thermal_ns, thermal_next_ns, max_cost)
        if back != thermal:
            continue
        if not certain:
            return []
        left = final_pairs(rgb_ns[:rgb], thermal_ns[:thermal], NEVER_NS, NEVER_NS, max_cost)
        right = final_pairs(rgb_ns[rgb + 1:], thermal_ns[thermal + 1:], rgb_next_ns,
                            thermal_next_ns, max_cost)
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
    index, certain = closest_thermal(stamp_ns, thermal_ns, next_ns, max_cost)
    if index is None:
        older = bisect_right(thermal_ns, stamp_ns) - 1
        if older >= 0 and stamp_ns - thermal_ns[older] <= hold_ns:
            index = older
    return index, certain
