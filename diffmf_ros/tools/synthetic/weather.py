# SPDX-License-Identifier: Apache-2.0
"""What hangs and falls in the air of the synthetic street: smoke, fog, snowflakes.

Smoke and fog hide what is behind them: with optical depth d a share exp(-d) of its light passes,
the rest is the color of the veil.
"""

import cv2
import numpy as np

from . import textures
from .environments import Environment
from .render import View

# Depth of the smoke sheets ahead of the rig, their share of the optical depth, their drift (x,
# up), and how bright each is: the near ones lie in the shade of the others.
_SHEETS = ((6.5, 0.26, (0.30, 0.16), 0.90), (9.5, 0.38, (-0.22, 0.20), 0.98),
           (15.0, 0.36, (0.40, 0.12), 1.08))
_SMOKE_CELL_M = 0.05


class Smoke:
    """Drifting smoke as three fronto-parallel sheets ahead of the rig."""

    # Long-wave infrared passes smoke almost freely: a twentieth of the optical depth.
    infrared = 0.05

    def __init__(self, density: float, color: tuple[float, float, float], seed: int):
        self.density, self.color = density, color
        rng = np.random.default_rng([seed, 2])
        cells = (10, 26, 64, 110)
        layers = [sum(textures.soft_noise(rng, (256, 512), (cell, cell)) * cell**0.8
                      for cell in cells)
                  for _ in _SHEETS]
        self._sheets = [np.clip(0.9 + 0.6 * layer / layer.std(), 0.04, 2.6) for layer in layers]

    def veil(self, view: View, depth_m: np.ndarray, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the optical depth and the brightness (about 1) in front of every pixel, H x W
        float32."""
        total = np.full((view.height, view.width), 1e-6, np.float32)
        bright = total.copy()
        for sheet, (away, share, drift, tone) in zip(self._sheets, _SHEETS, strict=True):
            behind = np.clip((depth_m - away + 2.5) / 5.0, 0, 1).astype(np.float32)
            part = self.density * share * self._density(view, sheet, away, drift, t_s) * behind
            total += part
            bright += np.float32(tone) * part
        return total, bright / total

    def _density(self, view: View, sheet: np.ndarray, away: float, drift: tuple[float, float],
                 t_s: float) -> np.ndarray:
        # A quarter of the resolution is plenty for something without edges.
        height, width = view.height // 4, view.width // 4
        scale = 4 * away / view.focal_px / _SMOKE_CELL_M
        left = -view.cx / 4 * scale - drift[0] * t_s / _SMOKE_CELL_M
        top = -view.cy / 4 * scale + drift[1] * t_s / _SMOKE_CELL_M
        affine = np.array([[scale, 0, left], [0, scale, top]])
        density = cv2.warpAffine(sheet, affine, (width, height), borderMode=cv2.BORDER_WRAP,
                                 flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        above = (view.cy / 4 - np.arange(height)[:, None]) * 4 * away / view.focal_px + 1.5
        sideways = (np.arange(width)[None, :] - view.cx / 4) * 4 * away / view.focal_px
        plume = np.exp(-np.maximum(above - 2.6, 0) / 1.6) * np.exp(-(sideways / (0.62 * away))**4)
        return cv2.resize(density * plume.astype(np.float32), (view.width, view.height),
                          interpolation=cv2.INTER_LINEAR)


class Fog:
    """Even fog: an optical depth that grows with the distance."""

    # Droplets are larger than smoke: a fifth of the optical depth is left in long-wave infrared.
    infrared = 0.2

    def __init__(self, per_m: float, color: tuple[float, float, float]):
        self.per_m, self.color = per_m, color

    def veil(self, view: View, depth_m: np.ndarray, t_s: float) -> tuple[np.ndarray, float]:
        """Return the optical depth in front of every pixel, H x W float32, and the brightness, 1.
        """
        return np.float32(self.per_m) * depth_m, 1.0


def veil_of(environment: Environment, seed: int) -> Smoke | Fog | None:
    """Return what an environment has in its air, or None."""
    if environment.smoke:
        return Smoke(environment.smoke, environment.smoke_color, seed)
    if environment.fog_per_m:
        return Fog(environment.fog_per_m, environment.sky[1])
    return None


class Snowfall:
    """Flakes in a block of air that travels with the rig and wraps around."""

    _BLOCK_M = np.array([10.0, 7.0, 14.0])
    _FLAKE_M = 0.006
    _EXPOSURE_S = 0.012
    _FLAKES = 1400

    def __init__(self, seed: int, *, speed_m_s: float):
        rng = np.random.default_rng([seed, 6])
        self._start = rng.uniform(0, 1, (self._FLAKES, 3)) * self._BLOCK_M
        self._velocity = rng.normal((0.4, -1.1, -speed_m_s), (0.25, 0.2, 0.1), (self._FLAKES, 3))

    def cover(self, view: View, t_s: float) -> np.ndarray:
        """Return how much of every pixel is hidden by flakes, H x W x 1 float32 in 0..1."""
        place = (self._start + self._velocity * t_s) % self._BLOCK_M - (5.0, 2.5, -1.2)
        scale = view.focal_px / place[:, 2]
        tail = place - self._velocity * self._EXPOSURE_S
        width_px = 2 * self._FLAKE_M * scale
        cover = np.zeros((view.height, view.width), np.uint8)
        for (x, y), (u, v), width in zip(self._pixels(view, place), self._pixels(view, tail),
                                         width_px, strict=True):
            strength = int(200 * min(1.0, width))
            cv2.line(cover, (int(x * 8), int(y * 8)), (int(u * 8), int(v * 8)), strength,
                     max(1, round(width)), cv2.LINE_AA, 3)
        return (cv2.GaussianBlur(cover, (3, 3), 0).astype(np.float32) / 255)[..., None]

    def _pixels(self, view: View, place: np.ndarray) -> np.ndarray:
        scale = view.focal_px / np.maximum(place[:, 2], 0.5)
        return np.column_stack([view.cx + scale * place[:, 0], view.cy - scale * place[:, 1]])
