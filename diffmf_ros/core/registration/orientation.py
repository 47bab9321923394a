# SPDX-License-Identifier: Apache-2.0
"""What thermal and visible images share.

Where edges are and which way they run, not how bright either side is.

A pixel is described by the gradient's orientation modulo 180 degrees, weighted with its strength
against the neighborhood, in the first two harmonics of the angle: w exp(2 i t) and w exp(4 i t),
smoothed. An edge that is inverted has the same description, and the product of two descriptions,
summed over a region, tells how well their orientation histograms agree. The idea is that of dense
orientation channels (HOPC, Ye et al. 2017; CFOG, Ye et al. 2019); the harmonics in place of
histogram bins need a third of the channels and no interpolation between bins.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..alignment.warp import translation

CHANNELS = 4
# Gradients are taken at this scale, descriptions smoothed by this much, in pixels of the working
# image.
GRADIENT_SIGMA_PX, SMOOTHING_SIGMA_PX = 0.8, 1.2
# A gradient counts against the mean one within this part of the image's width.
_NEIGHBORHOOD = 1 / 24
# Below this part of the whole image's mean gradient everything is noise.
_FLOOR = 0.35
_SECOND_HARMONIC = 0.8
# A shift counts when the images overlap by at least this part of the smaller one.
_LEAST_OVERLAP = 0.2


def descriptor(gray: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Describe the orientations of an image: real and imaginary parts of both harmonics.

    Args:
        gray: H x W float32 of any unit.
        seen: H x W bool; the rest is described as flat (0), without the false edge between them.

    Returns:
        H x W x 4 float32.
    """
    smooth = cv2.GaussianBlur(gray, (0, 0), GRADIENT_SIGMA_PX)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    if seen is not None:
        margin = np.ones((2 * round(3 * GRADIENT_SIGMA_PX) + 3,) * 2, np.uint8)
        inner = cv2.erode(seen.astype(np.uint8), margin, borderValue=1)
        x, y = x * inner, y * inner
    strength = cv2.magnitude(x, y)
    around = cv2.GaussianBlur(strength, (0, 0), max(2.0, gray.shape[1] * _NEIGHBORHOOD))
    count = strength.size if seen is None else max(1, int(np.count_nonzero(seen)))
    floor = _FLOOR * float(strength.sum()) / count + np.finfo(np.float32).tiny
    weight = strength / (strength + around + floor)
    length = np.maximum(strength, np.finfo(np.float32).tiny)
    first = ((x + 1j * y) / length) ** 2
    channels = np.empty((*gray.shape, CHANNELS), np.float32)
    for k, harmonic in enumerate((first * weight, first ** 2 * (_SECOND_HARMONIC * weight))):
        channels[..., 2 * k], channels[..., 2 * k + 1] = harmonic.real, harmonic.imag
    return cv2.GaussianBlur(channels, (0, 0), SMOOTHING_SIGMA_PX)


