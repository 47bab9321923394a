# SPDX-License-Identifier: Apache-2.0
"""Measure the homography between a thermal and an RGB camera from images of both.

Coarse to fine. A search over scale, rotation and shift of the whole image gives a few starts; each is followed by
matching blocks of growing detail, and the one whose images agree best goes on. The correspondences of all pairs are
pooled. The richest of homography, affine map and similarity that they determine is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from .frames import DiffmfError
from .homography import Alignment, AlignmentError, resampling
from .matching import Blocks, Matches, Scaled
from .planar import MODELS, Fit, fit, mapped

# Widths of the RGB image: of the search over the whole, and of the steps after it.
_SEARCH_WIDTH = 176
_ROUGH = ((176, Blocks(44, 11, 10), 4.0), (320, Blocks(48, 24, 10), 4.0))
_FINE = ((640, Blocks(64, 32, 8), 8.0), (640, Blocks(64, 32, 6), 6.0), (640, Blocks(64, 32, 6), 6.0))
# Fields of view, thermal by RGB, and rotations that are searched where no start is given.
FIELD_RATIOS, ANGLES_DEG = (0.5, 2.0), (-12.0, 12.0)
_RATIO_STEP, _ANGLE_STEP_DEG = 1.07, 4.0
# With a known ratio of fields of view it is searched within this factor.
_KNOWN_RATIO = 1.15
LARGEST_SHIFT = 0.35
_STARTS = 4
# What is refused. Pixels are those of an RGB image 640 wide.
LEAST_INLIERS, LEAST_SHARE, LEAST_COVERAGE = 12, 0.3, 0.12
LARGEST_UNCERTAINTY_PX = 6.0
SCALES, LARGEST_ROTATION_DEG = (0.2, 5.0), 45.0
_ADVICE = ('Take more pairs (5 to 10) that show edges in both images all over the picture, by day and without motion, '
           'or give a rough alignment (--init) or the ratio of the fields of view (--fov-ratio).')
# A model is determined when the targets that it gives are uncertain by less than this.
_DETERMINED_PX = 3.0


class RegistrationError(DiffmfError):
    """The images do not tell how the cameras are aligned, or tell what no two cameras can do."""


@dataclass(frozen=True)
class Registration:
    """A measured alignment and how sure it is.

    correspondences are the blocks found in all pairs together, inliers those that the alignment explains,
    residual_px their RMS distance from it, in RGB pixels. coverage is the part of the common field in which
    inliers lie; uncertainty_px the expected error (RMS over the common field), RGB pixels. field_ratio is the
    width of the thermal field of view over that of RGB, rotation_deg (clockwise) and shift_px (of the centre of
    thermal from that of RGB, in RGB pixels) belong to the middle of the thermal image.
    """

    alignment: Alignment
    model: str
    pairs: int
    correspondences: int
    inliers: int
    residual_px: float
    coverage: float
    uncertainty_px: float
    field_ratio: float
    rotation_deg: float
    shift_px: tuple[float, float]
    warnings: tuple[str, ...] = field(default=())


def register(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, start: Alignment | None = None,
             field_ratio: float | None = None) -> Registration:
    """Return the alignment of the cameras that took pairs of (RGB luminance, thermal) images of one instant each.

    Images are H x W of any numeric type and unit; RGB images have one size, thermal images another or the same.
    start is a rough alignment to begin at; field_ratio the width of thermal's field of view over RGB's, if known.
    Raises RegistrationError for images that do not fit together and for a result that is not to be trusted.
    """
    _check_pairs(pairs)
    rgb, thermal = ([_levels(image) for image in images] for images in zip(*pairs, strict=True))
    sizes = tuple((images[0].shape[1], images[0].shape[0]) for images in (rgb, thermal))
    scaled = {width: Scaled(rgb, thermal, width=min(width, sizes[0][0]))
              for width in {_SEARCH_WIDTH, *(step[0] for step in (*_ROUGH, *_FINE))}}
    starts = [_resized(start, sizes)] if start else _starts(scaled[_SEARCH_WIDTH], sizes, field_ratio)
    ways = [_followed(matrix, scaled, _ROUGH, sizes) for matrix in starts]
    finest = scaled[_ROUGH[-1][0]]
    ways = sorted((way for way in ways if way), key=lambda way: -finest.agreement(way[0].matrix))
    way = _followed(ways[0][0].matrix, scaled, _FINE, sizes) if ways else None
    if way is None:
        raise RegistrationError('thermal and RGB have too little structure in common to be aligned. ' + _ADVICE)
    return _judged(*way, sizes, len(pairs))


def _check_pairs(pairs) -> None:
    if not pairs:
        raise RegistrationError('expected at least one pair of images, got none')
    for which, images in zip(('RGB', 'thermal'), zip(*pairs, strict=True), strict=True):
        shapes = sorted({image.shape for image in images})
        if len(shapes[0]) != 2:
            raise RegistrationError(f'expected {which} images of shape height x width, got {shapes[0]}')
        if len(shapes) > 1:
            raise RegistrationError(f'the {which} images have different sizes (height, width): {shapes}; an alignment '
                                    'belongs to two cameras of fixed sizes')
        if min(shapes[0]) < 64:
            raise RegistrationError(f'expected {which} images of at least 64x64 pixels, got (height, width) {shapes[0]}')


def _levels(image: np.ndarray) -> np.ndarray:
    """H x W float32, 0 to 255: 8 bit as it is, other types between their robust extremes."""
    if image.dtype == np.uint8:
        return image.astype(np.float32)
    finite = np.isfinite(image)
    if not finite.any():
        raise RegistrationError('an image holds no finite value; leave it out')
    low, high = np.percentile(image[finite], (0.5, 99.5))
    values = np.where(finite, image, low).astype(np.float32)
    return np.clip((values - low) * (255 / max(high - low, np.finfo(np.float32).tiny)), 0, 255).astype(np.float32)


def _resized(start: Alignment, sizes) -> np.ndarray:
    """rgb_from_thermal of a stored alignment at the sizes (rgb, thermal) of the images."""
    if start.rgb_from_thermal is None:
        return resampling(sizes[1], sizes[0])
    return (resampling(start.rgb_size, sizes[0]) @ np.array(start.rgb_from_thermal)
            @ resampling(sizes[1], start.thermal_size))


def _starts(scaled: Scaled, sizes, field_ratio: float | None) -> list[np.ndarray]:
    """The most promising similarities that differ from each other."""
    low, high = FIELD_RATIOS if field_ratio is None else (field_ratio / _KNOWN_RATIO, field_ratio * _KNOWN_RATIO)
    count = 1 + int(np.ceil(np.log(high / low) / np.log(_RATIO_STEP)))
    angles = np.arange(ANGLES_DEG[0], ANGLES_DEG[1] + 0.1, _ANGLE_STEP_DEG)
    found = scaled.search(np.geomspace(low, high, count) * sizes[0][0] / sizes[1][0], angles,
                          largest_shift=LARGEST_SHIFT)
    points, chosen = _grid(sizes[1]), []
    for _, matrix in found:
        places = mapped(matrix, points)
        if all(np.hypot(*(places - other).T).mean() > 0.04 * sizes[0][0] for _, other in chosen):
            chosen.append((matrix, places))
        if len(chosen) == _STARTS:
            break
    return [matrix for matrix, _ in chosen]


def _followed(matrix: np.ndarray, scaled: dict[int, Scaled], steps, sizes) -> tuple[Fit, Matches] | None:
    """The fit after matching in each of steps, each beginning where the last one ended; None when one fails."""
    found = None
    for width, blocks, threshold in steps:
        unit = sizes[0][0] / scaled[width].size[0]
        matches = scaled[width].matches(matrix, blocks)
        found = _chosen(matches, threshold * unit, (blocks.step_px / blocks.side_px) ** 2, sizes)
        if found is None:
            return None
        matrix = found.matrix
    return found, matches


def _chosen(matches: Matches, threshold_px: float, samples_per_match: float, sizes) -> Fit | None:
    """The richest model that the matches determine, or the poorest when they determine none."""
    last = None
    for model in MODELS:
        found = fit(matches.thermal, matches.rgb, model, threshold_px=threshold_px,
                    samples_per_match=samples_per_match)
        if found is None or not _possible(found.matrix, sizes):
            continue
        last = found
        if found.spread_px(_common(found.matrix, sizes)) <= _DETERMINED_PX * sizes[0][0] / 640:
            return found
    return last


def _possible(matrix: np.ndarray, sizes) -> bool:
    """Whether cameras side by side can have this alignment, and see something in common."""
    try:
        Alignment(_rows(matrix), *sizes)
    except AlignmentError:
        return False
    scale, rotation_deg, _ = _parameters(matrix, sizes)
    return SCALES[0] <= scale <= SCALES[1] and abs(rotation_deg) <= LARGEST_ROTATION_DEG and len(_common(matrix, sizes)) >= 9


def _judged(found: Fit, matches: Matches, sizes, pairs: int) -> Registration:
    unit = sizes[0][0] / 640
    ratio, rotation, shift = _parameters(found.matrix, sizes)
    inliers = int(np.count_nonzero(found.inliers))
    coverage = len(np.unique(matches.block[found.inliers])) / max(1, matches.tried)
    uncertainty = found.spread_px(_common(found.matrix, sizes))
    return Registration(Alignment(_rows(found.matrix), *sizes), found.model, pairs, len(matches.rgb), inliers, found.residual_px,
                       coverage, uncertainty, ratio, rotation, shift)


def _parameters(matrix: np.ndarray, sizes):
    """(ratio of the fields of view, rotation in degrees, shift (x, y) in RGB pixels) at the middle of thermal."""
    (rgb_width, rgb_height), (width, height) = sizes
    centre = np.array([[(width - 1) / 2, (height - 1) / 2]])
    moved = mapped(matrix, np.vstack((centre, centre + [1, 0], centre + [0, 1])))
    across, down = moved[1] - moved[0], moved[2] - moved[0]
    scale = abs(across[0] * down[1] - across[1] * down[0]) ** 0.5
    rotation = np.degrees(np.arctan2(across[1] - down[0], across[0] + down[1]))
    shift = moved[0] - [(rgb_width - 1) / 2, (rgb_height - 1) / 2]
    return float(scale * width / rgb_width), float(rotation), (float(shift[0]), float(shift[1]))


def _grid(size: tuple[int, int]) -> np.ndarray:
    """N x 2 points all over an image, its corners among them."""
    return np.stack(np.meshgrid(*(np.linspace(0, side - 1, 17) for side in size)), axis=-1).reshape(-1, 2)


def _common(matrix: np.ndarray, sizes) -> np.ndarray:
    """N x 2 thermal pixels that RGB sees, all over."""
    points = _grid(sizes[1])
    x, y = mapped(matrix, points).T
    return points[(x >= 0) & (x <= sizes[0][0] - 1) & (y >= 0) & (y <= sizes[0][1] - 1)]


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
