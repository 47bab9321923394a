# SPDX-License-Identifier: Apache-2.0
"""From raw thermal values to the 8-bit, white-hot image that is fused."""

import cv2
import numpy as np

from .color import split_luma
from .frames import FrameError
from .settings import ThermalSettings

# Percentiles of about this many pixels stray by a fraction of a percentile and cost a tenth.
_SAMPLE_PIXELS = 20_000


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
    if encoding not in ('mono16', '32FC1'):
        return split_luma(pixels, encoding)[0]
    low, high = _value_range(pixels, settings)
    # fmax and fmin, unlike clip, replace NaN. Subtracting first keeps small ranges on large values exact.
    above_low = np.fmin(np.fmax(pixels, low), high) - low
    span = max(float(high) - float(low), np.finfo(np.float32).tiny)
    return cv2.convertScaleAbs(np.divide(above_low, span, dtype=np.float32), alpha=255)


def _value_range(pixels: np.ndarray, settings: ThermalSettings) -> tuple[np.generic, np.generic]:
    """Values of the two percentiles; the extremes where those coincide (a small target on flat ground)."""
    stride = max(1, int((pixels.size / _SAMPLE_PIXELS) ** 0.5))
    percentiles = settings.low_percentile, settings.high_percentile
    sample = _finite(pixels[::stride, ::stride])
    if sample.size:
        low, high = np.percentile(sample, percentiles, method='nearest')
        if low < high:
            return low, high
    everything = _finite(pixels)
    if not everything.size:
        height, width = pixels.shape
        raise FrameError(f'expected temperatures, got a {width}x{height} thermal image of NaN and infinity '
                         'alone; is the camera still starting?', reason='no_finite_value')
    return everything.min(), everything.max()


def _finite(values: np.ndarray) -> np.ndarray:
    """The finite ones of values (any shape), flat."""
    return values.ravel() if values.dtype.kind == 'u' else values[np.isfinite(values)]
