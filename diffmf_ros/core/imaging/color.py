# SPDX-License-Identifier: Apache-2.0
"""Luminance and chroma: the networks fuse luminance, color is carried around them.

ITU-R BT.601, full range: Y = 0.299 R + 0.587 G + 0.114 B, Cr = 0.713 (R - Y) + 128,
Cb = 0.564 (B - Y) + 128; back R = Y + 1.403 (Cr - 128), G = Y - 0.714 (Cr - 128) - 0.344 (Cb -
128), B = Y + 1.773 (Cb - 128), clamped to 0..255. These are the coefficients of OpenCV's YCrCb.
"""

import cv2
import numpy as np

from ..frames import FrameError

NEUTRAL = 128  # of Cr and Cb
FLOAT_NEUTRAL = 0.5  # of those of a float image, for OpenCV
WINDOW_PX = 3  # side of the median and of the mean, at half size
# Brightness, Y + |Cr| + |Cb| in levels, up to which chroma is noise, and over which it gains full
# trust. Chroma counts, because saturated blue and red have little luminance.
UNTRUSTED_LEVELS = 12.0
RAMP_LEVELS = 40.0
# Lift of fused over visible luminance, in levels, from which chroma without trust is gone.
LIFT_LEVELS = 20.0
LARGEST_GAIN = 1.5  # more would amplify the noise of the chroma


