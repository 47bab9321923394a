# SPDX-License-Identifier: Apache-2.0
"""The alignment YAML: a measured homography, or how two calibrated cameras are mounted.

The first kind has the keys of core/alignment/homography.py. The second:

    thermal_from_rgb: {rotation: [[1, 0, 0], [0, 1, 0], [0, 0, 1]], translation_m: [-0.05, 0, 0]}
    rgb_camera: {size: [640, 480], k: [[520, 0, 319.5], [0, 520, 239.5], [0, 0, 1]],
                 d: [-0.3, 0.1, 0, 0, 0],
                 distortion_model: plumb_bob}
    thermal_camera: ...

A camera without a block is described by its camera info. A block wins over the camera info: it was
written by hand, and calibrated with the mounting. It is for the whole image, so leave it out for a
camera that crops. In place of a block stands the path of a ROS camera YAML or of OpenCV's,
relative to this file, or its content.

Kalibr's camchain and what is written of OpenCV's stereoCalibrate are read too:
core/alignment/calibration_files.py.
"""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import calibration_files
from .camera import CalibrationError, CameraModel
from .homography import FIELDS, Alignment, AlignmentError, image_size, read_yaml
from .rig import Extrinsics

MOUNTING, CAMERAS = 'thermal_from_rgb', ('rgb_camera', 'thermal_camera')
_CAMERA_KEYS = ('size', 'k', 'd', 'distortion_model')


@dataclass(frozen=True)
class RigFile:
    """What an alignment file says of two cameras; None: left to the camera info, or to TF."""

    extrinsics: Extrinsics | None = None
    rgb: CameraModel | None = None
    thermal: CameraModel | None = None


def load_alignment(path: str | Path) -> Alignment | RigFile:
    """Read and check an alignment YAML.

    Args:
        path: the file.

    Returns:
        An Alignment of uncalibrated images, or the RigFile of two calibrated cameras.

    Raises:
        AlignmentError: the file cannot be read or used; the message begins with path.
    """
    content = read_yaml(path)
    try:
        if set(content) == set(FIELDS):
            return Alignment.from_content(content)
        if content and set(content) <= {MOUNTING, *CAMERAS}:
            return _rig_file(content, Path(path).parent)
        for is_kind, read in ((calibration_files.is_camchain, calibration_files.camchain),
                              (calibration_files.is_stereo, calibration_files.stereo)):
            if is_kind(content):
                return RigFile(*read(content))
        if calibration_files.is_camera(content):
            raise AlignmentError(f'this is the calibration of one camera: write a file with '
                                 f'{MOUNTING}, and name this '
                                 f'one there as {" or ".join(CAMERAS)}')
        raise AlignmentError(f'expected the keys {", ".join(FIELDS)}, or {MOUNTING} and perhaps '
                             f'{" and ".join(CAMERAS)}; got '
                             f'{", ".join(map(str, content)) or "none"}')
    except (AlignmentError, CalibrationError) as error:
        raise AlignmentError(f'{path}: {error}') from error


def _rig_file(content: dict, folder: Path) -> RigFile:
    extrinsics = None
    if MOUNTING in content:
        block = _block(content, MOUNTING, {'rotation', 'translation_m'})
        with_numbers = _matrix(MOUNTING, block['rotation']), _numbers(MOUNTING,
                                                                      [block['translation_m']])[0]
        extrinsics = Extrinsics(*with_numbers)
    return RigFile(extrinsics,
                   *(_camera(content, key, folder) if key in content else None for key in CAMERAS))


def _camera(content: dict, key: str, folder: Path) -> CameraModel:
    block = read_yaml(folder / content[key]) if isinstance(content[key], str) else content[key]
    if isinstance(block, dict) and calibration_files.is_camera(block):
        try:
            return calibration_files.camera(block)
        except (AlignmentError, CalibrationError) as error:
            raise AlignmentError(f'{key}: {error}') from error
    block = _block(content, key, set(_CAMERA_KEYS[:2]), set(_CAMERA_KEYS[2:]))
    size, (d,) = image_size(block['size'], f'{key}.size'), _numbers(key, [block.get('d') or []])
    try:
        camera = CameraModel(size, _matrix(key, block['k']), d,
                             distortion_model=str(block.get('distortion_model') or 'plumb_bob'))
        camera.lens  # noqa: B018 raises
    except CalibrationError as error:
        raise AlignmentError(f'{key}: {error}') from error
    return camera


def _block(content: dict, key: str, needed: set[str], more: Set[str] = frozenset()) -> dict:
    block = content[key]
    if not isinstance(block, dict) or not needed <= set(block) <= needed | more:
        raise AlignmentError(f'{key}: expected the keys {", ".join(sorted(needed | more))}, got '
                             f'{block}')
    return block


def _matrix(key: str, values: Any) -> tuple[tuple[float, ...], ...]:
    """Three rows of three numbers, which may be written as nine."""
    if isinstance(values, list) and len(values) == 9:
        values = [values[i:i + 3] for i in (0, 3, 6)]
    return _numbers(key, values)


def _numbers(key: str, rows: Any) -> tuple[tuple[float, ...], ...]:
    try:
        return tuple(tuple(map(float, row)) for row in rows)
    except (TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(f'{key}: expected numbers in nested lists: {error}') from error
