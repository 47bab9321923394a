# SPDX-License-Identifier: Apache-2.0
"""Filters of a stream of fused images: thermal shows through veils, noise is averaged over time.

Fog and smoke are bright and empty in the visible image. A network takes some of that brightness
over, and people behind it stand out less than in thermal alone. Where that is so, thermal takes
the place of the fused image, by as much as the visible image is veiled.

Noise of two images is independent, a scene at rest is not. Where the mean of 4 x 4 pixels changed
by more than noise can, the new image passes unchanged, so that nothing that moves leaves a trail.
"""

import math
from functools import reduce
from typing import Any

import cv2
import numpy as np

MOST = 0.75  # share of thermal in a fully veiled part: what RGB still shows stays
# Structure: root mean square of a thumbnail minus its mean over 7 x 7 pixels, in gray levels,
# averaged by a Gaussian of 0.13 of the height. A visible image of less than the first value is
# empty, from the second one on it is clear; thermal has nothing below the first value. Chosen on
# rendered fog and smoke; training pairs of clear scenes stay below.
SURROUND_PX = 7
EMPTY, CLEAR = 2.0, 6.0
NOTHING, SOMETHING = 2.0, 5.0
# A sky is as cold as the coldest hundredth of thermal, in levels above it, and empty in its cell.
# It counts as far as something else is veiled: in place of a blue one it would be a black hole.
COLDEST_PERCENTILE, COLD, NOT_COLD = 1, 3.0, 10.0
# Brightness of the visible image in the same neighborhood, in gray levels: night is no veil.
DIM, BRIGHT = 60.0, 100.0
CELL_PX = 4  # thumbnail pixels to a cell of the map: it is smooth
WIDTHS = 0.13, 0.115  # Gaussians of the measures and of the map, in heights
LEAST = 0.02  # a map that stays below is none
UNSEEN = 0.0019  # a share up to this one changes no level of 255: by 0.49 of one at most
FOLLOWED_NS = 1_000_000_000  # time constant of the map in a stream, and the longest gap in one
LEAST_SIDE_PX = 60  # smaller thumbnails say too little


