# SPDX-License-Identifier: Apache-2.0
"""Measure the homography between a thermal and an RGB camera from images of both.

It goes from coarse to fine. A search over scale, rotation and shift of the whole image gives a few
starts, first as cameras usually stand, then in any roll and with any lens (find_starts). Each is
followed by matching blocks of growing detail, and the one whose images agree best goes on. The
correspondences of all pairs are pooled. The richest of homography, affine map and similarity that
they determine is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..alignment.homography import Alignment, AlignmentError, resampling
from ..frames import DiffmfError
from .matching import Blocks, Matches, PyramidLevel
from .planar import MODELS, Fit, fit, transform_points

Sizes = tuple[tuple[int, int], tuple[int, int]]  # (width, height) of RGB and of thermal

# Shifts of the center that are searched, relative to the RGB image.
LARGEST_SHIFT = 0.25
# A given ratio of the fields of view may be wrong by this factor.
_KNOWN_RATIO = 1.15
# So many finds of a coarse search are searched again in a larger picture.
_PROMISING = 80
# Starts differ by at least this mean distance, relative to the RGB width.
_APART = 0.04
NARROW = 0.48
# Steps after the search: width of the RGB image, blocks, distance up to which a match is an
# inlier. The last step looks so much further than that distance that matches agree by chance in
# one case out of eight: it tells right from wrong.
_ROUGH = ((176, Blocks(44, 11, 10), 4.0), (320, Blocks(48, 24, 10), 4.0))
# A narrow thermal field has room for blocks only in a larger picture.
_ROUGH_NARROW = ((320, Blocks(44, 11, 10), 4.0), (640, Blocks(48, 24, 10), 4.0))
_FINE = ((640, Blocks(64, 32, 8), 8.0), (640, Blocks(64, 32, 6), 6.0),
         (640, Blocks(64, 32, 14), 6.0))
# Thermal pixels of a wide field cover many RGB pixels: a larger picture shows no more of them.
_FINE_WIDE = tuple((320, *step[1:]) for step in _FINE)
_WIDE = 1.8
# Starts that are followed, and how many of them remain after each rough step.
_STARTS = (20, 4, 1)
# A model is determined when its errors, relative to the RGB width, are expected to be below this:
# 3 px of 640.
_DETERMINED = 3 / 640
# What is refused. Pairs of different scenes reached shares up to 0.53 and coverages up to 0.2.
POSSIBLE_RATIOS = 0.2, 5.0
LEAST_INLIERS, LEAST_SHARE, LEAST_COVERAGE, LARGEST_UNCERTAINTY = 12, 0.45, 0.2, 4 / 640
# What is called good; the rest should be looked at.
_GOOD_SHARE, _GOOD_COVERAGE, _GOOD_UNCERTAINTY = 0.6, 0.4, 1.5 / 640
_ADVICE = ('Take 5 to 10 pairs that show edges in both images all over the picture, of a scene at '
           'rest, far away and by day, or give a rough alignment (--init) or the ratio of the '
           'fields of view (--fov-ratio).')
_BY_CHANCE = ('no trustworthy alignment: the blocks that agree are too few to rule out chance. '
              + _ADVICE)


@dataclass(frozen=True)
class Window:
    """Ranges and steps of a search for the alignment.

    field_ratios: smallest and largest width of the thermal field of view by that of RGB.
    angles_deg: smallest and largest rotation; the steps are those of the search; width is that of
    the RGB image in it; pairs is the largest number of pairs of images. again: the width at which
    its most promising finds are searched once more, as a small image agrees by chance; 0: they are
    not. usual: so few ways are tried that what is found is not held to be one of many.
    """

    field_ratios: tuple[float, float]
    angles_deg: tuple[float, float]
    ratio_step: float
    angle_step_deg: float
    width: int
    pairs: int
    again: int = 0
    usual: bool = False


# Cameras as they usually are, side by side; then any roll and lens. Of a narrow field a small
# image shows too little: it is searched in a larger one.
USUAL = Window((0.5, 2.0), (-12.0, 12.0), 1.06, 3.0, 176, 100, usual=True)
# Where the ratio is known. It is doubted, too: it took four pairs that do not belong together.
USUAL_NARROW = replace(USUAL, width=320, pairs=5, usual=False)
ANY = Window((NARROW, 3.2), (-180.0, 172.5), 1.15, 7.5, 88, 3, again=176)
ANY_NARROW = Window((0.3, NARROW), (-180.0, 175.0), 1.12, 5.0, 320, 5)


def _windows(field_ratio: float | None) -> tuple[Window, ...]:
    """Return what to search, one after the other."""
    if field_ratio is None:
        return USUAL, ANY, ANY_NARROW
    ratios = field_ratio / _KNOWN_RATIO, field_ratio * _KNOWN_RATIO
    windows = (USUAL_NARROW, ANY_NARROW) if field_ratio < NARROW else (USUAL, ANY)
    return tuple(replace(window, field_ratios=ratios) for window in windows)


def find_starts(rgb: Sequence[np.ndarray], thermal: Sequence[np.ndarray], sizes: Sizes,
                window: Window, *, most: int) -> list[np.ndarray]:
    """Return the most promising similarities that differ from each other, best first.

    Args:
        rgb: H x W float32 images of one size.
        thermal: those of the same instants.
        sizes: of both.
        window: what to search.
        most: so many at most.
    """
    low, high = window.field_ratios
    count = 1 + int(np.ceil(np.log(high / low) / np.log(window.ratio_step)))
    angles = np.arange(window.angles_deg[0], window.angles_deg[1] + 0.1, window.angle_step_deg)
    tried = list(product(np.geomspace(low, high, count), angles.tolist()))
    points = grid(sizes[1])
    for width in filter(None, (window.width, window.again)):
        level = PyramidLevel(rgb[:window.pairs], thermal[:window.pairs],
                             width=min(width, sizes[0][0]))
        found = []
        # Angles half a turn apart share views where they follow each other.
        for way in sorted(tried, key=lambda way: (way[0], way[1] % 180)):
            found.append((*level.search(way[0] * sizes[0][0] / sizes[1][0], way[1],
                                        largest_shift=LARGEST_SHIFT, inside=high <= NARROW), way))
        found.sort(key=lambda item: -item[0])
        tried = [item[2] for item in found[:_PROMISING]]
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for _, matrix, _ in found:
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


class RegistrationError(DiffmfError):
    """The images do not tell how the cameras are aligned, or tell what no two cameras can do."""


@dataclass(frozen=True)
class Registration:
    """A measured alignment and how sure it is.

    correspondences are the blocks found in all pairs together, inliers those that the alignment
    explains, residual_px their RMS distance from it, in RGB pixels. coverage is the part of the
    common field in which inliers lie; uncertainty_px the expected error (RMS over the common
    field), RGB pixels. field_ratio is the width of the thermal field of view over that of RGB,
    rotation_deg (clockwise) and shift_px (of the center of thermal from that of RGB, in RGB
    pixels) belong to the middle of the thermal image. confidence is 'good', or 'fair': look at the
    overlay.
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
    confidence: str

    @property
    def summary(self) -> str:
        """What was found, in lines of text."""
        lower = ('' if self.model == 'homography'
                 else ' (the matches do not determine a homography; take more pairs)')
        look = '' if self.confidence == 'good' else ': look at the overlay, and take more pairs'
        return '\n'.join((
            f'{self.model}{lower} from {self.pairs} pair{"s"[:self.pairs != 1]}',
            f'confidence {self.confidence}{look}',
            f'{self.inliers} inliers of {self.correspondences} correspondences, residual '
            f'{self.residual_px:.2f} px RMS',
            f'coverage {self.coverage:.0%} of the common field, expected error '
            f'{self.uncertainty_px:.2f} px RMS',
            f'field ratio {self.field_ratio:.3f} (thermal width by RGB width), rotation '
            f'{self.rotation_deg:+.2f} degrees, shift {self.shift_px[0]:+.1f} '
            f'{self.shift_px[1]:+.1f} px'))


