# SPDX-License-Identifier: Apache-2.0
"""Automatic gain control of one image: which raw thermal values become black and white.

The range is a pair of percentiles of the values that belong to the scene. Three rules keep it
meaningful: values that are no measurements are left out (telemetry rows, sentinels, masked
parts), a small hot or cold part takes only a share of the range, and black and white stay so far
apart that noise does not look like a scene.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

from ..frames import FrameError
from ..settings import ThermalSettings

# Percentiles of about this many pixels stray by a fraction of a percentile and cost a tenth.
_SAMPLE_PIXELS = 20_000
_FEW_PIXELS = 3000
# Telemetry and calibration data lie in up to 8 rows or columns at a border, at most an eighth of
# the image. There a quarter of the pixels is further from the scene than the scene is wide.
_BORDER_LINES = 8
_FOREIGN_SHARE = 0.25
# A constant at the end of all values is a sentinel when it is 20 spreads (10 % to 90 %) away from
# the rest, or one spread for the values that cameras use: no signal, saturation, absolute zero.
_DETACHED = 20.0
_SENTINELS = {'u': (0.0, 65535.0), 'f': (0.0,)}
_MOST_SENTINELS = 4
# The hottest hundredth of the pixels may take max_tail_share of the range; three hundredths, which
# may be a person nearby, half of the rest in addition; in between in proportion. As the coldest.
_TAILS = (0.01, 0.015, 0.02, 0.025, 0.03)
_HOT_TAILS = tuple(1 - tail for tail in _TAILS)
# Noise is measured in eight patches along each side, of this size; the quietest fifth counts.
_PATCHES = 8
_PATCH_ROWS, _PATCH_COLUMNS = 8, 16
_QUIET = 0.2
# 6 sqrt(2/pi): mean |x[i-1, j-1] - 2 x[i-1, j] ... + x[i+1, j+1]| of white noise of deviation 1.
_NOISE_RESPONSE = 4.787
# Counts: no camera has such noise. An image of it is a texture (a test picture, say).
_MOST_NOISE = 200.0


def gray_range(pixels: np.ndarray, settings: ThermalSettings) -> np.ndarray:
    """Measure low, median and high of a thermal image, for gain control.

    Args:
        pixels: H x W, uint16 counts or float32 of any unit that grows with temperature. NaN and
            infinity are no values.
        settings: percentiles, largest share of the tails, least span, polarity.

    Returns:
        Three float64 values in rising order; low and high are equal for an image of one value.

    Raises:
        FrameError: reason no_finite_value, when no value is finite.
    """
    scene = without_foreign_borders(pixels)
    sample = _sorted(scene, _SAMPLE_PIXELS)
    low, median, high = _percentiles(sample, settings) if sample.size else (0.0, 0.0, 0.0)
    if low == high:  # a small target on flat ground, or a few pixels that work
        everything = _without_sentinels(_sorted(scene))
        if not everything.size:
            raise no_finite_value(pixels)
        low, median, high = _ranked(everything, 0.0, 0.5, 1.0)
    missing = _least_span(scene, settings, low, high) - (high - low)
    if missing > 0 and settings.polarity == 'black_hot':  # what is cold stays black
        low -= missing
    elif missing > 0:
        high += missing
    return np.array((low, median, high))


def no_finite_value(pixels: np.ndarray) -> FrameError:
    """Return the error for an image without a single number.

    Args:
        pixels: the image.

    Returns:
        The error, with the reason no_finite_value.
    """
    height, width = pixels.shape
    return FrameError(f'expected temperatures, got a {width}x{height} thermal image of NaN and '
                      'infinity alone; is the camera still starting?', reason='no_finite_value')


def without_foreign_borders(pixels: np.ndarray) -> np.ndarray:
    """Leave out border rows and columns that are no image.

    Args:
        pixels: H x W.

    Returns:
        The view of the rest.
    """
    rows, columns = (min(_BORDER_LINES, side // 8) for side in pixels.shape)
    inside = pixels[rows:pixels.shape[0] - rows, columns:pixels.shape[1] - columns]
    sample = _without_sentinels(_sorted(inside, _FEW_PIXELS))
    if not sample.size or not rows or not columns:
        return pixels
    coldest, hottest = _ranked(sample, 0.01, 0.99)
    top, bottom = _foreign_lines(pixels, rows, coldest, hottest)
    kept = pixels[top:pixels.shape[0] - bottom]
    left, right = _foreign_lines(kept.T, columns, coldest, hottest)
    return kept[:, left:kept.shape[1] - right]


def foreign_rows(pixels: np.ndarray) -> tuple[int, int]:
    """Count the reference rows of an image, by their values.

    Args:
        pixels: H x W.

    Returns:
        (rows at the top, rows at the bottom).
    """
    lines = min(_BORDER_LINES, pixels.shape[0] // 8)
    sample = _without_sentinels(_sorted(pixels[lines:pixels.shape[0] - lines], _FEW_PIXELS))
    if not sample.size or not lines:
        return 0, 0
    return _foreign_lines(pixels, lines, *_ranked(sample, 0.01, 0.99))


def quiet_noise(pixels: np.ndarray, low: float, high: float) -> float:
    """Estimate the deviation of the noise of an image.

    That is noise which is independent from pixel to pixel (Immerkaer, 1996).

    Args:
        pixels: H x W of any unit.
        low, high: only quiet patches whose mean lies between them are measured.

    Returns:
        The deviation in the unit of pixels; 0 for images of fewer than 16 rows or 32 columns.
    """
    height, width = pixels.shape
    if height < 2 * _PATCH_ROWS or width < 2 * _PATCH_COLUMNS:
        return 0.0
    rows, columns = _patch_lines(height, _PATCH_ROWS), _patch_lines(width, _PATCH_COLUMNS)
    patches = pixels[rows][:, columns].astype(np.float32)
    patches = patches.reshape(_PATCHES, _PATCH_ROWS, _PATCHES, _PATCH_COLUMNS)
    with np.errstate(invalid='ignore', over='ignore'):
        means = patches.mean((1, 3))
        second = np.diff(np.diff(patches, n=2, axis=1), n=2, axis=3)
        noise = np.abs(second).mean((1, 3)) / _NOISE_RESPONSE
        noise = np.sort(noise[np.isfinite(noise) & (means >= low) & (means <= high)])
    return _ranked(noise, _QUIET)[0] if noise.size else 0.0


def percentiles(gray: np.ndarray, *percents: float) -> list[float]:
    """Return what np.percentile does, by a histogram: at a tenth of its time; 0 of no pixels.

    Args:
        gray: h x w uint8.
        percents: 0 to 100.

    Returns:
        The percentiles, in the order of percents.
    """
    ends = np.cumsum(cv2.calcHist([gray], [0], None, [256], [0, 256]), dtype=np.int64)
    found = []
    for percent in percents:
        place = (gray.size - 1) * (percent / 100)
        rank = math.floor(place)
        low, high = np.searchsorted(ends, (rank, min(rank + 1, gray.size - 1)), 'right').tolist()
        found.append(low + (high - low) * (place - rank))
    return found


def _percentiles(sample: np.ndarray, settings: ThermalSettings) -> tuple[float, float, float]:
    """Return low percentile, median and high percentile of a sorted sample, the tails limited."""
    sample = _without_sentinels(sample)
    low, median, high, *tails = _ranked(sample, settings.low_percentile / 100, 0.5,
                                        settings.high_percentile / 100, *_TAILS, *_HOT_TAILS)
    if settings.max_tail_share < 1:
        for tail, cold, hot in zip(_TAILS, tails, tails[len(_TAILS):]):
            left = (1 - settings.max_tail_share) * (1.25 - 25 * tail)  # times 1 at 1 %, 0.5 at 3 %
            if cold < hot:
                most = (hot - cold) * (1 - left) / left
                low, high = max(low, cold - most), min(high, hot + most)
    return low, median, high


def _least_span(scene: np.ndarray, settings: ThermalSettings, low: float, high: float) -> float:
    """Return how far apart black and white have to be at least, in units of the values."""
    least = settings.min_span_k / settings.scale_k[0] if settings.min_span_k else 0.0
    if settings.min_span_noise:
        noise = quiet_noise(scene, low, high)
        if scene.dtype.kind == 'f' or noise <= _MOST_NOISE:
            least = max(least, settings.min_span_noise * noise)
    return least


def _without_sentinels(values: np.ndarray) -> np.ndarray:
    """Return the sorted values without constants at the ends that are far from everything else."""
    usual = _SENTINELS[values.dtype.kind]
    for _ in range(_MOST_SENTINELS):
        before = values.size
        for end in (0, -1):
            if not values.size:
                return values
            constant = values[end]
            rest = values[np.searchsorted(values, constant, 'right'):] if end == 0 else values[
                :np.searchsorted(values, constant)]
            if 2 * rest.size < values.size:
                continue
            gap = abs(float(rest[end]) - float(constant))
            cold, hot = _ranked(rest, 0.1, 0.9)
            if hot == cold:  # a flat image: what else there is may be all that it shows
                far = float(constant) in usual and 10 * rest.size > 9 * values.size
            else:
                far = gap > (1.0 if float(constant) in usual else _DETACHED) * (hot - cold)
            values = rest if far else values
        if values.size == before:
            break
    return values


def _foreign_lines(pixels: np.ndarray, count: int, coldest: float,
                   hottest: float) -> tuple[int, int]:
    """Return how many of the outer count rows at the top and at the bottom are no image.

    They reach from the border to the last row with values far from coldest to hottest, the scene.
    """
    low, high = 2 * coldest - hottest, 2 * hottest - coldest
    some = pixels[:, ::max(1, pixels.shape[1] // 96)]
    found = []
    for lines in (some[:count], some[:-count - 1:-1]):
        inside = ((lines >= low) & (lines <= high)).mean(axis=1)
        foreign = np.flatnonzero(1 - inside > _FOREIGN_SHARE)
        found.append(int(foreign[-1]) + 1 if foreign.size else 0)
    return found[0], found[1]


def _sorted(values: np.ndarray, count: int = 0) -> np.ndarray:
    """Return the finite ones of some count values of an image, 0: all, flat, in rising order."""
    if count:
        stride = max(1, int((values.size / count) ** 0.5))
        values = values[::stride, ::stride]
    if values.dtype.kind == 'u':
        # A stable sort of 16-bit integers is a radix sort: a quarter of the time.
        return np.sort(values, axis=None, kind='stable')
    return np.sort(values[np.isfinite(values)])


@lru_cache(maxsize=8)
def _patch_lines(side: int, patch: int) -> np.ndarray:
    """Return the row or column numbers of all patches along a side of the image."""
    first = np.linspace(0, side - patch, _PATCHES).astype(int)
    lines = (first[:, None] + np.arange(patch)).ravel()
    lines.flags.writeable = False
    return lines


def _ranked(values: np.ndarray, *shares: float) -> list[float]:
    """Return the quantiles of sorted values at these shares, 0 to 1, each a value that occurs."""
    return [float(values[round((values.size - 1) * share)]) for share in shares]
