# SPDX-License-Identifier: Apache-2.0
"""Pictures for the eye: what the fusion was made from. All color is rgb8."""

import cv2
import numpy as np

# Thermal edges on the RGB image: a color that neither a night road nor a forest has.
_EDGE = (255, 0, 255)
_CANNY = (60, 120)


def side_by_side(rgb: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Put the two images and their fusion side by side.

    Args:
        rgb, fused: H x W x 3 uint8.
        thermal: H x W uint8.

    Returns:
        H x 3W x 3 uint8, thermal in the middle.
    """
    return np.hstack((rgb, cv2.merge((thermal,) * 3), fused))


def overlay(rgb: np.ndarray, thermal: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Draw the edges of thermal in magenta over RGB, where both cameras see.

    Edges that miss the outlines in rgb show a wrong alignment, or parallax.

    Args:
        rgb: H x W x 3 uint8.
        thermal: H x W uint8.
        seen: H x W bool, where both cameras see.

    Returns:
        H x W x 3 uint8.
    """
    edges = cv2.Canny(cv2.GaussianBlur(thermal, (0, 0), 1.0), *_CANNY) > 0
    # The border of what thermal sees is an edge that no camera saw.
    inner = cv2.erode(seen.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    picture = rgb.copy()
    picture[edges & inner] = _EDGE
    return picture
