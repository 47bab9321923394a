# SPDX-License-Identifier: Apache-2.0
"""Compressed images: what the compressed transport and camera drivers send, and what must be
refused."""

import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from diffmf_ros.core.frames import FrameError
from diffmf_ros.core.imaging.compressed import decode, encode, is_cut, jpeg_format

RED_BGR = (40, 60, 200)


def packed(pixels, suffix, *options):
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def red(shape=(48, 64)):
    return np.full((*shape, 3), RED_BGR, np.uint8)


def counts(shape=(48, 64)):
    return np.random.default_rng(0).integers(6000, 9000, shape).astype(np.uint16)


def gray(shape=(48, 64)):
    return np.tile(np.linspace(20, 230, shape[1]).astype(np.uint8), (shape[0], 1))


@pytest.mark.parametrize('format', [
    'jpeg', 'jpg', 'JPEG', '', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8',
    'bgra8; jpeg compressed bgr8', 'bayer_rggb8; jpeg compressed bgr8',
    'rgb8; png compressed bgr8'])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_color_survives_any_source_order(format, suffix):
    """A color image keeps its colors whatever was compressed."""
    pixels, encoding = decode(packed(red(), suffix), format)

    assert encoding == 'bgr8' and pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - RED_BGR).max() <= 3


def test_other_color_order_is_named():
    """Colors compressed in another order are named so."""
    assert decode(packed(red(), '.jpg'), 'bgr8; jpeg compressed rgb8')[1] == 'rgb8'


@pytest.mark.parametrize('format', [
    'jpeg', 'mono8; jpeg compressed ', 'mono8; jpeg compressed', '8UC1; jpeg compressed ',
    'yuv422_yuy2; jpeg compressed mono8'])
