# SPDX-License-Identifier: Apache-2.0
"""Measure the time offset between two cameras on one mount, from where their images do not meet.

What moves through the view lies beside its place by its velocity times the error of the time. So
the distances of matched blocks are fitted by three things at once: a correction of the homography,
velocity times offset, and parallax. Parallax must be in it: of two cameras 5 cm apart that drive
at 3 m/s it looks like 17 ms. It goes sideways with the base line where the flow of a drive goes
outward from one point, and is in proportion to the same inverse depth, which the flow tells.

The velocities are those of both cameras, each by itself. Where the cameras turn only their turns
count: the parallax of a drive goes with its speed, but not with what turns to and fro.

On a straight drive over flat ground a correction of the homography looks much like an offset: what
is near the lower edge moves fast. Where both cameras are calibrated the correction is a rotation,
which does not. A forward base line (one camera ahead of the other) cannot be told from an offset
while the speed is constant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from ..alignment.camera import CameraModel
from ..alignment.homography import Alignment
from .matching import Blocks, PyramidLevel, moves
from .planar import derivatives, transform_points, unit_scaling
from .registration import RegistrationError, levels, resized, size_of

# Stamp in seconds and gray image, H x W of any numeric type.
Clip = Sequence[tuple[float, np.ndarray]]
Cameras = tuple[CameraModel, CameraModel]  # of RGB and of thermal

# Motion times the error of the time puts blocks further away at first.
_WIDTH, _FIRST_BLOCKS, _BLOCKS = 640, Blocks(64, 32, 24), Blocks(64, 32, 10)
# Velocities are measured over this time to either side, without the noise of single pixels.
_REACH_S, _BLUR_PX = 0.1, 1.5
# The cameras agree on a velocity within so many px/s, or this part of it.
_SAME_PX_S, _SAME_SHARE = 8.0, 0.3
_NEAR_S = 0.025  # stamps of a pair differ by at most this much
_INSTANTS, _ROUNDS, _SETTLED_S = 60, 6, 0.001
# Errors of this size begin to count less, in pixels and, of the flow, in px/s.
_SOFT_PX, _SOFT_PX_S = 1.5, 6.0
# Nearer to the point that the flow comes from depth is not known.
_BLIND_PX = 50.0
_STEPS, _GROUPS = 20, 8
# With calibrated cameras the way from coarse to fine: blocks across an edge of depth are many, and
# all off to the same side.
_FIRST_SOFT_PX, _LAST_SOFT_PX, _SHARPER = 8.0, 0.5, 0.7
# What does not move stays this near to the lines of the flow, in px/s.
_STATIC_PX_S = 6.0
_ADVICE = 'take a recording in which the cameras are turned to and fro'
# Turns that are this part of all motion, squared, tell the offset by themselves.
_TURNING_SHARE = 0.1
LEAST_MATCHES, LARGEST_UNCERTAINTY_MS = 300, 4.0
LARGEST_STRAIGHT_MS = 10.0  # with calibrated cameras: of a homography the doubt itself is in doubt


@dataclass(frozen=True)
class TimeOffset:
    """A measured offset and how sure it is.

    offset_ms is to be added to the stamps of thermal (sync.thermal_offset_ms); uncertainty_ms is
    its standard deviation: jackknife over eighths of the time and of the directions, and what
    parallax may do. matches are the blocks it rests on, motion_px_s the root mean square of their
    velocities in RGB pixels of an image that is 640 wide. straight: the cameras were not turned,
    so it holds if neither of them is ahead of the other.
    """

    offset_ms: float
    uncertainty_ms: float
    matches: int
    motion_px_s: float
    straight: bool = False

    @property
    def permitted_ms(self) -> float:
        """The largest uncertainty with which it is of use."""
        return LARGEST_STRAIGHT_MS if self.straight else LARGEST_UNCERTAINTY_MS

    @property
    def of_use(self) -> bool:
        """Uncertainty is at most what is permitted."""
        return self.uncertainty_ms <= self.permitted_ms

    @property
    def summary(self) -> str:
        """What was found, in a line of text."""
        return (f'time offset {self.offset_ms:+.1f} ms, give or take {self.uncertainty_ms:.1f} '
                f'(added to the stamps of thermal), from {self.matches} blocks that move by '
                f'{self.motion_px_s:.0f} px/s' + (
                    ' (a straight drive: if neither camera is ahead of the other)'
                    if self.straight else ''))


@dataclass(frozen=True)
class _Seen:
    """Blocks of all instants: where they are, how they move, and the error of the time.

    thermal, rgb and the velocities (of rgb, in its pixels, by the images of either camera) are N x
    2, ahead_s (the stamp of RGB minus the corrected one of thermal) and instant are N.
    """

    thermal: np.ndarray
    rgb: np.ndarray
    velocity: np.ndarray
    other_velocity: np.ndarray
    ahead_s: np.ndarray
    instant: np.ndarray

    def only(self, wanted: np.ndarray) -> '_Seen':
        return _Seen(*(getattr(self, item.name)[wanted] for item in fields(self)))


def estimate_offset(rgb: Clip, thermal: Clip, alignment: Alignment, *, start_ms: float = 0.0,
                    cameras: Cameras | None = None) -> TimeOffset:
    """Estimate the time offset of two cameras that move, or before which something moves.

    Args:
        rgb: frames of the RGB camera in the order of their stamps.
        thermal: those of the thermal camera.
        alignment: where thermal lies on RGB, right within some pixels.
        start_ms: the offset to start from, right within about 150 ms.
        cameras: calibrations of the images of both, if known; a straight drive needs them.

    Returns:
        The offset and its uncertainty.

    Raises:
        RegistrationError: the clips do not tell; it says why.
    """
    rgb, thermal = _once(rgb), _once(thermal)
    found, step_ms = _search(rgb, thermal, alignment, start_ms, cameras)
    if not found.of_use:
        raise RegistrationError('no time offset: it is uncertain by '
                                f'{found.uncertainty_ms:.1f} ms, where {found.permitted_ms:g} ms '
                                'are permitted: too little moves, or all of it as parallax '
                                f'would; {_ADVICE}'
                                f'{"" if cameras else ", or calibrate both (camera infos)"}')
    if abs(step_ms) > max(2e3 * _SETTLED_S, found.uncertainty_ms):
        raise RegistrationError(f'no time offset: the search goes on after {_ROUNDS} rounds, at '
                                f'{found.offset_ms:+.0f} ms; start nearer (--thermal-offset-ms)')
    return found


def _search(rgb: Clip, thermal: Clip, alignment: Alignment, start_ms: float,
            cameras: Cameras | None) -> tuple[TimeOffset, float]:
    """Return what a search from start_ms comes to, and its last change in ms."""
    sizes = size_of(rgb[0][1]), size_of(thermal[0][1])
    matrix, offset_s = resized(alignment, sizes), start_ms / 1e3
    for count in range(_ROUNDS):
        seen = _observed(rgb, thermal, matrix, offset_s,
                         blocks=_BLOCKS if count else _FIRST_BLOCKS)
        _require_enough(seen)
        origin = _static_origin(seen) if cameras and _turns(seen) is None else None
        step_s, matrix = _solved(seen, matrix)
        if cameras and origin is not None:
            step_s = _straight_step(seen, cameras, origin)
        offset_s += step_s
        if count and abs(step_s) < _SETTLED_S:
            break
    uncertainty_ms = 1e3 * _uncertainty_s(seen, matrix, cameras, origin)
    seen = seen if origin is None else seen.only(_static(seen, origin, _STATIC_PX_S))
    motion = float(np.sqrt(np.square(seen.velocity).sum(axis=1).mean()))
    return TimeOffset(1e3 * offset_s, uncertainty_ms, len(seen.rgb),
                      motion * _WIDTH / max(_WIDTH, sizes[0][0]), origin is not None), 1e3 * step_s


def _require_enough(seen: _Seen) -> None:
    """Raise RegistrationError for too few blocks, or too few instants."""
    if len(seen.rgb) < LEAST_MATCHES:
        raise RegistrationError(f'no time offset: {len(seen.rgb)} blocks were found in both '
                                f'cameras with their velocities, {LEAST_MATCHES} are needed: '
                                f'check the alignment, and {_ADVICE}')
    instants = len(np.unique(seen.instant))
    if instants < _GROUPS:
        raise RegistrationError(f'no time offset: both cameras show motion at {instants} '
                                f'instants, {_GROUPS} are needed; take a longer recording')


def _once(clip: Clip) -> Clip:
    """Return the frames without those that repeat a stamp: some drivers send an image thrice."""
    stamps = [stamp for stamp, _ in clip]
    return [frame for before, frame in zip([None, *stamps], clip) if frame[0] != before]


def _observed(rgb: Clip, thermal: Clip, matrix: np.ndarray, offset_s: float, *,
              blocks: Blocks) -> _Seen:
    """Match the blocks of some instants, and measure their velocities."""
    stamps = np.array([stamp for stamp, _ in rgb])
    parts = []
    for number in np.unique(np.linspace(0, len(thermal) - 1, _INSTANTS).round().astype(int)):
        nearest = int(np.abs(stamps - thermal[number][0] - offset_s).argmin())
        ahead_s = stamps[nearest] - thermal[number][0] - offset_s
        if abs(ahead_s) > _NEAR_S:
            continue
        level = PyramidLevel([levels(rgb[nearest][1])], [levels(thermal[number][1])],
                             width=min(_WIDTH, rgb[0][1].shape[1]))
        found = level.matches(matrix, blocks)
        if not len(found.rgb):
            continue
        moved = _velocities(thermal, number, found.thermal)
        own, other = _velocities(rgb, nearest, found.rgb), (transform_points(
            matrix, found.thermal + _REACH_S * moved) - transform_points(
            matrix, found.thermal - _REACH_S * moved)) / (2 * _REACH_S)
        apart = np.hypot(*(own - other).T)
        agree = apart <= np.maximum(_SAME_PX_S, _SAME_SHARE * np.hypot(*own.T))
        parts.append(_Seen(found.thermal, found.rgb, own, other, np.full(len(own), ahead_s),
                           np.full(len(own), number)).only(agree))
    if not parts:
        return _Seen(*(np.zeros((0, 2)),) * 4, *(np.zeros(0),) * 2)
    return _Seen(*(np.concatenate([getattr(part, item.name) for part in parts])
                   for item in fields(_Seen)))


def _velocities(clip: Clip, number: int, points: np.ndarray) -> np.ndarray:
    """Return the velocities (N x 2, px/s) of points of a frame; nan where they are not known."""
    stamps = np.array([stamp for stamp, _ in clip[max(0, number - 10):number + 11]])
    step = max(1, round(_REACH_S / float(np.median(np.diff(stamps)))))
    if not step <= number < len(clip) - step:
        return np.full(points.shape, np.nan)
    (begin_s, before), (_, now), (end_s, after) = clip[number - step:number + step + 1:step]
    smooth = [cv2.GaussianBlur(levels(image), (0, 0), _BLUR_PX).round().astype(np.uint8)
              for image in (before, now, after)]
    return moves(smooth, points) / (end_s - begin_s)


def _straight_step(seen: _Seen, cameras: Cameras, origin: np.ndarray) -> float:
    """Return the change of the offset in s, on a straight drive with calibrated cameras.

    As _solved, with a rotation in place of the homography, and of what stands still alone.
    """
    seen = seen.only(_static(seen, origin, _STATIC_PX_S))
    rays = [np.column_stack((camera.rays(points), np.ones(len(points))))
            for camera, points in zip(cameras, (seen.rgb, seen.thermal), strict=True)]
    known, instrument = _regressors(seen, cameras[0], origin)
    twice, sound = np.tile(np.arange(len(seen.rgb)), 2), np.isfinite(np.hstack(rays)).all(axis=1)
    goal = rays[0][twice, :2] + known[:, :, 0] * seen.ahead_s[twice, None]
    u, _, v = np.linalg.svd(rays[0][sound].T @ rays[1][sound])
    rotation = u @ np.diag((1, 1, np.linalg.det(u @ v))) @ v
    amounts, soft = np.zeros(known.shape[2]), _FIRST_SOFT_PX
    for _ in range(_STEPS):
        turned = rays[1] @ rotation.T
        x, y = (turned[:, :2] / turned[:, 2:]).T
        shape = np.array([[-x * y, 1 + x * x, -y], [-1 - y * y, x * y, x]]).transpose(2, 0, 1)
        rest = goal - np.column_stack((x, y))[twice] - known @ amounts
        weight = sound[twice] / (1 + np.square(rest * cameras[0].k[0][0] / soft).sum(axis=1))
        design, tool = (np.concatenate((shape[twice], part), axis=2)
                        for part in (known, instrument))
        tool = np.nan_to_num(tool * weight[:, None, None]).reshape(-1, design.shape[2])
        design = np.nan_to_num(design).reshape(tool.shape)
        step = np.linalg.lstsq(tool.T @ design, tool.T @ np.nan_to_num(rest).ravel(),
                               rcond=1e-12)[0]
        rotation, amounts = cv2.Rodrigues(step[:3])[0] @ rotation, amounts + step[3:]
        soft = max(_LAST_SOFT_PX, _SHARPER * soft)
    return float(amounts[0])


def _regressors(seen: _Seen, camera: CameraModel,
                origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what offset and parallax add to rays of RGB, by either camera, 2 N x 2 x 3 each."""
    flows = []
    for flow in (seen.velocity, seen.other_velocity):
        moved = (camera.rays(seen.rgb + _REACH_S * flow)
                 - camera.rays(seen.rgb - _REACH_S * flow)) / (2 * _REACH_S)
        flows.append(-np.concatenate((moved[:, :, None], _parallax(seen.rgb, flow, origin)),
                                     axis=2))
    return np.concatenate(flows), np.concatenate(flows[::-1])


