# SPDX-License-Identifier: Apache-2.0
"""From raw thermal values to the 8-bit, white-hot image that is fused, and to temperatures."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..alignment.warp import Mapping
from ..frames import THERMAL, Frame, FrameError
from ..settings import ThermalSettings
from .color import split_luma
from .gray_range import gray_range, no_finite_value

# Encodings that need gain control; cameras with 8-bit images have done it.
STRETCHED = ('mono16', '32FC1')
# What a flat 32FC1 image is divided by.
SMALLEST_SPAN = float(np.finfo(np.float32).tiny)
# After a gap of so many time constants nothing of the levels before is left.
_FORGOTTEN = 10
# A camera that switches its gain changes the span of its values by a factor of three and more ...
_GAIN_FACTOR = 2.0
# ... and moves the coldest, the middle and the hottest of them, each by more than this part of the
# smaller span.
_ALL_MOVED = 0.1


@dataclass(frozen=True)
class Levels:
    """The values that become black and white; black_hot: the two change places.

    For mono16 low is a whole count and high at least one count more.
    """

    low: float
    high: float
    black_hot: bool = False


def to_gray(pixels: np.ndarray, encoding: str, levels: Levels) -> np.ndarray:
    """Return a thermal image in gray, white-hot, over the full range.

    8-bit images pass as they are (color is reduced to luminance): such cameras have done the gain
    control. Others are stretched so that levels.low becomes 0 and levels.high 255; what lies
    beyond is clipped. All of them are inverted for levels.black_hot. NaN becomes 0, infinities
    become what lies beyond the levels. Equal levels make everything cold.

    Args:
        pixels: H x W [x C]; mono16 and 32FC1 in any unit that grows with temperature.
        encoding: that of pixels.
        levels: the values that become black and white.

    Returns:
        H x W uint8, for mono8 perhaps pixels itself.
    """
    if encoding == 'mono8':
        gray = pixels
    elif encoding not in STRETCHED:
        gray = split_luma(pixels, encoding)[0]
    # OpenCV's subtraction and conversion stop at the ends of their types
    elif encoding == 'mono16':
        gray = cv2.convertScaleAbs(cv2.subtract(np.ascontiguousarray(pixels), levels.low),  # type: ignore[call-overload]
                                   alpha=255 / max(levels.high - levels.low, 1))
    else:
        gray = _float_to_gray(pixels, levels)
    return cv2.bitwise_not(gray) if levels.black_hot else gray


def _float_to_gray(pixels: np.ndarray, levels: Levels) -> np.ndarray:
    low, high = np.float32(levels.low), np.float32(levels.high)
    # fmax and fmin, unlike clip, replace NaN: with the cold end, whichever of them comes first.
    if levels.black_hot:
        above_low = np.fmin(pixels, high)
        np.fmax(above_low, low, out=above_low)
    else:
        above_low = np.fmax(pixels, low)
        np.fmin(above_low, high, out=above_low)
    # Subtracting first keeps small ranges on large values exact.
    np.subtract(above_low, low, out=above_low)
    np.divide(above_low, np.float32(max(levels.high - levels.low, SMALLEST_SPAN)), out=above_low)
    return cv2.convertScaleAbs(above_low, alpha=255)


def levels_of(pixels: np.ndarray, encoding: str, settings: ThermalSettings) -> Levels:
    """Return the levels of an image by itself, whatever came before it.

    Args:
        pixels: H x W [x C].
        encoding: that of pixels; images of 8 bit keep their range, 0 to 255.
        settings: those of the group thermal; for agc see gray_range.

    Returns:
        The values that become black and white.

    Raises:
        FrameError: reason no_finite_value.
    """
    if encoding not in STRETCHED:
        return _made(0, 255, encoding, settings)
    if settings.gain_control != 'agc':
        return _fixed(pixels, encoding, settings)
    low, _, high = gray_range(pixels, settings)
    return _made(low, high, encoding, settings)


class GainControl:
    """The levels of a stream of thermal frames. The same frames always give the same levels.

    With gain_control agc they follow the percentiles with the settings' time constant, by the
    stamps of the frames (their arrival where a stamp is 0), and by at most max_change of their
    distance a frame. When the camera switches its gain they follow at once. They start afresh with
    the first frame, one that is older than the frame before, one after a long gap, and one without
    any time. `settings` may be assigned at any time; other ones start the levels afresh.
    """

    def __init__(self, settings: ThermalSettings):
        self.settings = settings
        self._state: _State | None = None

    def reset(self) -> None:
        """Forget all frames."""
        self._state = None

    def levels(self, frame: Frame) -> Levels:
        """Return the levels of the next frame; asked again with the same stamp, the same ones.

        Args:
            frame: the next thermal frame of the stream.

        Returns:
            The values that become black and white.

        Raises:
            FrameError: reason no_finite_value; such a frame changes nothing.
        """
        settings, encoding = self.settings, frame.encoding
        if self._state is not None and self._state.settings != settings:
            self._state = None
        steady = settings.gain_control != 'agc' or settings.time_constant_s == 0
        if encoding not in STRETCHED or steady:
            return levels_of(frame.pixels, encoding, settings)
        time_ns = frame.stamp_ns or frame.arrival_ns
        before = self._state
        if before is not None and before.encoding != encoding:
            before = None
        if before is None or time_ns == 0 or time_ns != before.time_ns:
            spread = gray_range(frame.pixels, settings)
            if before is not None and time_ns != 0:
                spread = _followed(before.spread, spread, 1e-9 * (time_ns - before.time_ns),
                                   settings)
            self._state = before = _State(time_ns, encoding, settings, spread)
        return _made(before.spread[0], before.spread[2], encoding, settings)

    def repaired(self, frame: Frame) -> Frame:
        """Replace the dead rows of a frame (settings.repair_rows).

        Args:
            frame: a thermal frame.

        Returns:
            The repaired frame; frame itself when there are none.
        """
        if not self.settings.repair_rows or frame.pixels.ndim != 2:
            return frame
        pixels = repaired_rows(frame.pixels)
        return frame if pixels is frame.pixels else replace(frame, pixels=pixels)


@dataclass(frozen=True)
class _State:
    """What a stream has come to: spread is low, median and high."""

    time_ns: int
    encoding: str
    settings: ThermalSettings
    spread: np.ndarray


def _followed(before: np.ndarray, now: np.ndarray, passed_s: float,
              settings: ThermalSettings) -> np.ndarray:
    """Return the spread between before and now that is reached passed_s later."""
    if not 0 < passed_s <= _FORGOTTEN * settings.time_constant_s or _jumped(before, now):
        return now
    largest = settings.max_change * (before[2] - before[0])
    step = (1 - math.exp(-passed_s / settings.time_constant_s)) * (now - before)
    return before + np.clip(step, -largest, largest)


def _jumped(before: np.ndarray, now: np.ndarray) -> bool:
    """Return whether the camera's values have become others.

    A hot object, which leaves the rest as it was, is not that.
    """
    (low, _, high), smaller, larger = before, *sorted((before[2] - before[0], now[2] - now[0]))
    if low == high or not low <= now[1] <= high:
        return True
    return larger >= _GAIN_FACTOR * smaller and np.abs(now - before).min() > _ALL_MOVED * smaller


def _fixed(pixels: np.ndarray, encoding: str, settings: ThermalSettings) -> Levels:
    """Return the levels that settings name, whatever pixels hold.

    Raises FrameError as levels_of does.
    """
    if encoding == '32FC1' and not np.isfinite(pixels).any():
        raise no_finite_value(pixels)
    if settings.gain_control == 'linear':
        return _made(settings.linear_low, settings.linear_high, encoding, settings)
    per_count_k, at_zero_k = settings.scale_k
    return _made((settings.radiometric_low_k - at_zero_k) / per_count_k,
                 (settings.radiometric_high_k - at_zero_k) / per_count_k, encoding, settings)


def _made(low: float, high: float, encoding: str, settings: ThermalSettings) -> Levels:
    if encoding == 'mono16':
        low = round(low)
        high = max(high, low + 1)
    return Levels(float(low), float(high), settings.polarity == 'black_hot')


# A dead row is at least so many times further from its neighbors than they are from each other and
# from the rows beyond them, and than rows of the image mostly are. Rows of 770 real thermal images
# reach 1.2, two adjacent ones 1.5.
_STICKS_OUT = 3.0
# More than so many adjacent rows may be anything: a slatted wall, the two fields of an interlaced
# camera in motion.
_MOST_ADJACENT = 2
_LEAST_COLUMNS = 64


def repaired_rows(pixels: np.ndarray) -> np.ndarray:
    """Interpolate dead rows, which the sensor fails to read, between the rows above and below.

    Found are rows, alone or in twos, that differ from their neighbors along most of their length,
    while these resemble the rows beyond: a level wire, which optics blur over three rows, is not
    that. A row that is stuck at a value which fits its surroundings stays, and so do the first and
    the last row (some cameras send telemetry there).

    Args:
        pixels: H x W, uint8, uint16 or float32.

    Returns:
        A repaired copy; pixels itself when there is no dead row.
    """
    repaired = None
    rows = np.flatnonzero(_suspects(pixels))
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        if not 0 < run.size <= _MOST_ADJACENT:
            continue
        first, last = int(run[0]), int(run[-1])
        above, below = (pixels[row].astype(np.float32) for row in (first - 1, last + 1))
        part = np.linspace(0, 1, last - first + 3, dtype=np.float32)[1:-1, None]
        between = above + part * (below - above)
        off = np.abs(pixels[first:last + 1] - between) <= np.abs(above - below)
        if off.mean(axis=1).max() < 0.5:  # counted this way, NaN is off
            repaired = pixels.copy() if repaired is None else repaired
            repaired[first:last + 1] = between if pixels.dtype.kind == 'f' else np.rint(between)
    return pixels if repaired is None else repaired


def _suspects(pixels: np.ndarray) -> np.ndarray:
    """Return the bool mask, H, of the rows that differ from their neighbors on average.

    The middle quarter of the columns, at least 64, shows a dead row as well as all of them.
    """
    height, width = pixels.shape
    suspects = np.zeros(height, bool)
    if height < _MOST_ADJACENT + 3:
        return suspects
    kept = max(width // 4, min(width, _LEAST_COLUMNS))
    values = np.ascontiguousarray(pixels[:, (width - kept) // 2:(width + kept) // 2])
    if values.dtype.kind == 'f':
        values = cv2.patchNaNs(values.copy(), 0)
    # Mean absolute differences of rows that lie 1, 2 ... apart, float32.
    step, *wider = (cv2.reduce(cv2.absdiff(values[rows:], values[:-rows]), 1, cv2.REDUCE_AVG,
                               dtype=cv2.CV_32F)[:, 0] for rows in range(1, _MOST_ADJACENT + 2))
    usual = np.sort(step)[[(step.size - 1) // 2, step.size // 2]].mean()  # the median
    padded = np.concatenate((step[:1] * 0, step, step[:1] * 0))
    for count, across in enumerate(wider, start=1):
        inner = np.minimum(step[:-count], step[count:])
        outer = np.maximum(padded[:-count - 2], padded[count + 2:])
        dead = inner > _STICKS_OUT * np.maximum(np.maximum(across, outer), usual)
        for row in range(1, count + 1):
            suspects[row:row + dead.size] |= dead
    return suspects


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
