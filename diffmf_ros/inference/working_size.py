# SPDX-License-Identifier: Apache-2.0
"""Working size of the network: what is asked for, what keeps up with the cameras, what it is
trusted with after failures; and how what it made at that size is enlarged."""

import statistics
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from ..core.frames import Issue, Mode
from ..core.settings import Settings

# Each costs about half of the one before it. Few, because a GPU prepares every size once.
STEPS = (0.75, 0.5, 0.35, 0.25)
_BUSY_SHARE = 0.95
# Go up only when the larger size would leave a fifth of the period free, so that noise does not
# undo it.
_FREE_FOR_UP = 0.8
_KEPT = 32
_RECENT_MS = 1000.0
_DISTANCES = 16
_DISTANCES_TO_TRUST = 4
# Pairs in a row after which a failure is over: a second at 30 Hz, so that a report every second
# shows each one. So many pairs at one size precede a step up, at least and at most.
RECOVERED = 32
LONGEST_PATIENCE = 4096
# A size that failed so often in a row is too much.
FAILURES_PER_STEP = 2

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Of the guided filter that enlarges, at the working size.
WINDOW = (7, 7)
# Added to the variances: where the sources vary by less than 1 % (2.5 gray levels), the fused
# image departs from their maximum by a constant.
RIDGE = 1e-4


def steps_from(scale: float) -> tuple[float, ...]:
    """Return the working sizes to choose from.

    Args:
        scale: the largest, relative to the grid.

    Returns:
        Falling from scale.
    """
    return (scale, *(step for step in STEPS if step < scale))


class AdaptiveScale:
    """Controller of the network's working size, at most `largest`.

    `scale` is that of the next pair.

    Down: when the 95th percentile of the newest busy times, those of about the last second,
    exceeds the time between pairs (the median distance of their stamps). The size is then the
    largest that fits if time goes with the square of the scale. One late pair may be a hiccup,
    unless it took over a second.
    Up, one step: when 32 pairs and more were fused at this size and, by the same rule, the next
    size would take at most 0.8 of the time between pairs. Part of a busy time does not shrink with
    the size, so the true time is below this guess. A step down that undoes a step up doubles the
    number of pairs to wait
    for, up to 4096: on a load that comes and goes the size settles at what fits the worse half.
    One that held for longer than that was right; then 32 pairs suffice again.
    The first pair at a new size is not counted: it pays for buffers, and on a GPU for recording a
    graph. When the stamps go back (a bag starts again, a clock is set) their distances are
    measured afresh, and until then nothing changes. Size and busy times stay, for the machine is
    as fast as before.

    It looks at no clock. Not locked: one call at a time.
    """

    def __init__(self, largest: float):
        """largest: the scale to start with and never to exceed, above 0 and at most 1."""
        self.steps = steps_from(largest)
        self._step = 0
        self._patience = RECOVERED
        self._went_up = False
        self._newest_ns: int | None = None
        self._distances_ms: deque[float] = deque(maxlen=_DISTANCES)
        self._start_counting()

    @property
    def scale(self) -> float:
        """The working size for the next pair."""
        return self.steps[self._step]

    def arrived(self, stamp_ns: int) -> None:
        """Note a pair, also one that will be overtaken.

        Args:
            stamp_ns: its stamp in nanoseconds.
        """
        if self._newest_ns is not None:
            if stamp_ns > self._newest_ns:
                self._distances_ms.append((stamp_ns - self._newest_ns) / 1e6)
            else:
                self._distances_ms.clear()
        self._newest_ns = stamp_ns

    def fused(self, busy_ms: float) -> None:
        """Note how long a pair at `scale` took, and choose the size for the next one.

        Args:
            busy_ms: time to fuse and publish it, in milliseconds.
        """
        self._pairs += 1
        if self._pairs > 1:
            self._busy_ms.append(busy_ms)
        recent_ms = self._recent()
        enough = len(recent_ms) > 1 or sum(recent_ms) >= _RECENT_MS
        if not enough or len(self._distances_ms) < _DISTANCES_TO_TRUST:
            return
        period_ms = statistics.median(self._distances_ms)
        if _high(recent_ms) > period_ms:
            self._go_down(_high(recent_ms), period_ms)
        elif self._may_go_up(period_ms):
            self._go_to(self._step - 1)

    def _may_go_up(self, period_ms: float) -> bool:
        if self._step == 0 or self._pairs <= self._patience:
            return False
        return self._ratio(self._step - 1) * _high(list(self._busy_ms)) <= _FREE_FOR_UP * period_ms

    def _go_down(self, busy_ms: float, period_ms: float) -> None:
        lower = range(self._step + 1, len(self.steps))
        if not lower:
            return
        if self._pairs > LONGEST_PATIENCE:
            self._patience = RECOVERED
        elif self._went_up:
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        fitting = (step for step in lower if self._ratio(step) * busy_ms <= period_ms)
        self._go_to(next(fitting, lower[-1]))

    def _go_to(self, step: int) -> None:
        self._went_up = step < self._step
        self._step = step
        self._start_counting()

    def _start_counting(self) -> None:
        self._pairs = 0
        self._busy_ms: deque[float] = deque(maxlen=_KEPT)

    def _ratio(self, step: int) -> float:
        """Return the duration of a pair at step relative to now, if time goes with pixels."""
        return (self.steps[step] / self.scale) ** 2

    def _recent(self) -> list[float]:
        """The newest busy times, as many as it takes to fill a second."""
        recent_ms: list[float] = []
        for busy_ms in reversed(self._busy_ms):
            if sum(recent_ms) >= _RECENT_MS:
                break
            recent_ms.append(busy_ms)
        return recent_ms