def test_a_gray_jpeg_becomes_mono8(format):
    pixels, encoding = decode(packed(gray(), '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95), format)

    assert encoding == 'mono8' and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - gray()).max() <= 2


@pytest.mark.parametrize('format', [
    'png', '16UC1; png compressed ', 'mono16; png compressed ', '16UC1; png compressed',
    'mono16; png compressed mono16'])
def test_16_bit_png_is_lossless(format):
    """Counts of 16-bit survive PNG without loss."""
    pixels, encoding = decode(packed(counts(), '.png'), format)

    assert encoding == 'mono16' and pixels.dtype == np.uint16
    assert np.array_equal(pixels, counts())


def test_8_bit_and_alpha_png():
    """An 8-bit PNG and one with transparency are read."""
    four = np.dstack([red(), np.full((48, 64), 255, np.uint8)])

    assert np.array_equal(decode(packed(gray(), '.png'), 'mono8; png compressed ')[0], gray())
    assert decode(packed(four, '.png'), 'bgra8; png compressed bgra8')[1] == 'bgra8'


@pytest.mark.parametrize('wrap', [bytes, bytearray, lambda raw: array.array('B', raw),
                                  lambda raw: np.frombuffer(raw, np.uint8)])
def test_any_buffer_of_bytes_is_read(wrap):
    assert np.array_equal(decode(wrap(packed(counts(), '.png')), 'png')[0], counts())


@pytest.mark.parametrize('content, format, reason, words', [
    (b'', 'jpeg', 'empty_data', "no data .format 'jpeg'"),
    (b'\x00\x00\x00\x01\x67', 'h264', 'unknown_format',
     "format 'h264' and data that starts with 00 00 00 01 67"),
    (packed(gray(), '.tiff'), 'mono8; tiff compressed ', 'unknown_format',
     'publish raw images or compressed ones in'),
    (bytes(12) + packed(counts(), '.png'), '16UC1; compressedDepth png', 'unknown_format',
     'compressedDepth'),
    (packed(gray(), '.jpg'), 'mono16; jpeg compressed ', 'lossy_16_bit',
     'compressed transport to png'),
    (packed(gray(), '.jpg'), '16UC1; jpeg compressed ', 'lossy_16_bit', 'keeps 8 of the bits'),
    (packed(np.dstack([counts()] * 3), '.png'), 'bgr16; png compressed bgr16', 'unknown_encoding',
     'uint16 of shape'),
    (packed(gray(), '.jpg'), 'bayer_rggb8; jpeg compressed ', 'unknown_encoding',
     'got bayer_rggb8'),
    (packed(gray(), '.jpg'), 'yuv422; jpeg compressed ', 'unknown_encoding',
     'let the camera driver convert'),
    (packed(gray(), '.png')[:40] + packed(gray(), '.png')[60:], 'png', 'corrupt',
     'cannot be decoded'),
    (b'\xff\xd8\xff\xe0 no image at all \xff\xd9', 'jpeg', 'truncated', 'without its end marker'),
])
def test_unusable_image_has_a_reason(content, format, reason, words):
    """What is no usable image is refused with its reason."""
    with pytest.raises(FrameError, match=words) as caught:
        decode(content, format)

    assert caught.value.reason == reason


@hypothesis_settings(max_examples=60, deadline=None)
@given(suffix=st.sampled_from(['.jpg', '.png']), part=st.floats(0.0, 1.0, exclude_max=True))
def test_an_image_cut_anywhere_is_refused(suffix, part):
    whole = packed(gray(), suffix)

    with pytest.raises(FrameError) as caught:
        decode(whole[:int(part * len(whole))], '')

    assert caught.value.reason in ('empty_data', 'unknown_format', 'truncated')


@pytest.mark.slow
@hypothesis_settings(max_examples=100, deadline=None)
@given(content=st.binary(min_size=1, max_size=200),
       start=st.sampled_from([b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']),
       end=st.sampled_from([b'', b'\xff\xd9', b'IEND\xaeB`\x82']))
def test_garbage_is_refused_and_nothing_worse(content, start, end):
    with pytest.raises(FrameError):
        decode(start + content + end, 'jpeg', max_pixels=1_000_000)


def test_cut_jpeg_with_thumbnail_refused():
    """A cut JPEG with a whole thumbnail is refused."""
    thumbnail, image = packed(gray((8, 8)), '.jpg'), packed(gray(), '.jpg')
    segment = b'\xff\xe1' + (2 + len(thumbnail)).to_bytes(2, 'big') + thumbnail
    whole = image[:2] + segment + image[2:]

    assert decode(whole, 'jpeg')[0].shape == (48, 64)
    assert is_cut(whole[:-40]) and not is_cut(whole)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_trailing_bytes_are_ignored(suffix):
    """What a camera appends does not matter."""
    assert decode(packed(gray(), suffix) + bytes(100_000), '')[0].shape == (48, 64)


@pytest.mark.parametrize('progressive', [0, 1])
def test_a_progressive_jpeg_is_whole_too(progressive):
    assert not is_cut(packed(gray(), '.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, progressive))


@pytest.mark.parametrize('encoding, format', [
    ('rgb8', 'rgb8; jpeg compressed bgr8'), ('bgr8', 'bgr8; jpeg compressed bgr8'),
    ('mono8', 'mono8; jpeg compressed ')])
def test_encode_decode_round_trip(encoding, format):
    """What is encoded is decoded to the same picture."""
    pixels = {'rgb8': red()[..., ::-1], 'bgr8': red(), 'mono8': gray()}[encoding]

    decoded, back = decode(encode(pixels, encoding, quality=95), jpeg_format(encoding))

    assert jpeg_format(encoding) == format
    assert back == ('mono8' if encoding == 'mono8' else 'bgr8')
    assert np.abs(decoded.astype(int) - (gray() if encoding == 'mono8' else red())).max() <= 3


def test_lower_quality_is_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)

    assert len(encode(noise, 'mono8', quality=30)) < 0.6 * len(encode(noise, 'mono8', quality=90))
