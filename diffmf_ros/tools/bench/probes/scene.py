# SPDX-License-Identifier: Apache-2.0
"""What the probes of `diffmf bench --shell` show.

They show two moving cameras and a homography between them.
"""

from pathlib import Path

import cv2
import numpy as np
import yaml
from sensor_msgs.msg import Image

from ....ros import messages

FRAMES = 8  # different images of each camera, in turn
_STEP_PX = 3  # by which the scene moves from image to image
_TEXTURE = 7000, 7400  # counts of the thermal background, before it is smoothed
_WARMER, _PEOPLE = 1500, 8  # counts by which so many people are warmer than it


def moving_images(size: tuple[int, int], *, seed: int) -> tuple[list[Image], list[Image]]:
    """Return (rgb, thermal): FRAMES messages each, bgr8 and mono16 of this (width, height),
    without stamps. Thermal shows people before a textured background, RGB a texture."""
    rng = np.random.default_rng(seed)
    width, height = size
    extent = height, width + _STEP_PX * FRAMES
    texture = cv2.GaussianBlur(rng.integers(0, 256, (*extent, 3), np.uint8), (0, 0), 2)
    heat = rng.integers(*_TEXTURE, extent, np.uint16)
    for x, y in zip(rng.integers(0, extent[1], _PEOPLE), rng.integers(0, height, _PEOPLE)):
        cv2.ellipse(heat, (int(x), int(y)), (height // 40, height // 12), 0, 0, 360,
                    _TEXTURE[1] + _WARMER, -1)
    heat = cv2.GaussianBlur(heat, (0, 0), 2)
    rgb, thermal = [], []
    for left in range(0, _STEP_PX * FRAMES, _STEP_PX):
        rgb.append(_noisy(texture[:, left:left + width], rng, 'bgr8', 'rgb'))
        thermal.append(_noisy(heat[:, left:left + width], rng, 'mono16', 'thermal'))
    return rgb, thermal


def homography(size: tuple[int, int]) -> np.ndarray:
    """3x3 from thermal to RGB pixels, both of this (width, height).

    Thermal is smaller, turned, and does not see a border.
    """
    width, height = size
    return np.array([[0.9, -0.03, 0.06 * width], [0.03, 0.9, 0.04 * height], [1e-5, -2e-5, 1.0]])


def write_alignment(folder: str | Path, size: tuple[int, int]) -> Path:
    """Write homography(size) as an alignment file into folder; return its path."""
    path = Path(folder) / 'alignment.yaml'
    path.write_text(yaml.safe_dump({'rgb_from_thermal': homography(size).tolist(),
                                    'rgb_size': list(size), 'thermal_size': list(size)}),
                    encoding='utf-8')
    return path


def _noisy(pixels: np.ndarray, rng: np.random.Generator, encoding: str, frame_id: str) -> Image:
    """The message of pixels with the noise of a camera: no two images are equal."""
    noisy = pixels + rng.integers(0, 3, pixels.shape, pixels.dtype)
    return messages.make_image(noisy, encoding, messages.make_header(0, frame_id))
