# SPDX-License-Identifier: Apache-2.0
"""From a geometry buffer to what a camera delivers: light, smoke, optics, noise, quantization.

Noise is drawn anew for every frame from (seed, stream, frame index), so any frame can be rendered
alone.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from . import textures
from .cameras import Camera, intrinsics
from .environments import Environment
from .render import Buffer, View
from .weather import Fog, Smoke, Snowfall

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
