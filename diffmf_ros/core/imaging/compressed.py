# SPDX-License-Identifier: Apache-2.0
"""Compressed images, as the compressed transport of image_transport sends them: JPEG and PNG.

The first bytes of the data say which of the two they are. The format string adds what they do not:
the encoding of the image before compression, and the order of its colors. '16UC1; png compressed '
is counts of 16 bit, 'rgb8; jpeg compressed bgr8' an ordinary color JPEG; camera drivers send a
bare 'jpeg', 'jpg' or 'png'.
"""

from typing import Any

import cv2
import numpy as np

from ..frames import FrameError

_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_JPEG_END, _PNG_END = b'\xff\xd9', b'IEND\xaeB`\x82'
_ENCODINGS = {(np.dtype(np.uint8), 1): 'mono8', (np.dtype(np.uint16), 1): 'mono16',
              (np.dtype(np.uint8), 3): 'bgr8', (np.dtype(np.uint8), 4): 'bgra8'}
# OpenCV takes up to 2^30: a message of 100 bytes would then cost 8 GB.
MOST_PIXELS = 100_000_000
_SIXTEEN_BIT = ('mono16', '16UC1', '16SC1')


def decode(data: Any, format: str, *, max_pixels: int = MOST_PIXELS) -> tuple[np.ndarray, str]:
    """Decode a compressed image; no EXIF tag turns it.

    Damage inside a JPEG, which has no checksum, goes mostly unnoticed.

    Args:
        data: any buffer of bytes.
        format: the format string of the message.
        max_pixels: more than that, by the header, are refused before they are decoded.

    Returns:
        (pixels, encoding): H x W [x C] uint8 or uint16, and mono8, mono16, bgr8 or bgra8 (rgb8 or
        rgba8 where format says that the colors were compressed in that order).

    Raises:
        FrameError: reason empty_data, unknown_format, truncated (OpenCV would fill the rest with
            gray), too_large, corrupt, lossy_16_bit (a JPEG has 8 bits) or unknown_encoding (16-bit
            color, Bayer mosaics).
    """
    content = bytes(memoryview(data))
    if not content:
        raise FrameError(f'expected a compressed image, got no data (format {format!r})',
                         reason='empty_data')
    before = format.partition(';')[0].strip()
    _require_known(content, before, format)
    if is_cut(content):
        raise FrameError(f'expected a whole image, got {len(content)} bytes without its end '
                         f'marker (format {format!r}); is the link losing data?',
                         reason='truncated')
    _refuse_bomb(content, max_pixels, format)
    pixels = _pixels(content, format)
    return pixels, _encoding_of(pixels, before, format)


def _encoding_of(pixels: np.ndarray, before: str, format: str) -> str:
    """Return the encoding of decoded pixels; before is that which the camera compressed."""
    encoding = _ENCODINGS.get((pixels.dtype, pixels.shape[2] if pixels.ndim == 3 else 1))
    mosaic = before.startswith('bayer') or (
        before.startswith('yuv') and 'compressed mono8' not in format)
    if encoding is None or encoding == 'mono8' and mosaic:
        got = before if encoding else f'{pixels.dtype} of shape {pixels.shape}'
        raise FrameError(f'expected an image of 8-bit gray or color or 16-bit gray, got {got} '
                         f'(format {format!r}); let the camera driver convert',
                         reason='unknown_encoding')
    # JPEG and PNG say what is red; only a publisher that names another order has compressed
    # something else.
    return encoding.replace('bgr', 'rgb') if 'compressed rgb' in format else encoding


def encode(pixels: np.ndarray, encoding: str, *, quality: int) -> bytes:
    """Compress an image as a JPEG.

    Args:
        pixels: uint8, H x W x 3 of rgb8 or bgr8, or H x W of mono8.
        encoding: that of pixels.
        quality: 1 to 100.

    Returns:
        The bytes of the file.
    """
    if encoding == 'rgb8':
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def jpeg_format(encoding: str) -> str:
    """Return the format string of what encode returns, as the compressed transport writes it.

    Args:
        encoding: that of the pixels.

    Returns:
        Such as 'bgr8; jpeg compressed bgr8'.
    """
    return f'{encoding}; jpeg compressed {"" if encoding == "mono8" else "bgr8"}'


def is_cut(content: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end, without which OpenCV decodes it all the same.

    Args:
        content: the bytes of the file; what follows the end does not count.

    Returns:
        True if the end is missing.
    """
    if content.startswith(_PNG):
        return _PNG_END not in content
    # Nothing that is coded in a scan looks like the end marker, but a thumbnail ahead of the first
    # one has its own.
    return content.startswith(_JPEG) and _JPEG_END not in content[_first_scan(content):]


def _first_scan(content: bytes) -> int:
    """Return where the first scan of a JPEG begins: behind segments that tell their length."""
    place = 2
    while place + 4 <= len(content) and content[place:place + 2] != b'\xff\xda':
        place += 2 + int.from_bytes(content[place + 2:place + 4], 'big')
    return place


def _require_known(content: bytes, before: str, format: str) -> None:
    if 'compressedDepth' in format or not content.startswith((_JPEG, _PNG)):
        raise FrameError(f'expected a JPEG or PNG image, got format {format!r} and data that '
                         f'starts with {content[:8].hex(" ")}; publish raw images or compressed '
                         f'ones in jpeg '
                         f'or png (not '
                         'compressedDepth, TIFF or video)', reason='unknown_format')
    if before in _SIXTEEN_BIT and content.startswith(_JPEG):
        raise FrameError(f'expected 16-bit values, got a JPEG, which keeps 8 of the bits (format '
                         f'{format!r}); set the '
                         "format of the publisher's compressed transport to png",
                         reason='lossy_16_bit')


def size_of(content: bytes) -> tuple[int, int]:
    """Return the size that the header of a PNG or JPEG promises.

    Args:
        content: the bytes of the file.

    Returns:
        (width, height) in pixels; (0, 0) if there is none.
    """
    if content.startswith(_PNG):
        return int.from_bytes(content[16:20], 'big'), int.from_bytes(content[20:24], 'big')
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = content[place + 5:place + 7], content[place + 7:place + 9]
            return int.from_bytes(width, 'big'), int.from_bytes(height, 'big')
        # A marker may be filled up with 0xFF.
        length = int.from_bytes(content[place + 2:place + 4], 'big')
        place += 1 if marker == 0xFF else 2 + length
    return 0, 0


def _refuse_bomb(content: bytes, max_pixels: int, format: str) -> None:
    width, height = size_of(content)
    if width * height > max_pixels:
        raise FrameError(f'expected at most {max_pixels} pixels, got {len(content)} bytes that '
                         f'promise {width}x{height} (format {format!r}); let the camera bin or '
                         'crop', reason='too_large')


def _pixels(content: bytes, format: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        problem = 'cannot be decoded'
    except cv2.error as error:  # a header that promises more pixels than OpenCV takes
        pixels, problem = None, error.err
    if pixels is None:
        raise FrameError(f'expected a sound image, got {len(content)} bytes that OpenCV refuses '
                         f'(format {format!r}): {problem}', reason='corrupt')
    return pixels