def warped(gray: np.ndarray, matrix: np.ndarray,
           size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image.

    Args:
        gray: H' x W' float32.
        matrix: 3 x 3, from its pixels to those of the result.
        size: (width, height) of the result in pixels.

    Returns:
        The warped image, H x W, and its valid mask.
    """
    image = cv2.warpPerspective(gray, matrix, size, flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REPLICATE)
    whole = np.full(gray.shape, 255, np.uint8)
    seen = cv2.warpPerspective(whole, matrix, size, flags=cv2.INTER_NEAREST) > 0
    return image, seen


def ncc(one: np.ndarray, other: np.ndarray, seen: np.ndarray) -> float:
    """Return the normalized correlation of two descriptors.

    Args:
        one, other: H x W x 4 float32.
        seen: H x W bool, where both are valid.

    Returns:
        -1 to 1.
    """
    one, other = one[seen], other[seen]
    energy = float(np.square(one).sum()) * float(np.square(other).sum())
    return float((one * other).sum()) / (energy ** 0.5 or 1.0)


class Search:
    """Search over all whole-pixel shifts of descriptors at once, by FFT."""

    def __init__(self, images: Sequence[np.ndarray], *, largest_shift: float):
        """Take images of one size.

        Args:
            images: Descriptors, H x W x 4 each.
            largest_shift: Relative to width and height.
        """
        height, width = images[0].shape[:2]
        self.size = width, height
        reach = 1 + 2 * largest_shift
        self.canvas = tuple(cv2.getOptimalDFTSize(int(np.ceil(reach * side)) + 1)
                            for side in self.size)
        self._limit = tuple(int(largest_shift * side) for side in self.size)
        self._offset = tuple((big - small) // 2 for big,
                             small in zip(self.canvas, self.size, strict=True))
        self._seen = _spectrum(self._placed(np.ones((height, width), np.float32)))
        self._images = [self._spectra(self._placed(image)) for image in images]

    def _placed(self, image: np.ndarray) -> np.ndarray:
        (width, height), (x, y) = self.size, self._offset
        canvas = np.zeros((self.canvas[1], self.canvas[0], *image.shape[2:]), np.float32)
        canvas[y:y + height, x:x + width] = image
        return canvas

    @staticmethod
    def _spectra(image: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_spectrum(image[..., :2]), _spectrum(image[..., 2:]),
                _spectrum(np.square(image).sum(axis=2)))

    @property
    def to_canvas(self) -> np.ndarray:
        """3 x 3 matrix from pixels of the images to those of the canvas."""
        return translation(*self._offset)

    def best(self, others: Sequence[np.ndarray],
             seen: np.ndarray) -> tuple[float, tuple[int, int]]:
        """Return the best shift of other images.

        The score is the agreement times the root of the overlap's area, which is what chance
        agreement falls with.

        Args:
            others: descriptors on the canvas that belong to the images in order.
            seen: the part in which all of them are valid.

        Returns:
            (score, (x, y) shift in pixels).
        """
        mask = _spectrum(seen.astype(np.float32))
        product = energy_one = energy_other = 0
        for image, other in zip(self._images, others, strict=True):
            first, second, energy = self._spectra(other)
            product = product + image[0] * first.conj() + image[1] * second.conj()
            energy_one = energy_one + image[2] * mask.conj()
            energy_other = energy_other + self._seen * energy.conj()
        overlap = _inverse(self._seen * mask.conj())
        energies = _inverse(energy_one) * _inverse(energy_other)  # type: ignore[arg-type]
        # Rounding leaves traces of energy where nothing overlaps.
        norm = np.sqrt(np.maximum(energies, 1e-6 * energies.max() + np.finfo(np.float32).tiny))
        score = _inverse(product) / norm * np.sqrt(np.maximum(overlap, 0))  # type: ignore[arg-type]
        score[overlap < _LEAST_OVERLAP * min(self.size[0] * self.size[1], float(seen.sum()))] = -1
        x_limit, y_limit = self._limit
        columns, rows = np.arange(-x_limit, x_limit + 1), np.arange(-y_limit, y_limit + 1)
        allowed = score[np.ix_(rows, columns)]  # negative shifts are at the end of the canvas
        row, column = np.unravel_index(int(allowed.argmax()), allowed.shape)
        return float(allowed[row, column]), (int(columns[column]), int(rows[row]))


def _spectrum(image: np.ndarray) -> np.ndarray:
    """Complex64 spectrum of a real (H x W) or complex (H x W x 2) float32 image."""
    return _complex(cv2.dft(np.ascontiguousarray(image), flags=cv2.DFT_COMPLEX_OUTPUT))


def _inverse(spectrum: np.ndarray) -> np.ndarray:
    """Real part of the image of a spectrum, H x W float32."""
    pairs = np.ascontiguousarray(spectrum, np.complex64).view(np.float32).reshape(
        *spectrum.shape, 2)
    return cv2.dft(pairs, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_COMPLEX_OUTPUT)[..., 0]


def _complex(pairs: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pairs).view(np.complex64)[..., 0]
