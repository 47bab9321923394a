# SPDX-License-Identifier: Apache-2.0
"""Do the images of a camera still change? A closed shutter and a dead sensor repeat themselves; noise never does."""

import numpy as np

_SAMPLE_ROWS = 16
_SAMPLE_COLUMNS = 32


class Stillness:
    """How many of the newest images in a row are equal, and how many are of one colour.

    It keeps a reference to the newest pixels and compares without a copy: whoever hands them in must not
    change them afterwards. A moving image costs a look at some 500 pixels; only where those agree is the
    whole image read.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.equal = 0
        self.uniform = 0
        self._newest: np.ndarray | None = None

    def add(self, pixels: np.ndarray) -> bool:
        """Take the next image, H x W [x C] of any 1, 2, 4 or 8 byte type; return whether it shows something new.

        Afterwards `equal` counts the equal images that end with this one (1: it differs from the one
        before) and `uniform` the images of one colour that do (0: it has several values).
        """
        bits = _bits(pixels)
        same = self._newest is not None and _same(self._newest, bits)
        flat = _same(np.broadcast_to(bits[:1, :1], bits.shape), bits)
        self.equal = self.equal + 1 if same else 1
        self.uniform = self.uniform + 1 if flat else 0
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