def register(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, start: Alignment | None = None,
             field_ratio: float | None = None) -> Registration:
    """Estimate the alignment of two cameras from pairs of their images.

    Args:
        pairs: (RGB luminance, thermal) of one instant each, H x W of any numeric type and unit;
            RGB images have one size, thermal images another or the same.
        start: a rough alignment to begin at.
        field_ratio: width of thermal's field of view over RGB's, if known.

    Returns:
        The alignment and its expected error.

    Raises:
        RegistrationError: the images do not fit together, or the result is not to be trusted.
    """
    _check_pairs(pairs)
    rgb, thermal = ([levels(image) for image in images] for images in zip(*pairs, strict=True))
    for which, images in (('RGB', rgb), ('thermal', thermal)):
        if not any(map(np.ptp, images)):
            raise RegistrationError(f'the {which} images show nothing but one level. {_ADVICE}')
    sizes = size_of(rgb[0]), size_of(thermal[0])
    scaled = {width: PyramidLevel(rgb, thermal, width=min(width, sizes[0][0]))
              for width in {step[0] for step in (*_ROUGH, *_FINE)}}
    found, refused = None, None
    for window in _windows(field_ratio)[:1 if start else None]:
        starts = ([resized(start, sizes)] if start
                  else find_starts(rgb, thermal, sizes, window, most=_STARTS[0]))
        try:
            way = _judged(*_best_way(starts, scaled, sizes), sizes, len(pairs))
        except RegistrationError as error:
            refused = refused or error
            continue
        if way.confidence == 'good':
            return way
        if not window.usual and not _beyond_chance(way, window):
            refused = refused or RegistrationError(_BY_CHANCE)
        elif found is None or way.inliers > found.inliers:
            found = way
    if found is None:
        raise refused  # type: ignore[misc]
    return found