def _static(seen: _Seen, origin: np.ndarray, stray_px_s: float) -> np.ndarray:
    """Return what moves as a drive ahead, or back, makes it move, within so many px/s: N bool."""
    flow, away = (seen.velocity + seen.other_velocity) / 2, seen.rgb - origin
    distance = np.maximum(np.hypot(*away.T), 1.0)
    stray = np.abs(flow[:, 0] * away[:, 1] - flow[:, 1] * away[:, 0]) / distance
    outward = (flow * away).sum(axis=1) / distance
    return (stray < stray_px_s) & (outward * np.sign(np.median(outward)) > -2) & (
        distance > _BLIND_PX)


def _static_origin(seen: _Seen) -> np.ndarray | None:
    """Return where the flow of what stands still comes from, or goes to on the way back.

    None where it is no drive, or too little of it stands still.
    """
    still = seen
    for _ in range(4):
        origin = _origin(still)
        if origin is None:
            return None
        still = seen.only(_static(seen, origin, _STATIC_PX_S / 2))
        if len(still.rgb) < LEAST_MATCHES or len(np.unique(still.instant)) < _GROUPS:
            return None
    return origin


def _solved(seen: _Seen, matrix: np.ndarray, *,
            straight: bool = True) -> tuple[float, np.ndarray]:
    """Return the change of the offset in s, and the homography that goes with it.

    straight: whether parallax is corrected for on a straight drive.

    Velocities have errors, which would make their factors too small. Those of the two cameras have
    nothing to do with each other, so each serves as the instrument of the other (the method of
    instrumental variables). Turns are a better one: nor has parallax to do with them.
    """
    twice, turns = np.tile(np.arange(len(seen.rgb)), 2), _turns(seen)
    source, target = unit_scaling(seen.thermal), unit_scaling(seen.rgb)
    unit, a, b = target[0, 0], transform_points(source, seen.thermal), transform_points(
        target, seen.rgb)
    origin = _origin(seen) if straight and turns is None else None
    flows = [-unit * np.concatenate((flow[:, :, None], -_parallax(seen.rgb, flow, origin)), axis=2)
             for flow in (seen.velocity, seen.other_velocity)]
    known, instrument = (np.concatenate(flows), np.concatenate(flows[::-1]) if turns is None
                         else -unit * turns[:, :, None])
    goal = (b[twice] + known[:, :, 0] * seen.ahead_s[twice, None])
    scaled = target @ matrix @ np.linalg.inv(source)
    scaled, amounts = scaled / scaled[2, 2], np.zeros(known.shape[2])
    for _ in range(_STEPS):
        rest = goal - transform_points(scaled, a)[twice] - known @ amounts
        weight = 1 / (1 + np.square(rest / (unit * _SOFT_PX)).sum(axis=1))
        shape = derivatives(scaled, a)[twice]
        design, tool = (np.concatenate((shape, flow), axis=2) for flow in (known, instrument))
        tool = (tool * weight[:, None, None]).reshape(-1, design.shape[2])
        # Where nothing moves the normal equations are singular: the shortest step then.
        step = np.linalg.lstsq(tool.T @ design.reshape(tool.shape), tool.T @ rest.ravel(),
                               rcond=1e-12)[0]
        scaled, amounts = scaled + np.append(step[:8], 0).reshape(3, 3), amounts + step[8:]
    return float(amounts[0]), np.linalg.inv(target) @ scaled @ source


