# SPDX-License-Identifier: Apache-2.0
"""Starts of a registration: similarities under which two cameras' images agree best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import PyramidLevel
from .planar import transform_points

Sizes = tuple[tuple[int, int], tuple[int, int]]  # (width, height) of RGB and of thermal

# Shifts of the center that are searched, relative to the RGB image.
LARGEST_SHIFT = 0.25
# A given ratio of the fields of view may be wrong by this factor.
_KNOWN_RATIO = 1.15
# Starts differ by at least this mean distance, relative to the RGB width.
_APART = 0.04


@dataclass(frozen=True)
class Window:
    """What is searched.

    field_ratios: smallest and largest width of the thermal field of view by that of RGB.
    angles_deg: smallest and largest rotation; the steps are those of the search; width is that of
    the RGB image in it, narrow_width the same for fields of view below NARROW, of which else too
    few pixels would be left; pairs is the largest number of pairs of images.
    """

    field_ratios: tuple[float, float]
    angles_deg: tuple[float, float]
    ratio_step: float
    angle_step_deg: float
    width: int
    narrow_width: int
    pairs: int


# Cameras as they usually are, side by side; then any roll and lens.
USUAL = Window((0.5, 2.0), (-12.0, 12.0), 1.06, 3.0, 176, 176, 100)
ANY = Window((0.3, 3.2), (-180.0, 172.5), 1.15, 7.5, 88, 176, 3)
NARROW = 0.48


def find_starts(rgb: Sequence[np.ndarray], thermal: Sequence[np.ndarray], sizes: Sizes,
                window: Window, *, field_ratio: float | None, most: int) -> list[np.ndarray]:
    """Return the most promising similarities that differ from each other, best first.

    Args:
        rgb: H x W float32 images of one size.
        thermal: those of the same instants.
        sizes: of both.
        window: what to search.
        field_ratio: takes the place of the window's, if known.
        most: so many at most.
    """
    low, high = window.field_ratios if field_ratio is None else (field_ratio / _KNOWN_RATIO,
                                                                 field_ratio * _KNOWN_RATIO)
    count = 1 + int(np.ceil(np.log(high / low) / np.log(window.ratio_step)))
    ratios = np.geomspace(low, high, count)
    angles = np.arange(window.angles_deg[0], window.angles_deg[1] + 0.1, window.angle_step_deg)
    width_of = np.where(ratios < NARROW, window.narrow_width, window.width)
    scales = ratios * sizes[0][0] / sizes[1][0]
    found = []
    for width in {window.width, window.narrow_width}:
        level = PyramidLevel(rgb[:window.pairs], thermal[:window.pairs],
                             width=min(width, sizes[0][0]))
        found += level.search(scales[width_of == width], angles,  # type: ignore[arg-type]
                              largest_shift=LARGEST_SHIFT)
    points = grid(sizes[1])
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for _, matrix in sorted(found, key=lambda item: -item[0]):
        places = transform_points(matrix, points)
        if all(np.hypot(*(places - other).T).mean() > _APART * sizes[0][0] for _, other in chosen):
            chosen.append((matrix, places))
        if len(chosen) == most:
            break
    return [matrix for matrix, _ in chosen]


def grid(size: tuple[int, int]) -> np.ndarray:
    """Return N x 2 points all over an image, its corners among them."""
    return np.stack(np.meshgrid(*(np.linspace(0, side - 1, 17) for side in size)),
                    axis=-1).reshape(-1, 2)
