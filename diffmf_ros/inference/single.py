# SPDX-License-Identifier: Apache-2.0
"""One camera's image passed on alone, in the form that fused images have."""

import cv2
import numpy as np

from ..core.alignment.warp import Mapping
from ..core.frames import Frame
from ..core.imaging.color import CHROMA, output_encoding, paint, require_8_bit, split_luma
from ..core.imaging.thermal import Levels, to_gray


def rgb_image(frame: Frame, *, mapping: Mapping | None, color: str) -> tuple[np.ndarray, str]:
    """Return (pixels, encoding) of an RGB frame: its own colors, or the color policy over its luminance.

    mapping brings it onto another grid, where it is black outside its view; None: it stays on its own. The pixels may
    be those of the frame. Raises FrameError (not_8_bit).
    """
    require_8_bit(frame.encoding)
    pixels = frame.pixels if mapping is None else mapping.rgb_on_grid(frame.pixels)
    if color not in CHROMA:
        return paint(split_luma(pixels, frame.encoding)[0], None, encoding=frame.encoding, color=color)
    if frame.encoding == 'mono8':
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB), 'rgb8'
    return np.ascontiguousarray(pixels[..., :3]), output_encoding(frame.encoding)


def thermal_image(frame: Frame, *, levels: Levels, mapping: Mapping | None, color: str,
                  rgb_encoding: str) -> tuple[np.ndarray, str]:
    """Return (pixels, encoding) of a thermal frame, white-hot: gray in the channels of rgb_encoding, or a palette.

    mapping brings it onto another grid, where it is black outside its view; None: it stays on its own.
    """
    gray = to_gray(frame.pixels, frame.encoding, levels)
    if mapping is not None:
        gray = mapping.thermal_on_grid(gray)
    _, neutral = split_luma(gray, 'mono8')
    return paint(gray, neutral, encoding=rgb_encoding, color=color)

