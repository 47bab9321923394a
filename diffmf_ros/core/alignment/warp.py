# SPDX-License-Identifier: Apache-2.0
"""Two images on one pixel grid: where each pixel comes from, and whether both cameras see it.

Pixel (x, y) means the center of column x, row y; an image of width w spans -0.5 to w - 0.5. So an
image that is delivered at s times the size moves x to s (x + 0.5) - 0.5.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ..frames import RGB

Size = tuple[int, int]
Tables = tuple[np.ndarray, np.ndarray]
# A pixel of a float32 table that lies outside by less is inside: such tables are not more exact.
_ROUNDING_PX = 1e-3
_OUTSIDE = np.float32(-2)


@dataclass(frozen=True, eq=False)
class Warp:
    """One image brought to another size: by tables, or without them by plain resizing.

    source and size are (width, height) of what it takes and gives. tables (x, y), each H x W
    float32 of the result, say where in the source a pixel comes from; both are -2 where it comes
    from nowhere. With averaged, the source is first resized to this (width, height) by area, and
    the tables refer to that.
    """

    source: Size
    size: Size
    tables: Tables | None = None
    averaged: Size | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return an image at the new size.

        image: H x W or H x W x C uint8, uint16 or float32, of the source size.

        Interpolated linearly, by area where plain resizing shrinks; 0 where it comes from nowhere.
        It may be image itself.
        """
        if self.tables is None:
            return image if self.source == self.size else cv2.resize(
                np.ascontiguousarray(image), self.size, interpolation=cv2.INTER_AREA if shrinks(
                    self.source, self.size) else cv2.INTER_LINEAR)
        if self.averaged is not None:
            image = cv2.resize(np.ascontiguousarray(image), self.averaged,
                               interpolation=cv2.INTER_AREA)
        return cv2.remap(np.ascontiguousarray(image), *self.tables, cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_CONSTANT, borderValue=0)


@dataclass(frozen=True, eq=False)
class Mapping:
    """Both images on the grid of one camera, at live sizes. Immutable: use it from any thread.

    grid is 'rgb' or 'thermal'; thermal and rgb bring an image of that camera there. seen (bool,
    H x W, read-only) is where both cameras see, everywhere whether that is the whole grid. problem
    is a sentence when this is not the mapping that the settings ask for. moved_px (right, down) is
    by how many pixels of the grid thermal was moved against RGB: see AutoTrim.
    """

    grid: str
    thermal: Warp
    rgb: Warp
    seen: np.ndarray
    everywhere: bool
    problem: str = ''
    moved_px: tuple[int, int] = (0, 0)

    @cached_property
    def overlap(self) -> float:
        """Share of the grid that both cameras see, 0 to 1."""
        return 1.0 if self.everywhere else float(self.seen.mean())

    @property
    def size(self) -> Size:
        """(width, height) of the grid."""
        return self.thermal.size

    def moved(self, x: int, y: int) -> 'Mapping':
        """Return this mapping, of which nothing was moved yet, with thermal moved against RGB.

        Args:
            x, y: pixels of the grid to the right and down. On the grid of thermal RGB moves, the
                other way.

        Returns:
            The mapping; itself where nothing moves.
        """
        if (x, y) == (0, 0):
            return self
        warp, step = (self.thermal, (x, y)) if self.grid == RGB else (self.rgb, (-x, -y))
        tables, averaged = warp.tables, warp.averaged
        if tables is None:  # a plain resize, which averages areas where it shrinks
            averaged = warp.size if shrinks(warp.source, warp.size) else None
            tables = _resizing_tables(averaged or warp.source, warp.size)
        across, down = (_translated(table, *step, fill=_OUTSIDE) for table in tables)
        warp = Warp(warp.source, warp.size, (across, down), averaged)
        seen = _translated(self.seen, *step, fill=False)
        seen.flags.writeable = False
        both = (warp, self.rgb) if self.grid == RGB else (self.thermal, warp)
        return Mapping(self.grid, *both, seen, False, self.problem, (x, y))


def scaling(across: float, down: float) -> np.ndarray:
    """Return the 3x3 pixel transform of a resize; pixel centers are integers.

    Args:
        across, down: factors of width and height.

    Returns:
        The matrix.
    """
    return np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5], [0, 0, 1]])