def _beyond_chance(way: Registration, window: Window) -> bool:
    """Return whether a fair way is none of the many, beyond the usual ones, that chance makes.

    In a narrow field, found or searched, there are few blocks, so more of them must agree.
    """
    share = way.inliers / way.correspondences
    narrow = min(way.field_ratio, window.field_ratios[0]) < NARROW
    return way.coverage >= _GOOD_COVERAGE and (not narrow or share >= _GOOD_SHARE)


def _best_way(starts: list[np.ndarray], scaled: dict[int, PyramidLevel],
              sizes: Sizes) -> tuple[Fit, Matches]:
    """Follow the starts and return where the best one ends. Raises RegistrationError."""
    narrow = _parameters(starts[0], sizes)[0] < NARROW
    for step, count in zip(_ROUGH_NARROW if narrow else _ROUGH, _STARTS[1:], strict=True):
        ways = [way[0].matrix for matrix in starts
                if (way := _followed(matrix, scaled, [step], sizes))]
        starts = sorted(ways, key=scaled[step[0]].ncc, reverse=True)[:count]
        if not starts:
            break
    fine = _FINE_WIDE if starts and _parameters(starts[0], sizes)[0] > _WIDE else _FINE
    way = _followed(starts[0], scaled, fine, sizes) if starts else None
    if way is None:
        raise RegistrationError(
            'thermal and RGB have too little structure in common, or agree only as no two cameras '
            'side by side do: mirrored, or with a field ratio outside '
            f'{POSSIBLE_RATIOS[0]:g} to {POSSIBLE_RATIOS[1]:g}. {_ADVICE}')
    return way


def _check_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    if not pairs:
        raise RegistrationError('expected at least one pair of images, got none')
    for which, images in zip(('RGB', 'thermal'), zip(*pairs, strict=True), strict=True):
        shapes = sorted({image.shape for image in images})
        if len(shapes[0]) != 2:
            raise RegistrationError(f'expected {which} images of shape height x width, got '
                                    f'{shapes[0]}')
        if len(shapes) > 1:
            raise RegistrationError(f'the {which} images have different sizes (height, width): '
                                    f'{shapes}; an alignment belongs to two cameras of fixed '
                                    'sizes')
        if min(shapes[0]) < 64:
            raise RegistrationError(f'expected {which} images of at least 64x64 pixels, got '
                                    f'{shapes[0]}')


def levels(image: np.ndarray) -> np.ndarray:
    """H x W float32, 0 to 255: 8 bit as it is, other types between their robust extremes."""
    if image.dtype == np.uint8:
        return image.astype(np.float32)
    finite = np.isfinite(image)
    if not finite.any():
        raise RegistrationError('an image holds no finite value; leave it out')
    low, high = np.percentile(image[finite], (0.5, 99.5))
    if low == high:
        return np.zeros(image.shape, np.float32)
    return (255 / (high - low) * (np.clip(np.where(finite, image, low), low, high) - low)).astype(
        np.float32)


def size_of(image: np.ndarray) -> tuple[int, int]:
    """Return (width, height) of an image."""
    height, width = image.shape[:2]
    return width, height


def resized(start: Alignment, sizes: Sizes) -> np.ndarray:
    """rgb_from_thermal of a stored alignment at the sizes (rgb, thermal) of the images."""
    if start.rgb_from_thermal is None:
        return resampling(sizes[1], sizes[0])
    return (resampling(start.rgb_size, sizes[0]) @ np.array(start.rgb_from_thermal)  # type: ignore[arg-type]
            @ resampling(sizes[1], start.thermal_size))  # type: ignore[arg-type]


