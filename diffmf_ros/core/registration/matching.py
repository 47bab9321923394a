# SPDX-License-Identifier: Apache-2.0
"""Where blocks of thermal images lie in RGB images.

All shifts of the whole for a start, then block by block. What both images share is where edges are
and which way they run, not how bright either side is:

a pixel is described by the gradient's orientation modulo 180 degrees, weighted with its strength
against the neighborhood, in the first two harmonics of the angle: w exp(2 i t) and w exp(4 i t),
smoothed. An edge that is inverted has the same description, and the product of two descriptions,
summed over a region, tells how well their orientation histograms agree. The idea is that of dense
orientation channels (HOPC, Ye et al. 2017; CFOG, Ye et al. 2019); the harmonics in place of
histogram bins need a third of the channels and no interpolation between bins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from ..alignment.homography import resampling
from ..alignment.warp import translation
from .planar import transform_points
from .shifts import Search, Spectra

# A block agrees with its best place by at least this much (the correlation lies in -1 to 1).
_LEAST_AGREEMENT = 0.15
CHANNELS = 4
# Gradients are taken at this scale, descriptions smoothed by this much, in pixels of the working
# image.
GRADIENT_SIGMA_PX, SMOOTHING_SIGMA_PX = 0.8, 1.2
# A gradient counts against the mean one within this part of the image's width.
_NEIGHBORHOOD = 1 / 24
# A description reaches this far beyond the pixels that it is of.
_BLURRED_PX = 8
# Below this part of the whole image's mean gradient everything is noise.
_FLOOR = 0.35
_SECOND_HARMONIC = 0.8
_TRACKING = {'winSize': (41, 41), 'maxLevel': 3, 'criteria': (3, 40, 1e-3)}
# A point that is followed there and back returns within this distance; both ways are equal within
# this one, which an even acceleration makes no error.
_RETURNS_PX, _STEADY_PX = 0.5, 5.0


@dataclass(frozen=True)
class Matches:
    """Correspondences: thermal and rgb are N x 2 pixel coordinates.

    block, N, has the number of the block that each is of. tried is the number of blocks, the same
    for all pairs of images, that both cameras see.
    """

    thermal: np.ndarray
    rgb: np.ndarray
    block: np.ndarray
    tried: int


@dataclass(frozen=True)
class Blocks:
    """Square blocks of side_px, one every step_px, searched within reach_px of their place."""

    side_px: int
    step_px: int
    reach_px: int


class PyramidLevel:
    """RGB images at a working width, described, beside their thermal images."""

    def __init__(self, rgb: Sequence[np.ndarray], thermal: Sequence[np.ndarray], *, width: int):
        """Images are H x W float32; all of rgb have one size, all of thermal another."""
        self._rgb_size, self._thermal, self._thermal_size = _size(rgb[0]), list(thermal), _size(
            thermal[0])
        self.size = width, max(1, round(width * self._rgb_size[1] / self._rgb_size[0]))
        self.from_rgb = resampling(self._rgb_size, self.size)
        self._described = [descriptor(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA))
                           for image in rgb]
        self._searches: dict[tuple[float, bool], Search] = {}
        self._newest: tuple[tuple, Spectra] | None = None

    def _views(self, matrix: np.ndarray,
               size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (descriptor, valid mask) of every thermal image, warped by matrix to a size."""
        images, matrix = self._zoomed(matrix)
        for image in images:
            view, seen = warped(image, matrix, size)
            yield descriptor(view, seen), seen

    def _zoomed(self, matrix: np.ndarray) -> tuple[Iterator[np.ndarray], np.ndarray]:
        """Return the thermal images, not finer than the grid of matrix, and their matrix to it."""
        zoom = abs(np.linalg.det(matrix[:2, :2])) ** 0.5
        small = tuple(max(8, round(side * min(1.0, zoom))) for side in self._thermal_size)
        # Warping alone would alias where the grid is coarser than the image.
        images = (cv2.resize(image, small, interpolation=cv2.INTER_AREA) if zoom < 1 else image
                  for image in self._thermal)
        return images, matrix @ np.linalg.inv(resampling(self._thermal_size, small))

    def _spectra(self, matrix: np.ndarray, search: Search) -> Spectra:
        """Return the spectra of the thermal images, warped by matrix to the canvas of a search.

        They are described around their pixels alone: elsewhere descriptions are 0.
        """
        images, matrix = self._zoomed(matrix)
        placed = []
        for image in images:
            width, height = _size(image)
            corners = transform_points(matrix, np.array([(x, y) for x in (0, width - 1)
                                                         for y in (0, height - 1)], float))
            left, top = np.clip(corners.min(axis=0) - _BLURRED_PX, 0, search.extent).astype(int)
            right, bottom = np.clip(corners.max(axis=0) + _BLURRED_PX, 1,
                                    search.extent).astype(int)
            view, seen = warped(image, translation(-left, -top) @ matrix,
                                (right - left, bottom - top))
            placed.append((descriptor(view, seen, width=search.canvas[0]), seen, (left, top)))
        return search.spectra(placed)

    def ncc(self, matrix: np.ndarray) -> float:
        """Return the correlation of all pairs under a matrix.

        It is weighted by sqrt(share of RGB covered), which is how chance correlation shrinks.

        Args:
            matrix: rgb_from_thermal, 3 x 3.

        Returns:
            The weighted correlation, at most 1.
        """
        views = zip(self._described, self._views(self.from_rgb @ matrix, self.size), strict=True)
        return float(np.mean([ncc(one, other, seen) * seen.mean() ** 0.5 for one,
                              (other, seen) in views]))

    def search(self, scale: float, angle_deg: float, *, largest_shift: float,
               inside: bool = False) -> tuple[float, np.ndarray]:
        """Return the best shift for a scale and a rotation.

        Args:
            scale: RGB pixels per thermal pixel.
            angle_deg: turn of thermal about its center, clockwise.
            largest_shift: that of the centers, relative to the RGB size.
            inside: whether thermal hardly reaches beyond the RGB image, which is faster.

        Returns:
            Score and rgb_from_thermal.
        """
        if (largest_shift, inside) not in self._searches:
            self._searches[largest_shift, inside] = Search(
                self._described, largest_shift=largest_shift, inside=inside)
        search = self._searches[largest_shift, inside]
        # Half a turn more is the same images from the other end, described alike.
        half_deg = angle_deg % 180
        key, zoom = (search, scale, half_deg), scale * self.from_rgb[0, 0]
        if self._newest is None or self._newest[0] != key:
            centered = _turned(self._thermal_size, self.size, zoom, half_deg)
            self._newest = key, self._spectra(search.to_canvas @ centered, search)
        score, (x, y) = search.best(self._newest[1], half_turn=(angle_deg - half_deg) % 360 != 0)
        centered = _turned(self._thermal_size, self.size, zoom, angle_deg)
        return score, np.linalg.inv(self.from_rgb) @ translation(x, y) @ centered

    def matches(self, matrix: np.ndarray, blocks: Blocks) -> Matches:
        """Match the blocks of all pairs, searched near their place.

        Args:
            matrix: rgb_from_thermal, 3 x 3, which gives the places.
            blocks: their size and number.

        Returns:
            The correspondences.
        """
        places, block, corners = [], [], np.zeros((0, 2), int)
        views = self._views(self.from_rgb @ matrix, self.size)
        for described, (view, seen) in zip(self._described, views, strict=True):
            corners = block_corners(seen, blocks)
            for number, (x, y) in enumerate(corners):
                shift = block_shift(described, view, (int(x), int(y)), blocks)
                if shift is not None:
                    places.append((x, y, *shift))
                    block.append(number)
        found = np.array(places, float).reshape(-1, 4)
        centers = found[:, :2] + (blocks.side_px - 1) / 2
        to_rgb = np.linalg.inv(self.from_rgb)
        return Matches(transform_points(np.linalg.inv(self.from_rgb @ matrix), centers),
                       transform_points(to_rgb, centers + found[:, 2:]),
                       np.array(block, int), len(corners))


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _turned(size: tuple[int, int], target: tuple[int, int], scale: float,
            angle_deg: float) -> np.ndarray:
    """3 x 3 matrix that scales and turns an image about its center, moved to target's center."""
    angle = np.radians(angle_deg)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    (x, y), (u, v) = (((width - 1) / 2, (height - 1) / 2) for width, height in (size, target))
    return np.array([[c, -s, u - c * x + s * y], [s, c, v - s * x - c * y], [0, 0, 1]])


