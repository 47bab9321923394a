# SPDX-License-Identifier: Apache-2.0
"""A calibrated camera: what sensor_msgs/CameraInfo says (REP-104), at any size of its image.

Axes are those of an optical frame (REP-103: x right, y down, z forward). Pixels are as in
core/alignment/warp.py.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..frames import DiffmfError
from . import lens
from .warp import Size, scaling, translation

Matrix = tuple[tuple[float, ...], ...]
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class CalibrationError(DiffmfError):
    """A calibration is not usable, or not for this image."""


class Uncalibrated(CalibrationError):
    """A camera info of a camera that nobody has calibrated: K is zero."""


@dataclass(frozen=True)
class CameraModel:
    """A calibration for images of one (width, height).

    k: 3x3 intrinsics, in pixels; d: lens distortion as distortion_model (plumb_bob,
    rational_polynomial or equidistant; else rays() and project() raise) orders it; r: 3x3
    rectification; p: 3x4 projection of the
    rectified image, None: k; turned: 3x3 rotation from the optical frame to the axes of these
    images, which differ when the images are rectified. Raises CalibrationError for values that no
    camera has.
    """

    size: Size
    k: Matrix
    d: tuple[float, ...] = ()
    p: Matrix | None = None
    r: Matrix = IDENTITY
    distortion_model: str = 'plumb_bob'
    frame_id: str = ''
    turned: Matrix = IDENTITY

    def __post_init__(self) -> None:
        if self.p is None:
            object.__setattr__(self, 'p', tuple((*row, 0.0) for row in self.k))
        _check(self)

    @classmethod
    def from_info(cls, message: Any) -> 'CameraModel':
        """Return the model of the image of a sensor_msgs/CameraInfo.

        That image is the message's region of interest, binned, of the sensor that the message
        calibrates. Zeros for r and p mean none and k.

        Args:
            message: a camera info of ROS or rosbags.

        Returns:
            The model of the image as delivered.

        Raises:
            Uncalibrated: the K of the message is zero.
            CalibrationError: the message contradicts itself.
        """
        k, r, p = (np.asarray(values, float) for values in (message.k, message.r, message.p))
        size = int(message.width), int(message.height)
        if not k.any():
            raise Uncalibrated('expected a calibration, got a camera info whose K is zero: '
                               'calibrate the camera')
        camera = cls(size, nested(k.reshape(3, 3)), tuple(map(float, message.d)),
                     nested(p.reshape(3, 4)) if p.any() else None,
                     nested(r.reshape(3, 3)) if r.any() else IDENTITY,
                     message.distortion_model, message.header.frame_id)
        roi = message.roi
        if roi.width or roi.height:
            camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
        across, down = max(1, int(message.binning_x)), max(1, int(message.binning_y))
        if (across, down) == (1, 1):
            return camera
        return camera._resampled((camera.size[0] // across, camera.size[1] // down), 1 / across,
                                 1 / down)

    def scaled_to(self, size: Size) -> 'CameraModel':
        """Return the model of the same image delivered at another size.

        Args:
            size: (width, height) in pixels.

        Returns:
            The model with k and p of that size.

        Raises:
            CalibrationError: the two sizes differ in shape by more than rounding to whole pixels
                does.
        """
        (width, height), (own_width, own_height) = size, self.size
        across, down = width / own_width, height / own_height
        # of rounding, in either size
        half_a_pixel = 0.5 * ((1 + across) / own_width + (1 + down) / own_height)
        if abs(across - down) > half_a_pixel:
            raise CalibrationError(
                f'the calibration is for {own_width}x{own_height}, the image has '
                f'{width}x{height}, which is no scaled '
                'copy of it: calibrate at this size, or let the camera publish its region of '
                'interest (roi)')
        return self if (width, height) == self.size else self._resampled(
            (width, height), across, down)

    @property
    def bends(self) -> bool:
        """Whether d says that raw images are distorted."""
        return any(self.d)

    def doubt(self, topic: str, stream: str) -> str:
        """Return a sentence where raw images may be rectified, by the name of their topic, or ''.

        Args:
            topic: that of the images, raw or compressed.
            stream: RGB or THERMAL.
        """
        name = topic.removesuffix('/compressed').rpartition('/')[2]
        return (f'{topic} looks rectified by its name, but its camera info describes a lens with '
                f'distortion: set alignment.{stream}_rectified to true, if it is'
                ) if self.bends and 'rect' in name else ''

    def rectified(self) -> 'CameraModel':
        """Return the model of the rectified image of the same camera.

        Returns:
            The model whose k is that of p, without distortion.
        """
        return replace(self, k=nested(np.array(self.p)[:, :3]), d=(), r=IDENTITY,
                       distortion_model='plumb_bob', turned=self.r)

    def cropped(self, x: int, y: int, width: int, height: int) -> 'CameraModel':
        """Return the model of a region of the image.

        Args:
            x, y: its upper left pixel.
            width, height: its size in pixels.

        Returns:
            The model of the region.

        Raises:
            CalibrationError: the region reaches beyond the image.
        """
        if min(x, y) < 0 or min(
                width, height) < 1 or x + width > self.size[0] or y + height > self.size[1]:
            raise CalibrationError(f'expected a region of interest inside '
                                   f'{self.size[0]}x{self.size[1]}, got '
                                   f'{width}x{height} at ({x}, {y})')
        return replace(self._shifted(-x, -y), size=(int(width), int(height)))

    def mirrored(self) -> 'CameraModel':
        """Return the model of the image mirrored left to right.

        The optical frame stays: it is that of the scene, which the image had turned round.

        Returns:
            The model of the mirrored image.

        Raises:
            CalibrationError: the sensor is tilted.
        """
        image = np.array(((-1, 0, self.size[0] - 1), (0, 1, 0), (0, 0, 1)))
        return self._with_axes(self.size, image, np.diag((-1, 1, 1)))

    def rotated_right(self) -> 'CameraModel':
        """Return the model of the image turned clockwise by 90 degrees.

        Returns:
            The model of the turned image, of swapped width and height.

        Raises:
            CalibrationError: the sensor is tilted.
        """
        width, height = self.size
        image, axes = (np.array(((0, -1, offset), (1, 0, 0), (0, 0, 1)))
                       for offset in (height - 1, 0))
        return replace(self._with_axes((height, width), image, axes),
                       turned=nested(axes @ self.turned))

    def shifted(self, x_px: float, y_px: float) -> 'CameraModel':
        """Return the model of the image with its content shifted.

        Args:
            x_px: pixels to the right.
            y_px: pixels down.

        Returns:
            The model of the shifted image.
        """
        return self._shifted(x_px, y_px) if x_px or y_px else self

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the rays of pixels, undistorted.

        Args:
            pixels: ... x 2, in pixels of the delivered image.

        Returns:
            x / z and y / z, ... x 2 float64; NaN where the lens model has no ray within 90 degrees
            of the axis.

        Raises:
            CalibrationError: the lens model is not known here.
        """
        pixels = np.asarray(pixels, np.float64)
        (fx, _, cx), (_, fy, cy), _ = self.k
        x, y = self.lens.undistort((pixels[..., 0] - cx) / fx, (pixels[..., 1] - cy) / fy)
        return np.stack((x, y), axis=-1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels of points.

        Args:
            points: ... x 3 in the camera's optical frame, in any unit.

        Returns:
            ... x 2 float64; NaN for points behind the camera or outside of what the lens model
            describes. Points beside the image get pixels beside it.

        Raises:
            CalibrationError: the lens model is not known here.
        """
        x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        z = np.where(z > 0, z, np.nan)
        return np.stack(self.pixels(x / z, y / z), axis=-1)

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of rays, as project() does of points.

        Args:
            x, y: x / z and y / z, arrays of one shape and float type.

        Returns:
            Columns and rows in pixels, of the same shape and type.
        """
        (fx, _, cx), (_, fy, cy), _ = self.k
        x, y = self.lens.distort(x, y)
        return x * fx + cx, y * fy + cy

    @cached_property
    def lens(self) -> 'lens.Lens':
        """The lens of distortion_model and d.

        Raises CalibrationError for one that is not known.
        """
        try:
            return lens.make_lens(self.distortion_model, self.d)  # type: ignore[return-value]
        except ValueError as error:
            raise CalibrationError(str(error)) from error

    def _with_axes(self, size: Size, image: np.ndarray, axes: np.ndarray) -> 'CameraModel':
        """The model in other axes (3x3), in which its pixels have moved by image (3x3)."""
        p = image @ self.p
        p[:, :3] = p[:, :3] @ axes.T
        return replace(self, size=size, k=nested(image @ self.k @ axes.T), p=nested(p),
                       r=nested(axes @ self.r @ axes.T), d=self._turned_distortion(axes))

    def _turned_distortion(self, axes: np.ndarray) -> tuple[float, ...]:
        """Turned distortion: tangential and prism coefficients are vectors of the plane."""
        d = list(self.d) + [0.0] * (4 - len(self.d)) * any(self.d[2:])
        if not any(d[2:]) or isinstance(self.lens, lens.Lens) and self.lens.is_equidistant:
            return self.d
        if any(d[12:]):
            raise CalibrationError('the lens model has a tilted sensor (tau): its images cannot '
                                   'be turned or mirrored')
        plane = axes[:2, :2]
        d[3], d[2] = map(float, plane @ (d[3], d[2]))  # p2 moves along x, p1 along y
        for first in (8, 9):
            if len(d) > first + 2:
                d[first], d[first + 2] = map(float, plane @ (d[first], d[first + 2]))
        return tuple(d)

    def _shifted(self, x_px: float, y_px: float) -> 'CameraModel':
        move = translation(x_px, y_px)
        return replace(self, k=nested(move @ self.k), p=nested(move @ self.p))

    def _resampled(self, size: Size, across: float, down: float) -> 'CameraModel':
        scale = scaling(across, down)
        return replace(self, size=size, k=nested(scale @ self.k), p=nested(scale @ self.p))


def output_info(camera: CameraModel, size: Size) -> CameraModel:
    """Return the camera info of an image on the camera's grid.

    As a message: width, height = size; d, distortion_model, r, k and p as they are; binning and
    roi all zero, for they are in k and p.

    Args:
        camera: the model of the camera whose grid it is.
        size: (width, height) of the image in pixels.

    Returns:
        The model of the image.

    Raises:
        CalibrationError: the calibration is for another image, with a sentence for the operator;
            the info is then the uncalibrated one.
    """
    return camera.scaled_to(size)


def nested(matrix: np.ndarray) -> Matrix:
    """Return a matrix as tuples of floats.

    Args:
        matrix: two dimensions of any number type.

    Returns:
        A tuple of rows.
    """
    return tuple(tuple(map(float, row)) for row in matrix)


def _check(camera: CameraModel) -> None:
    """Raise CalibrationError unless the numbers are those of a camera."""
    if len(camera.size) != 2 or min(camera.size) < 1:
        raise CalibrationError(f'expected a size of [width, height], both at least 1; got '
                               f'{camera.size}')
    for name, shape in (('k', (3, 3)), ('r', (3, 3)), ('p', (3, 4))):
        rows = getattr(camera, name)
        if [len(row) for row in rows] != [shape[1]] * shape[0] or not np.isfinite(rows).all():
            raise CalibrationError(f'expected {shape[0]} rows of {shape[1]} finite numbers for '
                                   f'{name}, got {rows}')
    (fx, skew, _), (zero, fy, _), last = camera.k
    if not (fx > 0 and fy > 0 and skew == zero == 0 and last == (0, 0, 1)):
        raise CalibrationError(f'expected k to be [fx, 0, cx], [0, fy, cy], [0, 0, 1] with fx and '
                               f'fy above 0, got {camera.k}')
    if not np.isfinite(camera.d).all():
        raise CalibrationError(f'expected finite distortion coefficients, got {camera.d}')
