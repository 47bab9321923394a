# SPDX-License-Identifier: Apache-2.0
"""Fusion at a smaller working size: coarse structure from the small image, detail from the sources."""

from collections.abc import Callable

import cv2
import numpy as np

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fuse_scaled(fuse: Fuse, ir: np.ndarray, vi_y: np.ndarray, *, scale: float) -> np.ndarray:
    """Run fuse(ir, vi_y) at scale times the size and return the full size, H x W float32 in [0, 1].

    What shrinking removed is put back from the source that has more of it, pixel by pixel.
    """
    if scale == 1:
        return fuse(ir, vi_y)
    height, width = ir.shape
    small = max(1, round(width * scale)), max(1, round(height * scale))
    small_ir, small_y = (cv2.resize(image, small, interpolation=cv2.INTER_AREA) for image in (ir, vi_y))

    def enlarge(image):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    detail_ir, detail_y = ir - enlarge(small_ir), vi_y - enlarge(small_y)
    detail = np.where(np.abs(detail_ir) > np.abs(detail_y), detail_ir, detail_y)
    return (enlarge(fuse(small_ir, small_y)) + detail).clip(0, 1)
