# SPDX-License-Identifier: Apache-2.0
"""From a geometry buffer to what a camera delivers: light, smoke, optics, noise, quantization.

What hangs and falls in the air lies between: smoke and fog hide what is behind them; with optical
depth d a share exp(-d) of its light passes, the rest is the color of the veil. Noise is drawn anew
for every frame from (seed, stream, frame index), so any frame can be rendered alone.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from . import textures
from .cameras import Camera, intrinsics
from .environments import Environment
from .render import Buffer, View

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


# 14-bit counts: 7300 at 0 degrees Celsius, 30 per kelvin.
COUNTS_AT_ZERO, COUNTS_PER_K = 7300.0, 30.0
# Automatic gain of the 8-bit thermal camera: the level of the median, that of the warmest
# hundredth, and the most levels per kelvin.
_GAIN_MIDDLE, _GAIN_TOP, _GAIN_LIMIT = 112.0, 245.0, 26.0
_FLAKE = 0.72  # radiance of a snowflake


@dataclass
class VisibleSensor:
    """The RGB camera: light, weather, glow, vignetting, noise, and an sRGB-like curve."""

    camera: Camera
    environment: Environment
    seed: int
    veil: Smoke | Fog | None
    view: View = field(init=False)

    def __post_init__(self):
        camera = self.camera
        self.view = View(camera.width, camera.height, camera.focal_px, *camera.center_px)
        x = (np.arange(camera.width) - camera.center_px[0])[None, :] / camera.focal_px
        y = (np.arange(camera.height) - camera.center_px[1])[:, None] / camera.focal_px
        # cos^4 law of illumination towards the edge of the field.
        vignette = (1 + x**2 + y**2)**-2
        self._gain = cv2.merge([(self.environment.exposure * vignette).astype(np.float32)] * 3)
        self._beam = _low_beam(x, y)
        snows = self.environment.snow > 0
        self._snowfall = Snowfall(self.seed,
                                  speed_m_s=self.environment.speed_m_s) if snows else None

    def develop(self, buffer: Buffer, t_s: float, index: int) -> np.ndarray:
        """Return the frame as H x W x 3 uint8, R G B."""
        environment = self.environment
        planes = cv2.split(buffer.values)
        beam = environment.headlight * self._beam * np.minimum(10.0 / buffer.depth_m, 3.0)**2
        light = cv2.merge([
            albedo * (ambient + tint * beam) + emission for albedo, emission, ambient, tint in
            zip(planes[:3], planes[3:6], environment.ambient, (1.0, 0.95, 0.86), strict=True)])
        light = self._through_air(light, buffer.depth_m, t_s)
        light += _glow(light, environment.scatter)
        light *= self._gain
        noise = np.random.default_rng([self.seed, 3, index]).standard_normal(
            light.shape, np.float32)
        light += noise * np.sqrt(0.000015 + 0.0006 * light)
        curve = np.clip(1 - cv2.exp(-light), 0, 1)
        return np.round(255 * cv2.pow(curve, 1 / 2.2)).astype(np.uint8)

    def _through_air(self, light: np.ndarray, depth_m: np.ndarray, t_s: float) -> np.ndarray:
        """Return the light that arrives at the lens through smoke, fog and falling snow."""
        if self.veil is not None:
            optical_depth, bright = self.veil.veil(self.view, depth_m, t_s)
            passes = cv2.exp(-optical_depth)
            veiled = (1 - passes) * bright
            light = light * cv2.merge([passes] * 3) + cv2.merge([veiled * channel
                                                                 for channel in self.veil.color])
        if self._snowfall is not None:
            cover = self._snowfall.cover(self.view, t_s)
            light = light + cover * (_FLAKE - light)
        return light


def _low_beam(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the intensity of a low beam per direction (tangents x, y down): 1 just under the
    cut-off."""
    cut_off = np.where(x > 0, 0.03 * np.minimum(x / 0.2, 1.0), 0.0)
    down = y + cut_off + 0.004
    under = 1 / (1 + (np.maximum(down - 0.03, 0) / 0.075)**2)
    edge = 1 / (1 + np.exp(-down / 0.006))
    across = np.exp(-(x / 0.30)**2) * 0.8 + np.exp(-(x / 0.13)**2) * 0.45
    return ((0.03 + edge * under) * across).astype(np.float32)


