# SPDX-License-Identifier: Apache-2.0
"""Quantiles of recent durations in fixed memory."""

import math

import numpy as np


class LatencyMeter:
    """The newest `capacity` durations; older ones are forgotten.

    count is the number of durations ever added. It has no lock: one thread uses it at a time.
    """

    def __init__(self, *, capacity: int = 1024):
        """Raises ValueError for a capacity below 1."""
        if capacity < 1:
            raise ValueError(f'capacity must be at least 1, got {capacity}')
        self._recent_ms = np.zeros(capacity)
        self.count = 0

    def add(self, duration_ms: float) -> None:
        """Record a duration.

        Args:
            duration_ms: in milliseconds.

        Raises:
            ValueError: it is not finite; a quantile of NaN says nothing.
        """
        if not math.isfinite(duration_ms):
            raise ValueError(f'expected a finite duration, got {duration_ms}')
        self._recent_ms[self.count % len(self._recent_ms)] = duration_ms
        self.count += 1

    def quantile(self, q: float) -> float:
        """Return a quantile of the kept durations, interpolated linearly.

        Args:
            q: 0 to 1.

        Returns:
            Milliseconds; NaN before the first duration.

        Raises:
            ValueError: q lies outside of 0 to 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f'a quantile lies between 0 and 1, got {q}')
        kept = self._recent_ms[:self.count]
        return float(np.quantile(kept, q)) if self.count else math.nan