def translation(x: float, y: float) -> np.ndarray:
    """Return the 3x3 matrix that shifts pixel coordinates.

    Args:
        x, y: pixels to the right and down.

    Returns:
        The matrix.
    """
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def resized_mapping(*, rgb_size: Size, thermal_size: Size, grid: str = RGB) -> Mapping:
    """Return the mapping of cameras with one and the same field of view: a resize.

    Args:
        rgb_size, thermal_size: (width, height) in pixels.
        grid: rgb or thermal, the camera whose grid both images come onto.

    Returns:
        The mapping of both images.
    """
    size = rgb_size if grid == RGB else thermal_size
    seen = np.ones(size[::-1], bool)
    seen.flags.writeable = False
    return Mapping(grid, Warp(thermal_size, size), Warp(rgb_size, size), seen, True)


def table_mapping(x: np.ndarray, y: np.ndarray, *, rgb_size: Size, thermal_size: Size, grid: str,
                  shrink: float) -> Mapping:
    """Return the mapping by a table of pixels of the other image.

    Args:
        x, y: H x W of the grid: where its pixels come from, in pixels of the other image; NaN for
            from nowhere.
        rgb_size, thermal_size: (width, height) in pixels.
        grid: rgb or thermal, the camera whose grid both images come onto.
        shrink: about how many pixels of the other image, along a side, one of the grid covers.
            From 2 on the other image is averaged first, so that no detail is skipped.

    Returns:
        The mapping of both images.
    """
    own, other = (rgb_size, thermal_size) if grid == RGB else (thermal_size, rgb_size)
    width, height = other
    edge = 0.5 + _ROUNDING_PX * (x.dtype == np.float32)
    # A comparison with NaN is false.
    seen = (x >= -edge) & (x <= width - 1 + edge) & (y >= -edge) & (y <= height - 1 + edge)
    seen.flags.writeable = False
    factor = int(min(shrink, width, height))
    averaged = (width // factor, height // factor) if factor > 1 else None
    tables = tuple(_within(values, seen, side, small)
                   for values, side, small in zip((x, y), other, averaged or other))
    warp, same = Warp(other, own, tables, averaged), Warp(own, own)  # type: ignore[arg-type]
    thermal, rgb = (warp, same) if grid == RGB else (same, warp)
    return Mapping(grid, thermal, rgb, seen, bool(seen.all()))


def shrinks(source: Size, size: Size) -> bool:
    """Tell whether plain resizing averages areas; else it interpolates linearly.

    Args:
        source, size: (width, height) before and after, in pixels.

    Returns:
        True for areas.
    """
    return size[0] < source[0] and size[1] < source[1]


def _within(values: np.ndarray, seen: np.ndarray, side: int, small: int) -> np.ndarray:
    """One table: values of pixels along a side, of an image averaged from side to small pixels."""
    if small != side:
        values = values * (small / side) + (0.5 * small / side - 0.5)
    # The outer half pixel repeats the edge, as resizing does; -2 is outside for the interpolation
    # too.
    return np.where(seen, np.clip(values, 0, small - 1), _OUTSIDE).astype(np.float32, copy=False)


def _resizing_tables(source: Size, size: Size) -> Tables:
    """Return the tables of a plain resize from one (width, height) to another."""
    x, y = (((np.arange(new, dtype=np.float32) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
            for old, new in zip(source, size))
    across, down = np.meshgrid(x, y)
    return np.ascontiguousarray(across, np.float32), np.ascontiguousarray(down, np.float32)


def _translated(image: np.ndarray, x: int, y: int, *, fill: float | np.float32) -> np.ndarray:
    """Return an H x W image moved to the right and down, what comes in is fill."""
    height, width = image.shape
    x, y = min(max(x, -width), width), min(max(y, -height), height)
    result = np.full_like(image, fill)
    result[max(y, 0):height + min(y, 0), max(x, 0):width + min(x, 0)] = image[
        max(-y, 0):height + min(-y, 0), max(-x, 0):width + min(-x, 0)]
    return result
