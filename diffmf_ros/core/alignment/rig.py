# SPDX-License-Identifier: Apache-2.0
"""Two calibrated cameras on one mount.

Their images coincide on a plane across the view of the RGB camera.

The plane is Z = depth_m in the RGB camera's optical frame. A pixel's ray, its lens distortion
removed, meets the plane in one point, which the other camera projects, its lens distortion
included. What lies off the plane is displaced by the parallax. The part of this that does not
depend on the depth is kept, so that another depth costs little.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..frames import RGB
from .camera import CameraModel, nested
from .homography import AlignmentError
from .warp import Mapping, Size, table_mapping

# A rotation written with four decimals still is one.
_ORTHONORMAL_TOLERANCE = 1e-3
# Between the ends of a lorry or of the wings of a large UAV; 5 cm written in millimetres are more.
LARGEST_BASE_LINE_M = 10.0


@dataclass(frozen=True)
class Extrinsics:
    """thermal_from_rgb: X_thermal = rotation X_rgb + translation_m, both in optical frames.

    TF calls it lookup_transform(target: frame of the thermal camera, source: frame of the RGB
    camera). Raises AlignmentError for a matrix that is no rotation.
    """

    rotation: tuple[tuple[float, ...], ...]
    translation_m: tuple[float, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rotation] != [3, 3, 3] or len(self.translation_m) != 3:
            raise AlignmentError('expected a rotation of 3 rows of 3 numbers and a translation_m '
                                 'of 3, got '
                                 f'{self.rotation} and {self.translation_m}')
        matrix = np.array(self.rotation)
        if not (np.isfinite(matrix).all() and np.isfinite(self.translation_m).all()):
            raise AlignmentError(f'expected finite extrinsics, got {self.rotation} and '
                                 f'{self.translation_m}')
        apart_m = float(np.linalg.norm(self.translation_m))
        if apart_m > LARGEST_BASE_LINE_M:
            raise AlignmentError(f'expected two cameras on one mount, got a translation of '
                                 f'{apart_m:g} m between them: '
                                 'write it in metres, not in millimetres')
        error = np.abs(matrix @ matrix.T - np.eye(3)).max()
        if error > _ORTHONORMAL_TOLERANCE:
            raise AlignmentError(f'expected a rotation, got a matrix that is off an orthonormal '
                                 f'one by {error:.2g}: {self.rotation}; write at least four '
                                 f'decimals')
        if np.linalg.det(matrix) < 0:
            raise AlignmentError('the rotation mirrors; is an axis of one camera turned round? '
                                 'Optical frames have x to the right, y down and z forward')

    def between(self, rgb_turned: tuple, thermal_turned: tuple) -> 'Extrinsics':
        """Return the extrinsics between turned axes.

        Args:
            rgb_turned, thermal_turned: the 3x3 rotation of an image's axes against its optical
                frame.

        Returns:
            The extrinsics of the images.
        """
        rgb, thermal = np.array(rgb_turned), np.array(thermal_turned)
        return Extrinsics(nested(thermal @ self.rotation @ rgb.T),
                          tuple(map(float, thermal @ self.translation_m)))

    @property
    def inverse(self) -> 'Extrinsics':
        """The extrinsics in the other direction."""
        rotation = np.array(self.rotation).T
        return Extrinsics(nested(rotation), tuple(map(float, -rotation @ self.translation_m)))

    @classmethod
    def from_quaternion(cls, xyzw: tuple[float, ...],
                        translation_m: tuple[float, ...]) -> 'Extrinsics':
        """Return the extrinsics of a TF transform.

        Args:
            xyzw: the rotation as a quaternion, of any length but zero.
            translation_m: (x, y, z) in meters.

        Returns:
            The extrinsics.

        Raises:
            AlignmentError: the quaternion has the length zero.
        """
        length = float(np.linalg.norm(xyzw))
        if not length > 0:
            raise AlignmentError(f'expected a unit quaternion, got {tuple(xyzw)}')
        x, y, z, w = np.asarray(xyzw, np.float64) / length
        rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                             [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                             [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
        return cls(nested(rotation), tuple(map(float, translation_m)))


@dataclass(frozen=True)
class Rig:
    """Two cameras at the sizes of their live images, and how they are mounted.

    Raises AlignmentError when they look away from each other, and CalibrationError for an unknown
    lens model.
    """

    rgb: CameraModel
    thermal: CameraModel
    thermal_from_rgb: Extrinsics

    def __post_init__(self) -> None:
        for camera in (self.rgb, self.thermal):
            camera.lens  # noqa: B018 raises
        if self._rotation[2, 2] <= 0:
            raise AlignmentError('the extrinsics turn the thermal camera away from what the RGB '
                                 'camera sees: '
                                 f'{self.thermal_from_rgb.rotation}; are they between optical '
                                 f'frames (z forward)?')

    def mapping(self, depth_m: float, *, grid: str = RGB) -> Mapping:
        """Return the mapping on which both images coincide at a depth.

        Args:
            depth_m: distance of the plane from the RGB camera in meters.
            grid: rgb or thermal, the camera whose grid both images come onto.

        Returns:
            The mapping of both images.

        Raises:
            AlignmentError: see require_depth().
        """
        self.require_depth(depth_m)
        x, y = self._thermal_tables(depth_m) if grid == RGB else self._rgb_tables(depth_m)
        rgb_per_thermal = self.rgb.k[0][0] / self.thermal.k[0][0]  # of a distant object
        return table_mapping(x, y, rgb_size=self.rgb.size, thermal_size=self.thermal.size,
                             grid=grid, shrink=1 / rgb_per_thermal if grid == RGB
                             else rgb_per_thermal)

    def require_depth(self, depth_m: float) -> None:
        """Refuse a plane that does not lie in front of both cameras.

        Args:
            depth_m: its distance from the RGB camera in meters.

        Raises:
            AlignmentError: it does not.
        """
        nearest_m = max(0.0, float(self._center[2]))
        if not nearest_m < depth_m < np.inf:
            raise AlignmentError(f'expected a plane in front of both cameras, farther than '
                                 f'{nearest_m:g} m, got a depth of {depth_m} m')

    def to_thermal(self, rgb_px: np.ndarray, depth_m: float) -> np.ndarray:
        """Return the thermal pixels of what RGB pixels see.

        Args:
            rgb_px: ... x 2 in pixels.
            depth_m: distance of what is seen from the RGB camera, in meters.

        Returns:
            ... x 2 in pixels; NaN where thermal has none.
        """
        rays = self.rgb.rays(rgb_px)
        points = np.concatenate((rays, np.ones((*rays.shape[:-1], 1))), axis=-1) * depth_m
        return self.thermal.project(points @ self._rotation.T
                                    + self.thermal_from_rgb.translation_m)

    def to_rgb(self, thermal_px: np.ndarray, depth_m: float) -> np.ndarray:
        """Return the RGB pixels of what thermal pixels see.

        Args:
            thermal_px: ... x 2 in pixels.
            depth_m: distance of what is seen from the RGB camera, in meters.

        Returns:
            ... x 2 in pixels; NaN where RGB has none.
        """
        rays = self.thermal.rays(thermal_px)
        rays = np.concatenate((rays, np.ones((*rays.shape[:-1], 1))), axis=-1) @ self._rotation
        along = (depth_m - self._center[2]) / np.where(rays[..., 2:] > 0, rays[..., 2:], np.nan)
        return self.rgb.project(self._center + along * rays)

    def parallax_px(self, depth_m: float, *, plane_depth_m: float,
                    at: tuple[float, float] | None = None) -> np.ndarray:
        """Return the parallax of a point that is not on the plane.

        It is about f |c| (1 / depth_m - 1 / plane_depth_m) for cameras |c| apart.

        Args:
            depth_m: distance of the point in meters.
            plane_depth_m: distance of the plane on which both images coincide, in meters.
            at: the RGB pixel of the point; None for the center.

        Returns:
            (x, y) in pixels of the RGB grid; NaN where a camera does not see the point.

        Raises:
            AlignmentError: see require_depth().
        """
        self.require_depth(depth_m)
        self.require_depth(plane_depth_m)
        width, height = self.rgb.size
        center = (width - 1) / 2, (height - 1) / 2
        pixel = np.array(center if at is None else at, np.float64)
        return self.to_rgb(self.to_thermal(pixel, depth_m), plane_depth_m) - pixel

    @cached_property
    def _rotation(self) -> np.ndarray:
        return np.array(self.thermal_from_rgb.rotation)

    @cached_property
    def _center(self) -> np.ndarray:
        """The thermal camera's center in the RGB camera's frame, m."""
        return -self._rotation.T @ self.thermal_from_rgb.translation_m

    @cached_property
    def _turned(self) -> tuple[np.ndarray, ...]:
        """The rays of all RGB pixels in the thermal camera's axes, three H x W float32."""
        rays = self.rgb.rays(_pixels(self.rgb.size))
        return tuple((rays @ row[:2] + row[2]).astype(np.float32) for row in self._rotation)

    @cached_property
    def _slopes(self) -> tuple[np.ndarray, ...]:
        """Rays of all thermal pixels in the RGB camera's axes: X / Z and Y / Z, H x W float32."""
        rays = self.thermal.rays(_pixels(self.thermal.size))
        x, y, z = (rays @ row[:2] + row[2] for row in self._rotation.T)
        z = np.where(z > 0, z, np.nan)
        return (x / z).astype(np.float32), (y / z).astype(np.float32)

    def _thermal_tables(self, depth_m: float) -> tuple[np.ndarray, np.ndarray]:
        """to_thermal() of all RGB pixels, float32.

        The rays are scaled to 1 / depth_m of the point.
        """
        x, y, z = (ray + float(t / depth_m) for ray,
                   t in zip(self._turned, self.thermal_from_rgb.translation_m))
        inverse = 1 / np.where(z > 0, z, np.nan)
        return self.thermal.pixels(x * inverse, y * inverse)

    def _rgb_tables(self, depth_m: float) -> tuple[np.ndarray, np.ndarray]:
        """to_rgb() of all thermal pixels, float32."""
        x, y, z = (float(value) for value in self._center / depth_m)
        to_x, to_y = self._slopes
        return self.rgb.pixels(x + (1 - z) * to_x, y + (1 - z) * to_y)


def _pixels(size: Size) -> np.ndarray:
    """The coordinates of all pixels, H x W x 2."""
    return np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1)
