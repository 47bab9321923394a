# SPDX-License-Identifier: Apache-2.0
"""The two cameras of the synthetic drive: pinhole geometry, mounting, clocks and an exact
homography; and from a geometry buffer to what they deliver: light, smoke, optics, noise,
quantization.

Axes are those of an optical frame (REP-103: x right, y down, z forward); a pixel's integer
coordinate is its center. The RGB camera is the origin of the rig. Both cameras have a global
shutter and an exposure that is short against every motion in the scene, so a frame shows one
instant: its mid-exposure. Noise is drawn anew for every frame from (seed, stream, frame index), so
any frame can be rendered alone.
"""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from ...core.frames import DiffmfError
from . import textures
from .environments import Environment
from .render import Buffer, View
from .weather import Fog, Smoke, Snowfall


class DriveError(DiffmfError):
    """A synthetic drive was asked for that cannot be rendered."""


@dataclass(frozen=True)
class Camera:
    """A distortion-free pinhole camera and its clock.

    rotation_deg (yaw, pitch, roll) turns the rig axes into the camera's; position_m is the camera
    center in rig axes. A frame exposed at time t carries the stamp t + stamp_delay_ms and is
    recorded latency_ms after that stamp.
    """

    frame_id: str
    width: int
    height: int
    focal_px: float
    center_px: tuple[float, float]
    rate_hz: int
    position_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stamp_delay_ms: float = 0.0
    latency_ms: float = 0.0

    @property
    def k(self) -> np.ndarray:
        """Intrinsic matrix, 3 x 3 float64, pixels."""
        return intrinsics(self.focal_px, *self.center_px)

    @property
    def rotation(self) -> np.ndarray:
        """3 x 3 matrix that turns a direction in rig axes into camera axes."""
        yaw, pitch, roll = (math.radians(angle) for angle in self.rotation_deg)
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        cr, sr = math.cos(roll), math.sin(roll)
        about_y = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
        about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
        about_z = np.array([[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]])
        return about_z @ about_x @ about_y

    def exposure_ns(self, index: int) -> int:
        """True time of frame `index` after the start of the drive."""
        return round(index * 1e9 / self.rate_hz)

    def stamp_ns(self, index: int) -> int:
        """Header stamp of frame `index`, relative to the start of the drive."""
        return self.exposure_ns(index) + round(self.stamp_delay_ms * 1e6)

    def recorded_ns(self, index: int) -> int:
        """Time at which frame `index` reaches the recorder, relative to the start of the drive."""
        return self.stamp_ns(index) + round(self.latency_ms * 1e6)


def intrinsics(focal_px: float, cx: float, cy: float) -> np.ndarray:
    """Return the 3 x 3 intrinsic matrix of square pixels."""
    return np.array([[focal_px, 0.0, cx], [0.0, focal_px, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class DriveRig:
    """An RGB and a thermal camera on one mount, height_m above the road.

    plane_m is the depth at which `rgb_from_thermal` is exact. Thermal stamps are late by the
    thermal camera's stamp_delay_ms; thermal_offset_ms is what a synchronizer has to add to correct
    that.
    """

    rgb: Camera
    thermal: Camera
    height_m: float = 1.5
    plane_m: float = 18.0

    @property
    def thermal_offset_ms(self) -> float:
        """The value of `sync.thermal_offset_ms` that undoes the clock error of the thermal stamps.
        """
        return self.rgb.stamp_delay_ms - self.thermal.stamp_delay_ms

    def rgb_from_thermal(self, depth_m: float | None = None) -> np.ndarray:
        """Return the 3 x 3 homography that maps thermal pixels to RGB pixels, scaled to H[2, 2] =
        1.

        It is exact for the fronto-parallel plane at depth_m (default: plane_m) in front of the RGB
        camera: H = K_rgb (R^T + c (R n)^T / (d - n.c)) K_thermal^-1 (Hartley and Zisserman,
        section 13.1, with R, c the thermal camera's rotation and center and n = (0, 0, 1)). At
        another depth Z the error is the parallax focal * |c| * |1/Z - 1/plane_m|: 1.5 px at 9 m
        and at infinity.
        """
        depth_m = self.plane_m if depth_m is None else depth_m
        rotation, center = self.thermal.rotation, np.array(self.thermal.position_m)
        normal = np.array([0.0, 0.0, 1.0])
        plane = np.outer(center, rotation @ normal) / (depth_m - normal @ center)
        homography = self.rgb.k @ (rotation.T + plane) @ np.linalg.inv(self.thermal.k)
        return homography / homography[2, 2]


def make_rig(*, thermal_rate_hz: int = 9) -> DriveRig:
    """Return the rig of the sample drive: 640x480 RGB at 30 Hz, 320x256 thermal at 9 or 30 Hz."""
    if thermal_rate_hz not in (9, 30):
        raise DriveError(f'the thermal rate must be 9 or 30 Hz, got {thermal_rate_hz}')
    rgb = Camera('rgb_camera_optical_frame', 640, 480, 520.0, (319.2, 228.5), 30, latency_ms=8.0)
    thermal = Camera(
        'thermal_camera_optical_frame', 320, 256, 248.0, (160.4, 125.1), thermal_rate_hz,
        position_m=(0.05, -0.015, 0.0), rotation_deg=(0.6, -0.4, 0.9), stamp_delay_ms=12.0,
        latency_ms=3.0)
    return DriveRig(rgb, thermal)


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