def chroma_map(luma: np.ndarray, ycrcb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what turns the chroma of the visible image into that of the fused one.

    Args:
        luma: fused luminance, H x W uint8.
        ycrcb: the visible image as split_luma gives it, H x W x 3 uint8.

    Returns:
        gain, red and blue, each H x W float32: the fused Cr is gain * visible Cr + red, neutral at
        FLOAT_NEUTRAL, and Cb the same with blue.
    """
    height, width = luma.shape
    half = _halved(ycrcb)
    clean = cv2.medianBlur(half, WINDOW_PX)
    y, fused = (cv2.boxFilter(image, cv2.CV_32F, (WINDOW_PX, WINDOW_PX),
                              borderType=cv2.BORDER_REPLICATE)
                for image in (cv2.extractChannel(half, 0), _halved(luma.astype(np.float32))))
    cr, cb = (cv2.extractChannel(clean, i).astype(np.float32) - NEUTRAL for i in (1, 2))
    gain, share = weights(fused, y, cr, cb)
    neutral = FLOAT_NEUTRAL - NEUTRAL * gain
    size = 2 * half.shape[1], 2 * half.shape[0]
    planes = gain, neutral + share * cr, neutral + share * cb
    return tuple(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)[:height, :width]
                 for plane in planes)


def weights(fused: np.ndarray, y: np.ndarray, cr: np.ndarray, cb: np.ndarray) -> tuple:
    """Return the factors of the camera's and of the cleaned chroma, whose sum is the result's.

    Args:
        fused, y: smoothed fused and visible luminance, h x w float32 in 0..255; arrays or
            tensors.
        cr, cb: cleaned chroma, h x w float32 around 0.

    Returns:
        Two h x w float32.
    """
    trust = ((y + abs(cr) + abs(cb) - UNTRUSTED_LEVELS) / RAMP_LEVELS).clip(0, 1)
    doubt = (1 - trust) * ((fused - y) / LIFT_LEVELS).clip(0, 1)
    kept = (fused.clip(1) / y.clip(1)).clip(0, LARGEST_GAIN) * (1 - doubt)
    return kept * (1 - doubt), kept * doubt


def _halved(image: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels, rounded for uint8; an odd last row or column counts twice."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    size = image.shape[1] // 2, image.shape[0] // 2
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


# Values of output.color that show the chroma of the RGB image.
CHROMA = ('keep_chroma', 'raw_chroma')
# With these the fused image has the fused luminance; a palette has another one.
COLORS_WITH_LUMA = (*CHROMA, 'gray')
_TO_YCRCB = {
    'rgb8': cv2.COLOR_RGB2YCrCb,
    'rgba8': cv2.COLOR_RGB2YCrCb,
    'bgr8': cv2.COLOR_BGR2YCrCb,
    'bgra8': cv2.COLOR_BGR2YCrCb,
}
_PALETTES = {name: getattr(cv2, f'COLORMAP_{name.upper()}')
             for name in ('inferno', 'magma', 'plasma', 'viridis', 'turbo', 'jet', 'hot', 'bone')}


def output_encoding(encoding: str) -> str:
    """Return the encoding of the fused image.

    Args:
        encoding: that of the camera's image.

    Returns:
        'bgr8' for bgr8 and bgra8, else 'rgb8'.
    """
    return 'bgr8' if encoding in ('bgr8', 'bgra8') else 'rgb8'


def require_8_bit(encoding: str) -> None:
    """Refuse encodings without a luminance of 8 bits.

    Args:
        encoding: a canonical encoding.

    Raises:
        FrameError: reason not_8_bit.
    """
    if encoding != 'mono8' and encoding not in _TO_YCRCB:
        raise FrameError(f'expected an 8-bit color or gray image ({", ".join(_TO_YCRCB)}, mono8), '
                         f'got {encoding}', reason='not_8_bit')


def split_luma(pixels: np.ndarray, encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """Split an image into luminance and color.

    Args:
        pixels: uint8, H x W for mono8, whose color is neutral, or H x W x 3|4 for rgb8, bgr8,
            rgba8 and bgra8, whose alpha is ignored.
        encoding: that of pixels.

    Returns:
        (y, H x W uint8, perhaps a view of pixels; color, H x W x 3 uint8 in the order unused, Cr,
        Cb).

    Raises:
        FrameError: reason not_8_bit, for other encodings.
    """
    if encoding == 'mono8':
        return pixels, np.full((*pixels.shape, 3), NEUTRAL, np.uint8)
    if encoding not in _TO_YCRCB:
        require_8_bit(encoding)
    ycrcb = cv2.cvtColor(pixels, _TO_YCRCB[encoding])
    return cv2.extractChannel(ycrcb, 0), ycrcb


def join_luma(y: np.ndarray, color: np.ndarray, encoding: str) -> np.ndarray:
    """Join luminance and color to an image.

    Args:
        y: H x W uint8.
        color: what split_luma gave, H x W x 3 uint8.
        encoding: that of the frame which color comes from.

    Returns:
        A new H x W x 3 uint8 image in output_encoding(encoding).
    """
    image = color.copy()
    cv2.insertChannel(y, image, 0)
    # In place: fresh memory for a second image costs more than the conversion.
    return cv2.cvtColor(image, _FROM_YCRCB[output_encoding(encoding)], image)


_FROM_YCRCB = {'bgr8': cv2.COLOR_YCrCb2BGR, 'rgb8': cv2.COLOR_YCrCb2RGB}


def _join_trusted(luma: np.ndarray, ycrcb: np.ndarray, encoding: str,
                  seen: np.ndarray | None) -> np.ndarray:
    """Join luma with the trusted chroma where it was fused, in bgr8 or rgb8; see paint."""
    gain, *added = chroma_map(luma, ycrcb)
    planes = [luma.astype(np.float32)]
    for chroma, rest in zip(cv2.split(ycrcb)[1:], added):
        plane = chroma.astype(np.float32)  # types that differ would take twice the time
        plane *= gain
        plane += rest
        planes.append(plane)
    image = cv2.merge(planes)
    image = cv2.cvtColor(image, _FROM_YCRCB[encoding], image)
    cv2.threshold(image, 0, 0, cv2.THRESH_TOZERO, image)
    joined = cv2.convertScaleAbs(image)
    if seen is None:
        return joined
    return cv2.copyTo(joined, seen.view(np.uint8), join_luma(luma, ycrcb, encoding))


_TO_RGB = {
    'mono8': cv2.COLOR_GRAY2RGB,
    'rgba8': cv2.COLOR_RGBA2RGB,
    'bgr8': cv2.COLOR_BGR2RGB,
    'bgra8': cv2.COLOR_BGRA2RGB,
}


def to_rgb8(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Return an 8-bit image as rgb8.

    Args:
        pixels: H x W [x 3|4] uint8.
        encoding: that of pixels.

    Returns:
        H x W x 3 uint8, perhaps pixels itself.

    Raises:
        FrameError: reason not_8_bit, for other encodings.
    """
    require_8_bit(encoding)
    return pixels if encoding == 'rgb8' else cv2.cvtColor(np.ascontiguousarray(pixels),
                                                          _TO_RGB[encoding])


def paint(luma: np.ndarray, ycrcb: np.ndarray | None, *, encoding: str, color: str,
          seen: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Color a fused luminance as output.color names it; return the image and its encoding.

    Args:
        luma: H x W uint8.
        ycrcb: what split_luma gave for the RGB frame, H x W x 3 uint8; only keep_chroma and
            raw_chroma use it.
        encoding: that of the RGB frame.
        color: keep_chroma: the chroma of ycrcb as far as it is trusted; raw_chroma: all
            of it; gray: luma itself; else the name of a palette.
        seen: H x W bool, where luma was fused; elsewhere the chroma stays as it is. None:
            everywhere.

    Returns:
        H x W uint8 and 'mono8' for gray, else H x W x 3 uint8 and output_encoding(encoding).

    Raises:
        KeyError: for another color.
    """
    if color == 'gray':
        return luma, 'mono8'
    output = output_encoding(encoding)
    if color in CHROMA:
        trusted = color == 'keep_chroma' and encoding != 'mono8'
        return (_join_trusted(luma, ycrcb, output, seen) if trusted  # type: ignore[arg-type]
                else join_luma(luma, ycrcb, output)), output  # type: ignore[arg-type]
    bgr = cv2.applyColorMap(luma, _PALETTES[color])
    return bgr if output == 'bgr8' else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, bgr), output


def rgb_image(pixels: np.ndarray, encoding: str, color: str) -> tuple[np.ndarray, str]:
    """Return the image of the RGB camera alone, as a policy of color shows it.

    Args:
        pixels: H x W [x C] uint8.
        encoding: mono8, rgb8, bgr8, rgba8 or bgra8.
        color: an entry of CHROMA: the camera's own colors; or any other policy of paint().

    Returns:
        H x W x 3 uint8 or what paint() returns, and the encoding.

    Raises:
        FrameError: reason not_8_bit.
    """
    require_8_bit(encoding)
    if color not in CHROMA:
        return paint(split_luma(pixels, encoding)[0], None, encoding=encoding, color=color)
    if encoding == 'mono8':
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB), 'rgb8'
    return np.ascontiguousarray(pixels[..., :3]), output_encoding(encoding)


def thermal_image(gray: np.ndarray, color: str, *, rgb_encoding: str) -> tuple[np.ndarray, str]:
    """Return the image of the thermal camera alone, as a policy of color shows it.

    Args:
        gray: white-hot, H x W uint8.
        color: an entry of CHROMA: gray in three channels; or any other policy of paint().
        rgb_encoding: that of the RGB camera, whose order of channels the image has.

    Returns:
        H x W x 3 uint8 or what paint() returns, and the encoding.
    """
    if color in CHROMA:
        gray = np.ascontiguousarray(gray)
        return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), output_encoding(rgb_encoding)
    return paint(gray, None, encoding=rgb_encoding, color=color)


# Thermal edges on the RGB image: a color that neither a night road nor a forest has.
_EDGE = (255, 0, 255)
_CANNY = (60, 120)


def side_by_side(rgb: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Put the two images and their fusion side by side.

    Args:
        rgb, fused: H x W x 3 uint8.
        thermal: H x W uint8.

    Returns:
        H x 3W x 3 uint8, thermal in the middle.
    """
    return np.hstack((rgb, cv2.merge((thermal,) * 3), fused))


def overlay(rgb: np.ndarray, thermal: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Draw the edges of thermal in magenta over RGB, where both cameras see.

    Edges that miss the outlines in rgb show a wrong alignment, or parallax.

    Args:
        rgb: H x W x 3 uint8.
        thermal: H x W uint8.
        seen: H x W bool, where both cameras see.

    Returns:
        H x W x 3 uint8.
    """
    edges = cv2.Canny(cv2.GaussianBlur(thermal, (0, 0), 1.0), *_CANNY) > 0
    # The border of what thermal sees is an edge that no camera saw.
    inner = cv2.erode(seen.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    picture = rgb.copy()
    picture[edges & inner] = _EDGE
    return picture
