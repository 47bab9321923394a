# SPDX-License-Identifier: Apache-2.0
"""Measures of a stream: period, rate, jitter, dropped frames, clock jumps, repeats, latencies."""

import math
from collections import deque
from enum import Enum
from itertools import pairwise

import numpy as np

from ..frames import RGB, THERMAL

_NS_PER_S = 1_000_000_000
_GAPS_FOR_USUAL = 15  # half a second at 30 Hz: follows a new rate at once, one stall is outvoted
RATE_WINDOW_S = 5.0  # the rate is steady to the eye that reads /diagnostics once a second
OUTLIER_SHARE = 0.5  # of the period: half way to a missing frame


class RateEstimator:
    """Estimator of the rate of a rising sequence of instants, in fixed memory.

    It keeps up to 512 instants.

    `median_period_ns` is the median of the newest 15 gaps; None before the first.
    `outliers` counts the gaps ever seen that were further from the usual one than OUTLIER_SHARE of
    it.
    """

    def __init__(self) -> None:
        self._times_ns: deque[int] = deque(maxlen=512)
        self._gaps_ns: deque[int] = deque(maxlen=_GAPS_FOR_USUAL)
        self.outliers = 0
        self.median_period_ns: int | None = None

    def reset(self) -> None:
        """Forget all instants; the count of outliers stays."""
        self._times_ns.clear()
        self._gaps_ns.clear()
        self.median_period_ns = None

    def add(self, time_ns: int) -> None:
        """Take the next instant; one that is earlier than the newest starts the sequence again.

        Args:
            time_ns: in nanoseconds.
        """
        if self._times_ns and time_ns < self._times_ns[-1]:
            self.reset()
        if self._times_ns:
            gap_ns = time_ns - self._times_ns[-1]
            period_ns = self.median_period_ns
            self.outliers += (period_ns is not None
                              and abs(gap_ns - period_ns) > OUTLIER_SHARE * period_ns)
            self._gaps_ns.append(gap_ns)
            self.median_period_ns = sorted(self._gaps_ns)[len(self._gaps_ns) // 2]
        self._times_ns.append(time_ns)

    def rate_hz(self, now_ns: int | None = None) -> float:
        """Return the rate over RATE_WINDOW_S up to now.

        A gap that is still open counts as soon as it is longer than the usual one.

        Args:
            now_ns: in nanoseconds; None for the newest instant.

        Returns:
            Instants a second; 0 for fewer than two.
        """
        if not self._times_ns:
            return 0.0
        newest_ns = self._times_ns[-1]
        now_ns = newest_ns if now_ns is None else max(now_ns, newest_ns)
        recent = [t for t in self._times_ns if t > now_ns - RATE_WINDOW_S * _NS_PER_S]
        if len(recent) < 2:
            return 0.0
        span_ns = max(newest_ns, now_ns - self.median_period_ns) - recent[0]  # type: ignore[operator]
        return (len(recent) - 1) * _NS_PER_S / span_ns if span_ns else 0.0

    def jitter_us(self) -> tuple[float, float]:
        """Measure the distances of the kept gaps from the usual one.

        Returns:
            (mean, largest) in microseconds; 0 before two gaps.
        """
        if len(self._gaps_ns) < 2:
            return 0.0, 0.0
        median_period_ns = self.median_period_ns
        distances = [abs(b - a - median_period_ns) / 1e3 for a, b in pairwise(self._times_ns)]  # type: ignore[operator]
        return sum(distances) / len(distances), max(distances)


# Chosen on simulated streams of 5 to 60 Hz with jitter, losses and bunches (test_stream_rate.py).
_WINDOW = 32  # gaps: one second at 30 Hz
_GAPS_TO_TRUST = 8  # fewer fit several periods equally well
_REFRESH = 8  # gaps between two estimates, which cost a 32 x 32 table
_FORGET = 0.9  # of the carried rest, so that an error of the period does not add up
_NEAR = 0.2  # of a period: a multiple, give or take so much
_FAR_STEPS = 5.5  # periods: beyond, 20 % jitter a step reaches the next multiple
_CHANCE = 2 * _NEAR  # share of random gaps that are near a multiple
_AS_GOOD = 0.06  # of the score: two of 32 gaps may fit no period
_CONVINCING = 0.6  # score: below, the period is more often wrong than right


class MissingFrames:
    """Counter of dropped frames, from the gaps between stamps.

    A gap of n periods means n - 1 dropped frames. The period is that of the single steps even
    where most frames are lost; a convincing one stays until another convinces as well. What
    rounding leaves over is carried to the next gap, so that jitter, late stamps and frames out of
    order even out. `total` is since the beginning, `share` that of the newest 32 gaps, 0 to 1.
    """

    def __init__(self) -> None:
        self.total = 0
        self.reset()

    def reset(self) -> None:
        """Forget the stamps, as after a clock jump; the total stays."""
        self._gaps_ns: deque[float] = deque(maxlen=_WINDOW)
        self._period_ns: float | None = None
        self._convincing = False
        self._since_refresh = 0
        self._carry = 0.0

    def gap(self, gap_ns: int, *, excused: int = 0) -> None:
        """Take the distance of two stamps.

        Args:
            gap_ns: in nanoseconds, above 0.
            excused: frames that came in between and were not usable.
        """
        self._gaps_ns.append(gap_ns / (1 + excused))
        self._since_refresh += 1
        if self._period_ns is None or self._since_refresh >= _REFRESH:
            self._estimate()
        if self._period_ns is None:
            return
        steps = gap_ns / self._period_ns + self._carry
        whole = round(steps)
        self._carry = _FORGET * (steps - whole)
        self.total = max(0, self.total + whole - 1 - excused)

    def _estimate(self) -> None:
        self._since_refresh = 0
        found = estimate_period_ns(np.array(self._gaps_ns))
        if found is not None and (found[1] >= _CONVINCING or not self._convincing):
            self._period_ns, self._convincing = found[0], found[1] >= _CONVINCING

    def late(self) -> None:
        """Count a frame that came after a newer one as not missing."""
        self.total = max(0, self.total - 1)

    @property
    def share(self) -> float:
        """Missing frames of all that the newest stamps promise, 0 to 1."""
        if self._period_ns is None:
            return 0.0
        return max(0.0, 1.0 - len(self._gaps_ns) * self._period_ns / sum(self._gaps_ns))


def estimate_period_ns(gaps_ns: np.ndarray) -> tuple[float, float] | None:
    """Return the period of a stream of which some frames are lost, and how many gaps it fits.

    It is the largest gap of which the others are multiples, give or take a fifth of it. Those of
    more than five steps say little about it and count as much as any gap does by chance. A few
    gaps that fit to nothing, such as those of frames stamped in a bunch, do not count against it.

    Args:
        gaps_ns: distances of successive stamps in nanoseconds.

    Returns:
        The period in nanoseconds and the share of the gaps that are multiples of one, 0 to 1; None
        for fewer than eight gaps.
    """
    if len(gaps_ns) < _GAPS_TO_TRUST:
        return None
    steps = gaps_ns[None, :] / gaps_ns[:, None]  # [candidate, gap]
    fits = (np.abs(steps - np.maximum(np.rint(steps), 1)) <= _NEAR).astype(float)
    fits[steps > _FAR_STEPS] = _CHANCE
    score = fits.mean(axis=1)
    period_ns = gaps_ns[score >= score.max() - _AS_GOOD].max()
    # towards the mean of all single steps: a quantized or jittering stamp has no bias there
    for _ in range(4):
        period_ns = gaps_ns[(gaps_ns > 0.5 * period_ns) & (gaps_ns < 1.5 * period_ns)].mean()
    return float(period_ns), float(score.max())


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


# Runs of equal images by which the habit of a camera is known, and the longest that passes for a
# habit.
_RUNS = 6
_LONGEST_HABIT = 8
_SAMPLE_ROWS = 16
_SAMPLE_COLUMNS = 32


class FreezeDetector:
    """Detector of repeated images, and of images of one color.

    `usual_repeats` is how often the camera sends each image: 1, but 3 of a Lepton that keeps to
    9 Hz of its 27. It is the lower median of the newest six runs of equal images, so that one
    shutter among them is no habit; 1 before there are six, and for runs of more than 8.
    It keeps a reference to the newest pixels and compares without a copy: whoever hands them in
    must not change them afterwards. A moving image costs a look at some 500 pixels; only where
    those agree is the whole image read.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.repeat_count = 0
        self.flat_count = 0
        self.usual_repeats = 1
        self._runs: deque[int] = deque(maxlen=_RUNS)
        self._newest: np.ndarray | None = None

    def add(self, pixels: np.ndarray) -> bool:
        """Take the next image and tell whether it shows something new.

        Afterwards `repeat_count` counts the equal images that end with this one (1: it differs
        from the one before) and `flat_count` the images of one color that do (0: it has several
        values).

        Args:
            pixels: H x W [x C] of any 1, 2, 4 or 8 byte type.

        Returns:
            True for an image that differs from the one before.
        """
        # The same memory as unsigned integers: of floats, equal NaN count as equal.
        bits = pixels if pixels.dtype.kind == 'u' else pixels.view(f'u{pixels.itemsize}')
        some = np.s_[::max(1, bits.shape[0] // _SAMPLE_ROWS),
                     ::max(1, bits.shape[1] // _SAMPLE_COLUMNS)]
        sample, first, newest = bits[some], bits[:1, :1], self._newest
        same = (newest is not None and newest.shape == bits.shape and newest.dtype == bits.dtype
                and np.array_equal(newest[some], sample) and np.array_equal(newest, bits))
        flat = bool((sample == first).all()) and bool((bits == first).all())
        if self.repeat_count and not same:
            self._runs.append(self.repeat_count)
            usual = sorted(self._runs)[(_RUNS - 1) // 2] if len(self._runs) == _RUNS else 1
            self.usual_repeats = usual if usual <= _LONGEST_HABIT else 1
        self.repeat_count = self.repeat_count + 1 if same else 1
        self.flat_count = self.flat_count + 1 if flat else 0
        self._newest = bits
        return not (same or flat)


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
