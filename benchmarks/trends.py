# SPDX-License-Identifier: Apache-2.0
"""Trends of quantities in a long run: slopes with intervals of confidence.

Samples that follow each other closely are no independent evidence (memory moves in steps), so
what is fitted is one value for each of some blocks of equal length: the mean, or the least. What a
process takes for a while and gives back lifts the mean; a leak lifts the least too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist, fmean

BLOCKS = 20
CONFIDENCE = 0.95
STEADY, GROWS, UNDECIDED = 'steady', 'GROWS', 'undecided'


@dataclass(frozen=True)
class Slope:
    """Growth of a quantity by the hour: the best estimate, and the ends of its interval."""

    per_hour: float
    low: float
    high: float

    def verdict(self, tolerance: float) -> str:
        """Return GROWS when it surely grows by more than tolerance by the hour.

        STEADY when it surely does not; UNDECIDED when the run was too short or too restless.
        """
        if self.low > tolerance:
            return GROWS
        return STEADY if self.high <= tolerance else UNDECIDED


def slope(times_s: list[float], values: list[float],
          of_block: Callable[[list[float]], float] = fmean) -> Slope:
    """Fit a line through one value of each of BLOCKS blocks of values by least squares.

    Raises:
        ValueError: There are fewer than 3 blocks of samples.
    """
    points = _blocks(times_s, values, of_block)
    count = len(points)
    if count < 3:
        raise ValueError(f'expected samples in at least 3 of {BLOCKS} blocks of time, got {count}')
    middle_h, mean = fmean(t for t, _ in points), fmean(v for _, v in points)
    spread = sum((t - middle_h) ** 2 for t, _ in points)
    rise = sum((t - middle_h) * (v - mean) for t, v in points) / spread
    rest = sum((v - mean - rise * (t - middle_h)) ** 2 for t, v in points)
    half = student_t(CONFIDENCE, count - 2) * math.sqrt(rest / (count - 2) / spread)
    return Slope(rise, rise - half, rise + half)


def student_t(confidence: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's distribution (Abramowitz and Stegun, 26.7.5)."""
    x = NormalDist().inv_cdf(0.5 + confidence / 2)
    return (x + (x**3 + x) / (4 * freedom)
            + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * freedom**2)
            + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * freedom**3))


def _blocks(times_s: list[float], values: list[float],
            of_block: Callable[[list[float]], float]) -> list[tuple[float, float]]:
    """Return (hours, value) of every block that has samples."""
    first_s = times_s[0]
    length_s = (times_s[-1] - first_s) / BLOCKS or 1.0
    blocks: dict[int, list[tuple[float, float]]] = {}
    for time_s, value in zip(times_s, values):
        number = min(int((time_s - first_s) / length_s), BLOCKS - 1)
        blocks.setdefault(number, []).append((time_s / 3600, value))
    return [(fmean(t for t, _ in block), of_block([v for _, v in block]))
            for block in blocks.values()]
