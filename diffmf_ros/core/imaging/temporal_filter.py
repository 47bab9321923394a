# SPDX-License-Identifier: Apache-2.0
"""Temporal noise filter: averages successive images where nothing moves, and only there.

Noise of two images is independent, a scene at rest is not. Where the mean of 4 x 4 pixels changed
by more than noise can, the new image passes unchanged, so that nothing that moves leaves a trail.
"""

from typing import Any

import cv2
import numpy as np

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
            stamp_ns: Its time. Images more than half a second apart, not later than the last one,
                are not averaged; nor are those of different shapes.
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
        means = means.max(axis=2)
    return np.clip((MOTION - cv2.blur(means, (3, 3))) / (MOTION - REST), 0, 1, dtype=np.float32)
