# SPDX-License-Identifier: Apache-2.0
"""What a fused image does to the visible one: haze, fading color, flat thermal that covers it."""

from collections.abc import Callable

import numpy as np

from .targets import hot_blobs

DARK_PERCENTILE = 30  # of the visible pixels that are not hot
HOT_PERCENTILE = 90
SEEN_LEVELS = 32  # a pixel whose largest channel is darker has no color to speak of
FLAT_LEVELS = (0, 64, 128, 192, 255)


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
