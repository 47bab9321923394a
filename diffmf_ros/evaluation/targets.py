# SPDX-License-Identifier: Apache-2.0
"""Contrast of warm targets in a fused image, beside that of the better of the two cameras.

All images are H x W of levels 0..255, uint8 or float. Lengths follow the image height H, so that an
image and the same image at half the size have the same targets.
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
RING_SHARE = 1 / 40  # width of the ring over H
GAP_PX = 2  # between blob and ring: pixels of the edge belong to neither
LEAST_CONTRAST = 20.0  # levels; below that in both cameras there is no target to keep
DARK_LEVELS = -20.0  # of the visible contrast: a target that is dark in RGB
WORST_SHARE = 0.1

Box = Sequence[float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Target:
    """Contrasts of one target, in levels: mean inside minus mean of the ring around it."""

    ir: float
    vi_y: float
    fused: float

    @property
    def kept(self) -> float:
        """Contrast in the fused image over that in the better camera, without signs; not clipped."""
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
) -> list[Target]:
    """Return the contrasts of every target of a registered pair.

    Args:
        ir, vi_y, fused: H x W, levels 0..255.
        boxes: (x0, y0, x1, y1) of the targets in pixels; a target is the ellipse in its box.
            None: hot blobs of ir, see hot_blobs.
        ignore: boxes that are no part of any ring.

    A target that reaches 20 levels of contrast in neither camera is left out.
    """
    if boxes is None:
        regions = hot_blobs(ir)
        taken = np.any(regions, axis=0) if regions else np.zeros(ir.shape, bool)
    else:
        regions = [region for region in (_ellipse(box, ir.shape) for box in boxes) if region.any()]
        taken = np.zeros(ir.shape, bool)
        for box in (*boxes, *ignore):
            taken[_window(box, ir.shape)] = True
    found = []
    for region in regions:
        ring = _ring(region, taken)
        if ring.any():
            found.append(Target(*(_contrast(image, region, ring) for image in (ir, vi_y, fused))))
    return [t for t in found if max(abs(t.ir), abs(t.vi_y)) >= LEAST_CONTRAST]


def hot_blobs(ir: np.ndarray) -> list[np.ndarray]:
    """Return the masks (H x W bool) of what is hotter than its surround at the scale of people.

    The white top-hat of ir, smoothed by a Gaussian of 1 pixel, with a square of H / 8 is at least
    50 levels there; 8-connected, at least (H / 40)^2 pixels, and at least 20 levels warmer than
    the ring around it.
    """
    height = ir.shape[0]
    side = 2 * max(1, round(height * PEOPLE_SHARE / 2)) + 1
    smooth = cv2.GaussianBlur(np.asarray(ir, np.float32), (0, 0), BLUR_SIGMA_PX)
    hot = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)) >= HOT_LEVELS
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        hot.astype(np.uint8), connectivity=8
    )
    large = [
        label
        for label in range(1, count)
        if stats[label, cv2.CC_STAT_AREA] >= max(1.0, (height * SMALLEST_SHARE) ** 2)
    ]
    blobs = []
    for mask in (labels == label for label in large):
        ring = _ring(mask, hot)
        if ring.any() and _contrast(ir, mask, ring) >= LEAST_CONTRAST:
            blobs.append(mask)
    return blobs


def summary(found: Sequence[Target]) -> dict[str, float]:
    """Return target, target_worst and target_dark of targets; NaN where there are none.

    The mean, the mean over the worst tenth (at least one target) and the mean over those dark in
    RGB, of what is kept, each target counted as at most 1: more contrast than the better camera
    has is not rewarded.
    """
    kept = np.sort([min(1.0, target.kept) for target in found])
    dark = [min(1.0, target.kept) for target in found if target.dark]
    worst = kept[: max(1, round(WORST_SHARE * len(kept)))]
    return {'target': _mean(kept), 'target_worst': _mean(worst), 'target_dark': _mean(dark)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _contrast(image: np.ndarray, region: np.ndarray, ring: np.ndarray) -> float:
    return float(np.mean(image[region], dtype=np.float64) - np.mean(image[ring], dtype=np.float64))


def _ring(region: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """H x W bool: what is farther than the gap and within the ring's width of region, and not taken."""
    width = GAP_PX + max(1, round(region.shape[0] * RING_SHARE))
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    part = tuple(slice(max(0, line[0] - width), line[-1] + width + 1) for line in (rows, columns))
    inside = region[part].astype(np.uint8)
    near, far = (cv2.dilate(inside, _disc(radius)).astype(bool) for radius in (GAP_PX, width))
    ring = np.zeros(region.shape, bool)
    ring[part] = far & ~near & ~taken[part]
    return ring


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def _window(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = (max(0, round(value)) for value in box)
    return slice(min(y0, shape[0]), y1), slice(min(x0, shape[1]), x1)


def _ellipse(box: Box, shape: tuple[int, int]) -> np.ndarray:
    """H x W bool: the pixels whose centers lie in the ellipse that the box holds."""
    x0, y0, x1, y1 = box
    down, right = np.ogrid[: shape[0], : shape[1]]
    across, along = max(x1 - x0, 1) / 2, max(y1 - y0, 1) / 2
    dx, dy = (right + 0.5 - (x0 + x1) / 2) / across, (down + 0.5 - (y0 + y1) / 2) / along
    return dx**2 + dy**2 <= 1
