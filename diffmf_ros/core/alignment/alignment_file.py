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

Calibrations as tools write them are read too: Kalibr's camchain, and what is written of OpenCV's
stereoCalibrate. Of two cameras in one file the thermal one is the one whose topic or name says so,
else the second: cam1 of a camchain, K2 of OpenCV.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .camera import IDENTITY, CalibrationError, CameraModel
from .homography import FIELDS, Alignment, AlignmentError, image_size, read_yaml
from .rig import Extrinsics

MOUNTING, CAMERAS = 'thermal_from_rgb', ('rgb_camera', 'thermal_camera')
_CAMERA_KEYS = ('size', 'k', 'd', 'distortion_model')
# Of calibrations as tools write them: names of thermal cameras, lenses, and keys.
_THERMAL = re.compile(r'thermal|lwir|infrared|flir|boson|lepton|seek|(^|[/_])ir([/_\d]|$)',
                      re.IGNORECASE)
_KALIBR_LENSES = {'radtan': 'plumb_bob', 'equidistant': 'equidistant', 'none': 'plumb_bob'}
_OPENCV_K, _OPENCV_D = ('camera_matrix', 'cameraMatrix', 'K', 'M'), (
    'distortion_coefficients', 'distCoeffs', 'dist_coeffs', 'D')
_OPENCV_SIZE = ('image_size', 'imageSize')


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
        for is_kind, read in ((is_camchain, camchain),
                              (is_stereo, stereo)):
            if is_kind(content):
                return RigFile(*read(content))
        if is_ros_camera(content):
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
        extrinsics = Extrinsics(_shaped(block['rotation'], (3, 3), f'{MOUNTING}.rotation'),
                                _flat(block['translation_m'], f'{MOUNTING}.translation_m'))
    return RigFile(extrinsics,
                   *(_camera(content, key, folder) if key in content else None for key in CAMERAS))


