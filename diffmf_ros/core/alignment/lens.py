# SPDX-License-Identifier: Apache-2.0
"""Lens distortion: from ray directions to points of the image plane at distance 1, and back.

A direction is (x / z, y / z), so only what lies within 90 degrees of the axis has one. The models
are OpenCV's, of calib3d (with all of its 14 coefficients) and its fisheye part, under the names of
sensor_msgs and of the tools that drivers take theirs from. NumPy here, and not OpenCV's functions,
because those are many times slower (80 ms against 1 ms for 640x480 points) and stop undistorting
after five steps, 0.4 pixels off for a common wide lens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Plane = tuple[np.ndarray, np.ndarray]
_STEPS = 30
_ACCURACY = 1e-10  # on the plane at distance 1: below a millionth of a pixel
_DERIVATIVE_STEP = 1e-6
# Points that are solved together: their arrays stay in the cache of a CPU core, and near the axis
# few steps do.
_BLOCK = 8192
# Radii on the plane at distance 1 at which the model is looked at; the last one is 88.9 degrees
# off the axis.
_RADII = np.linspace(0.0, 50.0, 100_001)[1:]


# Names are compared in lower case with underscores. All of calib3d's have the same coefficients,
# of which they use some: k1 k2 p1 p2, k3, k4 k5 k6, s1 s2 s3 s4, tau_x tau_y. So their number
# tells more than the name.
_CALIB3D = {'plumb_bob', 'rational_polynomial', 'thin_prism', 'tilted', 'radtan',
            'radial_tangential', 'brown_conrady', 'opencv', 'pinhole', 'perspective'}
_EQUIDISTANT = {'equidistant', 'equi', 'fisheye', 'opencv_fisheye', 'kannala_brandt',
                'kannala_brandt4'}
_INVERSE = {'inverse_brown_conrady'}
_NONE = {'', 'none'}


@dataclass(frozen=True)
class Lens:
    """Lens model: scale(r2, d), radial in the squared radius, and the other terms of calib3d.

    p1 and p2 are the tangential coefficients, prism the four of a thin prism, tilt the 3x3 matrix
    of a tilted sensor; empty: none.
    """

    scale: Callable
    d: tuple[float, ...]
    p1: float = 0.0
    p2: float = 0.0
    prism: tuple[float, ...] = ()
    tilt: tuple[tuple[float, ...], ...] = ()

    def distort(self, x: np.ndarray, y: np.ndarray) -> Plane:
        """Return where the lens images rays.

        Args:
            x, y: x / z and y / z, arrays of one shape and float type.

        Returns:
            (x, y) on the plane z = 1; NaN beyond the radius at which the model folds back:
            polynomials do, lenses do not.
        """
        if not self._bends:
            return x, y
        r2 = x * x + y * y
        if self._fold_r2 < np.inf:
            r2 = np.where(r2 <= self._fold_r2, r2, np.nan)
        scale = self.scale(r2, self.d)
        to_x, to_y = x * scale, y * scale
        if self.p1 or self.p2:
            xy = 2 * x * y
            to_x = to_x + self.p1 * xy + self.p2 * (r2 + 2 * x * x)
            to_y = to_y + self.p2 * xy + self.p1 * (r2 + 2 * y * y)
        if self.prism:
            s1, s2, s3, s4 = self.prism
            to_x, to_y = to_x + r2 * (s1 + s2 * r2), to_y + r2 * (s3 + s4 * r2)
        if self.tilt:
            a, b, c = (row[0] * to_x + row[1] * to_y + row[2] for row in self.tilt)
            to_x, to_y = a / c, b / c
        return to_x, to_y

    def undistort(self, x: np.ndarray, y: np.ndarray) -> Plane:
        """Return the directions whose rays meet the plane z = 1 at (x, y).

        Args:
            x, y: arrays of one shape.

        Returns:
            x / z and y / z, float64; NaN where there is no direction.
        """
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if not self._bends:
            return x, y
        goals, found = np.stack((x.ravel(), y.ravel())), np.empty((2, x.size))
        for start in range(0, x.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            found[:, part] = self._solved(*goals[:, part])
        return found[0].reshape(x.shape), found[1].reshape(x.shape)

    def _solved(self, goal_x: np.ndarray, goal_y: np.ndarray) -> Plane:
        x, y = goal_x, goal_y
        with np.errstate(all='ignore'):  # what has no solution runs away to infinity or NaN
            for _ in range(_STEPS):
                error_x, error_y, x, y = self._newton(x, y, goal_x, goal_y)
                missed = np.maximum(np.abs(error_x), np.abs(error_y))
                if not (missed > _ACCURACY).any():
                    break
            end_x, end_y = self.distort(x, y)
            found = np.maximum(np.abs(end_x - goal_x), np.abs(end_y - goal_y)) <= _ACCURACY
        return np.where(found, x, np.nan), np.where(found, y, np.nan)

    def _newton(self, x: np.ndarray, y: np.ndarray, goal_x: np.ndarray,
                goal_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of Newton's method from (x, y): the errors there, and the next point."""
        step = _DERIVATIVE_STEP
        at_x, at_y = self.distort(x, y)
        dx, dy = self.distort(x + step, y), self.distort(x, y + step)
        a, b, c, d = (dx[0] - at_x) / step, (dy[0] - at_x) / step, (dx[1] - at_y) / step, (
            dy[1] - at_y) / step
        error_x, error_y = at_x - goal_x, at_y - goal_y
        determinant = a * d - b * c
        return (error_x, error_y, x - (d * error_x - b * error_y) / determinant,
                y - (a * error_y - c * error_x) / determinant)

    @property
    def is_equidistant(self) -> bool:
        """Whether it is a fisheye lens, whose coefficients are all radial."""
        return self.scale is _equidistant

    @cached_property
    def _bends(self) -> bool:
        return (self.scale is _equidistant or any(self.d)
                or bool(self.p1 or self.p2 or any(self.prism) or self.tilt))

    @cached_property
    def _fold_r2(self) -> float:
        """The squared radius from which on a larger one is imaged nearer to the center.

        It is infinite if there is none.
        """
        imaged = _RADII * self.scale(_RADII ** 2, self.d)
        fold = np.flatnonzero(~(np.diff(imaged, prepend=0.0) > 0))
        return float(_RADII[fold[0]] ** 2) if fold.size else np.inf


