# SPDX-License-Identifier: Apache-2.0
"""Alignment by a measured homography: what an alignment file of `diffmf align` holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..file_kinds import explained, looked_in
from ..frames import RGB, DiffmfError
from .warp import Mapping, Size, resized_mapping, scaling, table_mapping, translation

FIELDS = ('rgb_from_thermal', 'rgb_size', 'thermal_size')
# RGB pixels that one thermal pixel covers (by area); beyond, the matrix is singular or nonsense.
_AREA_SCALE = (1e-4, 1e4)


class AlignmentError(DiffmfError):
    """An alignment cannot be read, or says what no pair of cameras can do."""


@dataclass(frozen=True)
class Alignment:
    """How thermal pixels map to RGB pixels.

    rgb_from_thermal is a 3x3 homography (nested tuples) from thermal to RGB pixel coordinates, as
    measured at the two (width, height) sizes. None: both cameras see the same field, thermal is
    resized; see resize(). Raises AlignmentError when the values are not a usable homography.
    """

    rgb_from_thermal: tuple[tuple[float, ...], ...] | None
    rgb_size: Size | None = None
    thermal_size: Size | None = None

    def __post_init__(self) -> None:
        if self.rgb_from_thermal is not None:
            _check(self)

    @classmethod
    def resize(cls) -> 'Alignment':
        """Return the alignment of cameras with one and the same field of view.

        Returns:
            The alignment by resizing, which has no matrix.
        """
        return cls(None)

    @classmethod
    def load(cls, path: str | Path) -> 'Alignment':
        """Read an alignment YAML with the keys rgb_from_thermal, rgb_size and thermal_size.

        Args:
            path: the file.

        Returns:
            The alignment that was measured.

        Raises:
            AlignmentError: the file is missing, malformed or not usable; the message begins with
                path.
        """
        content = read_yaml(path)
        if set(content) != set(FIELDS):
            raise AlignmentError(f'{path}: expected the keys {", ".join(FIELDS)}, got '
                                 f'{", ".join(map(str, content))}')
        try:
            return cls.from_content(content)
        except AlignmentError as error:
            raise AlignmentError(f'{path}: {error}') from error

    @classmethod
    def from_content(cls, content: dict) -> 'Alignment':
        """Return the alignment of a YAML's content.

        Args:
            content: the three keys and their values.

        Returns:
            The alignment that was measured.

        Raises:
            AlignmentError: a value is malformed or not usable.
        """
        try:
            matrix = tuple(tuple(map(float, row)) for row in content['rgb_from_thermal'])
        except (TypeError, ValueError, OverflowError) as error:
            raise AlignmentError(f'expected numbers in nested lists: {error}') from error
        return cls(matrix, *(image_size(content[key], key) for key in FIELDS[1:]))

    def save(self, path: str | Path) -> None:
        """Write the YAML that load() reads back exactly.

        Args:
            path: the file, which is replaced.

        Raises:
            AlignmentError: this is resize(), which needs no file.
        """
        if self.rgb_from_thermal is None:
            raise AlignmentError('resizing needs no alignment file; leave the setting '
                                 '`alignment.file` empty')
        content = {'rgb_from_thermal': [list(row) for row in self.rgb_from_thermal],
                   'rgb_size': list(self.rgb_size), 'thermal_size': list(self.thermal_size)}  # type: ignore[arg-type]
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')

    def warp(self, thermal: np.ndarray, *, rgb_size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Bring a thermal image onto the RGB grid; for many images of one size keep mapping().

        Args:
            thermal: H x W uint8, uint16 or float32 of any size.
            rgb_size: (width, height) of the live RGB image in pixels.

        Returns:
            (thermal on the RGB grid, read-only mask of the pixels that thermal sees).
        """
        mapping = self.mapping(rgb_size=rgb_size, thermal_size=thermal.shape[::-1])
        return mapping.thermal(thermal), mapping.seen

    def mapping(self, *, rgb_size: Size, thermal_size: Size, grid: str = RGB,
                trim_px: tuple[float, float] = (0.0, 0.0)) -> Mapping:
        """Return the mapping at the live sizes, which may differ from the measured ones.

        Args:
            rgb_size, thermal_size: (width, height) of the live images in pixels.
            grid: rgb or thermal, the camera whose grid both images come onto.
            trim_px: shift of thermal to the right and down, in pixels of the live RGB image.

        Returns:
            The mapping of both images.
        """
        rgb_size, thermal_size = (rgb_size[0], rgb_size[1]), (thermal_size[0], thermal_size[1])
        trim_px = trim_px[0], trim_px[1]
        if self.rgb_from_thermal is None and trim_px == (0.0, 0.0):
            return resized_mapping(rgb_size=rgb_size, thermal_size=thermal_size, grid=grid)
        rgb_from_thermal = translation(*trim_px) @ self._at(rgb_size, thermal_size)
        size = rgb_size if grid == RGB else thermal_size
        other_from_grid = np.linalg.inv(rgb_from_thermal) if grid == RGB else rgb_from_thermal
        x, y = _projected(other_from_grid, size)
        # along a side, at the center
        rgb_per_thermal = abs(np.linalg.det(rgb_from_thermal)) ** 0.5
        shrink = 1 / rgb_per_thermal if grid == RGB else rgb_per_thermal
        return table_mapping(x, y, rgb_size=rgb_size, thermal_size=thermal_size, grid=grid,
                             shrink=shrink)

    def _at(self, rgb_size: Size, thermal_size: Size) -> np.ndarray:
        """Homography rgb_from_thermal at live sizes.

        It is scaled to a third coordinate of 1 at the center of the thermal image.
        """
        if self.rgb_from_thermal is None:
            return resampling(thermal_size, rgb_size)
        matrix = (resampling(self.rgb_size, rgb_size) @ np.array(self.rgb_from_thermal)  # type: ignore[arg-type]
                  @ np.linalg.inv(resampling(self.thermal_size, thermal_size)))  # type: ignore[arg-type]
        # So that what lies in front of the horizon has a positive third coordinate.
        return matrix / (matrix[2] @ ((thermal_size[0] - 1) / 2, (thermal_size[1] - 1) / 2, 1))