def _camera(content: dict, key: str, folder: Path) -> CameraModel:
    block = read_yaml(folder / content[key]) if isinstance(content[key], str) else content[key]
    if isinstance(block, dict) and is_ros_camera(block):
        try:
            return ros_camera(block)
        except (AlignmentError, CalibrationError) as error:
            raise AlignmentError(f'{key}: {error}') from error
    block = _block(content, key, set(_CAMERA_KEYS[:2]), set(_CAMERA_KEYS[2:]))
    size, k = image_size(block['size'], f'{key}.size'), _shaped(block['k'], (3, 3), f'{key}.k')
    try:
        camera = CameraModel(size, k, _flat(block.get('d') or [], f'{key}.d'),
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


def is_camchain(content: dict) -> bool:
    """Tell whether this is what Kalibr writes of two cameras or one.

    Args:
        content: keys and values of a YAML file.

    Returns:
        True for a camchain.
    """
    return any(isinstance(block, dict) and 'intrinsics' in block for block in content.values())


def is_ros_camera(content: dict) -> bool:
    """Tell whether this is one camera as ROS's camera_calibration or OpenCV's samples write it.

    Args:
        content: keys and values of a YAML file.

    Returns:
        True for a single camera.
    """
    return _first(content, _OPENCV_K[:2]) is not None


def is_stereo(content: dict) -> bool:
    """Tell whether these are two cameras as programs with OpenCV's stereoCalibrate write them.

    Args:
        content: keys and values of a YAML file.

    Returns:
        True for two cameras of OpenCV.
    """
    return 'R' in content and 'T' in content and any(f'{name}1' in content for name in _OPENCV_K)


def camchain(content: dict) -> tuple[Extrinsics, CameraModel, CameraModel]:
    """Read the two cameras of a camchain.

    Args:
        content: keys and values of Kalibr's YAML.

    Returns:
        (thermal from RGB, RGB camera, thermal camera).

    Raises:
        AlignmentError: it has not two cameras that were calibrated together.
        CalibrationError: a camera of it is not usable.
    """
    names = sorted(name for name, block in content.items() if isinstance(block, dict)
                   and 'intrinsics' in block)
    if len(names) != 2:
        raise AlignmentError(f'expected the camchain of two cameras, got {", ".join(names)}')
    first, second = (content[name] for name in names)
    if 'T_cn_cnm1' not in second:
        raise AlignmentError(f'{names[1]} has no T_cn_cnm1: calibrate both cameras in one run of '
                             f'Kalibr')
    transform = _shaped(second['T_cn_cnm1'], (4, 4), 'T_cn_cnm1')
    mounting = (Extrinsics(tuple(tuple(row[:3]) for row in transform[:3]),
                           tuple(row[3] for row in transform[:3])),
                _kalibr_camera(names[0], first), _kalibr_camera(names[1], second))
    return _in_order(mounting, str(first.get('rostopic', '')), str(second.get('rostopic', '')))


def ros_camera(content: dict) -> CameraModel:
    """Read the camera of a ROS camera YAML or a FileStorage.

    Args:
        content: keys and values of the file.

    Returns:
        The model of its calibrated image.

    Raises:
        AlignmentError: a value is missing or malformed.
        CalibrationError: the calibration is not usable.
    """
    r, p = content.get('rectification_matrix'), content.get('projection_matrix')
    k = _shaped(_first(content, _OPENCV_K), (3, 3), 'camera_matrix')
    d = _flat(_first(content, _OPENCV_D) or [], 'distortion_coefficients')
    model = CameraModel(_size(content, ''), k, d,
                        distortion_model=str(content.get('distortion_model', 'plumb_bob')),
                        r=_shaped(r, (3, 3), 'rectification_matrix') if r else IDENTITY,
                        p=_shaped(p, (3, 4), 'projection_matrix') if p else None)
    model.lens  # noqa: B018 raises
    return model


def stereo(content: dict) -> tuple[Extrinsics, CameraModel, CameraModel]:
    """Read the two cameras that stereoCalibrate gave.

    Args:
        content: keys and values of the FileStorage.

    Returns:
        (thermal from RGB, RGB camera, thermal camera).

    Raises:
        AlignmentError: a matrix or the image size is missing or malformed.
        CalibrationError: a camera of it is not usable.
    """
    cameras = []
    for number in '12':
        k, d = (_first(content, [name + number for name in names])
                for names in (_OPENCV_K, _OPENCV_D))
        if k is None:
            raise AlignmentError(f'expected the matrix of camera {number} as cameraMatrix{number} '
                                 f'or K{number}')
        cameras.append(CameraModel(_size(content, number), _shaped(k, (3, 3), f'K{number}'),
                                   _flat(d or [], f'D{number}')))
    mounting = Extrinsics(_shaped(content['R'], (3, 3), 'R'), _flat(content['T'], 'T'))
    return _in_order((mounting, *cameras), str(content.get('name1', '')),
                     str(content.get('name2', '')))


def _in_order(mounting: Any, first: str,
              second: str) -> tuple[Extrinsics, CameraModel, CameraModel]:
    """Return (thermal from RGB, RGB, thermal): the names tell which camera is thermal."""
    if not _THERMAL.search(first) or _THERMAL.search(second):
        return mounting
    extrinsics, one, other = mounting
    return extrinsics.inverse, other, one


def _kalibr_camera(name: str, block: dict) -> CameraModel:
    kind, lens = str(block.get('camera_model',
                               'pinhole')), str(block.get('distortion_model', 'none'))
    if kind != 'pinhole' or lens not in _KALIBR_LENSES:
        raise AlignmentError(f'{name}: expected camera_model pinhole with radtan or equidistant, '
                             f'got {kind} with {lens}'
                             ': calibrate with one of these')
    fx, fy, cx, cy = _shaped(block['intrinsics'], (1, 4), f'{name}.intrinsics')[0]
    size = image_size(block.get('resolution'), f'{name}.resolution')
    return CameraModel(size, ((fx, 0.0, cx), (0.0, fy, cy), (0.0, 0.0, 1.0)),
                       _flat(block.get('distortion_coeffs', []), f'{name}.distortion_coeffs'),
                       distortion_model=_KALIBR_LENSES[lens])


def _size(content: dict, number: str) -> tuple[int, int]:
    for end in (number, ''):
        if (size := _first(content, [name + end for name in _OPENCV_SIZE])) is not None:
            size = _flat(size, 'image_size')
        elif f'image_width{end}' in content and f'image_height{end}' in content:
            size = content[f'image_width{end}'], content[f'image_height{end}']
        else:
            continue
        return image_size(size, f'the image size of camera {number}')
    raise AlignmentError('the file does not say for which image size it was calibrated: add '
                         f'image_size{number}: [width, height]')


def _first(content: dict, names: Sequence[str]) -> Any:
    """The value of the first of names that content has, or None."""
    return next((content[name] for name in names if name in content), None)


def _flat(values: Any, name: str) -> tuple[float, ...]:
    """The numbers of a matrix in whatever form: {data: [...]}, nested or flat."""
    if isinstance(values, dict):
        values = values.get('data', [])
    try:
        rows = [row if isinstance(row, (list, tuple)) else [row] for row in values]
        return tuple(float(value) for row in rows for value in row)
    except (TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(f'{name}: expected numbers, got {values}') from error


def _shaped(values: Any, shape: tuple[int, int], name: str) -> tuple[tuple[float, ...], ...]:
    flat, (rows, columns) = _flat(values, name), shape
    if len(flat) != rows * columns:
        raise AlignmentError(f'{name}: expected {rows} x {columns} numbers, got {len(flat)}')
    return tuple(flat[i * columns:(i + 1) * columns] for i in range(rows))
