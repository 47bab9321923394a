# SPDX-License-Identifier: Apache-2.0
"""The picture in an image as a camera sends it: a part of it, mirrored and turned by quarters."""

import cv2
import numpy as np

from ..alignment.camera import CameraModel
from ..frames import FrameError

Crop = tuple[int, int, int, int]
_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


def cropped(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """Return the view of pixels (H x W [x C]) that crop names.

    Left, top, width and height in pixels.

    Raises:
        FrameError: reason crop_outside, when it reaches beyond the image.
    """
    (left, top, width, height), (rows, columns) = crop, pixels.shape[:2]
    if left + width > columns or top + height > rows:
        raise FrameError(f'expected an image that holds the crop {width}x{height}+{left}+{top}, '
                         f'got {columns}x{rows}', reason='crop_outside')
    return pixels[top:top + height, left:left + width]


def turned(pixels: np.ndarray, orientation: str) -> np.ndarray:
    """Return pixels (H x W [x C]) in one of the orientations of the settings.

    Pixels itself for as_sent.
    """
    mirrored, quarters = _steps(orientation)
    if mirrored:
        pixels = cv2.flip(np.ascontiguousarray(pixels), 1)
    return cv2.rotate(np.ascontiguousarray(pixels), _TURNS[quarters]) if quarters else pixels


def turned_camera(camera: CameraModel, orientation: str) -> CameraModel:
    """Return the model of the image that turned() makes of a camera's image.

    Raises CalibrationError.
    """
    mirrored, quarters = _steps(orientation)
    if mirrored:
        camera = camera.mirrored()
    for _ in range(quarters):
        camera = camera.rotated_right()
    return camera


def _steps(orientation: str) -> tuple[bool, int]:
    """Whether the picture is mirrored, and by how many quarters it is turned clockwise."""
    name, _, degrees = orientation.partition('_')
    return name == 'mirrored', int(degrees) // 90 if degrees.isdigit() else 0