def _turns(seen: _Seen) -> np.ndarray | None:
    """Return the velocities by which all moves at once, less their mean over time; 2 N x 2, px/s.

    First those that the thermal camera shows, then those of RGB. None where they hardly turn.
    """
    common = np.zeros((2, *seen.velocity.shape))
    for instant in np.unique(seen.instant):
        now = seen.instant == instant
        common[0, now], common[1, now] = (np.median(flow[now], axis=0) for flow in (
            seen.other_velocity, seen.velocity))
    common -= common.mean(axis=1, keepdims=True)
    turning = np.square(common).mean() > _TURNING_SHARE * np.square(seen.velocity).mean()
    return common.reshape(-1, 2) if turning else None


def _origin(seen: _Seen) -> np.ndarray | None:
    """Return the point (x, y) that the flow of a drive comes from; None where it is no drive."""
    flow = (seen.velocity + seen.other_velocity) / 2
    weight, (across, down) = np.ones(len(flow)), flow.T
    lines = np.column_stack((down, -across))
    for _ in range(_STEPS):
        origin = np.linalg.lstsq(lines * weight[:, None], (lines * seen.rgb).sum(axis=1) * weight,
                                 rcond=None)[0]
        away = seen.rgb - origin
        distance = np.maximum(np.hypot(*away.T), _BLIND_PX)
        stray = np.abs((lines * away).sum(axis=1)) / distance
        weight = 1 / (distance * (1 + np.square(stray / _SOFT_PX_S)))
    inside = (seen.rgb.min(axis=0) < origin).all() and (origin < seen.rgb.max(axis=0)).all()
    straight = np.median(stray) <= _SAME_SHARE * np.median(np.hypot(across, down))
    return origin if inside and straight else None


