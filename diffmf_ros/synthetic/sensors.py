# SPDX-License-Identifier: Apache-2.0
"""From a geometry buffer to what a camera delivers: light, smoke, optics, noise, quantisation.

Noise is drawn anew for every frame from (seed, stream, frame index), so any frame can be rendered alone.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from . import textures
from .cameras import Camera, intrinsics
from .render import Buffer, View
from .scene import Environment

# Depth of the smoke sheets ahead of the rig, their share of the optical depth, and their drift (x, up).
_SHEETS = ((6.5, 0.26, (0.30, 0.16)), (9.5, 0.38, (-0.22, 0.20)), (15.0, 0.36, (0.40, 0.12)))
_SMOKE_CELL_M = 0.05
# Long-wave infrared passes smoke almost freely: a twentieth of the optical depth.
_SMOKE_INFRARED = 0.05
_SMOKE_WHITE = (0.50, 0.51, 0.52)
# 14-bit counts: 7300 at 0 degrees Celsius, 30 per kelvin.
COUNTS_AT_ZERO, COUNTS_PER_K = 7300.0, 30.0
# The 8-bit range, in kelvin relative to the air: black and white.
GRAY_RANGE_K = (-5.0, 19.0)


class Smoke:
    """Drifting smoke as three fronto-parallel sheets ahead of the rig; none when the density is 0."""

    def __init__(self, density: float, seed: int):
        self.density = density
        rng = np.random.default_rng([seed, 2])
        cells = (10, 26, 64, 110)
        layers = [sum(textures.soft_noise(rng, (256, 512), (cell, cell)) * cell**0.8 for cell in cells)
                  for _ in _SHEETS]
        self._sheets = [np.clip(0.9 + 0.6 * layer / layer.std(), 0.04, 2.6) for layer in layers]

    def optical_depth(self, view: View, depth_m: np.ndarray, t_s: float) -> np.ndarray:
        """Return the optical depth in front of every pixel, H x W float32."""
        # A quarter of the resolution is plenty for something without edges.
        height, width = view.height // 4, view.width // 4
        total = np.zeros((view.height, view.width), np.float32)
        for sheet, (away, share, drift) in zip(self._sheets, _SHEETS, strict=True):
            scale = 4 * away / view.focal_px / _SMOKE_CELL_M
            left = -view.cx / 4 * scale - drift[0] * t_s / _SMOKE_CELL_M
            top = -view.cy / 4 * scale + drift[1] * t_s / _SMOKE_CELL_M
            affine = np.array([[scale, 0, left], [0, scale, top]])
            density = cv2.warpAffine(sheet, affine, (width, height), borderMode=cv2.BORDER_WRAP,
                                     flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            above = (view.cy / 4 - np.arange(height)[:, None]) * 4 * away / view.focal_px + 1.5
            sideways = (np.arange(width)[None, :] - view.cx / 4) * 4 * away / view.focal_px
            plume = np.exp(-np.maximum(above - 2.6, 0) / 1.6) * np.exp(-(sideways / (0.62 * away))**4)
            density = cv2.resize(density * plume.astype(np.float32), (view.width, view.height),
                                 interpolation=cv2.INTER_LINEAR)
            behind = np.clip((depth_m - away + 2.5) / 5.0, 0, 1).astype(np.float32)
            total += self.density * share * density * behind
        return total


@dataclass
class VisibleSensor:
    """The RGB camera: light, smoke, glow, vignetting, noise, and an sRGB-like curve."""

    camera: Camera
    environment: Environment
    seed: int
    smoke: Smoke
    view: View = field(init=False)

    def __post_init__(self):
        camera = self.camera
        self.view = View(camera.width, camera.height, camera.focal_px, *camera.centre_px)
        x = (np.arange(camera.width) - camera.centre_px[0])[None, :] / camera.focal_px
        y = (np.arange(camera.height) - camera.centre_px[1])[:, None] / camera.focal_px
        # cos^4 law of illumination towards the edge of the field.
        vignette = (1 + x**2 + y**2)**-2
        self._gain = cv2.merge([(self.environment.exposure * vignette).astype(np.float32)] * 3)
        self._beam = _low_beam(x, y)

    def develop(self, buffer: Buffer, t_s: float, index: int) -> np.ndarray:
        """Return the frame as H x W x 3 uint8, R G B."""
        environment = self.environment
        planes = cv2.split(buffer.values)
        beam = environment.headlight * self._beam * np.minimum(10.0 / buffer.depth_m, 3.0)**2
        light = cv2.merge([
            albedo * (ambient + tint * beam) + emission for albedo, emission, ambient, tint in
            zip(planes[:3], planes[3:6], environment.ambient, (1.0, 0.95, 0.86), strict=True)])
        if environment.smoke:
            passes = cv2.merge([cv2.exp(-self.smoke.optical_depth(self.view, buffer.depth_m, t_s))] * 3)
            light = light * passes + (1 - passes) * np.array(_SMOKE_WHITE, np.float32)
        light += _glow(light)
        light *= self._gain
        noise = np.random.default_rng([self.seed, 3, index]).standard_normal(light.shape, np.float32)
        light += noise * np.sqrt(0.000015 + 0.0006 * light)
        curve = np.clip(1 - cv2.exp(-light), 0, 1)
        return np.round(255 * cv2.pow(curve, 1 / 2.2)).astype(np.uint8)


def _low_beam(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the intensity of a low beam per direction (tangents x, y down): 1 just under the cut-off."""
    cut_off = np.where(x > 0, 0.03 * np.minimum(x / 0.2, 1.0), 0.0)
    down = y + cut_off + 0.004
    under = 1 / (1 + (np.maximum(down - 0.03, 0) / 0.075)**2)
    edge = 1 / (1 + np.exp(-down / 0.006))
    across = np.exp(-(x / 0.30)**2) * 0.8 + np.exp(-(x / 0.13)**2) * 0.45
    return ((0.03 + edge * under) * across).astype(np.float32)


