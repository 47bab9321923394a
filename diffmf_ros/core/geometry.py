# SPDX-License-Identifier: Apache-2.0
"""Bring thermal pixels onto the RGB grid: by a measured homography, or by plain resizing.

Pixel (x, y) means the centre of column x, row y; an image of width w spans -0.5 to w - 0.5. So an
image that is delivered at s times the size moves x to s (x + 0.5) - 0.5.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import yaml

from .frames import DiffmfError

_FIELDS = ('rgb_from_thermal', 'rgb_size', 'thermal_size')
# RGB pixels that one thermal pixel covers (by area); beyond, the matrix is singular or nonsense.
_AREA_SCALE = (1e-4, 1e4)


class AlignmentError(DiffmfError):
    """An alignment file cannot be read, or says what no pair of cameras can do."""


@dataclass(frozen=True)
class Alignment:
    """How thermal pixels map to RGB pixels.

    rgb_from_thermal is a 3x3 homography (nested tuples) from thermal to RGB pixel coordinates, as
    measured at the two (width, height) sizes. None: both cameras see the same field, thermal is
    resized; see resize(). Raises AlignmentError when the values are not a usable homography.
    """

    rgb_from_thermal: tuple[tuple[float, ...], ...] | None
    rgb_size: tuple[int, int] | None = None
    thermal_size: tuple[int, int] | None = None

    def __post_init__(self):
        if self.rgb_from_thermal is not None:
            _check(self)

    @classmethod
    def resize(cls) -> 'Alignment':
        """The alignment of cameras with one and the same field of view."""
        return cls(None)

    @classmethod
    def load(cls, path: str | Path) -> 'Alignment':
        """Read and check an alignment YAML with the keys rgb_from_thermal, rgb_size and thermal_size.

        Raises AlignmentError, with path, for a file that is missing, malformed or not usable.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AlignmentError(f'cannot read the alignment file {path}: {error}') from error
        if not isinstance(content, dict) or set(content) != set(_FIELDS):
            found = ', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise AlignmentError(f'{path}: expected the keys {", ".join(_FIELDS)}, got {found or "none"}')
        try:
            matrix = tuple(tuple(map(float, row)) for row in content['rgb_from_thermal'])
            sizes = {key: tuple(map(int, content[key])) for key in _FIELDS[1:]}
        except (TypeError, ValueError) as error:
            raise AlignmentError(f'{path}: expected numbers in nested lists: {error}') from error
        try:
            return cls(matrix, **sizes)
        except AlignmentError as error:
            raise AlignmentError(f'{path}: {error}') from error

    def save(self, path: str | Path) -> None:
        """Write the YAML that load() reads back exactly. Raises AlignmentError for resize()."""
        if self.rgb_from_thermal is None:
            raise AlignmentError('resizing needs no alignment file; leave the setting `alignment` empty')
        content = {'rgb_from_thermal': [list(row) for row in self.rgb_from_thermal],
                   'rgb_size': list(self.rgb_size), 'thermal_size': list(self.thermal_size)}
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')

    def warp(self, thermal: np.ndarray, *, rgb_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return (thermal on the RGB grid, mask of the pixels that thermal sees).

        thermal is H x W uint8, uint16 or float32 of any size; rgb_size is (width, height) of the live
        RGB image. Both live sizes may differ from the measured ones. The image has thermal's type, is
        interpolated linearly, and is 0 where the bool mask is False; the mask is read-only.
        """
        thermal_size = thermal.shape[1], thermal.shape[0]
        if self.rgb_from_thermal is None:
            return _resized(thermal, rgb_size), _full_mask(rgb_size)
        map_x, map_y, mask = self.tables(thermal_size, tuple(rgb_size))
        return cv2.remap(np.ascontiguousarray(thermal), map_x, map_y, cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_CONSTANT, borderValue=0), mask

    def tables(self, thermal_size: tuple[int, int], rgb_size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Return (x, y, mask) of warp(), each H x W of the RGB grid, for a homography and live sizes.

        x and y (float32) are where in the thermal image a pixel comes from; the bool mask, whether at all.
        """
        return _remap_tables(self, thermal_size, rgb_size)


def _check(alignment: Alignment) -> None:
    """Raise AlignmentError unless the homography is one that two cameras side by side can have."""
    for name in _FIELDS[1:]:
        size = getattr(alignment, name)
        if len(size or ()) != 2 or min(size) < 1:
            raise AlignmentError(f'{name} must be [width, height], both at least 1; got {size}')
    rows = alignment.rgb_from_thermal
    if [len(row) for row in rows] != [3, 3, 3]:
        raise AlignmentError(f'rgb_from_thermal must be 3 rows of 3 numbers; got {rows}')
    matrix = np.array(rows)
    if not np.isfinite(matrix).all():
        raise AlignmentError(f'rgb_from_thermal must be finite; got {matrix.tolist()}')
    width, height = alignment.thermal_size
    x = np.array([(width - 1) / 2, -0.5, width - 0.5, -0.5, width - 0.5])
    y = np.array([(height - 1) / 2, -0.5, -0.5, height - 0.5, height - 0.5])
    depth = matrix[2] @ np.stack((x, y, np.ones(5)))
    if not (depth / (depth[0] or 1.0) > 0).all():
        raise AlignmentError('rgb_from_thermal sends part of the thermal image through infinity; '
                             'the third row should be close to [0, 0, 1]')
    # Determinant of the map's derivative at the image centre; for an affine map, of its linear part.
    area = np.linalg.det(matrix) / depth[0] ** 3
    if area < 0 and -area > _AREA_SCALE[0]:
        raise AlignmentError('rgb_from_thermal mirrors the image; were the points of one camera taken from '
                             'a flipped picture, or x and y swapped?')
    if not _AREA_SCALE[0] <= area <= _AREA_SCALE[1]:
        raise AlignmentError(f'rgb_from_thermal is singular or out of scale: a thermal pixel would cover '
                             f'{area:.3g} RGB pixels')


def _resampling(measured: tuple[int, int], live: tuple[int, int]) -> np.ndarray:
    """3x3 matrix from pixel coordinates at the measured size to those at the live one."""
    sx, sy = live[0] / measured[0], live[1] / measured[1]
    return np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])