def block_corners(seen: np.ndarray, blocks: Blocks) -> np.ndarray:
    """N x 2 top left (x, y) of the blocks that lie wholly in seen."""
    height, width = seen.shape
    side = blocks.side_px
    y, x = np.mgrid[0:height - side + 1:blocks.step_px,
                    0:width - side + 1:blocks.step_px].reshape(2, -1)
    sums = cv2.integral(seen.astype(np.uint8))
    whole = sums[y + side, x + side] - sums[y, x + side] - sums[y + side,
                                                                x] + sums[y, x] == side * side
    return np.c_[x, y][whole]


def block_shift(rgb: np.ndarray, thermal: np.ndarray, corner: tuple[int, int],
                blocks: Blocks) -> tuple[float, float] | None:
    """Return the best shift (x, y) of a thermal block against rgb.

    None when no peak stands out.
    """
    (x, y), side, reach = corner, blocks.side_px, blocks.reach_px
    height, width = rgb.shape[:2]
    left, top = max(0, x - reach), max(0, y - reach)
    window = rgb[top:min(height, y + side + reach), left:min(width, x + side + reach)]
    surface = cv2.matchTemplate(window, thermal[y:y + side, x:x + side], cv2.TM_CCORR_NORMED)
    _, best, _, (column, row) = cv2.minMaxLoc(surface)
    inside = 0 < column < surface.shape[1] - 1 and 0 < row < surface.shape[0] - 1
    if not (inside and _LEAST_AGREEMENT <= best <= 1.001):
        return None
    peak = _peak(surface[row - 1:row + 2, column - 1:column + 2].astype(float))
    return None if peak is None else (left + column + peak[0] - x, top + row + peak[1] - y)


