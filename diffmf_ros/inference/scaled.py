# SPDX-License-Identifier: Apache-2.0
"""Fusion at a smaller working size, brought back to the full size by what it did to its sources.

Fused luminance is near the maximum of the two sources, and how it departs from it is, in a small window,
close to a linear function of their maximum and minimum. So that function is fitted on the small images and
applied to the large ones: a guided filter with two guides (He, Sun and Tang 2013) whose
coefficients are enlarged instead of its output (He and Sun 2015). Every edge of the result is an edge of a
full-size source, and a hot spot of a pixel or two keeps its contrast, for the maximum has it.

Why this one: with `light` on the 34 validation pairs (benchmarks/scale.py, table in docs/performance.md) the
result is closer to the network's full-size output, by 0.8 to 1.2 dB at scale 0.5 and 1.5 to 1.9 dB at 0.25,
than the enlarged fused image with the details of the sources added by magnitude or by local energy, which
leaves specks and ringing along strong edges. It takes 0.7 to 1.5 ms of one thread at 640x480, the others 0.9
to 1.6 ms. One guide, the minimum, is as good for networks near the maximum, and 19 dB worse than two for
one that averages.
"""

from collections.abc import Callable

import cv2
import numpy as np

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]

WINDOW = (7, 7)
# Added to the variances: where the sources vary by less than 1 % (2.5 gray levels), the fused image departs
# from their maximum by a constant.
RIDGE = 1e-4


def fuse_scaled(fuse: Fuse, ir: np.ndarray, vi_y: np.ndarray, *, scale: float) -> np.ndarray:
    """Run fuse(ir, vi_y) at scale times the size and return the full size, H x W float32 in [0, 1].

    Any size from 1x1 on. A scale of 1 is fuse itself. Raises what fuse raises.
    """
    if scale == 1:
        return fuse(ir, vi_y)
    height, width = ir.shape
    small = max(1, round(width * scale)), max(1, round(height * scale))
    small_ir, small_y = (cv2.resize(image, small, interpolation=cv2.INTER_AREA) for image in (ir, vi_y))
    return upsample(fuse(small_ir, small_y), small_ir, small_y, ir, vi_y)


def upsample(fused: np.ndarray, small_ir: np.ndarray, small_y: np.ndarray,
             ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
    """Enlarge fused, the fusion of small_ir and small_y (h x w), along ir and vi_y (H x W).

    All float32 in [0, 1], as is the result, H x W.
    """
    size = ir.shape[1], ir.shape[0]
    fitted = _departure(fused, cv2.max(small_ir, small_y), cv2.min(small_ir, small_y))
    of_high, of_low, offset = (cv2.resize(cv2.blur(coefficient, WINDOW), size) for coefficient in fitted)
    # In place: at full size each fresh image costs as much as the arithmetic on it.
    high, low = cv2.max(ir, vi_y), cv2.min(ir, vi_y)
    of_high += 1
    high *= of_high
    low *= of_low
    high += low
    high += offset
    return np.clip(high, 0, 1, out=high)


def _departure(fused, high, low) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit fused - high = a * high + b * low + c in the window around each pixel; return a, b and c, h x w."""
    def mean(image):
        return cv2.blur(image, WINDOW)

    rest = fused - high
    return solve(*map(mean, guided(high, low, rest)))


def guided(high, low, rest) -> tuple:
    """Return the images whose means solve() takes; arrays or tensors."""
    return high, low, rest, high * high, low * low, high * low, high * rest, low * rest


def solve(high, low, rest, high_high, low_low, high_low, high_rest, low_rest) -> tuple:
    """Return a, b and c of rest = a * high + b * low + c from the means of guided(); arrays or tensors."""
    var_high = high_high - high * high + RIDGE
    var_low = low_low - low * low + RIDGE
    cov = high_low - high * low
    cov_high = high_rest - high * rest
    cov_low = low_rest - low * rest
    inverse = 1 / (var_high * var_low - cov * cov)
    a = (var_low * cov_high - cov * cov_low) * inverse
    b = (var_high * cov_low - cov * cov_high) * inverse
    return a, b, rest - a * high - b * low
