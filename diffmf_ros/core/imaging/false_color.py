# SPDX-License-Identifier: Apache-2.0
"""False-color thermal images, brought back to gray by the palette that colored them."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np

from ..frames import Frame, FrameError
from .color import require_8_bit, split_luma, to_rgb8
from .thermal import STRETCHED

GRAY, UNKNOWN, NONE = '', 'unknown', 'none'
PALETTES = ('jet', 'inferno', 'hot', 'rainbow', 'turbo', 'magma', 'plasma', 'viridis', 'bone',
            'pink', 'parula', 'cividis', 'ocean', 'cool', 'autumn', 'winter', 'summer', 'spring')
# The coldest and the hottest color of these are alike.
CYCLIC = ('hsv', 'twilight', 'twilight_shifted')
# Logos, scales and crosshairs are colored otherwise, and the edges of a JPEG.
FITTING_SHARE = 0.9
# Distance of two colors in RGB that compression explains, and chroma of a gray image.
SAME_COLOR, GRAY_CHROMA = 20.0, 10.0
_SAMPLES_A_SIDE = 48
# Of the samples so few are compared with every palette; all of them then with the best one.
SPARSE = 5
# Frames after which colors of no known palette are compared with all palettes again.
JUDGED_AGAIN = 30
_BITS = 6  # of a channel, in the table from colors to gray


class FalseColor:
    """Brings the frames of one thermal camera back to gray.

    `palette` is that of the frame before: GRAY, a name of PALETTES, or UNKNOWN for one that is not
    known here and whose luminance says how warm a pixel is. All palettes are searched when the one
    of the frame before does not fit any more: that takes the time of several frames.
    """

    def __init__(self) -> None:
        self.palette = self._found = GRAY
        self._age = 0

    def to_gray(self, frame: Frame) -> Frame:
        """Undo the palette of a thermal frame.

        Args:
            frame: the next frame of the stream.

        Returns:
            A mono8 frame; frame itself where it has one channel, or is gray in three.

        Raises:
            FrameError: reason false_color, where luminance says nothing about heat and no palette
                is recognized.
        """
        if frame.encoding == 'mono8' or frame.encoding in STRETCHED:
            self.palette = GRAY
            return frame
        require_8_bit(frame.encoding)
        colors, self._age = _sample(frame), self._age + 1
        if not self._still_fits(colors):
            self._found, self._age = _nearest(colors), 0
        self.palette = _accepted(self._found)
        if self.palette == GRAY:
            return frame
        gray = (split_luma(frame.pixels, frame.encoding)[0] if self.palette == UNKNOWN
                else _indices(to_rgb8(frame.pixels, frame.encoding), self.palette))
        return replace(frame, pixels=gray, encoding='mono8')

    def _still_fits(self, colors: np.ndarray) -> bool:
        """Return whether colors are of the palette that was found last."""
        if self._found == GRAY or _is_gray(colors):
            return self._found == GRAY and _is_gray(colors)
        if self._found in (UNKNOWN, NONE):
            rises = _rises_with_luminance(colors)
            return self._age < JUDGED_AGAIN and rises == (self._found == UNKNOWN)
        return _fit(colors, self._found)[0]


def recognized(colors: np.ndarray) -> str:
    """Recognize the palette of some colors.

    Args:
        colors: N x 3 uint8 RGB.

    Returns:
        GRAY, a name of PALETTES, or UNKNOWN.

    Raises:
        FrameError: reason false_color, see FalseColor.to_gray.
    """
    return _accepted(_nearest(colors))


def _nearest(colors: np.ndarray) -> str:
    """Return GRAY, a name of PALETTES or CYCLIC, UNKNOWN, or NONE."""
    if _is_gray(colors):
        return GRAY
    fits = {name: _fit(colors[::SPARSE], name) for name in (*PALETTES, *CYCLIC)}
    name = min(fits, key=lambda name: fits[name][1])
    if _fit(colors, name)[0]:
        return name
    return UNKNOWN if _rises_with_luminance(colors) else NONE


def _accepted(name: str) -> str:
    """Return the name of a palette that can be undone or read. Raises FrameError for others."""
    if name == NONE:
        raise FrameError('thermal is a color image whose luminance does not grow with '
                         'temperature, in no palette that is known here: choose white-hot in the '
                         'camera; or are the two inputs swapped, or is this the topic of '
                         'another camera?',
                         reason='false_color')
    if name in CYCLIC:
        raise FrameError(f'thermal is colored by the palette {name}, in which the coldest and the '
                         f'hottest are alike: '
                         'choose white-hot in the camera', reason='false_color')
    return name


def _is_gray(colors: np.ndarray) -> bool:
    return _share(np.ptp(colors.astype(int), axis=1), GRAY_CHROMA)


def _sample(frame: Frame) -> np.ndarray:
    """Return some colors of an image, N x 3 uint8 RGB."""
    rows, columns = (max(1, side // _SAMPLES_A_SIDE) for side in frame.pixels.shape[:2])
    return to_rgb8(frame.pixels[rows // 2::rows, columns // 2::columns],
                   frame.encoding).reshape(-1, 3)


def _fit(colors: np.ndarray, name: str) -> tuple[bool, float]:
    """Return whether colors (N x 3) fit a palette, and their mean, clipped distance from it."""
    distances = np.sqrt(_squared_distances(colors, name).min(axis=1))
    return _share(distances, SAME_COLOR), float(np.minimum(distances, 2 * SAME_COLOR).mean())


def _share(values: np.ndarray, limit: float) -> bool:
    return bool((values <= limit).mean() >= FITTING_SHARE)


def _rises_with_luminance(colors: np.ndarray) -> bool:
    """Return whether luminance determines the color.

    Then luminance orders the pixels as their palette does.
    """
    y, *chroma = cv2.cvtColor(colors[None], cv2.COLOR_RGB2YCrCb)[0].T.astype(np.float32)
    bins = (y / 8).astype(int)
    deviation = np.zeros(len(bins))
    for plane in chroma:
        middle = np.array([np.median(plane[bins == i]) if (bins == i).any() else 0
                           for i in range(32)])
        deviation = np.hypot(deviation, plane - middle[bins])
    return _share(deviation, GRAY_CHROMA)


def _indices(rgb: np.ndarray, name: str) -> np.ndarray:
    """Return the palette positions (H x W uint8) of the colors of an image (H x W x 3 uint8)."""
    table = _table(name)
    red, green, blue = (rgb[..., i].astype(np.int32) >> (8 - _BITS) for i in range(3))
    codes = (red << 2 * _BITS) | (green << _BITS) | blue
    found = table[codes]
    if (found < 0).any():
        new = np.unique(codes[found < 0])
        parts = np.stack([(new >> shift) % (1 << _BITS) for shift in (2 * _BITS, _BITS, 0)],
                         axis=1)
        middles = (parts + 0.5) * (1 << (8 - _BITS)) - 0.5
        table[new] = _squared_distances(middles, name).argmin(axis=1)
        found = table[codes]
    return found.astype(np.uint8)


@cache
def _palette(name: str) -> np.ndarray:
    """256 x 3 float32 RGB, from cold to hot."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None],
                            getattr(cv2, f'COLORMAP_{name.upper()}'))
    return bgr[:, 0, ::-1].astype(np.float32)


@cache
def _table(name: str) -> np.ndarray:
    """The nearest position in a palette of every color of so many bits, int16.

    -1: not looked for so far.

    An image has some thousands of the colors. Two threads may fill it: they write the same.
    """
    return np.full(1 << 3 * _BITS, -1, np.int16)


def _squared_distances(colors: np.ndarray, name: str) -> np.ndarray:
    """N x 256: of colors (N x 3) from those of a palette."""
    palette, colors = _palette(name), colors.astype(np.float32)
    squares = (colors * colors).sum(axis=1)[:, None] + (palette * palette).sum(axis=1)
    return np.maximum(squares - 2 * colors @ palette.T, 0)