def _peak(around: np.ndarray) -> tuple[float, float] | None:
    """(x, y) of the top of the parabola through 3 x 3 values, from the middle one.

    None where it has none near.
    """
    slope = np.array([around[1, 2] - around[1, 0], around[2, 1] - around[0, 1]]) / 2
    xx, yy = (side[0] - 2 * side[1] + side[2] for side in (around[1], around[:, 1]))
    xy = (around[2, 2] - around[2, 0] - around[0, 2] + around[0, 0]) / 4
    if xx >= 0 or xx * yy - xy * xy <= 0:
        return None
    top = np.linalg.solve(np.array([[xx, xy], [xy, yy]]), -slope)
    return (float(top[0]), float(top[1])) if np.abs(top).max() <= 1 else None


def descriptor(gray: np.ndarray, seen: np.ndarray | None = None, *,
               width: int | None = None) -> np.ndarray:
    """Describe the orientations of an image: real and imaginary parts of both harmonics.

    Args:
        gray: H x W float32 of any unit.
        seen: H x W bool; the rest is described as flat (0), without the false edge between them.
        width: of the picture of which gray is the part where something is seen.

    Returns:
        H x W x 4 float32.
    """
    border = cv2.BORDER_DEFAULT if width is None else cv2.BORDER_CONSTANT
    neighborhood = max(2.0, (width or gray.shape[1]) * _NEIGHBORHOOD)
    smooth = cv2.GaussianBlur(gray, (0, 0), GRADIENT_SIGMA_PX)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    if seen is not None:
        margin = np.ones((2 * round(3 * GRADIENT_SIGMA_PX) + 3,) * 2, np.uint8)
        inner = cv2.erode(seen.astype(np.uint8), margin, borderValue=1)
        x, y = x * inner, y * inner
    strength = cv2.magnitude(x, y)
    around = cv2.GaussianBlur(strength, (0, 0), neighborhood, borderType=border)
    count = strength.size if seen is None else max(1, int(np.count_nonzero(seen)))
    floor = _FLOOR * float(strength.sum()) / count + np.finfo(np.float32).tiny
    weight = strength / (strength + around + floor)
    length = np.maximum(strength, np.finfo(np.float32).tiny)
    x, y = x / length, y / length
    cos2, sin2 = x * x - y * y, 2 * x * y
    cos4, sin4 = cos2 * cos2 - sin2 * sin2, 2 * cos2 * sin2
    second = _SECOND_HARMONIC * weight
    channels = cv2.merge((cos2 * weight, sin2 * weight, cos4 * second, sin4 * second))
    return cv2.GaussianBlur(channels, (0, 0), SMOOTHING_SIGMA_PX)


def warped(gray: np.ndarray, matrix: np.ndarray,
           size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Warp an image.

    Args:
        gray: H' x W' float32.
        matrix: 3 x 3, from its pixels to those of the result.
        size: (width, height) of the result in pixels.

    Returns:
        The warped image, H x W, and its valid mask.
    """
    image = cv2.warpPerspective(gray, matrix, size, flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REPLICATE)
    whole = np.full(gray.shape, 255, np.uint8)
    seen = cv2.warpPerspective(whole, matrix, size, flags=cv2.INTER_NEAREST) > 0
    return image, seen


def ncc(one: np.ndarray, other: np.ndarray, seen: np.ndarray) -> float:
    """Return the normalized correlation of two descriptors.

    Args:
        one, other: H x W x 4 float32.
        seen: H x W bool, where both are valid.

    Returns:
        -1 to 1.
    """
    one, other = one[seen], other[seen]
    energy = float(np.square(one).sum()) * float(np.square(other).sum())
    return float((one * other).sum()) / (energy ** 0.5 or 1.0)


def moves(images: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Follow points of an image into the one before and the one after.

    Args:
        images: three of one camera, H x W uint8, at equal distances of time.
        points: N x 2 pixels of the one in the middle.

    Returns:
        How far they move from the first image to the last, N x 2 pixels; nan where unknown.
    """
    (before, now, after), sound = images, np.ones(len(points), bool)
    here, ends = points.astype(np.float32)[:, None], []
    follow: Callable = partial(cv2.calcOpticalFlowPyrLK, nextPts=None, **_TRACKING)
    for image in (before, after):
        there, found, _ = follow(now, image, here)
        back, again, _ = follow(image, now, there)
        sound &= (found.ravel() > 0) & (again.ravel() > 0)
        sound &= np.hypot(*(back - here)[:, 0].T) < _RETURNS_PX
        ends.append(there[:, 0] - here[:, 0])
    sound &= np.hypot(*(ends[0] + ends[1]).T) < _STEADY_PX
    return np.where(sound[:, None], ends[1] - ends[0], np.nan)