def veil_map(thermal: np.ndarray, luma: np.ndarray,
             seen: np.ndarray | None = None) -> np.ndarray | None:
    """Measure where the visible image is bright and empty and thermal is not, but for a clear sky.

    Args:
        thermal, luma: thumbnails of one view, h x w uint8. Measured for shorter sides of 100 to
            200 pixels; below LEAST_SIDE_PX there is no map.
        seen: h x w bool, what both cameras see; None: all of it.

    Returns:
        The share of thermal that the place asks for, 0 to MOST, as a coarse h/4 x w/4 float32
        image of the view; None where nothing is veiled.
    """
    if min(luma.shape) < LEAST_SIDE_PX:
        return None
    height, width = (side // CELL_PX for side in luma.shape)
    shape = width, height
    bright = _rising(_wide(_cells(luma, shape), height), DIM, BRIGHT)
    if not bright.any():
        return None
    veiled = bright * (1 - _rising(np.sqrt(_wide(_energy(luma, shape), height)), EMPTY, CLEAR))
    energy, cells = _energy(thermal, shape), _cells(thermal, shape)
    veiled *= _rising(np.sqrt(_wide(energy, height)), NOTHING, SOMETHING)
    above = cells - np.percentile(cells, COLDEST_PERCENTILE)
    no_sky = cv2.max(_rising(above, COLD, NOT_COLD), _rising(np.sqrt(energy), NOTHING, SOMETHING))
    veiled *= np.maximum(no_sky, (veiled * no_sky).max())
    share = MOST * cv2.GaussianBlur(veiled, (0, 0), WIDTHS[1] * height)
    if seen is not None and not seen.all():
        share *= cv2.erode(_cells(seen, shape), np.ones((3, 3), np.uint8)) > 0.99
    return share if share.max() >= LEAST else None


class VeilMonitor:
    """Follows the veil map of a stream of pairs. For one thread.

    It changes slowly: drifting smoke would make the image flicker.
    """

    def __init__(self) -> None:
        self._share: np.ndarray | None = None
        self._stamp_ns = 0

    def __call__(self, thermal: np.ndarray, luma: np.ndarray, seen: np.ndarray | None = None, *,
                 stamp_ns: int = 0) -> np.ndarray | None:
        """Return the map of the next pair, as veil_map does.

        Args:
            thermal, luma, seen: as for veil_map.
            stamp_ns: time of the pair; 0: it is judged by itself. So are the first pair, one
                after a gap and one that is not later than the one before.
        """
        share, before = veil_map(thermal, luma, seen), self._share
        since_ns = stamp_ns - self._stamp_ns if self._stamp_ns and stamp_ns else 0
        self._stamp_ns = stamp_ns
        some = before if share is None else share
        if some is not None and 0 < since_ns <= FOLLOWED_NS:
            share = np.zeros_like(some) if share is None else share
            if before is None or before.shape != share.shape:
                before = np.zeros_like(share)
            share = before + (1 - math.exp(-since_ns / FOLLOWED_NS)) * (share - before)
            share = share if share.max() >= LEAST else None
        self._share = share
        return share


def show_through(image: np.ndarray, thermal: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mix thermal into a fused image.

    Args:
        image, thermal: H x W or H x W x 3 uint8, of the same shape; not changed.
        share: of thermal, a coarse float32 image as of veil_map.

    Returns:
        An image of the same shape.
    """
    share = cv2.resize(share, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    left, top, width, height = cv2.boundingRect((share > UNSEEN).view(np.uint8))
    if 2 * width * height > share.size:
        return cv2.blendLinear(image, thermal, 1 - share, share)
    result, part = image.copy(), np.s_[top:top + height, left:left + width]
    if width:
        result[part] = cv2.blendLinear(image[part], thermal[part], 1 - share[part], share[part])
    return result


def _cells(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image.astype(np.float32), shape, interpolation=cv2.INTER_AREA)


def _wide(cells: np.ndarray, height: int) -> np.ndarray:
    return cv2.GaussianBlur(cells, (0, 0), WIDTHS[0] * height)


def _energy(gray: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the square of the structure in each cell."""
    fine = cv2.subtract(gray, cv2.blur(gray, (SURROUND_PX, SURROUND_PX)), dtype=cv2.CV_32F)
    return _cells(fine * fine, shape)


def _rising(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return 0 below start, 1 from end on, and a straight line between them."""
    return np.clip((values - start) / (end - start), 0, 1)


BLOCK_PX = 4  # motion is judged on means of such squares: 1/4 of the noise of a pixel
# Levels of change of such a mean, averaged over 3 x 3 of them: at rest up to the first, moving
# from the second on. Sensor noise of 8 levels changes the average by 2/3 of a level.
REST, MOTION = 2.0, 5.0
LONGEST_GAP_NS = 500_000_000  # between two images that are still averaged


class TemporalFilter:
    """Keeps the average of the images so far. It serves one thread."""

    def __init__(self) -> None:
        self._average: np.ndarray | None = None  # float32: what 8 bits round away adds up
        self._stamp_ns = 0

    def __call__(self, image: np.ndarray, *, stamp_ns: int, keep: float) -> np.ndarray:
        """Return an image averaged with those before it where nothing moves.

        Args:
            image: H x W or H x W x 3 uint8; not changed.
            stamp_ns: Its time. It is not averaged when it is more than half a second later than
                the last one, or not later at all; nor when its shape is another one.
            keep: Share of the average so far in an area at rest, 0 to below 1; 0 switches the
                filter off.

        Returns:
            An image of the same shape, uint8; the image itself where there is nothing to average.
        """
        since_ns, before = stamp_ns - self._stamp_ns, self._average
        self._stamp_ns = stamp_ns
        if keep <= 0:
            self._average = None
            return image
        average: Any = image.astype(np.float32)
        follows = before is not None and before.shape == image.shape
        if follows and 0 < since_ns <= LONGEST_GAP_NS:
            coarse = keep * _at_rest(average - before)
            share = cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            average = cv2.blendLinear(before, average, share, 1 - share)  # type: ignore[arg-type]
            image = cv2.convertScaleAbs(average)
        self._average = average
        return image


def _at_rest(change: np.ndarray) -> np.ndarray:
    """Return how surely each square of BLOCK_PX did not move, H/4 x W/4 float32, 0 to 1."""
    height, width = (max(1, side // BLOCK_PX) for side in change.shape[:2])
    means = np.abs(cv2.resize(change, (width, height), interpolation=cv2.INTER_AREA))
    if means.ndim == 3:
        means = reduce(cv2.max, cv2.split(means))  # a tenth of the time of means.max(axis=2)
    return np.clip((MOTION - cv2.blur(means, (3, 3))) / (MOTION - REST), 0, 1, dtype=np.float32)
