# SPDX-License-Identifier: Apache-2.0
"""Temperatures of a radiometric thermal camera, on the grid of the fused image."""

import numpy as np

from ..alignment.warp import Mapping
from ..frames import THERMAL, Frame, FrameError
from ..settings import ThermalSettings
from .thermal import STRETCHED

ABSOLUTE_ZERO_C = -273.15
# Counts that cameras send for no signal and for saturation.
NO_MEASUREMENT = (0, 65535)
# The median of an outdoor scene, a clear sky and a fire in view included.
PLAUSIBLE_C = (-80.0, 800.0)


def temperatures(frame: Frame, settings: ThermalSettings) -> np.ndarray:
    """Return what a radiometric thermal image measures, by the unit that the settings name.

    Args:
        frame: mono16 or 32FC1, H x W.
        settings: radiometric_unit, and kelvin_per_count and kelvin_at_zero for custom.

    Returns:
        H x W float32, degrees Celsius. NaN where there is no measurement: NaN and infinity, the
        counts 0 and 65535, and what would lie below absolute zero.

    Raises:
        FrameError: reason not_radiometric, for an image of 8 bits, an unknown unit, or
            temperatures that no scene has.
    """
    if frame.encoding not in STRETCHED:
        raise FrameError(f'expected thermal of 16 bits or floats, got {frame.encoding}, which '
                         f'holds no temperatures: '
                         'let the camera send its counts', reason='not_radiometric')
    if settings.radiometric_unit == 'unknown':
        raise FrameError('set thermal.radiometric_unit to what one count of the camera is',
                         reason='not_radiometric')
    per_count_k, at_zero_k = settings.scale_k
    # float64 in between: the offset is subtracted from values that are far larger than their steps
    celsius = (frame.pixels * per_count_k + (at_zero_k + ABSOLUTE_ZERO_C)).astype(np.float32)
    valid = np.isfinite(celsius) & (celsius >= ABSOLUTE_ZERO_C)
    if frame.encoding == 'mono16':
        valid &= ~np.isin(frame.pixels, NO_MEASUREMENT)
    celsius[~valid] = np.nan
    if valid.any() and not PLAUSIBLE_C[0] <= (
            median := float(np.nanmedian(celsius))) <= PLAUSIBLE_C[1]:
        raise FrameError(f'half of the scene would be at {median:.0f} degrees Celsius and more: '
                         f'check thermal.radiometric_unit, which is {settings.radiometric_unit}',
                         reason='not_radiometric')
    return celsius


def on_grid(celsius: np.ndarray, mapping: Mapping) -> np.ndarray:
    """Bring temperatures onto the grid of a mapping.

    Args:
        celsius: H' x W' float32 in degrees Celsius.
        mapping: that of the pair.

    Returns:
        H x W float32; NaN where thermal does not see.
    """
    aligned = mapping.thermal(celsius)
    if mapping.grid == THERMAL:
        return aligned
    return aligned if mapping.everywhere else np.where(mapping.seen, aligned, np.float32(np.nan))
