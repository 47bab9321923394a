# SPDX-License-Identifier: Apache-2.0
"""The two cameras of the synthetic drive.

They have pinhole geometry, a mounting, clocks and an exact homography.

Axes are those of an optical frame (REP-103: x right, y down, z forward); a pixel's integer
coordinate is its center. The RGB camera is the origin of the rig. Both cameras have a global
shutter and an exposure that is short against every motion in the scene, so a frame shows one
instant: its mid-exposure.
"""

import math
from dataclasses import dataclass

import numpy as np

from ...core.frames import DiffmfError


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
