# SPDX-License-Identifier: Apache-2.0
"""Where blocks of thermal images lie in RGB images.

All shifts of the whole for a start, then block by block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..alignment.homography import resampling
from ..alignment.warp import translation
from .orientation import Search, descriptor, ncc, warped
from .planar import transform_points

# A block agrees with its best place by at least this much (the correlation lies in -1 to 1).
_LEAST_AGREEMENT = 0.15


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

    def _views(self, matrix: np.ndarray,
               size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (descriptor, valid mask) of every thermal image, warped by matrix to a size."""
        zoom = abs(np.linalg.det(matrix[:2, :2])) ** 0.5
        small = tuple(max(8, round(side * min(1.0, zoom))) for side in self._thermal_size)
        matrix = matrix @ np.linalg.inv(resampling(self._thermal_size, small))
        for image in self._thermal:
            # Warping alone would alias where the grid is coarser than the image.
            smaller = cv2.resize(image, small, interpolation=cv2.INTER_AREA) if zoom < 1 else image
            view, seen = warped(smaller, matrix, size)
            yield descriptor(view, seen), seen

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

    def search(self, scales: Sequence[float], angles_deg: Sequence[float], *, largest_shift: float
               ) -> list[tuple[float, np.ndarray]]:
        """Return the best shift for every scale and rotation.

        Args:
            scales: RGB pixels per thermal pixel.
            angles_deg: turns of thermal about its center, clockwise.
            largest_shift: that of the centers, relative to the RGB size.

        Returns:
            (score, rgb_from_thermal), best first.
        """
        search = Search(self._described, largest_shift=largest_shift)
        found = []
        for scale in scales:
            for angle in angles_deg:
                centered = _turned(self._thermal_size, self.size, scale * self.from_rgb[0, 0],
                                  angle)
                views = list(self._views(search.to_canvas @ centered, search.canvas))  # type: ignore[arg-type]
                score, (x, y) = search.best([view for view, _ in views], views[0][1])
                found.append((score, np.linalg.inv(self.from_rgb) @ translation(x, y) @ centered))
        return sorted(found, key=lambda item: -item[0])

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
