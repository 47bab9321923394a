# SPDX-License-Identifier: Apache-2.0
"""From the fields of a raw image message to a numpy view of its pixels; 10 to 16 bits to 8.

Encodings are those of sensor_msgs/image_encodings.hpp. A strided view reads every `step` and an
unpadded last row right, where a reshape would shear the image without a word.
"""

import sys
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from ..frames import Frame, FrameError
from .color import require_8_bit

# encoding -> (canonical encoding, item type, channels)
_FORMATS = {
    'mono8': ('mono8', np.uint8, 1),
    '8UC1': ('mono8', np.uint8, 1),
    'mono16': ('mono16', np.uint16, 1),
    '16UC1': ('mono16', np.uint16, 1),
    'rgb8': ('rgb8', np.uint8, 3),
    'bgr8': ('bgr8', np.uint8, 3),
    'rgb16': ('rgb16', np.uint16, 3),
    'bgr16': ('bgr16', np.uint16, 3),
    '16UC3': ('bgr16', np.uint16, 3),
    'rgba16': ('rgba16', np.uint16, 4),
    'bgra16': ('bgra16', np.uint16, 4),
    '16UC4': ('bgra16', np.uint16, 4),
    'rgba8': ('rgba8', np.uint8, 4),
    'bgra8': ('bgra8', np.uint8, 4),
    '8UC3': ('bgr8', np.uint8, 3),
    '8UC4': ('bgra8', np.uint8, 4),
    '32FC1': ('32FC1', np.float32, 1),
    **{f'bayer_{order}8': ('bgr8', np.uint8, 1) for order in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{f'bayer_{order}16': ('bgr16', np.uint16, 1) for order in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{name: ('bgr8', np.uint8, 2) for name in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')},
}
# Raw sensor patterns and subsampled color become bgr8. OpenCV names a pattern by its second row,
# ROS by its first.
_TO_BGR = {
    **{f'bayer_{order}{bits}': code for bits in (8, 16) for order, code in (
        ('rggb', cv2.COLOR_BayerBG2BGR), ('bggr', cv2.COLOR_BayerRG2BGR),
        ('gbrg', cv2.COLOR_BayerGR2BGR), ('grbg', cv2.COLOR_BayerGB2BGR))},
    'yuv422': cv2.COLOR_YUV2BGR_UYVY,
    'uyvy': cv2.COLOR_YUV2BGR_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2BGR_YUYV,
    'yuyv': cv2.COLOR_YUV2BGR_YUYV,
}

_ROWS = 64  # are enough to tell 16 bits from 8
_FAR_LESS = 3


def decode_message(message: Any) -> tuple[np.ndarray, str]:
    """Decode an image message.

    The canonical encodings are mono8, mono16, rgb8, bgr8, rgba8, bgra8, those of 16 bits and
    32FC1; 8UC3 and 8UC4 are read as bgr8 and bgra8, OpenCV's order, 16UC3 and 16UC4 likewise.
    Bayer patterns and packed YUV 4:2:2 become bgr8 or bgr16.

    Args:
        message: an object with the fields of sensor_msgs/Image, of ROS or of a bag; its data any
            C-contiguous buffer: bytes, array.array, memoryview, ndarray.

    Returns:
        (pixels, canonical encoding). pixels is H x W (mono8 uint8, mono16 uint16, 32FC1 float32)
        or H x W x 3|4, in native byte order: a view of data, writable when data is; only items in
        foreign byte order are copied.

    Raises:
        FrameError: reason unknown_encoding, zero_size, step_too_small, short_buffer, bad_size
            or wrong_encoding.
    """
    height, width, encoding, step = message.height, message.width, message.encoding, message.step
    if encoding not in _FORMATS:
        raise FrameError(f'unknown encoding {encoding!r}; known: {", ".join(_FORMATS)}',
                         reason='unknown_encoding')
    if height < 1 or width < 1:
        raise FrameError(f'expected an image of at least 1x1 pixels, got {width}x{height}',
                         reason='zero_size')
    canonical, item_type, channels = _FORMATS[encoding]
    item = np.dtype(item_type)
    row_bytes = width * channels * item.itemsize
    if step < row_bytes:
        raise FrameError(f'step is too small: {width} pixels of {encoding} need {row_bytes} bytes '
                         f'a row, step is {step}', reason='step_too_small')
    buffer = memoryview(message.data)
    # Some drivers leave the padding of the last row away.
    needed = step * (height - 1) + row_bytes
    if buffer.nbytes < needed:
        raise FrameError(f'short buffer: {width}x{height} {encoding} with step {step} needs '
                         f'{needed} bytes, got {buffer.nbytes}', reason='short_buffer')
    if canonical == 'mono8' and height * width > 1:
        _require_8_bit(buffer, height, width, step, encoding)
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * item.itemsize, item.itemsize)[:len(shape)]
    foreign = bool(message.is_bigendian) != (sys.byteorder == 'big')
    view = np.ndarray(shape, item.newbyteorder() if foreign else item, buffer, strides=strides)
    if encoding in _TO_BGR:
        return _to_bgr(view.astype(item, copy=False), encoding), canonical
    return view.astype(item, copy=False), canonical


def _require_8_bit(buffer: memoryview, height: int, width: int, step: int, encoding: str) -> None:
    """Raise FrameError for 16-bit data under the name of 8 bits: twice as much, and no padding.

    Where the step leaves room for padding, which may be anything, it must look like 16 bits.
    """
    if buffer.nbytes != 2 * height * width:
        return
    data = np.frombuffer(buffer.cast('B'), np.uint8)
    if step >= 2 * width:
        wrong = _looks_16_bit(data.reshape(height, width, 2))
    else:
        wrong = bool(np.ptp(data[data.size // 2:]))
    if wrong:
        raise FrameError(f'expected {height * width} bytes of {width}x{height} {encoding}, got '
                         f'twice as many, which is no padding: the driver sends 16 bits and must '
                         f'call them mono16', reason='wrong_encoding')


def _looks_16_bit(values: np.ndarray) -> bool:
    """Return whether one byte of the values varies far less than the other, in both halves alike.

    From column to column the high byte of 16 bits does; bytes of an image, or of noise, do alike.

    Args:
        values: H x W x 2 uint8.
    """
    height, width, _ = values.shape
    # One column says nothing; constant bytes are padding, as nearly every driver writes it.
    if width < 2 or not np.ptp(values[:, (width + 1) // 2:]):
        return False
    rows = values[::max(1, height // _ROWS)].astype(np.int16)
    left, right = (np.abs(np.diff(half, axis=1)).sum((0, 1), dtype=np.int64)
                   for half in (rows[:, :width // 2], rows[:, (width + 1) // 2:]))
    return any((_FAR_LESS * left[high] < left[1 - high]) and
               (_FAR_LESS * right[high] < right[1 - high]) for high in (0, 1))


def _to_bgr(view: np.ndarray, encoding: str) -> np.ndarray:
    """Convert H x W (Bayer) or H x W x 2 (YUV 4:2:2) to H x W x 3 b, g, r of the same type."""
    try:
        return cv2.cvtColor(np.ascontiguousarray(view), _TO_BGR[encoding])
    except cv2.error as error:  # an odd width of YUV 4:2:2, which has two pixels in common
        height, width = view.shape[:2]
        raise FrameError(f'a {width}x{height} image cannot be {encoding}: {error}',
                         reason='bad_size') from error


_EIGHT_BIT = {'mono16': 'mono8', 'rgb16': 'rgb8', 'bgr16': 'bgr8', 'rgba16': 'rgba8',
              'bgra16': 'bgra8'}
# Sensors have so many bits; a message of 16 bits does not say how many.
DEPTHS = (10, 12, 14, 16)
# Outliers are hot pixels, which color interpolation spreads: 16 values of an image may lie above
# the depth, or one in 10,000 where that is more, but never more than one in 100.
_OUTLIERS = 16
_VALUES_PER_OUTLIER, _LEAST_PER_OUTLIER = 10_000, 100


class BitDepth:
    """Reduces the RGB frames of one camera to 8 bits.

    The depth is the smallest of DEPTHS that holds the values so far, but for a few outliers, which
    are clipped. So the brightness of a dark scene does not depend on it and changes at most a few
    times after the start. Another encoding or size begins anew.
    """

    def __init__(self) -> None:
        self._bits = DEPTHS[0]
        self._kind: tuple | None = None

    def to_8_bit(self, frame: Frame) -> Frame:
        """Return a frame in 8 bits.

        Args:
            frame: color or gray of 8 to 16 bits.

        Returns:
            frame itself if it has 8 bits, else a new one.

        Raises:
            FrameError: reason not_8_bit, for an encoding without a known range, such as 32FC1.
        """
        pixels = frame.pixels
        kind = frame.encoding, pixels.shape
        if kind != self._kind:
            self._kind, self._bits = kind, DEPTHS[0]
        if frame.encoding not in _EIGHT_BIT:
            require_8_bit(frame.encoding)
            return frame
        if pixels.max() >= 2 ** self._bits:
            outliers = min(max(_OUTLIERS, pixels.size // _VALUES_PER_OUTLIER),
                           pixels.size // _LEAST_PER_OUTLIER)
            self._bits = next(bits for bits in DEPTHS if bits >= self._bits
                              and np.count_nonzero(pixels >= 2 ** bits) <= outliers)
        small = cv2.convertScaleAbs(np.ascontiguousarray(pixels),
                                    alpha=255 / (2 ** self._bits - 1))
        return replace(frame, pixels=small, encoding=_EIGHT_BIT[frame.encoding])
