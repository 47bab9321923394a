# SPDX-License-Identifier: Apache-2.0
"""A pair fused on the CPU: numpy and OpenCV around a function of two float images."""

import cv2
import numpy as np

from ..core.alignment.warp import Mapping
from ..core.frames import RGB, Pair
from ..core.imaging.color import paint, split_luma
from ..core.imaging.thermal import Levels, to_gray
from .scaled import Fuse, fuse_scaled

# The device path multiplies by the same number: ties of rounding then fall alike.
UNIT = np.float32(1 / 255)


class HostPath:
    """Fuses pairs with fuse(ir, y), which takes and returns H x W float32 in [0, 1].

    For one thread at a time: the two float images that fuse gets are kept for the next pair.
    """

    problems: tuple[str, ...] = ()  # as DevicePath has

    def __init__(self, fuse: Fuse):
        self._fuse = fuse
        self._inputs = np.empty((2, 0, 0), np.float32)

    def __call__(self, pair: Pair, *, levels: Levels, mapping: Mapping, color: str, scale: float,
                 stage) -> tuple[np.ndarray, str]:
        """Return (pixels, encoding) of the fused image of pair, on the grid of mapping, as core.color.paint gives it.

        Where only the camera of the grid sees, its image passes unchanged: RGB, or gray thermal. scale is the
        working size of fuse; `with stage(name)` surrounds every stage. Nothing keeps or changes the result. Raises
        FrameError when a frame is not usable, and what fuse raises.
        """
        with stage('align'):
            ir, seen = align(pair, levels=levels, mapping=mapping)
            rgb = mapping.rgb_on_grid(pair.rgb.pixels)
        with stage('color'):
            y, ycrcb = split_luma(rgb, pair.rgb.encoding)
        own = y if mapping.grid == RGB else ir
        if not mapping.everywhere:  # a black surround would be an edge that no camera saw
            ir, y = (_choose(seen, image, own) if image is not own else image for image in (ir, y))
        with stage('network'):
            fused = fuse_scaled(self._fuse, *self._as_float(ir, y), scale=scale)
        with stage('color'):
            luma = cv2.convertScaleAbs(fused, alpha=255)
            if not mapping.everywhere:
                luma = _choose(seen, luma, own)
            return paint(luma, ycrcb, encoding=pair.rgb.encoding, color=color,
                         seen=None if mapping.everywhere else seen)

    def _as_float(self, *images: np.ndarray) -> np.ndarray:
        """Two H x W uint8 -> 2 x H x W float32 in [0, 1], in memory that the next pair uses again."""
        if self._inputs.shape[1:] != images[0].shape:
            self._inputs = np.empty((2, *images[0].shape), np.float32)
        for image, out in zip(images, self._inputs):
            np.multiply(image, UNIT, out=out, dtype=np.float32)
        return self._inputs


def align(pair: Pair, *, levels: Levels, mapping: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Return thermal on the grid, H x W uint8 white-hot, and the bool mask of what both cameras see."""
    gray = to_gray(pair.thermal.pixels, pair.thermal.encoding, levels)
    return mapping.thermal_on_grid(gray), mapping.seen


def _choose(mask: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """np.where for uint8 images, at a tenth of its time."""
    return cv2.copyTo(inside, mask.view(np.uint8), outside.copy())