def _glow(light: np.ndarray) -> np.ndarray:
    """Stray light in the lens around what is much brighter than the rest."""
    small = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    bright = np.minimum(np.maximum(small - 0.22, 0), 3.0) * (small.mean() < 0.25)
    halo = 0.22 * cv2.GaussianBlur(bright, (0, 0), 2.5) + 0.30 * cv2.GaussianBlur(bright, (0, 0), 9.0)
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
    smoke: Smoke
    bits: int
    view: View = field(init=False)

    def __post_init__(self):
        camera, pad = self.camera, 40
        cx, cy = (2 * centre + 0.5 for centre in camera.centre_px)
        self.view = View(2 * camera.width + 2 * pad, 2 * camera.height + 2 * pad, 2 * camera.focal_px,
                         cx + pad, cy + pad)
        upright = intrinsics(self.view.focal_px, self.view.cx, self.view.cy)
        turned = intrinsics(2 * camera.focal_px, cx, cy)
        self._turn = turned @ camera.rotation @ np.linalg.inv(upright)
        rng = np.random.default_rng([self.seed, 4])
        shape = camera.height, camera.width
        self._pattern = (0.10 * rng.standard_normal(shape) + 0.10 * rng.standard_normal((1, shape[1]))
                         + 0.30 * textures.soft_noise(rng, shape, (90, 110))).astype(np.float32)

    def develop(self, buffer: Buffer, t_s: float, index: int) -> np.ndarray:
        """Return the frame, H x W: uint8 white-hot grey, or uint16 14-bit counts."""
        celsius, camera = buffer.values[..., 0], self.camera
        if self.environment.smoke:
            passes = np.exp(-_SMOKE_INFRARED * self.smoke.optical_depth(self.view, buffer.depth_m, t_s))
            celsius = celsius * passes + (1 - passes) * (self.environment.air_c + 3.0)
        turned = cv2.warpPerspective(celsius, self._turn, (2 * camera.width, 2 * camera.height),
                                     flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        turned = cv2.GaussianBlur(turned, (0, 0), 1.3)
        celsius = cv2.resize(turned, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        rng = np.random.default_rng([self.seed, 5, index])
        celsius = celsius + self._pattern + 0.15 * rng.standard_normal(celsius.shape, np.float32)
        celsius += 0.05 * rng.standard_normal((camera.height, 1), np.float32)
        if self.bits == 16:
            return np.round(np.clip(COUNTS_AT_ZERO + COUNTS_PER_K * celsius, 0, 2**14 - 1)).astype(np.uint16)
        black, white = (self.environment.air_c + edge for edge in GRAY_RANGE_K)
        return np.round(255 * np.clip((celsius - black) / (white - black), 0, 1)).astype(np.uint8)