@dataclass(frozen=True)
class InverseLens:
    """Lens model that is the inverse of another, as Intel's inverse Brown-Conrady model."""

    of: Lens

    def distort(self, x: np.ndarray, y: np.ndarray) -> Plane:
        """Return where the lens images rays.

        Args:
            x, y: x / z and y / z, arrays of one shape and float type.

        Returns:
            (x, y) on the plane z = 1; NaN where there is no place.
        """
        to_x, to_y = self.of.undistort(x, y)
        kind = np.result_type(x)
        return to_x.astype(kind, copy=False), to_y.astype(kind, copy=False)

    def undistort(self, x: np.ndarray, y: np.ndarray) -> Plane:
        """Return the directions whose rays meet the plane z = 1 at (x, y).

        Args:
            x, y: arrays of one shape.

        Returns:
            x / z and y / z, float64; NaN where there is no direction.
        """
        return self.of.distort(np.asarray(x, np.float64), np.asarray(y, np.float64))


def make_lens(distortion_model: str, d: tuple[float, ...]) -> Lens | InverseLens:
    """Return the lens of a camera info.

    Args:
        distortion_model: its name in ROS, such as plumb_bob.
        d: its coefficients.

    Returns:
        The lens.

    Raises:
        ValueError: the model or the number of coefficients is not known here.
    """
    name = distortion_model.strip().lower().replace('-', '_').replace(' ', '_')
    used = d
    while used and used[-1] == 0:
        used = used[:-1]
    if name in _EQUIDISTANT and len(used) <= 4:
        return Lens(_equidistant, (*used, *(0.0,) * (4 - len(used))))
    if name in _CALIB3D and len(used) <= 14:
        return _calib3d(used)
    if name in _INVERSE and len(used) <= 5:
        return InverseLens(_calib3d(used)) if used else _calib3d(used)
    if name in _NONE and not used:
        return _calib3d(used)
    raise ValueError(f'expected the lens model plumb_bob, rational_polynomial (either up to 14 '
                     f'coefficients, in the order of OpenCV) or equidistant (4), got '
                     f'{distortion_model or "none"} '
                     f'with {len(d)}: '
                     'calibrate with one of these')


def _calib3d(d: tuple[float, ...]) -> Lens:
    """Return the lens of up to 14 coefficients of calib3d."""
    k1, k2, p1, p2, k3, k4, k5, k6, *prism, tau_x, tau_y = (*d, *(0.0,) * (14 - len(d)))
    return Lens(_rational if any((k4, k5, k6)) else _polynomial, (k1, k2, k3, k4, k5, k6), p1, p2,
                prism=tuple(prism) if any(prism) else (),
                tilt=_tilt(tau_x, tau_y) if tau_x or tau_y else ())


def _tilt(tau_x: float, tau_y: float) -> tuple[tuple[float, ...], ...]:
    """Return the 3x3 matrix of a sensor that is turned by so many radians about its axes."""
    about_x = np.array(((1, 0, 0), (0, np.cos(tau_x), np.sin(tau_x)),
                        (0, -np.sin(tau_x), np.cos(tau_x))))
    about_y = np.array(((np.cos(tau_y), 0, -np.sin(tau_y)), (0, 1, 0),
                        (np.sin(tau_y), 0, np.cos(tau_y))))
    turn = about_y @ about_x
    onto_sensor = np.array(((turn[2, 2], 0, -turn[0, 2]), (0, turn[2, 2], -turn[1, 2]), (0, 0, 1)))
    return tuple(tuple(map(float, row)) for row in onto_sensor @ turn)


def _polynomial(r2: np.ndarray, d: Sequence[float]) -> np.ndarray:
    k1, k2, k3 = d[:3]
    return 1 + r2 * (k1 + r2 * (k2 + r2 * k3))


def _rational(r2: np.ndarray, d: Sequence[float]) -> np.ndarray:
    k4, k5, k6 = d[3:]
    return _polynomial(r2, d) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))


def _equidistant(r2: np.ndarray, d: Sequence[float]) -> np.ndarray:
    k1, k2, k3, k4 = d
    r = np.sqrt(r2)
    angle = np.arctan(r)
    a2 = angle * angle
    imaged = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
    return np.where(r > 1e-6, imaged / np.maximum(r, 1e-6), 1).astype(r.dtype, copy=False)