def _glow(light: np.ndarray, scatter: float) -> np.ndarray:
    """Return stray light in the lens around what is much brighter than the rest.

    scatter is the share that a dirty or wet lens spreads far.
    """
    small = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    bright = np.maximum(small - 0.22, 0) * (small.mean() < 0.25 + 4 * scatter)
    halo = 0.22 * cv2.GaussianBlur(bright, (0, 0),
                                   2.5) + 0.30 * cv2.GaussianBlur(bright, (0, 0), 9.0)
    if scatter:
        tiny = cv2.resize(bright, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        wide = scatter * cv2.GaussianBlur(tiny, (0, 0), 6.5)
        halo += cv2.resize(wide, halo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.resize(halo, (light.shape[1], light.shape[0]), interpolation=cv2.INTER_LINEAR)


@dataclass
class ThermalSensor:
    """The thermal camera: rotation, blur, fixed pattern, temporal noise, 8 or 16 bits.

    It renders from an upright view at twice the resolution, then turns the picture by the camera's
    rotation, which is exact: a rotation needs no depth.
    """

    camera: Camera
    environment: Environment
    seed: int
    veil: Smoke | Fog | None
    bits: int
    view: View = field(init=False)

    def __post_init__(self):
        camera, pad = self.camera, 40
        cx, cy = (2 * center + 0.5 for center in camera.center_px)
        self.view = View(2 * camera.width + 2 * pad, 2 * camera.height + 2 * pad,
                         2 * camera.focal_px, cx + pad, cy + pad)
        upright = intrinsics(self.view.focal_px, self.view.cx, self.view.cy)
        turned = intrinsics(2 * camera.focal_px, cx, cy)
        self._turn = turned @ camera.rotation @ np.linalg.inv(upright)
        rng = np.random.default_rng([self.seed, 4])
        shape = camera.height, camera.width
        self._pattern = (0.10 * rng.standard_normal(shape) + 0.10
                         * rng.standard_normal((1, shape[1]))
                         + 0.30 * textures.soft_noise(rng, shape, (90, 110))).astype(np.float32)

    def develop(self, buffer: Buffer, t_s: float, index: int) -> np.ndarray:
        """Return the frame, H x W: uint8 white-hot gray, or uint16 14-bit counts."""
        celsius, camera = buffer.values[..., 0], self.camera
        if self.veil is not None:
            passes = cv2.exp(-self.veil.infrared
                             * self.veil.veil(self.view, buffer.depth_m, t_s)[0])
            celsius = celsius * passes + (1 - passes) * (self.environment.air_c + 3.0)
        turned = cv2.warpPerspective(celsius, self._turn, (2 * camera.width, 2 * camera.height),
                                     flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        turned = cv2.GaussianBlur(turned, (0, 0), 1.3)
        celsius = cv2.resize(turned, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        rng = np.random.default_rng([self.seed, 5, index])
        celsius = celsius + self._pattern + 0.15 * rng.standard_normal(celsius.shape, np.float32)
        celsius += 0.05 * rng.standard_normal((camera.height, 1), np.float32)
        if self.bits == 16:
            return np.round(np.clip(COUNTS_AT_ZERO + COUNTS_PER_K * celsius, 0, 2**14 - 1)).astype(
                np.uint16)
        return self._gray(celsius)

    def _gray(self, celsius: np.ndarray) -> np.ndarray:
        environment = self.environment
        if environment.auto_gain:
            middle, top = np.percentile(celsius[::2, ::2], (50, 99.0))
            levels = _GAIN_MIDDLE + min((_GAIN_TOP - _GAIN_MIDDLE) / (top - middle),
                                        _GAIN_LIMIT) * (celsius - middle)
        else:
            black, white = (environment.air_c + edge for edge in environment.gray_range_k)
            levels = 255 * (celsius - black) / (white - black)
        return np.round(np.clip(levels, 0, 255)).astype(np.uint8)
