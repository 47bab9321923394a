# SPDX-License-Identifier: Apache-2.0
"""Contrast of warm targets in a fused image, beside that of the better of the two cameras.

All images are H x W of levels 0..255, uint8 or float. Lengths follow the image height H, so that
an image and the same image at half the size have the same targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

PEOPLE_SHARE = (
    1 / 8
)  # side of the top-hat's square over H: people are narrower than 60 pixels of 480
BLUR_SIGMA_PX = 1.0  # noise of a thermal camera makes no blobs
HOT_LEVELS = 50.0  # of the top-hat
SMALLEST_SHARE = 1 / 40  # a blob has at least the area of a square of this side over H
LEAST_FILLED = 0.3  # of a blob's bounding box
MOST_SLENDER = 5.0  # longer over shorter side of that
WARM_PERCENTILE = 90  # of thermal, for the mean of a blob
RING_SHARE = 1 / 40  # width of the ring over H
GAP_PX = 2  # between blob and ring: pixels of the edge belong to neither
LEAST_CONTRAST = 20.0  # levels; below that in both cameras there is no target to keep
DARK_LEVELS = -20.0  # of the visible contrast: a target that is dark in RGB
WORST_SHARE = 0.1

Box = Sequence[float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class ScoredTarget:
    """Contrasts of one target, in levels: mean inside minus mean of the ring around it."""

    ir: float
    vi_y: float
    fused: float

    @property
    def kept(self) -> float:
        """Contrast in the fused image over that in the better camera, unsigned and unlimited."""
        return abs(self.fused) / max(abs(self.ir), abs(self.vi_y))

    @property
    def dark(self) -> bool:
        """Whether the target is warm in thermal and dark in the visible image."""
        return self.vi_y <= DARK_LEVELS and self.ir >= -DARK_LEVELS


def targets(
    ir: np.ndarray,
    vi_y: np.ndarray,
    fused: np.ndarray,
    *,
    boxes: Sequence[Box] | None = None,
    ignore: Sequence[Box] = (),
) -> list[ScoredTarget]:
    """Return the contrasts of every target of a registered pair.

    Args:
        ir, vi_y, fused: H x W, levels 0..255.
        boxes: (x0, y0, x1, y1) of the targets in pixels; a target is the ellipse in its box.
            None: hot blobs of ir, see hot_blobs.
        ignore: boxes that are no part of any ring.

    A target that reaches 20 levels of contrast in neither camera is left out.
    """
    regions = hot_blobs(ir) if boxes is None else _boxed(boxes, ignore, ir.shape)
    found = [
        ScoredTarget(*(region.contrast(image) for image in (ir, vi_y, fused)))
        for region in regions
        if region.ring.any()
    ]
    return [t for t in found if max(abs(t.ir), abs(t.vi_y)) >= LEAST_CONTRAST]


@dataclass(frozen=True)
class Region:
    """A target and the ring around it, as masks (h x w bool) of a window of the image."""

    window: tuple[slice, slice]
    inside: np.ndarray
    ring: np.ndarray

    def contrast(self, image: np.ndarray) -> float:
        """Return the mean of an H x W image inside minus that of the ring, in levels."""
        part = image[self.window]
        return float(
            np.mean(part[self.inside], dtype=np.float64)
            - np.mean(part[self.ring], dtype=np.float64)
        )


def hot_blobs(ir: np.ndarray) -> list[Region]:
    """Return what is hotter than its surround at the scale of people.

    The white top-hat of ir, smoothed by a Gaussian of 1 pixel, with a square of H / 8 is at least
    50 levels there; 8-connected and at least (H / 40)^2 pixels. Kerbs and trunks in the sun are
    left out: a blob fills at least 0.3 of its bounding box, whose longer side is at most 5 times
    the shorter one, its mean is at or above the 90th percentile of ir, and it is at least 20
    levels warmer than the ring around it.
    """
    height = ir.shape[0]
    side = 2 * max(1, round(height * PEOPLE_SHARE / 2)) + 1
    smooth = cv2.GaussianBlur(np.asarray(ir, np.float32), (0, 0), BLUR_SIGMA_PX)
    hot = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)) >= HOT_LEVELS
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        hot.astype(np.uint8), connectivity=8
    )
    blobs = []
    for label in range(1, count):
        x, y, width, tall, area = (int(value) for value in stats[label])
        compact = area >= LEAST_FILLED * width * tall
        compact &= max(width, tall) <= MOST_SLENDER * min(width, tall)
        if compact and area >= max(1.0, (height * SMALLEST_SHARE) ** 2):
            bounds = slice(y, y + tall), slice(x, x + width)
            blobs.append(_region(bounds, labels[bounds] == label, hot))
    warm = np.percentile(ir, WARM_PERCENTILE)
    return [
        blob
        for blob in blobs
        if np.mean(ir[blob.window][blob.inside]) >= warm
        and blob.ring.any()
        and blob.contrast(ir) >= LEAST_CONTRAST
    ]


def summary(found: Sequence[ScoredTarget]) -> dict[str, float]:
    """Return target, target_worst and target_dark of targets; NaN where there are none.

    The mean, the mean over the worst tenth (at least one target) and the mean over those dark in
    RGB, of what is kept, each target counted as at most 1: more contrast than the better camera
    has is not rewarded.
    """
    kept = np.sort([min(1.0, target.kept) for target in found])
    dark = [min(1.0, target.kept) for target in found if target.dark]
    worst = kept[: max(1, round(WORST_SHARE * len(kept)))]
    return {'target': _mean(kept), 'target_worst': _mean(worst), 'target_dark': _mean(dark)}


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _boxed(boxes: Sequence[Box], ignore: Sequence[Box], shape: tuple[int, int]) -> list[Region]:
    """The ellipses in boxes, with rings that leave out all boxes."""
    taken = np.zeros(shape, bool)
    for box in (*boxes, *ignore):
        taken[_bounds(box, shape)] = True
    bounds = [_bounds(box, shape) for box in boxes]
    inside = [_ellipse(box, part) for box, part in zip(boxes, bounds, strict=True)]
    return [_region(p, mask, taken) for p, mask in zip(bounds, inside, strict=True) if mask.any()]


def _region(bounds: tuple[slice, slice], inside: np.ndarray, taken: np.ndarray) -> Region:
    """The region of a mask with these bounds; its ring lacks what is taken (H x W bool)."""
    height = taken.shape[0]
    width = GAP_PX + max(1, round(height * RING_SHARE))
    rows, columns = (slice(max(0, line.start - width), line.stop + width) for line in bounds)
    window = rows, columns
    mask = np.zeros(taken[window].shape, np.uint8)
    down, right = (line.start - part.start for line, part in zip(bounds, window, strict=True))
    mask[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
    near, far = (cv2.dilate(mask, _disc(radius)).astype(bool) for radius in (GAP_PX, width))
    return Region(window, mask.astype(bool), far & ~near & ~taken[window])


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def _bounds(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box, cut at the image."""
    x0, y0, x1, y1 = (max(0, round(float(value))) for value in box)
    rows = slice(min(y0, shape[0]), min(y1, shape[0]))
    return rows, slice(min(x0, shape[1]), min(x1, shape[1]))


def _ellipse(box: Box, bounds: tuple[slice, slice]) -> np.ndarray:
    """h x w bool within bounds: the pixels whose centers lie in the ellipse that the box holds."""
    x0, y0, x1, y1 = box
    down, right = np.ogrid[bounds]
    across, along = max(x1 - x0, 1) / 2, max(y1 - y0, 1) / 2
    dx, dy = (right + 0.5 - (x0 + x1) / 2) / across, (down + 0.5 - (y0 + y1) / 2) / along
    return dx**2 + dy**2 <= 1
