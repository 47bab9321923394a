# SPDX-License-Identifier: Apache-2.0
"""Boxes of objects in the pictures of an evaluation, as a JSON file holds them.

{"MSRS_00754N": {"people": [[x0, y0, x1, y1], ...], "ignore": [[x0, y0, x1, y1], ...]}, ...}:
pixels of the image, the left upper and the right lower corner; "ignore" may be missing. A key is
the data set and the stem of the file with an underscore between them, or the stem alone.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.file_kinds import explained
from ...core.frames import DiffmfError


class BoxesError(DiffmfError):
    """This file does not hold boxes."""


@dataclass(frozen=True)
class Truth:
    """Objects to find in one image and regions where a find does not count; N x 4 each."""

    people: np.ndarray
    ignore: np.ndarray


class Boxes:
    """The truth of every image that a file names."""

    def __init__(self, truths: dict[str, Truth]):
        self._truths = truths

    def of(self, dataset: str, stem: str) -> Truth | None:
        """Return the truth of an image, or None where the file does not name it."""
        return self._truths.get(f'{dataset}_{stem}', self._truths.get(stem))


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of a file. Raises BoxesError, with the entry, for what are no boxes."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise BoxesError(explained(f'{path} cannot be read as JSON: {error}', path)) from error
    if not isinstance(content, dict) or not content:
        raise BoxesError(
            f'{path}: expected an object with an entry for each image, got {_short(content)}'
        )
    return Boxes({name: _truth(path, name, entry) for name, entry in content.items()})


def _truth(path: Path, name: str, entry: object) -> Truth:
    if not isinstance(entry, dict) or 'people' not in entry:
        raise BoxesError(
            f'{path}, {name}: expected {{"people": [...], "ignore": [...]}}, got {_short(entry)}'
        )
    return Truth(
        *(_array(path, f'{name}, {kind}', entry.get(kind, [])) for kind in ('people', 'ignore'))
    )


def _array(path: Path, where: str, boxes: object) -> np.ndarray:
    if not isinstance(boxes, list):
        raise BoxesError(f'{path}, {where}: expected a list of boxes, got {_short(boxes)}')
    for box in boxes:
        numbers = (
            isinstance(box, list)
            and len(box) == 4
            and all(
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
                for value in box
            )
        )
        if not numbers or box[2] <= box[0] or box[3] <= box[1]:
            raise BoxesError(
                f'{path}, {where}: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1, '
                f'got {_short(box)}'
            )
    return np.array(boxes, np.float64).reshape(-1, 4)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f'{text[:77]}...'