def _parallax(places: np.ndarray, flow: np.ndarray, origin: np.ndarray | None) -> np.ndarray:
    """Return what a base line to the right and one downward add, N x 2 x 2, in any unit.

    It is the inverse depth by the flow. N x 2 x 0 without an origin: there turns tell the offset.
    """
    if origin is None:
        return np.zeros((*flow.shape, 0))
    away = places - origin
    nearness = (flow * away).sum(axis=1) / np.maximum(np.square(away).sum(axis=1), _BLIND_PX ** 2)
    return nearness[:, None, None] * np.eye(2)


def _uncertainty_s(seen: _Seen, matrix: np.ndarray, cameras: Cameras | None,
                   origin: np.ndarray | None) -> float:
    """Return the deviation of the offset: jackknife over stretches of time, and over directions.

    Depth makes blocks to one side be off at all times, the ground in another way than walls. Where
    a homography stands in for calibrations, what the correction for parallax changes is added.
    """
    def solve(part: _Seen) -> float:
        if cameras and origin is not None:
            return _straight_step(part, cameras, origin)
        return _solved(part, matrix)[0]

    directions = np.arctan2(*(seen.rgb - (seen.rgb.mean(axis=0) if origin is None else origin)).T)
    over = [_jackknife(seen, order, solve) for order in (seen.instant, directions)]
    doubt = 0.0 if origin is not None else (
        _solved(seen, matrix)[0] - _solved(seen, matrix, straight=False)[0])
    return float(np.linalg.norm((*over, doubt)))


def _jackknife(seen: _Seen, order: np.ndarray, solve: Callable[[_Seen], float]) -> float:
    """Return the deviation of what is found without each of _GROUPS groups along an order (N)."""
    groups = np.searchsorted(np.quantile(order, np.linspace(0, 1, _GROUPS + 1)[1:-1]), order)
    found = np.array([solve(seen.only(groups != group)) for group in range(_GROUPS)])
    return float(np.sqrt((_GROUPS - 1) / _GROUPS * np.square(found - found.mean()).sum()))
