# SPDX-License-Identifier: Apache-2.0
"""CPU backend: a network, or classical fusion, on arrays, at a working size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from .errors import NetworkFailure
from .prepare import Image, PreparedPair, finished

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Returns what the function that it gets returns, from a thread with a time-out for example.
Call = Callable[[Callable[[], Any]], Any]

WINDOW = (7, 7)
# Added to the variances: where the sources vary by less than 1 % (2.5 gray levels), the fused
# image departs from their maximum by a constant.
RIDGE = 1e-4


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


# The CUDA backend multiplies by the same number: ties of rounding then fall alike.
UNIT = np.float32(1 / 255)


class CpuBackend:
    """Fuses pairs with fuse(ir, y), which takes and returns H x W float32 in [0, 1].

    For one thread at a time: the two float images that fuse gets are kept for the next pair.
    """

    problems: tuple[str, ...] = ()  # as CudaBackend has

    def __init__(self, fuse: Fuse):
        self._fuse = fuse
        self._inputs = np.empty((2, 0, 0), np.float32)

    def fuse(self, prepared: PreparedPair, *, scale: float,
             call: Call | None = None) -> Image:
        """Fuse a pair on the grid of its mapping.

        Where only the camera of the grid sees, its image passes unchanged: RGB, or gray thermal.

        Args:
            prepared: The pair.
            scale: Working size of the network, as a share of the grid's.
            call: Runs the network: it gets a function and returns what that returns. None: the
                calling thread does.

        Returns:
            (pixels, encoding) as core.imaging.color.paint gives them. Nothing keeps or changes
            the pixels.

        Raises:
            FrameError: a frame is not usable.
            NetworkFailure: the network returned another size; and what call raises.
        """
        ir, y = prepared.sources
        prepared.timer.lap('color')
        if self._inputs.shape[1:] != y.shape:
            self._inputs = np.empty((2, *y.shape), np.float32)
        for image, out in zip((ir, y), self._inputs):
            np.multiply(image, UNIT, out=out, dtype=np.float32)
        work = partial(self._run, self._inputs[0], self._inputs[1], scale)
        fused = call(work) if call else work()
        prepared.timer.lap('network')
        return finished(prepared, cv2.convertScaleAbs(fused, alpha=255))

    def _run(self, ir: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
        fused = fuse_scaled(self._fuse, ir, y, scale=scale)
        if fused.shape != y.shape:
            raise NetworkFailure(f'the network returned an image of {fused.shape[1]}x'
                                 f'{fused.shape[0]}, expected {y.shape[1]}x{y.shape[0]}')
        return fused
