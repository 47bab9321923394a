# SPDX-License-Identifier: Apache-2.0
"""A pair fused on the CPU: numpy and OpenCV around a function of two float images."""

import cv2
import numpy as np

from ..core.color import join_luma, split_luma
from ..core.frames import Pair
from ..core.geometry import Alignment
from ..core.settings import ThermalSettings
from ..core.thermal import levels_of, to_gray
from .scaled import Fuse, fuse_scaled

_UNIT = np.float32(1 / 255)


class HostPath:
    """Fuses pairs with fuse(ir, y), which takes and returns H x W float32 in [0, 1].

    For one thread at a time: the two float images that fuse gets are kept for the next pair.
    """

    problems: tuple[str, ...] = ()  # as DevicePath has

    def __init__(self, fuse: Fuse, *, alignment: Alignment, thermal: ThermalSettings):
        self._fuse, self._alignment, self._thermal = fuse, alignment, thermal
        self._inputs = np.empty((2, 0, 0), np.float32)

    def __call__(self, pair: Pair, *, scale: float, stage) -> np.ndarray:
        """Return the fused image of pair, H x W x 3 uint8 in output_encoding; nothing keeps or changes it.

        Where thermal does not see, the RGB image passes unchanged. scale is the working size of fuse;
        `with stage(name)` surrounds every stage. Raises FrameError when a frame is not usable, and what
        fuse raises.
        """
        with stage('colour'):
            y, colour = split_luma(pair.rgb.pixels, pair.rgb.encoding)
        with stage('align'):
            ir, seen = align(pair, self._alignment, self._thermal)
            everywhere = seen.all()
            if not everywhere:
                ir = _choose(seen, ir, y)  # a black surround would be an edge that no camera saw
        with stage('network'):
            fused = fuse_scaled(self._fuse, *self._as_float(ir, y), scale=scale)
        with stage('colour'):
            luma = cv2.convertScaleAbs(fused, alpha=255)
            return join_luma(luma if everywhere else _choose(seen, luma, y), colour, pair.rgb.encoding)

    def _as_float(self, *images: np.ndarray) -> np.ndarray:
        """Two H x W uint8 -> 2 x H x W float32 in [0, 1], in memory that the next pair uses again."""
        if self._inputs.shape[1:] != images[0].shape:
            self._inputs = np.empty((2, *images[0].shape), np.float32)
        for image, out in zip(images, self._inputs):
            np.multiply(image, _UNIT, out=out, dtype=np.float32)
        return self._inputs


def align(pair: Pair, alignment: Alignment, thermal: ThermalSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return thermal on the RGB grid, H x W uint8 white-hot, and the bool mask of what it sees."""
    pixels, encoding = pair.thermal.pixels, pair.thermal.encoding
    gray = to_gray(pixels, encoding, levels_of(pixels, encoding, thermal))
    return alignment.warp(gray, rgb_size=pair.rgb.size)


def _choose(mask: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """np.where for uint8 images, at a tenth of its time."""
    return cv2.copyTo(inside, mask.view(np.uint8), outside.copy())
