# SPDX-License-Identifier: Apache-2.0
"""Fusion metrics: how much of an infrared and a visible image a fused image keeps.

Every metric takes gray float64 images of one shape H x W with levels 0..255; `score` takes uint8
too and checks them. Of a color image, pass the luminance. `ir` and `vi_y` are the sources, and
every metric of two sources here is symmetric in them; those of ours (perception.py, targets.py,
and here what fusion does to the visible image: haze, fading color, flat thermal that covers it)
are not. The values are those of the evaluator of MMIF-CDDFuse, which most tables published since
2023 were made with, except for PSNR (peak 255; there the largest level that occurs in the fused
image) and Nabf (which it lacks).
"""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from ...core.frames import DiffmfError
from .perception import detail, salience, thermal_detail
from .targets import Box, ScoredTarget, hot_blobs, summary, targets

# what the four scales of VIF, each halved after its window, leave valid pixels of
SMALLEST_SIDE = 41
VIF_NOISE = 2.0  # variance of the noise of the eye
TINY = 1e-10
Metric = Callable[..., float]
DARK_PERCENTILE = 30  # of the visible pixels that are not hot
HOT_PERCENTILE = 90
SEEN_LEVELS = 32  # a pixel whose largest channel is darker has no color to speak of
FLAT_LEVELS = (0, 64, 128, 192, 255)


class MetricError(DiffmfError):
    """These images cannot be scored."""


class ImageScores(dict[str, float]):
    """Metrics of one image by name; beside them its targets, because means over images pool those.
    """

    def __init__(self, values: dict[str, float], targets: Sequence[ScoredTarget] = ()):
        super().__init__(values)
        self.targets = tuple(targets)


def score(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray, *,
          colors: tuple[np.ndarray, np.ndarray] | None = None, boxes: Sequence[Box] | None = None,
          ignore: Sequence[Box] = ()) -> ImageScores:
    """Return every metric of a fused image under the name that the literature uses, and ours.

    Args:
        ir, vi_y, fused: H x W, uint8 or float, levels 0..255, at least 41 pixels high and wide.
        colors: the visible and the fused image, H x W x 3 uint8 BGR, for saturation.
        boxes, ignore: boxes of the targets (see targets.targets); without them hot blobs are the
            targets.

    Returns:
        The metrics. SSIM_dr2 has the data range 2 of published tables, SSIM_dr255 the range that
        the images have. Those of ours that the images do not define are NaN, saturation without
        colors too.

    Raises:
        MetricError: other shapes, levels outside 0..255, values that are not finite.
    """
    ir, vi_y, fused = _checked(ir=ir, vi_y=vi_y, fused=fused)
    found = targets(ir, vi_y, fused, boxes=boxes, ignore=ignore)
    return ImageScores(
        {name: float(metric(fused)) for name, metric in _ALONE.items()}
        | {name: float(metric(ir, vi_y, fused)) for name, metric in _AGAINST_SOURCES.items()}
        | {'saturation': saturation(*colors) if colors else np.nan} | summary(found), found)


def entropy(fused: np.ndarray) -> float:
    """EN: Shannon entropy of the gray levels, rounded to integers, in bits (0..8)."""
    share = np.bincount(_levels(fused).ravel(), minlength=256) / fused.size
    share = share[share > 0]
    return np.sum(share * np.log2(1 / share))


def standard_deviation(fused: np.ndarray) -> float:
    """SD: standard deviation of the population, in gray levels."""
    return fused.std()


def spatial_frequency(fused: np.ndarray) -> float:
    """SF: root of the summed mean squares of neighbor differences along rows and columns."""
    return np.sqrt(np.mean(np.diff(fused, axis=1) ** 2) + np.mean(np.diff(fused, axis=0) ** 2))


def average_gradient(fused: np.ndarray) -> float:
    """AG: mean length of the gradient over root two.

    It takes central differences, one-sided at the border.
    """
    down, right = np.gradient(fused)
    return np.mean(np.sqrt((down ** 2 + right ** 2) / 2))


