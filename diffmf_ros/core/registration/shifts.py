# SPDX-License-Identifier: Apache-2.0
"""Which shift of described images agrees best with others: all whole pixels at once, by FFT."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..alignment.warp import translation

# A shift counts when the images overlap by at least this part of the smaller one.
_LEAST_OVERLAP = 0.2


@dataclass(frozen=True)
class Spectra:
    """Images on the canvas of a search, as cv2.dft packs their spectra.

    channels: those of each image's descriptor. energy is the sum of the squares of all channels of
    all images, seen where all of them are valid, pixels how many those are.
    """

    channels: list[list[np.ndarray]]
    energy: np.ndarray
    seen: np.ndarray
    pixels: int


class Search:
    """Search over all whole-pixel shifts of descriptors at once, by FFT."""

    def __init__(self, images: Sequence[np.ndarray], *, largest_shift: float,
                 inside: bool = False):
        """Take images of one size.

        Args:
            images: Descriptors, H x W x 4 each.
            largest_shift: Relative to width and height.
            inside: whether what is searched hardly reaches beyond them.
        """
        height, width = images[0].shape[:2]
        self.size = width, height
        reach = 1 if inside else 1 + 2 * largest_shift
        self.canvas = tuple(cv2.getOptimalDFTSize(int(np.ceil(reach * side)) + 1)
                            for side in self.size)
        self._limit = tuple(int(largest_shift * side) for side in self.size)
        self._offset = tuple((big - small) // 2 for big,
                             small in zip(self.canvas, self.size, strict=True))
        everywhere = np.ones((height, width), bool)
        self._spectra = self.spectra([(image, everywhere, self._offset) for image in images])

    @property
    def to_canvas(self) -> np.ndarray:
        """3 x 3 matrix from pixels of the images to those of the canvas."""
        return translation(*self._offset)

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) of the part of the canvas whose middle is that of the images."""
        (x, y), (width, height) = self._offset, self.size
        return 2 * x + width, 2 * y + height

    def spectra(self, placed: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int]]]
                ) -> Spectra:
        """Return the spectra of images that belong to those of the search in order.

        Args:
            placed: the descriptor of a part of the canvas, h x w x 4, beyond which it is 0; h x w
                bool, where it is valid; (x, y) of the part. All see the same pixels.

        Returns:
            What best() takes.
        """
        _, seen, corner = placed[0]
        energy = np.asarray(sum(np.einsum('hwc,hwc->hw', image, image) for image, _, _ in placed))
        return Spectra([[self._dft(channel, corner) for channel in cv2.split(image)]
                        for image, _, corner in placed], self._dft(energy, corner),
                       self._dft(seen.astype(np.float32), corner), int(np.count_nonzero(seen)))

    def _dft(self, part: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """Spectrum of the canvas with a part at a corner (x, y)."""
        (x, y), (height, width) = corner, part.shape
        canvas = np.zeros(self.canvas[::-1], np.float32)
        canvas[y:y + height, x:x + width] = part
        return cv2.dft(canvas, dst=canvas)

    def best(self, others: Spectra, *, half_turn: bool = False) -> tuple[float, tuple[int, int]]:
        """Return the best shift of other images.

        The score is the agreement times the root of the overlap's area, which is what chance
        agreement falls with.

        Args:
            others: spectra() of them.
            half_turn: whether they are turned by 180 degrees about the middle of the images first,
                which descriptors do not tell.

        Returns:
            (score, (x, y) shift in pixels).
        """
        mine, width, height = self._spectra, *self.canvas
        product = np.zeros_like(others.seen)
        for one, other in zip(mine.channels, others.channels, strict=True):
            for first, second in zip(one, other, strict=True):
                product = cv2.add(product, _product(first, second, half_turn), dst=product)
        overlap = _inverse(_product(mine.seen, others.seen, half_turn))
        energies = (_inverse(_product(mine.energy, others.seen, half_turn))
                    * _inverse(_product(mine.seen, others.energy, half_turn)))
        # Rounding leaves traces of energy where nothing overlaps.
        norm = np.sqrt(np.maximum(energies, 1e-6 * energies.max() + np.finfo(np.float32).tiny))
        score = _inverse(product) / norm * np.sqrt(np.maximum(overlap, 0))
        score[overlap < _LEAST_OVERLAP * min(self.size[0] * self.size[1], others.pixels)] = -1
        x_limit, y_limit = self._limit
        columns, rows = np.arange(-x_limit, x_limit + 1), np.arange(-y_limit, y_limit + 1)
        # What is turned about the middle has come from the other end of the extent.
        x, y = (side - 1 if half_turn else 0 for side in self.extent)
        allowed = score[np.ix_((rows + y) % height, (columns + x) % width)]
        row, column = np.unravel_index(int(allowed.argmax()), allowed.shape)
        return float(allowed[row, column]), (int(columns[column]), int(rows[row]))


def _product(one: np.ndarray, other: np.ndarray, half_turn: bool) -> np.ndarray:
    """Spectrum of the correlation of two images, or with half_turn of their convolution."""
    return cv2.mulSpectrums(one, other, 0, conjB=not half_turn)


def _inverse(spectrum: np.ndarray) -> np.ndarray:
    """Real image of a spectrum as cv2.dft packs it, H x W float32."""
    return cv2.dft(spectrum, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT)
