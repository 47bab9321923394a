# SPDX-License-Identifier: Apache-2.0
"""From raw thermal values to the 8-bit, white-hot image that is fused."""

import cv2
import numpy as np

from .color import split_luma
from .frames import FrameError
from .settings import ThermalSettings

# Encodings that need gain control; cameras with 8-bit images have done it.
STRETCHED = ('mono16', '32FC1')
# Percentiles of about this many pixels stray by a fraction of a percentile and cost a tenth.
_SAMPLE_PIXELS = 20_000
# What a flat 32FC1 image is divided by.
SMALLEST_SPAN = float(np.finfo(np.float32).tiny)


def to_gray(pixels: np.ndarray, encoding: str, settings: ThermalSettings) -> np.ndarray:
    """Return the thermal image as H x W uint8, white-hot, full range.

    mono8 passes as it is (no copy) and 8-bit colour is reduced to luminance: such cameras have done
    the gain control. mono16 and 32FC1 (H x W, any unit that grows with temperature) are stretched so
    that the settings' low percentile becomes 0 and the high one 255; what lies beyond is clipped. NaN
    and infinities do not count for the percentiles: NaN and -inf become 0, +inf 255. A flat image
    becomes 0. Raises FrameError (no_finite_value) when no value is finite.
    """
    if encoding == 'mono8':
        return pixels
    if encoding not in STRETCHED:
        return split_luma(pixels, encoding)[0]
    low, high = value_range(pixels, settings)
    if encoding == 'mono16':  # OpenCV's subtraction and conversion stop at the ends of their types
        return cv2.convertScaleAbs(cv2.subtract(np.ascontiguousarray(pixels), low), alpha=255 / max(high - low, 1))
    # fmax and fmin, unlike clip, replace NaN. Subtracting first keeps small ranges on large values exact.
    above_low = np.fmax(pixels, np.float32(low))
    np.subtract(np.fmin(above_low, np.float32(high), out=above_low), np.float32(low), out=above_low)
    np.divide(above_low, np.float32(max(high - low, SMALLEST_SPAN)), out=above_low)
    return cv2.convertScaleAbs(above_low, alpha=255)


def value_range(pixels: np.ndarray, settings: ThermalSettings) -> tuple[float, float]:
    """Return the values of pixels (mono16 or 32FC1) that become black and white.

    They are the settings' percentiles, of a sample of large images; the extremes where those coincide
    (a small target on flat ground). Raises FrameError (no_finite_value) when no value is finite.
    """
    stride = max(1, int((pixels.size / _SAMPLE_PIXELS) ** 0.5))
    percentiles = settings.low_percentile, settings.high_percentile
    sample = _finite(pixels[::stride, ::stride])
    if sample.size:
        low, high = np.percentile(sample, percentiles, method='nearest')
        if low < high:
            return float(low), float(high)
    everything = _finite(pixels)
    if not everything.size:
        height, width = pixels.shape
        raise FrameError(f'expected temperatures, got a {width}x{height} thermal image of NaN and infinity '
                         'alone; is the camera still starting?', reason='no_finite_value')
    return float(everything.min()), float(everything.max())


def _finite(values: np.ndarray) -> np.ndarray:
    """The finite ones of values (any shape), flat."""
    return values.ravel() if values.dtype.kind == 'u' else values[np.isfinite(values)]
