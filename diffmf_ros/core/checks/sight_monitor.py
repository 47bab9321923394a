# SPDX-License-Identifier: Apache-2.0
"""Sight of both cameras: do they show something? On thumbnails, with hysteresis over pairs."""

from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from ..alignment.warp import Mapping, Warp
from ..frames import RGB, THERMAL, Issue, Pair
from ..imaging.color import split_luma
from ..imaging.thermal import Levels, to_gray

# An image is halved until its shorter side is below 200 pixels: 640x480 becomes 160x120. A fine
# thumbnail, in which people can be told from what is around them: below 400.
COARSE, FINE = 200, 400
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

    def remapped(self, mapping: Mapping) -> 'Thumbnails':
        """Return the same images as another mapping brings them onto one grid.

        Args:
            mapping: how the live sizes come onto one grid.
        """
        thermal, luma, seen = _on_one_grid(self.thermal, self.luma, mapping)
        return replace(self, thermal_on_grid=thermal, luma_on_grid=luma, seen=seen)


def thumbnails(pair: Pair, levels: Levels, mapping: Mapping,
               short_side: int = COARSE) -> Thumbnails:
    """Reduce both images of a pair.

    Args:
        pair: frames of any encoding that can be fused.
        levels: the gray range of the thermal frame.
        mapping: how the live sizes come onto one grid.
        short_side: as for reduced.

    Returns:
        Thumbnails of both images on one grid.

    Raises:
        FrameError: reason not_8_bit, for an encoding that cannot be fused.
    """
    thermal = to_gray(reduced(pair.thermal.pixels, short_side), pair.thermal.encoding, levels)
    luma = split_luma(reduced(pair.rgb.pixels, short_side), pair.rgb.encoding)[0]
    return Thumbnails(thermal, round(pair.thermal.pixels.shape[1] / thermal.shape[1]),
                      luma, round(pair.rgb.pixels.shape[1] / luma.shape[1]),
                      *_on_one_grid(thermal, luma, mapping))


def reduced(pixels: np.ndarray, short_side: int = COARSE) -> np.ndarray:
    """Average pixels over 2 x 2, 4 x 4 ... of them.

    Twice a factor of two costs a third of once a factor of four.

    Args:
        pixels: H x W [x C], uint8, uint16 or float32.
        short_side: until the shorter side is below so many pixels.

    Returns:
        A thumbnail of the same type.
    """
    small = np.ascontiguousarray(pixels)
    while min(small.shape[:2]) >= short_side:
        small = halved(small)
    if short_side == COARSE and small.size == pixels.size and min(small.shape[:2]) >= _LEAST_SIDE:
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


