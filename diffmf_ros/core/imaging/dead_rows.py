# SPDX-License-Identifier: Apache-2.0
"""Rows that a thermal sensor fails to read.

Stuck at a value, or far from what the rows around them show.
"""

import cv2
import numpy as np

# A dead row is at least so many times further from its neighbors than they are from each other and
# from the rows beyond them, and than rows of the image mostly are. Rows of 770 real thermal images
# reach 1.2, two adjacent ones 1.5.
_STICKS_OUT = 3.0
# More than so many adjacent rows may be anything: a slatted wall, the two fields of an interlaced
# camera in motion.
_MOST_ADJACENT = 2
_LEAST_COLUMNS = 64


def repaired_rows(pixels: np.ndarray) -> np.ndarray:
    """Interpolate dead rows between the rows above and below.

    Found are rows, alone or in twos, that differ from their neighbors along most of their length,
    while these resemble the rows beyond: a level wire, which optics blur over three rows, is not
    that. A row that is stuck at a value which fits its surroundings stays, and so do the first and
    the last row (some cameras send telemetry there).

    Args:
        pixels: H x W, uint8, uint16 or float32.

    Returns:
        A repaired copy; pixels itself when there is no dead row.
    """
    repaired = None
    for first, last in _runs(_suspects(pixels)):
        above, below = (pixels[row].astype(np.float32) for row in (first - 1, last + 1))
        part = np.linspace(0, 1, last - first + 3, dtype=np.float32)[1:-1, None]
        between = above + part * (below - above)
        off = np.abs(pixels[first:last + 1] - between) <= np.abs(above - below)
        if off.mean(axis=1).max() < 0.5:  # counted this way, NaN is off
            repaired = pixels.copy() if repaired is None else repaired
            repaired[first:last + 1] = between if pixels.dtype.kind == 'f' else np.rint(between)
    return pixels if repaired is None else repaired


def _suspects(pixels: np.ndarray) -> np.ndarray:
    """Return the bool mask, H, of the rows that differ from their neighbors on average."""
    height = len(pixels)
    suspects = np.zeros(height, bool)
    if height < _MOST_ADJACENT + 3:
        return suspects
    values = np.ascontiguousarray(_middle(pixels))
    if values.dtype.kind == 'f':
        values = cv2.patchNaNs(values.copy(), 0)
    step = _apart(values, 1)
    usual, padded = np.median(step), np.pad(step, 1)
    for count in range(1, _MOST_ADJACENT + 1):
        inner = np.minimum(step[:-count], step[count:])
        outer = np.maximum(padded[:-count - 2], padded[count + 2:])
        others = np.maximum(np.maximum(_apart(values, count + 1), outer), usual)
        dead = inner > _STICKS_OUT * others
        for row in range(1, count + 1):
            suspects[row:row + dead.size] |= dead
    return suspects


def _middle(pixels: np.ndarray) -> np.ndarray:
    """Return the middle quarter of the columns, at least 64.

    A dead row shows there as well as in all columns.
    """
    width = pixels.shape[1]
    kept = max(width // 4, min(width, _LEAST_COLUMNS))
    return pixels[:, (width - kept) // 2:(width + kept) // 2]


def _apart(values: np.ndarray, rows: int) -> np.ndarray:
    """Return the mean absolute difference of rows that lie `rows` apart: H - rows, float32."""
    return cv2.reduce(cv2.absdiff(values[rows:], values[:-rows]), 1, cv2.REDUCE_AVG,
                      dtype=cv2.CV_32F)[:, 0]


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, last) of the runs of up to _MOST_ADJACENT True in mask."""
    rows = np.flatnonzero(mask)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [(int(run[0]), int(run[-1])) for run in runs if 0 < run.size <= _MOST_ADJACENT]
