# SPDX-License-Identifier: Apache-2.0
"""RGB images of 10 to 16 bits a value, brought to the 8 bits in which everything is fused."""

from dataclasses import replace

import cv2
import numpy as np

from ..frames import Frame
from .color import require_8_bit

_EIGHT_BIT = {'mono16': 'mono8', 'rgb16': 'rgb8', 'bgr16': 'bgr8', 'rgba16': 'rgba8',
              'bgra16': 'bgra8'}
# Sensors have so many bits; a message of 16 bits does not say how many.
DEPTHS = (10, 12, 14, 16)


class BitDepth:
    """Reduces the RGB frames of one camera to 8 bits.

    The depth is the smallest of DEPTHS that holds all values so far, so that the brightness of a
    dark scene does not depend on it and changes once at most a few times after the start.
    """

    def __init__(self) -> None:
        self._bits = DEPTHS[0]

    def to_8_bit(self, frame: Frame) -> Frame:
        """Return a frame in 8 bits.

        Args:
            frame: color or gray of 8 to 16 bits.

        Returns:
            frame itself if it has 8 bits, else a new one.

        Raises:
            FrameError: reason not_8_bit, for an encoding without a known range, such as 32FC1.
        """
        if frame.encoding not in _EIGHT_BIT:
            require_8_bit(frame.encoding)
            return frame
        highest = int(frame.pixels.max())
        self._bits = next(bits for bits in DEPTHS if bits >= self._bits and highest < 2 ** bits)
        pixels = cv2.convertScaleAbs(np.ascontiguousarray(frame.pixels),
                                     alpha=255 / (2 ** self._bits - 1))
        return replace(frame, pixels=pixels, encoding=_EIGHT_BIT[frame.encoding])
