# SPDX-License-Identifier: Apache-2.0
"""Frozen-image detection: noise never repeats, a closed shutter or a dead sensor does."""

from collections import deque

import numpy as np

# Runs of equal images by which the habit of a camera is known, and the longest that passes for a
# habit.
_RUNS = 6
_LONGEST_HABIT = 8
_SAMPLE_ROWS = 16
_SAMPLE_COLUMNS = 32


class FreezeDetector:
    """Detector of repeated images, and of images of one color.

    `usual` is how often the camera sends each image: 1, but 3 of a Lepton that keeps to 9 Hz of
    its 27. It is the lower median of the newest six runs of equal images, so that one shutter
    among them is no habit; 1 before there are six, and for runs of more than 8.
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

        Afterwards `equal` counts the equal images that end with this one (1: it differs from the
        one before) and `uniform` the images of one color that do (0: it has several values).

        Args:
            pixels: H x W [x C] of any 1, 2, 4 or 8 byte type.

        Returns:
            True for an image that differs from the one before.
        """
        bits = _bits(pixels)
        same = self._newest is not None and _same(self._newest, bits)
        flat = _same(np.broadcast_to(bits[:1, :1], bits.shape), bits)
        if self.repeat_count and not same:
            self._runs.append(self.repeat_count)
            usual = sorted(self._runs)[(_RUNS - 1) // 2] if len(self._runs) == _RUNS else 1
            self.usual_repeats = usual if usual <= _LONGEST_HABIT else 1
        self.repeat_count = self.repeat_count + 1 if same else 1
        self.flat_count = self.flat_count + 1 if flat else 0
        self._newest = bits
        return not (same or flat)


def _bits(pixels: np.ndarray) -> np.ndarray:
    """The same memory as unsigned integers: of floats, equal NaN count as equal."""
    return pixels if pixels.dtype.kind == 'u' else pixels.view(f'u{pixels.itemsize}')


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal, with an early no from a sparse sample."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    some = np.s_[::max(1, a.shape[0] // _SAMPLE_ROWS), ::max(1, a.shape[1] // _SAMPLE_COLUMNS)]
    return np.array_equal(a[some], b[some]) and np.array_equal(a, b)