def _followed(matrix: np.ndarray, scaled: dict[int, PyramidLevel], steps: Sequence[tuple],
              sizes: Sizes) -> tuple[Fit, Matches] | None:
    """The fit after matching in each of steps, each beginning where the last one ended.

    None when one fails.
    """
    found = None
    for width, blocks, threshold in steps:
        unit = sizes[0][0] / scaled[width].size[0]
        matches = scaled[width].matches(matrix, blocks)
        found = _chosen(matches, threshold * unit, (blocks.step_px / blocks.side_px) ** 2, sizes)
        if found is None:
            return None
        matrix = found.matrix
    return None if found is None else (found, matches)


def _chosen(matches: Matches, threshold_px: float, samples_per_match: float,
            sizes: Sizes) -> Fit | None:
    """The richest model that the matches determine, or the poorest when they determine none."""
    last = None
    for model in MODELS:
        found = fit(matches.thermal, matches.rgb, model, threshold_px=threshold_px,
                    samples_per_match=samples_per_match)
        if found is None or not _possible(found.matrix, sizes):
            continue
        last = found
        if found.transfer_std_px(_common(found.matrix, sizes)) <= _DETERMINED * sizes[0][0]:
            return found
    return last


def _possible(matrix: np.ndarray, sizes: Sizes) -> bool:
    """Return whether cameras side by side can have this alignment, and see something in common."""
    try:
        Alignment(_rows(matrix), *sizes)
    except AlignmentError:  # singular, mirrored, or through infinity
        return False
    ratio, _, _ = _parameters(matrix, sizes)
    return POSSIBLE_RATIOS[0] <= ratio <= POSSIBLE_RATIOS[1] and len(_common(matrix, sizes)) > 0


def _judged(found: Fit, matches: Matches, sizes: Sizes, pairs: int) -> Registration:
    """The registration of a fit. Raises RegistrationError when it is not to be trusted."""
    inliers, count = int(np.count_nonzero(found.inliers)), len(matches.rgb)
    share = inliers / count
    coverage = len(np.unique(matches.block[found.inliers])) / matches.tried
    uncertainty_px = found.transfer_std_px(_common(found.matrix, sizes))
    uncertainty = uncertainty_px / sizes[0][0]
    for what, wrong in (
            (f'{inliers} blocks fit one alignment, {LEAST_INLIERS} are needed',
             inliers < LEAST_INLIERS),
            (f'{share:.0%} of the blocks found fit one alignment, {LEAST_SHARE:.0%} are needed',
             share < LEAST_SHARE),
            (f'they cover {coverage:.0%} of the common field, {LEAST_COVERAGE:.0%} are needed',
             coverage < LEAST_COVERAGE),
            (f'errors of {uncertainty_px:.1f} px are to be expected, '
             f'{LARGEST_UNCERTAINTY * sizes[0][0]:.1f} px are '
             'permitted', uncertainty > LARGEST_UNCERTAINTY)):
        if wrong:
            raise RegistrationError(f'no trustworthy alignment: {what}. {_ADVICE}')
    good = share >= _GOOD_SHARE and coverage >= _GOOD_COVERAGE and uncertainty <= _GOOD_UNCERTAINTY
    return Registration(Alignment(_rows(found.matrix), *sizes), found.model, pairs, count, inliers,
                        found.residual_px, coverage, uncertainty_px,
                        *_parameters(found.matrix, sizes),
                        'good' if good else 'fair')


def _parameters(matrix: np.ndarray, sizes: Sizes) -> tuple[float, float, tuple[float, float]]:
    """Return field ratio, rotation in degrees, and shift (x, y) in RGB pixels.

    All hold at the middle of thermal.
    """
    (rgb_width, rgb_height), (width, height) = sizes
    center = np.array([[(width - 1) / 2, (height - 1) / 2]])
    moved = transform_points(matrix, np.vstack((center, center + [1, 0], center + [0, 1])))
    across, down = moved[1] - moved[0], moved[2] - moved[0]
    scale = abs(across[0] * down[1] - across[1] * down[0]) ** 0.5
    rotation = np.degrees(np.arctan2(across[1] - down[0], across[0] + down[1]))
    shift = moved[0] - [(rgb_width - 1) / 2, (rgb_height - 1) / 2]
    return float(scale * width / rgb_width), float(rotation), (float(shift[0]), float(shift[1]))


def _common(matrix: np.ndarray, sizes: Sizes) -> np.ndarray:
    """N x 2 thermal pixels that RGB sees, all over."""
    points = grid(sizes[1])
    x, y = transform_points(matrix, points).T
    return points[(x >= 0) & (x <= sizes[0][0] - 1) & (y >= 0) & (y <= sizes[0][1] - 1)]


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
