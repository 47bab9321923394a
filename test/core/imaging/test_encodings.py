# SPDX-License-Identifier: Apache-2.0
"""Decoding of raw image messages against a per-pixel reference."""

import array
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.frames import FrameError
from diffmf_ros.core.imaging.encodings import decode_message

# encoding -> (canonical, struct code, channels)
FORMATS = {
    'mono8': ('mono8', 'B', 1), '8UC1': ('mono8', 'B', 1),
    'mono16': ('mono16', 'H', 1), '16UC1': ('mono16', 'H', 1),
    'rgb8': ('rgb8', 'B', 3), 'bgr8': ('bgr8', 'B', 3),
    'rgba8': ('rgba8', 'B', 4), 'bgra8': ('bgra8', 'B', 4),
    '8UC3': ('bgr8', 'B', 3), '8UC4': ('bgra8', 'B', 4),
    '32FC1': ('32FC1', 'f', 1),
}
DTYPES = {'B': np.uint8, 'H': np.uint16, 'f': np.float32}


def decode(**fields):
    """Decode the message with these fields."""
    return decode_message(SimpleNamespace(**fields))


def pack(values, code, *, step, big, padded):
    """Bytes of H x W x C values, rows padded to step with 0xEE; padded: the last row too."""
    data = bytearray()
    for number, row in enumerate(values):
        raw = struct.pack(f'{">" if big else "<"}{row.size}{code}', *row.ravel().tolist())
        last = number == len(values) - 1
        data += raw if last and not padded else raw.ljust(step, b'\xee')
    return bytes(data)


def valid(**changes):
    """A 3x2 rgb8 message with a padded row, and changes."""
    message = {'height': 2, 'width': 3, 'encoding': 'rgb8', 'step': 10, 'is_bigendian': False,
               'data': bytes(range(20))}
    return {**message, **changes}


@settings(deadline=None)
@given(encoding=st.sampled_from(sorted(FORMATS)), height=st.integers(1, 5),
       width=st.integers(1, 6), padding=st.integers(0, 7), big=st.booleans(), padded=st.booleans(),
       seed=st.integers(0, 2**16))
def test_every_encoding_step_and_byte_order(encoding, height, width, padding, big, padded, seed):
    canonical, code, channels = FORMATS[encoding]
    dtype = np.dtype(DTYPES[code])
    raw = np.random.default_rng(seed).integers(0, 256 if code == 'B' else 65536,
                                               (height, width, channels))
    expected = raw.astype(dtype)
    step = width * channels * dtype.itemsize + padding

    pixels, found = decode(height=height, width=width, encoding=encoding, step=step,
                           is_bigendian=big,
                           data=pack(expected, code, step=step, big=big, padded=padded))

    assert found == canonical
    assert pixels.dtype == dtype and pixels.dtype.isnative
    assert np.array_equal(pixels, expected[:, :, 0] if channels == 1 else expected)


@pytest.mark.parametrize('wrap', [
    bytearray,
    lambda raw: array.array('B', raw),
    lambda raw: memoryview(bytearray(raw)),
    lambda raw: np.frombuffer(bytearray(raw), np.uint8),
])
def test_writable_buffers_are_viewed_not_copied(wrap):
    data = wrap(bytes(20))

    pixels, _ = decode(**valid(data=data))
    data[11] = 77

    assert pixels[1, 0].tolist() == [0, 77, 0]
    assert pixels.flags.writeable


def test_bytes_are_viewed_read_only():
    data = bytes(range(20))

    pixels, _ = decode(**valid(data=data))

    assert not pixels.flags.writeable
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))
    assert pixels[1].tolist() == [[10, 11, 12], [13, 14, 15], [16, 17, 18]]