def _high(values: list[float]) -> float:
    """95th percentile by the nearest lower rank: of 2 to 21 values the second largest."""
    return sorted(values)[int(_BUSY_SHARE * (len(values) - 1))]


class TrustedScale:
    """The largest working size that the network is trusted with, `largest`. For one thread.

    After FAILURES_PER_STEP failures in a row, or one by lack of memory, it goes one step down, at
    the smallest size it stays. After RECOVERED pairs that worked it goes one step up; a step up
    that is undone doubles the number of pairs to wait for, up to LONGEST_PATIENCE, until a size
    has held for longer than that.
    """

    def __init__(self) -> None:
        self.largest = 1.0
        self._at_this_size = 0
        self._since_step = 0
        self._patience = RECOVERED
        self._went_up = False

    def succeeded(self) -> None:
        """Note a pair that worked."""
        self._at_this_size = 0
        self._since_step += 1
        if self.largest < 1 and self._since_step >= self._patience:
            self._step_to(min(step for step in steps_from(1.0) if step > self.largest))

    def failed(self, *, scale: float, out_of_memory: bool = False) -> None:
        """Note a pair that failed at this working size."""
        self._at_this_size += 1
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


class ScaleController:
    """Decides the working size of every pair.

    `asked` is what the settings say, or what keeps up with the cameras; 1 for classical fusion,
    which has no working size. `trusted` follows the failures of the network, and is replaced with
    it. `issue` says when a setting is in vain, else it is None. Unless it `adapts`, arrived and
    fused need not be called. Pairs arrive in one thread and are fused in another.
    """

    def __init__(self, settings: Settings):
        self._lock = threading.Lock()
        self.trusted = TrustedScale()
        self.configure(settings)

    @property
    def value(self) -> float:
        """The working size of the next pair: as asked for, or smaller after failures."""
        return min(self.asked, self.trusted.largest)

    def configure(self, settings: Settings) -> None:
        """Start again by settings; what the network is trusted with stays."""
        classical = settings.model == 'classical'
        idle = [name for name, asked in (('scale', settings.scale < 1),
                                         ('adaptive_scale', settings.adaptive_scale))
                if asked and classical]
        self.issue = Issue('scale_without_effect', f'{" and ".join(idle)} without effect: '
                           'classical fusion has no working size') if idle else None
        with self._lock:
            self.asked = 1.0 if classical else settings.scale
            self.adapts = settings.adaptive_scale and not classical
            self._adaptive = AdaptiveScale(settings.scale) if self.adapts else None

    def arrived(self, stamp_ns: int) -> None:
        """Note the stamp of a pair, also of one that will be overtaken."""
        with self._lock:
            if self._adaptive is not None:
                self._adaptive.arrived(stamp_ns)

    def fused(self, mode: Mode, *, scale: float, busy_ms: float) -> bool:
        """Note how a pair was fused, at which size, and how long it took with its publishing.

        Return whether another size is asked for now.
        """
        with self._lock:
            # After a failure it fuses smaller: that says nothing about the size asked for.
            if self._adaptive is None or mode is not Mode.FUSED or scale != self.asked:
                return False
            self._adaptive.fused(busy_ms)
            self.asked = self._adaptive.scale
            return self.asked != scale


