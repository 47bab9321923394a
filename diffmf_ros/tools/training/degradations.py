# SPDX-License-Identifier: Apache-2.0
"""What cameras and weather do to a clean pair, so that a network meets it in training.

Every function takes and returns H x W float32 in [0, 1] and draws from `random`. What changes the
scene (veil, darkness, saturation, another thermal range) also changes the target; noise of thermal
does not, and that of the visible image is added to the target where its base is visible.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .warm_objects import LEVEL


@dataclass(frozen=True)
class Degradations:
    """How often each degradation occurs, 0 to 1; 0 switches it off."""

    veil: float = 0.2  # smoke or fog over a part of the visible image
    dark: float = 0.12  # visible image with 3 to 40 % of its light
    glare: float = 0.08  # lamps and sun that saturate the visible image around them
    blind: float = 0.04  # visible image all black or all white
    dark_coats: float = 0.12  # warm objects dark before a bright visible ground: snow, sand, haze
    visible_noise: float = 0.35
    gray_thermal: float = 0.35  # thermal ground lifted to middle gray, as gain control leaves it
    black_hot: float = 0.03
    flat_thermal: float = 0.06  # thermal without any structure, at any level: shutter, lens cap
    thermal_noise: float = 0.4
    shift: float = 0.25  # thermal displaced by up to 4 pixels


def degraded_visible(y: np.ndarray, random: np.random.Generator,
                     chances: Degradations) -> np.ndarray:
    """Return visible luminance as smoke, darkness, glare or a blind camera leave it."""
    if random.random() < chances.dark:
        y = y ** random.uniform(1.0, 1.5) * random.uniform(0.03, 0.4)
    if random.random() < chances.veil:
        y = veiled(y, random)
    if random.random() < chances.glare:
        y = with_glare(y, random)
    if random.random() < chances.blind:
        y = np.full_like(y, random.choice((0.0, 0.02, 0.98, 1.0)))
    return np.clip(y, 0, 1).astype(np.float32)


def with_dark_coats(y: np.ndarray, warm: np.ndarray, random: np.random.Generator,
                    chances: Degradations) -> np.ndarray:
    """Return y with a brighter ground and what is warm (0 to 1) dark before it."""
    if random.random() >= chances.dark_coats:
        return y
    low = random.uniform(0.2, 0.6)
    return (low + (1 - low) * y) * (1 - random.uniform(0.5, 0.95) * warm)


def degraded_thermal(ir: np.ndarray, random: np.random.Generator,
                     chances: Degradations) -> np.ndarray:
    """Return thermal under another gain control, shifted, inverted, or flat."""
    if random.random() < chances.shift:
        dx, dy = random.uniform(-4, 4, 2)
        ir = cv2.warpAffine(ir, np.array([[1, 0, dx], [0, 1, dy]], np.float32), ir.shape[::-1],
                            borderMode=cv2.BORDER_REPLICATE)
    if random.random() < chances.gray_thermal:
        low = random.uniform(0.1, 0.5)
        ir = low + (random.uniform(0.85, 1.0) - low) * ir ** random.uniform(0.7, 1.3)
    if random.random() < chances.black_hot:
        ir = 1 - ir
    if random.random() < chances.flat_thermal:
        ir = np.full_like(ir, random.random())
    return np.clip(ir, 0, 1).astype(np.float32)


def with_noise(y: np.ndarray, ir: np.ndarray, random: np.random.Generator,
               chances: Degradations) -> tuple[np.ndarray, np.ndarray]:
    """Return both images with the noise of their sensors: grain in y, grain and rows in ir."""
    if random.random() < chances.visible_noise:
        grain = _field(y.shape, random, random.uniform(0.0, 0.8))
        y = y + random.uniform(1, 12) * LEVEL * grain * np.sqrt(0.3 + y)
    if random.random() < chances.thermal_noise:
        rows = random.standard_normal((ir.shape[0], 1)) * random.uniform(0, 1.5)
        strength = random.uniform(0.5, 4)
        ir = ir + LEVEL * (strength * _field(ir.shape, random, random.uniform(0.0, 0.8)) + rows)
    return tuple(np.clip(image, 0, 1).astype(np.float32) for image in (y, ir))


def veiled(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return y behind smoke or fog of uneven density: y t + a (1 - t) (Koschmieder)."""
    density = _field(y.shape, random, random.uniform(0.12, 0.4) * min(y.shape))
    coverage = random.uniform(-1.0, 1.5)
    opacity = np.clip(0.5 + 0.6 * (density + coverage), 0, random.uniform(0.7, 1.0))
    airlight = random.uniform(0.3, 0.95) + 0.04 * _field(y.shape, random, 0.1 * min(y.shape))
    return y * (1 - opacity) + airlight * opacity


def with_glare(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return y with one to three lights that saturate it and bloom."""
    height, width = y.shape
    rows, columns = np.mgrid[:height, :width]
    for _ in range(random.integers(1, 4)):
        row, column = random.uniform(0, height), random.uniform(0, width)
        radius = random.uniform(0.02, 0.3) * min(height, width)
        distance = np.hypot(rows - row, columns - column) / radius
        y = y + random.uniform(0.8, 3.0) / (1 + distance ** 2)
    return np.clip(y, 0, 1)


def _field(shape, random, sigma_px):
    """Gaussian noise of unit variance with structures of this size."""
    if sigma_px < 0.3:
        return random.standard_normal(shape).astype(np.float32)
    factor = max(1, int(sigma_px / 3))  # coarse fields are drawn small
    size = tuple(-(-side // factor) + 1 for side in shape)
    small = random.standard_normal(size).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / factor)
    field = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (field - field.mean()) / max(float(field.std()), 1e-6)