def _on_one_grid(thermal: np.ndarray, luma: np.ndarray,
                 mapping: Mapping) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both thumbnails on the grid of one of them, and the mask of what both cameras see."""
    image, grid, warp = (thermal, luma, mapping.thermal) if mapping.grid == RGB else (
        luma, thermal, mapping.rgb)
    height, width = grid.shape
    if warp.tables is None:
        mapped = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        seen = _everywhere(height, width)
    else:
        x, y, seen = _small_tables(warp, image.shape[1::-1], (width, height))
        mapped = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (mapped, luma, seen) if mapping.grid == RGB else (thermal, mapped, seen)


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


# Images with fewer rows or columns are not judged.
JUDGED_SIDE = 32
# A pixel of the thumbnail belongs to a structure when it is 7 deviations of the noise, and more
# than 4 gray levels, from the mean of its row and column.
_NOISE_FACTOR, _LEAST_STEP = 7.0, 4.0
# This share of them (or 2) may be defective pixels.
_FEW = 3e-4
# Deviation of one full-size pixel, in gray levels: beyond it noise counts as a texture. Twice what
# gain control leaves of a flat 16-bit scene.
_MOST_NOISE = 24.0
# The means of the rows, and of the columns, of a flat image differ by at most so many gray levels.
_MOST_SHADING = 40.0
_BLACK_BELOW, _WHITE_FROM = 40, 240
# Nine tenths of the pixels of a dark image are below this level.
_DARK_BELOW = 24
# One of 8 x 10 tiles is veiled when thermal has structure there and RGB is bright without any. The
# measure is the root mean square of the halved thumbnail minus its mean over 7 x 7 pixels.
_TILES = (10, 8)
_TILE_SURROUND = (7, 7)
_TILE_THERMAL_FROM, _TILE_LUMA_BELOW, _TILE_BRIGHT_FROM = 12.0, 4.0, 80.0
_LEAST_TILES = 8
# Veiled tiles among those with thermal structure: at most 0.32 in clear real scenes, 0.5 to 1 in
# dense smoke and fog.
_VEILED_FROM, _VEILED_UNTIL = 0.42, 0.35
# Mean |x[i-1, j-1] - 2 x[i-1, j] ... + x[i+1, j+1]| of white noise of deviation 1.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_NOISE_RESPONSE = 4.787


class Sight(str, Enum):
    """What a camera shows. FLAT, BLACK and WHITE show nothing at all."""

    CLEAR = 'clear'
    FLAT = 'flat'
    BLACK = 'black'
    WHITE = 'white'
    VEILED = 'veiled'
    DARK = 'dark'


# The image shows nothing.
BLIND = {Sight.FLAT, Sight.BLACK, Sight.WHITE}
# What there is to report about a camera; nothing for a clear view.
ISSUES = {
    (THERMAL, Sight.FLAT): Issue(
        'thermal_flat', 'thermal is flat: no structure beyond its noise (shutter, lens cap?)',
        THERMAL, blind=True),
    (RGB, Sight.BLACK): Issue(
        'rgb_black', 'rgb is black: no structure beyond its noise (lens cap, no light?)', RGB,
        blind=True),
    (RGB, Sight.WHITE): Issue(
        'rgb_white', 'rgb is white: saturated everywhere (exposure, glare?)', RGB, blind=True),
    (RGB, Sight.VEILED): Issue(
        'rgb_veiled', 'rgb is veiled: bright and empty where thermal is not (fog, smoke?)', RGB),
    (RGB, Sight.DARK): Issue('rgb_dark', 'rgb is dark', RGB),
}
TARGETS_HIDDEN = Issue('targets_hidden',
                       'thermal shows warm targets that the fused image does not show')


def rgb_sight(images: Thumbnails, *, before: Sight = Sight.CLEAR) -> Sight:
    """Judge the RGB image of a pair.

    Args:
        images: thumbnails of both images.
        before: the judgement of the previous pair, for hysteresis.

    Returns:
        CLEAR, BLACK, WHITE, VEILED or DARK.
    """
    luma = images.luma
    if min(luma.shape) * images.luma_factor < JUDGED_SIDE:
        return Sight.CLEAR
    if is_flat(luma, images.luma_factor):
        level = np.median(luma)
        if level < _BLACK_BELOW:
            return Sight.BLACK
        return Sight.WHITE if level >= _WHITE_FROM else Sight.VEILED
    if veiled_share(images) >= (_VEILED_UNTIL if before is Sight.VEILED else _VEILED_FROM):
        return Sight.VEILED
    if np.count_nonzero(luma < _DARK_BELOW) > 0.9 * luma.size:
        return Sight.DARK
    return Sight.CLEAR


def is_flat(gray: np.ndarray, factor: int = 1) -> bool:
    """Tell whether an image has no structure beyond its noise.

    The border does not count, nor does what the pixels of a row or a column have in common:
    shading of the optics, and the stripes of uncooled sensors.

    Args:
        gray: h x w uint8, a thumbnail.
        factor: by how much its sides were reduced.

    Returns:
        True without structure.
    """
    height, width = gray.shape
    if min(height, width) * factor < JUDGED_SIDE:
        return False
    inside = gray[height // 16:height - height // 16, width // 16:width - width // 16]
    rows, columns = (cv2.reduce(inside, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for axis in (1, 0))
    if max(np.ptp(rows), np.ptp(columns)) > _MOST_SHADING:
        return False
    noise = _noise(inside)
    if factor * noise > _MOST_NOISE:
        return False
    away = np.abs(inside - rows - (columns - columns.mean()))
    structure = np.count_nonzero(away > max(_LEAST_STEP, _NOISE_FACTOR * noise))
    return bool(structure <= max(2, _FEW * inside.size))


def veiled_share(images: Thumbnails) -> float:
    """Measure where RGB is bright and empty although thermal has structure.

    Args:
        images: thumbnails of both images.

    Returns:
        The share of tiles, 0 to 1.
    """
    thermal, luma = images.thermal_on_grid, images.luma_on_grid
    if min(luma.shape) < 4 * max(_TILES):
        return 0.0
    luma = halved(luma)
    veiled = cv2.resize(luma, _TILES, interpolation=cv2.INTER_AREA) > _TILE_BRIGHT_FROM
    veiled &= _tile_structure(luma) < _TILE_LUMA_BELOW
    if not veiled.any():
        return 0.0
    structured = _tile_structure(halved(thermal)) > _TILE_THERMAL_FROM
    if not images.seen.all():
        seen = images.seen.astype(np.float32)
        structured &= cv2.resize(seen, _TILES, interpolation=cv2.INTER_AREA) > 0.99
    tiles = max(int(np.count_nonzero(structured)), _LEAST_TILES)
    return int(np.count_nonzero(veiled & structured)) / tiles


def _tile_structure(gray: np.ndarray) -> np.ndarray:
    """Return the root mean square of the fine structure in each tile, 8 x 10 float32."""
    fine = cv2.subtract(gray, cv2.blur(gray, _TILE_SURROUND), dtype=cv2.CV_32F)
    return np.sqrt(cv2.resize(fine * fine, _TILES, interpolation=cv2.INTER_AREA))


def _noise(gray: np.ndarray) -> float:
    """Estimate the deviation of the noise of a thumbnail: in the quietest fifth of its patches."""
    second = cv2.convertScaleAbs(cv2.filter2D(gray, cv2.CV_16S, _NOISE_KERNEL)[1:-1, 1:-1])
    size = max(1, second.shape[1] // 8), max(1, second.shape[0] // 8)
    patches = np.sort(cv2.resize(second, size, interpolation=cv2.INTER_AREA), axis=None)
    return float(patches[patches.size // 5]) / _NOISE_RESPONSE


# Pairs in a row that have to agree: that a blind camera sees again, and for any other change.
_SEES_AGAIN, _CHANGED = 2, 3
# After a longer gap the pairs before say nothing.
_FORGOTTEN_NS = 1_000_000_000


class SightMonitor:
    """Follows what both cameras show. The same pairs always give the same issues.

    A blind camera is said at once, and sees again with the second pair in a row in which it is not
    blind. Any other change takes three pairs in a row. The first pair, one without a time, one
    after a gap of more than a second and one older than the pair before are judged by themselves.
    """

    def __init__(self) -> None:
        self._rgb, self._thermal = _Latch(Sight.CLEAR), _Latch(Sight.CLEAR)
        self._hidden = _Latch(False)
        self._time_ns = 0
        self.anew = True  # whether the pair judged last is judged by itself

    def judge(self, images: Thumbnails, time_ns: int) -> tuple[Issue, ...]:
        """Take the next pair and return what is amiss with its cameras.

        Args:
            images: thumbnails of both images.
            time_ns: the stamp of the pair; 0 if it has none.

        Returns:
            What there is to report.
        """
        self.anew = not (self._time_ns and 0 < time_ns - self._time_ns <= _FORGOTTEN_NS)
        if self.anew:
            self._rgb.reset()
            self._thermal.reset()
        self._time_ns = time_ns
        thermal = self._thermal.next(
            Sight.FLAT if is_flat(images.thermal, images.thermal_factor) else Sight.CLEAR)
        rgb = self._rgb.next(rgb_sight(images, before=self._rgb.value))
        found = ISSUES.get((THERMAL, thermal)), ISSUES.get((RGB, rgb))
        return tuple(issue for issue in found if issue)

    def compare(self, hidden: int, *, anew: bool) -> tuple[Issue, ...]:
        """Take the count of hidden targets of a pair; the next one may have been judged already.

        Args:
            hidden: number of warm targets without contrast.
            anew: whether that pair was judged by itself.

        Returns:
            What there is to report.
        """
        if anew:
            self._hidden.reset()
        return (TARGETS_HIDDEN,) if self._hidden.next(hidden > 0) else ()


class _Latch:
    """A judgement that changes only after several equal ones in a row."""

    def __init__(self, clear: Any):
        self._clear = clear
        self.reset()

    def reset(self) -> None:
        """Let the next judgement count by itself."""
        self.value, self._new, self._count, self._fresh = self._clear, self._clear, 0, True

    def next(self, now: Any) -> Any:
        """Take the next judgement and return the one that holds."""
        blind, was_blind = now in BLIND, self.value in BLIND
        if was_blind and not blind:  # whatever it shows, it shows something
            self._count += 1
        else:
            self._count = self._count + 1 if now == self._new else 1
        self._new = now
        if now == self.value:
            self._count = 0
        elif self._fresh or blind or self._count >= (_SEES_AGAIN if was_blind else _CHANGED):
            self.value, self._count = now, 0
        self._fresh = False
        return self.value