def fuse_scaled(fuse: Fuse, ir: np.ndarray, vi_y: np.ndarray, *, scale: float) -> np.ndarray:
    """Run fuse(ir, vi_y) at scale times the size and return the full size, H x W float32 in [0,
    1].

    Any size from 1x1 on. A scale of 1 is fuse itself. Raises what fuse raises.
    """
    if scale == 1:
        return fuse(ir, vi_y)
    height, width = ir.shape
    small = max(1, round(width * scale)), max(1, round(height * scale))
    small_ir, small_y = (cv2.resize(image, small, interpolation=cv2.INTER_AREA)
                         for image in (ir, vi_y))
    return upsample(fuse(small_ir, small_y), small_ir, small_y, ir, vi_y)


def upsample(fused: np.ndarray, small_ir: np.ndarray, small_y: np.ndarray,
             ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
    """Enlarge fused, the fusion of small_ir and small_y (h x w), along ir and vi_y (H x W).

    All float32 in [0, 1], as is the result, H x W.
    """
    size = ir.shape[1], ir.shape[0]
    fitted = _departure(fused, cv2.max(small_ir, small_y), cv2.min(small_ir, small_y))
    of_high, of_low, offset = (cv2.resize(cv2.blur(coefficient, WINDOW), size)
                               for coefficient in fitted)
    # In place: at full size each fresh image costs as much as the arithmetic on it.
    high: Any = cv2.max(ir, vi_y)
    low: Any = cv2.min(ir, vi_y)
    of_high += 1
    high *= of_high
    low *= of_low
    high += low
    high += offset
    return np.clip(high, 0, 1, out=high)


def _departure(fused, high, low) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit fused - high = a * high + b * low + c in the window around each pixel.

    Return a, b and c, h x w.
    """
    def mean(image):
        return cv2.blur(image, WINDOW)

    rest = fused - high
    return solve(*map(mean, guided(high, low, rest)))


def guided(high, low, rest) -> tuple:
    """Return the images whose means solve() takes; arrays or tensors."""
    return high, low, rest, high * high, low * low, high * low, high * rest, low * rest


def solve(high, low, rest, high_high, low_low, high_low, high_rest, low_rest) -> tuple:
    """Return a, b and c of rest = a * high + b * low + c from the means of guided().

    Arrays or tensors.
    """
    var_high = high_high - high * high + RIDGE
    var_low = low_low - low * low + RIDGE
    cov = high_low - high * low
    cov_high = high_rest - high * rest
    cov_low = low_rest - low * rest
    inverse = 1 / (var_high * var_low - cov * cov)
    a = (var_low * cov_high - cov * cov_low) * inverse
    b = (var_high * cov_low - cov * cov_high) * inverse
    return a, b, rest - a * high - b * low