def mutual_information(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """MI: mutual information of the gray levels, rounded to integers, in nats.

    It is summed over the sources.
    """
    return sum(_shared_information(source, fused) for source in (ir, vi_y))


def correlation(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """CC: Pearson's correlation with each source, averaged (-1..1)."""
    return (_pearson(ir, fused) + _pearson(vi_y, fused)) / 2


def correlation_of_differences(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """SCD: what is left when one source is taken away, correlated with the other (-2..2).

    Aslantas and Bendes 2015.
    """
    return _pearson(fused - vi_y, ir) + _pearson(fused - ir, vi_y)


def peak_signal_to_noise(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """PSNR: in dB, with peak 255 and the squared error averaged over the sources; inf when all are
    equal."""
    error = (np.mean((ir - fused) ** 2) + np.mean((vi_y - fused) ** 2)) / 2
    return 10 * np.log10(255.0 ** 2 / error) if error else np.inf


def structural_similarity(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray, *,
                          data_range: float) -> float:
    """SSIM: uniform 7 x 7 windows, sample covariance, K1 0.01, K2 0.03; summed over the sources
    (up to 2).

    Wang et al. 2004; computed in float32 as scikit-image 0.19 does. With a data_range of 2, as in
    published tables, flat and dark areas score low.
    """
    return sum(_ssim(source, fused, data_range=data_range) for source in (ir, vi_y))


def information_fidelity(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """VIF: visual information fidelity, pixel domain, four scales; summed over the sources (about
    0..2).

    Sheikh and Bovik 2006 with a noise variance of 2; the source is the reference. A source that is
    flat at every scale carries no information to lose: it counts 1.
    """
    return sum(_vifp(source, fused) for source in (ir, vi_y))


def edge_transfer(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Qabf: edges of the sources that the fused image has, weighted by their strength (0..0.99).

    Xydeas and Petrovic 2000. Outside the image is black, so its rim counts as an edge; 0 for black
    sources.
    """
    strength, angle = _edges(fused)
    kept = total = 0.0
    for source in (ir, vi_y):
        source_strength, source_angle = _edges(source)
        # Equal strengths give the strength itself, not 1: every published copy has it so.
        ratio = np.where(source_strength == strength, strength, _ratio(source_strength, strength))
        turn = 1 - np.abs(source_angle - angle) / (np.pi / 2)
        quality = 0.9994 * _sigmoid(15 * (ratio - 0.5)) * 0.9879 * _sigmoid(22 * (turn - 0.8))
        kept += np.sum(quality * source_strength)
        total += np.sum(source_strength)
    return kept / total if total else 0.0


def fusion_artifacts(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Nabf: edges of the fused image that neither source has (0..1, lower is better).

    Petrovic 2007 as modified by Shreyamsha Kumar 2013: gradients of an eighth of Sobel's, mirrored
    border.
    """
    strength, angle = _edges(fused, gain=1 / 8, border=cv2.BORDER_REFLECT_101)
    invented = np.ones(fused.shape, bool)
    lost, total = np.zeros(fused.shape), 0.0
    for source in (ir, vi_y):
        source_strength, source_angle = _edges(source, gain=1 / 8, border=cv2.BORDER_REFLECT_101)
        turn = np.abs(np.abs(source_angle - angle) - np.pi / 2) / (np.pi / 2)
        quality = np.sqrt(0.9999 * _sigmoid(19 * (_ratio(source_strength, strength) - 0.5))
                          * 0.9995 * _sigmoid(22 * (turn - 0.5)))
        weight = np.where(source_strength >= 2, source_strength ** 1.5, 0.001)
        invented &= strength > source_strength
        lost = lost + (1 - quality) * weight
        total += np.sum(weight)
    return np.sum(lost[invented]) / total


def _checked(**images: np.ndarray) -> list[np.ndarray]:
    shapes = {name: np.shape(image) for name, image in images.items()}
    first = shapes['fused']
    if len(first) != 2 or min(first) < SMALLEST_SIDE or set(shapes.values()) != {first}:
        got = ', '.join(f'{name} {" x ".join(map(str, shape))}' for name, shape in shapes.items())
        raise MetricError('metrics need three gray images of one shape, at least '
                          f'{SMALLEST_SIDE} x {SMALLEST_SIDE}; got {got}')
    arrays = {name: np.asarray(image, np.float64) for name, image in images.items()}
    for name, array in arrays.items():
        # Written so that a NaN fails it too.
        if not (array.min() >= 0 and array.max() <= 255):
            raise MetricError(f'metrics need levels 0..255; {name} has {array.min()} to '
                              f'{array.max()}')
    return list(arrays.values())


def _levels(image: np.ndarray) -> np.ndarray:
    return np.rint(image).astype(np.int64)


def _shared_information(a: np.ndarray, b: np.ndarray) -> float:
    counts = np.bincount((256 * _levels(a) + _levels(b)).ravel(), minlength=256 ** 2)
    joint = counts.reshape(256, 256) / a.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    occurs = joint > 0
    return np.sum(joint[occurs] * np.log(joint[occurs] / independent[occurs]))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one of the two is constant: it follows nothing."""
    if not (np.ptp(a) and np.ptp(b)):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def _ssim(a: np.ndarray, b: np.ndarray, *, data_range: float, window: int = 7) -> float:
    """In float32 as published tables were made.

    With a data range of 2 its rounding shows in the fifth digit.
    """
    def mean(image):
        # Sums in float64, rounded to float32 after each direction: scipy.ndimage.uniform_filter.
        for size in ((1, window), (window, 1)):
            image = cv2.blur(image.astype(np.float64), size).astype(np.float32)
        return _inside(image, window)

    a, b = a.astype(np.float32), b.astype(np.float32)
    mean_a, mean_b = mean(a), mean(b)
    unbiased = np.float32(window ** 2 / (window ** 2 - 1))
    # No variance of whole levels comes out negative; of others it could, and the quotient would
    # explode.
    variances = np.maximum(unbiased * (mean(a * a) - mean_a * mean_a), 0)
    variances += np.maximum(unbiased * (mean(b * b) - mean_b * mean_b), 0)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (np.float32((share * data_range) ** 2) for share in (0.01, 0.03))
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return np.mean(similar / ((mean_a ** 2 + mean_b ** 2 + c1) * (variances + c2)),
                   dtype=np.float64)


def _vifp(reference: np.ndarray, distorted: np.ndarray) -> float:
    kept = carried = 0.0
    for window in (17, 9, 5, 3):
        def mean(image, window=window):
            taps = cv2.getGaussianKernel(window, window / 5, cv2.CV_64F)
            return _inside(cv2.sepFilter2D(image, cv2.CV_64F, taps, taps), window)

        if window < 17:
            reference, distorted = mean(reference)[::2,
                                                   ::2].copy(), mean(distorted)[::2, ::2].copy()
        mean_r, mean_d = mean(reference), mean(distorted)
        variance_r = np.maximum(mean(reference * reference) - mean_r ** 2, 0)
        variance_d = np.maximum(mean(distorted * distorted) - mean_d ** 2, 0)
        gain = (mean(reference * distorted) - mean_r * mean_d) / (variance_r + TINY)
        # A gain is explained only where both vary and in the same sense; all else is noise.
        gain = np.where((variance_r < TINY) | (variance_d < TINY) | (gain < 0), 0, gain)
        variance_r = np.where(variance_r < TINY, 0, variance_r)
        unexplained = np.maximum(variance_d - gain * gain * (variance_r + TINY), TINY)
        kept += np.sum(np.log10(1 + gain * gain * variance_r / (unexplained + VIF_NOISE)))
        carried += np.sum(np.log10(1 + variance_r / VIF_NOISE))
    return kept / carried if carried else 1.0


def _inside(filtered: np.ndarray, window: int) -> np.ndarray:
    """Keep only the pixels whose whole window lies in the image."""
    margin = window // 2
    return filtered[margin:-margin, margin:-margin]


def _edges(image: np.ndarray, *, gain: float = 1.0, border: int = cv2.BORDER_CONSTANT):
    """Return strength and angle (-pi/2..pi/2, modulo a half turn) of Sobel's gradient, both H x W.
    """
    right = cv2.Sobel(image, cv2.CV_64F, 1, 0, scale=gain, borderType=border)
    up = -cv2.Sobel(image, cv2.CV_64F, 0, 1, scale=gain, borderType=border)
    slope = np.divide(up, right, out=np.full(image.shape, np.inf), where=right != 0)
    return np.sqrt(right * right + up * up), np.arctan(slope)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the smaller over the larger, 0 where both are 0."""
    larger = np.maximum(a, b)
    return np.divide(np.minimum(a, b), larger, out=np.zeros(a.shape), where=larger > 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # An exponent beyond 700 would overflow; there the sigmoid is 0 or 1 to the last bit anyway.
    return 1 / (1 + np.exp(np.clip(-x, -700, 700)))


def haze(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Return the mean lift fused - vi_y, in levels, of dark visible pixels that are not hot.

    All arrays are H x W, in levels 0..255. Hot is what lies above the 90th percentile of ir or in
    a hot blob (see targets.hot_blobs); darkest are, of the other pixels, those at or below their
    30th percentile of vi_y. Darker than the visible image counts below nothing. NaN where
    everything is hot.
    """
    hot = ir > np.percentile(ir, HOT_PERCENTILE)
    for blob in hot_blobs(ir):
        hot[blob.window] |= blob.inside
    if hot.all():
        return np.nan
    cold_y, cold_f = (np.asarray(image[~hot], np.float64) for image in (vi_y, fused))
    dark = cold_y <= np.percentile(cold_y, DARK_PERCENTILE)
    return float(np.mean(cold_f[dark] - cold_y[dark]))


def saturation(visible: np.ndarray, fused: np.ndarray) -> float:
    """Return the share of the visible color saturation that the fused color image keeps (0..1).

    Both images are H x W x 3 uint8, BGR. Saturation is HSV's, (max - min) / max of the three
    channels, 0 where max is 0. Of the fused one counts at each pixel at most what is there: darker
    pixels are not rewarded for becoming more saturated. Sums are over the pixels whose largest
    visible channel is at least 32. NaN where there is no such pixel or the visible image is gray.
    """
    seen = visible.max(axis=2) >= SEEN_LEVELS
    there, kept = _saturation(visible[seen]), _saturation(fused[seen])
    return float(np.minimum(kept, there).sum() / there.sum()) if there.any() else np.nan


def flat_thermal(fuse: Callable[[np.ndarray, np.ndarray], np.ndarray], vi_y: np.ndarray) -> float:
    """Return the worst PSNR of fuse to the visible luminance, in dB, over flat thermal images.

    fuse takes (ir, vi_y), H x W float32 in [0, 1], and returns the same kind; vi_y is H x W uint8.
    Thermal is 0, 64, 128, 192 and 255 everywhere, and the fused image is rounded to 8 bit first.
    Infinite where it is vi_y itself.
    """
    y = np.float32(1 / 255) * vi_y
    return min(
        _psnr(vi_y, np.rint(255 * fuse(np.full_like(y, level / 255), y))) for level in FLAT_LEVELS
    )


def _psnr(reference: np.ndarray, image: np.ndarray) -> float:
    error = float(np.mean((np.asarray(image, np.float64) - reference) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def _saturation(pixels: np.ndarray) -> np.ndarray:
    """(max - min) / max of N x 3 uint8, N float64."""
    largest, smallest = pixels.max(axis=1).astype(np.float64), pixels.min(axis=1)
    return np.divide(largest - smallest, largest, out=np.zeros_like(largest), where=largest > 0)


_ALONE: dict[str, Metric] = {'EN': entropy, 'SD': standard_deviation, 'SF': spatial_frequency,
                             'AG': average_gradient}
_AGAINST_SOURCES: dict[str, Metric] = {
    'MI': mutual_information,
    'SCD': correlation_of_differences,
    'VIF': information_fidelity,
    'Qabf': edge_transfer,
    'SSIM_dr2': partial(structural_similarity, data_range=2.0),
    'SSIM_dr255': partial(structural_similarity, data_range=255.0),
    'CC': correlation,
    'PSNR': peak_signal_to_noise,
    'Nabf': fusion_artifacts,
    'salience': salience,
    'detail': detail,
    'thermal_detail': thermal_detail,
    'haze': haze,
}