def test_wider_items_are_counted_in_bytes():
    data = np.arange(6, dtype=np.uint16)

    pixels, _ = decode(height=2, width=3, encoding='mono16', step=6, is_bigendian=False, data=data)

    assert pixels.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize('changes, words', [
    ({'height': 0}, 'at least 1x1 pixels, got 3x0'),
    ({'width': 0}, 'at least 1x1 pixels, got 0x2'),
    ({'encoding': 'yuv9'}, "unknown encoding 'yuv9'; known: mono8, .*32FC1"),
    ({'encoding': 'RGB8'}, "unknown encoding 'RGB8'"),
    ({'step': 8}, 'need 9 bytes a row, step is 8'),
    ({'step': 0}, 'need 9 bytes a row, step is 0'),
    ({'data': bytes(18)}, 'needs 19 bytes, got 18'),
    ({'data': b''}, 'needs 19 bytes, got 0'),
    ({'width': 2**32 - 1, 'height': 2**32 - 1, 'step': 2**34}, 'short buffer'),
])
def test_each_defect_has_its_own_error(changes, words):
    with pytest.raises(FrameError, match=words):
        decode(**valid(**changes))


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'bayer_bggr8', 'bayer_gbrg8', 'bayer_grbg8'])
def test_bayer_pattern_gives_its_color(encoding):
    """A Bayer pattern becomes the color that it was taken of."""
    color = {'r': 200, 'g': 120, 'b': 40}
    first, second, third, fourth = (color[letter] for letter in encoding[6:10])
    raw = np.tile(np.array([[first, second], [third, fourth]], np.uint8), (8, 10))

    pixels, canonical = decode(height=16, width=20, encoding=encoding, step=20, is_bigendian=False,
                               data=raw.tobytes())

    assert canonical == 'bgr8' and pixels.shape == (16, 20, 3)
    assert (pixels == (40, 120, 200)).all()


@pytest.mark.parametrize('encoding, order',
                         [('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'),
                                             ('yuyv', 'yuyv')])
def test_packed_yuv_becomes_color(encoding, order):
    # BT.601, video range: Y 81, U 90, V 240 is pure red.
    values = iter({'y': 81, 'u': 90, 'v': 240}[letter] for letter in order)
    raw = np.tile(np.array(list(values), np.uint8), (4, 3))

    pixels, canonical = decode(height=4, width=6, encoding=encoding, step=12, is_bigendian=False,
                               data=raw.tobytes())

    assert canonical == 'bgr8' and pixels.shape == (4, 6, 3)
    assert np.abs(pixels.astype(int) - (0, 0, 255)).max() <= 3


def test_yuv_of_odd_width_refused():
    """Packed YUV of an odd width is refused."""
    with pytest.raises(FrameError, match='a 3x2 image cannot be yuyv') as refused:
        decode(height=2, width=3, encoding='yuyv', step=6, is_bigendian=False, data=bytes(12))

    assert refused.value.reason == 'bad_size'


@pytest.mark.parametrize('step', [8, 16])
def test_16_bits_called_mono8_refused(step):
    """Data of twice the size is 16-bit data under the wrong name; padding is constant."""
    counts = np.random.default_rng(0).integers(7000, 9000, (6, 8), dtype='<u2')
    message = {'height': 6, 'width': 8, 'encoding': 'mono8', 'step': step, 'is_bigendian': False}

    with pytest.raises(FrameError, match='mono16') as refused:
        decode(data=counts.tobytes(), **message)
    assert refused.value.reason == 'wrong_encoding'

    padded = np.zeros((6, 16), np.uint8)
    padded[:, :8] = 5
    assert (decode(data=padded.tobytes(), **(message | {'step': 16}))[0] == 5).all()


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('padding', ['noise', 'another image', 'one value'])
def test_mono8_with_any_padding_is_read(seed, padding):
    """Rows of twice the length are padded, whatever the driver leaves in the padding."""
    random = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(4) * 9, np.arange(32) * 5)
    pixels = (ramp + random.integers(0, 20, ramp.shape)).astype(np.uint8)
    rest = {'noise': random.integers(0, 256, pixels.shape, np.uint8),
            'another image': 255 - pixels, 'one value': np.full_like(pixels, 0xEE)}[padding]

    read, canonical = decode(height=4, width=32, encoding='mono8', step=64, is_bigendian=False,
                             data=np.hstack([pixels, rest]).tobytes())

    assert canonical == 'mono8' and np.array_equal(read, pixels)


@pytest.mark.parametrize('item', ['<u2', '>u2'])
@pytest.mark.parametrize('lowest, span', [(7000, 40), (0, 4096), (3000, 16000)])
def test_16_bits_in_either_order_refused(item, lowest, span):
    """Counts of thermal cameras, which are not padding, are refused under the name mono8."""
    slope = np.linspace(0, 0.8, 32) + np.linspace(0, 0.1, 4)[:, None]
    counts = lowest + span * (slope + np.random.default_rng(0).uniform(0, 0.1, slope.shape))

    with pytest.raises(FrameError, match='mono16') as refused:
        decode(height=4, width=32, encoding='mono8', step=64, is_bigendian=False,
               data=counts.astype(item).tobytes())

    assert refused.value.reason == 'wrong_encoding'
