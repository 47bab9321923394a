# SPDX-License-Identifier: Apache-2.0
"""Small gray versions of both images of a pair, to judge them by at little cost."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ..alignment.warp import Mapping, Warp
from ..frames import RGB, Pair
from ..imaging.color import split_luma
from ..imaging.thermal import Levels, to_gray

# An image is halved until its shorter side is below 200 pixels: 640x480 becomes 160x120.
_SHORT_SIDE = 200
# Smaller ones are halved once, which averages their noise, down to this.
_LEAST_SIDE = 32


@dataclass(frozen=True)
class Thumbnails:
    """Both images of a pair, h x w uint8.

    thermal and luma are whole, each on its own grid, reduced by thermal_factor and luma_factor.
    The other three have the size of the one whose grid is the output grid: thermal_on_grid and
    luma_on_grid show the same view, seen is the bool mask of what both cameras see.
    """

    thermal: np.ndarray
    thermal_factor: int
    luma: np.ndarray
    luma_factor: int
    thermal_on_grid: np.ndarray
    luma_on_grid: np.ndarray
    seen: np.ndarray


def thumbnails(pair: Pair, levels: Levels, mapping: Mapping) -> Thumbnails:
    """Reduce both images of a pair.

    Args:
        pair: frames of any encoding that can be fused.
        levels: the gray range of the thermal frame.
        mapping: how the live sizes come onto one grid.

    Returns:
        Thumbnails of both images on one grid.

    Raises:
        FrameError: reason not_8_bit, for an encoding that cannot be fused.
    """
    thermal = to_gray(reduced(pair.thermal.pixels), pair.thermal.encoding, levels)
    luma = luma_thumbnail(pair.rgb.pixels, pair.rgb.encoding)
    if mapping.grid == RGB:
        mapped, seen = _mapped(thermal, mapping.thermal, luma.shape)
        on_grid = mapped, luma
    else:
        mapped, seen = _mapped(luma, mapping.rgb, thermal.shape)
        on_grid = thermal, mapped
    return Thumbnails(thermal, round(pair.thermal.size[0] / thermal.shape[1]),
                      luma, round(pair.rgb.size[0] / luma.shape[1]), *on_grid, seen)


def luma_thumbnail(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Return the reduced luminance of an image.

    Args:
        pixels: H x W [x C] uint8.
        encoding: a canonical encoding, see core/imaging/encodings.py.

    Returns:
        h x w uint8.

    Raises:
        FrameError: reason not_8_bit.
    """
    return split_luma(reduced(pixels), encoding)[0]


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Average pixels over 2 x 2, 4 x 4 ... of them.

    Twice a factor of two costs a third of once a factor of four.

    Args:
        pixels: H x W [x C], uint8, uint16 or float32.

    Returns:
        A thumbnail of the same type.
    """
    small = np.ascontiguousarray(pixels)
    while min(small.shape[:2]) >= _SHORT_SIDE:
        small = halved(small)
    if small.size == pixels.size and min(small.shape[:2]) >= _LEAST_SIDE:
        return halved(small)
    return small


def halved(pixels: np.ndarray) -> np.ndarray:
    """Average pixels over 2 x 2 of them; an odd last row or column is left out.

    Args:
        pixels: H x W [x C], uint8, uint16 or float32.

    Returns:
        The image of half the size, of the same type.
    """
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    even = pixels[:2 * height, :2 * width]
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)


def _mapped(image: np.ndarray, warp: Warp, shape: tuple[int, ...]
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return a thumbnail on a grid of another shape (h, w), and the mask of where it sees."""
    height, width = shape[:2]
    if warp.tables is None:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized, _everywhere(height, width)
    x, y, seen = _small_tables(warp, image.shape[1::-1], (width, height))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), seen


@lru_cache(maxsize=4)
def _everywhere(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), bool)


@lru_cache(maxsize=4)
def _small_tables(warp: Warp, source: tuple[int, int],
                  size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tables x, y (h x w float32) into a thumbnail of the source, and where they lead."""
    table_source = warp.averaged or warp.source
    x, y = (cv2.resize(table, size, interpolation=cv2.INTER_NEAREST) for table in warp.tables)  # type: ignore[union-attr]
    seen = x > -1
    x, y = ((table + 0.5) * (small / side) - 0.5
            for table, small, side in zip((x, y), source, table_source))
    return x, y, seen