@lru_cache(maxsize=4)
def _remap_tables(alignment: Alignment, thermal_size, rgb_size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, mask), each H x W of the RGB grid: where in the thermal image (float32), and whether at all."""
    rgb_from_thermal = (_resampling(alignment.rgb_size, rgb_size) @ np.array(alignment.rgb_from_thermal)
                        @ np.linalg.inv(_resampling(alignment.thermal_size, thermal_size)))
    width, height = thermal_size
    centre = np.array([(width - 1) / 2, (height - 1) / 2, 1])
    # Signed so that what lies in front of the horizon has a positive third coordinate.
    thermal_from_rgb = np.linalg.inv(rgb_from_thermal) * np.sign(rgb_from_thermal[2] @ centre)
    columns, rows = np.arange(rgb_size[0]), np.arange(rgb_size[1])[:, None]
    x, y, depth = (a * columns + b * rows + c for a, b, c in thermal_from_rgb)
    front = depth > 0
    depth = np.where(front, depth, 1)
    x, y = x / depth, y / depth
    mask = front & (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    mask.flags.writeable = False
    # The outer half pixel repeats the edge, as resizing does; -2 is outside for the interpolation too.
    map_x = np.where(mask, np.clip(x, 0, width - 1), -2).astype(np.float32)
    map_y = np.where(mask, np.clip(y, 0, height - 1), -2).astype(np.float32)
    return map_x, map_y, mask


def shrinks(thermal_size: tuple[int, int], rgb_size: tuple[int, int]) -> bool:
    """Whether resizing between these (width, height) averages areas; else it interpolates linearly."""
    return rgb_size[0] < thermal_size[0] and rgb_size[1] < thermal_size[1]


def _resized(thermal: np.ndarray, rgb_size: tuple[int, int]) -> np.ndarray:
    interpolation = cv2.INTER_AREA if shrinks(thermal.shape[::-1], rgb_size) else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(thermal), tuple(rgb_size), interpolation=interpolation)


@lru_cache(maxsize=4)
def _full_mask(rgb_size: tuple[int, int]) -> np.ndarray:
    mask = np.ones(rgb_size[::-1], bool)
    mask.flags.writeable = False
    return mask