def read_yaml(path: str | Path) -> dict:
    """Return the keys and values of a YAML file.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        AlignmentError: the file cannot be read, or holds no keys; the message has path.
    """
    try:
        content = load_yaml(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise AlignmentError(f'cannot read the alignment file {path}: it does not exist'
                             f'{looked_in(path)}') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AlignmentError(explained(f'cannot read the alignment file {path}: {error}',
                                       path)) from error
    if not isinstance(content, dict):
        raise AlignmentError(explained(f'{path}: expected keys with values, got '
                                       f'{type(content).__name__}', path))
    return content


def resampling(measured: Size, live: Size) -> np.ndarray:
    """Return the 3x3 matrix from pixels at the measured size to those at the live one.

    Args:
        measured, live: (width, height) in pixels.

    Returns:
        The matrix; pixel centers are integers.
    """
    return scaling(live[0] / measured[0], live[1] / measured[1])


def image_size(values: Any, name: str) -> Size:
    """Read the size of an image.

    Args:
        values: what a file has for it.
        name: of the entry.

    Returns:
        (width, height).

    Raises:
        AlignmentError: these are not two whole numbers.
    """
    try:
        width, height = map(int, values)
    except (TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(f'{name} must be [width, height], both at least 1; got '
                             f'{values}') from error
    return width, height


def _check(alignment: Alignment) -> None:
    """Raise AlignmentError unless the homography is one that two cameras side by side can have."""
    for name in FIELDS[1:]:
        size = getattr(alignment, name)
        if len(size or ()) != 2 or min(size) < 1:
            raise AlignmentError(f'{name} must be [width, height], both at least 1; got {size}')
    rows = alignment.rgb_from_thermal
    if [len(row) for row in rows] != [3, 3, 3]:  # type: ignore[union-attr]
        raise AlignmentError(f'rgb_from_thermal must be 3 rows of 3 numbers; got {rows}')
    matrix = np.array(rows)
    if not np.isfinite(matrix).all():
        raise AlignmentError(f'rgb_from_thermal must be finite; got {matrix.tolist()}')
    width, height = alignment.thermal_size  # type: ignore[misc]
    x = np.array([(width - 1) / 2, -0.5, width - 0.5, -0.5, width - 0.5])
    y = np.array([(height - 1) / 2, -0.5, -0.5, height - 0.5, height - 0.5])
    depth = matrix[2] @ np.stack((x, y, np.ones(5)))
    if not (depth / (depth[0] or 1.0) > 0).all():
        raise AlignmentError('rgb_from_thermal sends part of the thermal image through infinity; '
                             'the third row should be close to [0, 0, 1]')
    # Determinant of the map's derivative at the image center; for an affine map, of its linear
    # part.
    area = np.linalg.det(matrix) / depth[0] ** 3
    if area < 0 and -area > _AREA_SCALE[0]:
        raise AlignmentError('rgb_from_thermal mirrors the image; were the points of one camera '
                             'taken from a flipped picture, or x and y swapped?')
    if not _AREA_SCALE[0] <= area <= _AREA_SCALE[1]:
        raise AlignmentError(f'rgb_from_thermal is singular or out of scale: a thermal pixel '
                             f'would cover {area:.3g} RGB pixels')


def _projected(other_from_grid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a grid under a homography: (x, y), each H x W float64.

    Pixels behind its horizon are NaN.
    """
    columns, rows = np.arange(size[0]), np.arange(size[1])[:, None]
    x, y, depth = (a * columns + b * rows + c for a, b, c in other_from_grid)
    depth = np.where(depth > 0, depth, np.nan)
    return x / depth, y / depth


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows OpenCV's matrices, which become {rows, cols, dt, data}."""


def _matrix(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node, deep=True)


for _kind in ('opencv-matrix', 'opencv-nd-matrix'):
    _Loader.add_constructor(f'tag:yaml.org,2002:{_kind}', _matrix)


def load_yaml(text: str) -> Any:
    """Return the content of a YAML text, also as OpenCV's FileStorage writes it.

    Args:
        text: the text of the file.

    Returns:
        What it holds; OpenCV's matrices become {rows, cols, dt, data}.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    if text.startswith('%YAML:'):  # the first line of OpenCV's files, which is not YAML
        text = text.partition('\n')[2]
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
