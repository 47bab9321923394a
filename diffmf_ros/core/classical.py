# SPDX-License-Identifier: Apache-2.0
"""Weight-free fusion: the degraded mode, and the baseline that every network must beat.

A Laplacian pyramid (Burt and Adelson, 1983): at each scale the image with more local energy gives the
detail (after Burt and Kolczynski, 1993), the coarsest scale is visible luminance, raised to thermal
where thermal is warmer than its mean. Hot targets stand out, visible texture stays, and thermal that
shows nothing leaves the visible image as it is.
"""

import cv2
import numpy as np

# The coarsest scale is about this many pixels high: for 640x480 five scales above it.
_COARSEST_PIXELS = 24
_ENERGY_WINDOW = (5, 5)
# Squared energy of a detail of a quarter grey level: below that, thermal is noise.
_NOISE_FLOOR = (0.25 / 255) ** 4
# Thermal a third above its mean replaces the visible base in full.
_WARMTH_GAIN = 3.0


def fuse(ir: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the fusion of thermal ir and visible luminance y, all H x W float32 in [0, 1].

    Any size from 1x1 on. fuse(x, x) is x, and fuse(c, y) is y for a constant c, to rounding.
    """
    details, coarse = _pyramid(cv2.merge((ir, y)))
    fused = _fuse_base(*cv2.split(coarse))
    for detail in reversed(details):
        height, width = detail.shape[:2]
        fused = cv2.pyrUp(fused, dstsize=(width, height)) + _fuse_detail(detail)
    return np.clip(fused, 0, 1)


def _pyramid(image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Details from fine to coarse and what is left, of an H x W x 2 float32 image."""
    details = []
    while min(image.shape[:2]) >= _COARSEST_PIXELS:
        half = cv2.pyrDown(image)
        details.append(image - cv2.pyrUp(half, dstsize=(image.shape[1], image.shape[0])))
        image = half
    return details, image


def _fuse_base(ir: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coarsest scale, h x w: y, drawn up to ir where ir is warmer than its mean and brighter than y."""
    warmth = np.clip((ir - ir.mean()) * _WARMTH_GAIN, 0, 1)
    return y + warmth * np.maximum(ir - y, 0)


def _fuse_detail(detail: np.ndarray) -> np.ndarray:
    """One scale, h x w x 2 (ir, y) to h x w: a soft choice of the one with more energy nearby."""
    energy = cv2.blur(detail * detail, _ENERGY_WINDOW)
    ir_strength, y_strength = np.square(energy[..., 0]), np.square(energy[..., 1])
    ir_share = ir_strength / (ir_strength + y_strength + _NOISE_FLOOR)
    ir, y = detail[..., 0], detail[..., 1]
    return y + ir_share * (ir - y)
