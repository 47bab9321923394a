# SPDX-License-Identifier: Apache-2.0
"""Boxes of objects in ground truth and detections: read, scored, drawn."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...core.file_kinds import explained
from ...core.frames import DiffmfError
from .detector import Detections

# Colors of boxes, BGR.
TRUTH, IGNORED, WANTED, OTHER = (80, 220, 80), (150, 150, 150), (0, 140, 255), (255, 160, 60)


# How far a box may reach over the border: of the side of the image, and at least.
OVER_SHARE, LEAST_OVER_PX = 0.02, 3


class BoxesError(DiffmfError):
    """This file does not hold boxes."""


@dataclass(frozen=True)
class Truth:
    """Objects to find in one image and regions where a find does not count; N x 4 each.

    entry: the name that the file has for them.
    """

    people: np.ndarray
    ignore: np.ndarray
    entry: str = ''

    def outside(self, width: int, height: int) -> str:
        """Return a sentence on a box that is not one of an image of this size in pixels, or ''.

        A box may reach over the border by 2 % of the side, or 3 pixels where that is more, as
        those that are drawn by hand do, but none lies beside the image.
        """
        far = np.maximum(LEAST_OVER_PX, OVER_SHARE * np.array([width, height]))
        for kind, boxes in (('people', self.people), ('ignore', self.ignore)):
            low, high = boxes[:, :2], boxes[:, 2:]
            wrong = (low < -far) | (high > (width, height) + far)
            wrong |= (low >= (width, height)) | (high <= 0)
            for box in boxes[wrong.any(axis=1)]:
                return (f'the box {[float(f"{side:.1f}") for side in box]} of its {kind} in '
                        f'--boxes, entry {self.entry}, reaches out of the image of '
                        f'{width}x{height} pixels: boxes of another resolution?')
        return ''


class Boxes:
    """The truth of every image that a file names."""

    def __init__(self, truths: dict[str, Truth]):
        self._truths = truths

    @property
    def names(self) -> list[str]:
        """Names of the entries, in the order of the file."""
        return list(self._truths)

    def of(self, dataset: str, stem: str) -> Truth | None:
        """Return the truth of an image, or None where the file does not name it."""
        return self._truths.get(f'{dataset}_{stem}', self._truths.get(stem))


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of a file. Raises BoxesError, with the entry, for what are no boxes."""
    if path.is_dir():
        raise BoxesError(f'{path} is a folder; expected a JSON file of boxes')
    try:
        content = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_once)
    except (OSError, ValueError) as error:
        raise BoxesError(explained(f'{path} cannot be read as JSON: {error}', path)) from error
    if not isinstance(content, dict) or not content:
        raise BoxesError(
            f'{path}: expected an object with an entry for each image, got {_short(content)}'
        )
    return Boxes({name: _truth(path, name, entry) for name, entry in content.items()})


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON. Raises ValueError where a name stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'{twice!r} stands in one object {names.count(twice)} times')
    return found


def _truth(path: Path, name: str, entry: object) -> Truth:
    if not isinstance(entry, dict) or 'people' not in entry:
        raise BoxesError(
            f'{path}, {name}: expected {{"people": [...], "ignore": [...]}}, got {_short(entry)}'
        )
    people, ignore = (
        _array(path, f'{name}, {kind}', entry.get(kind, [])) for kind in ('people', 'ignore')
    )
    return Truth(people, ignore, name)


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


FOUND_SCORE = 0.3  # a find that a user would see
FOUND_OVERLAP = 0.4  # of boxes drawn by eye
AGAIN_OVERLAP = 0.5
IGNORED_SHARE = 0.5  # of a detection's area


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union of N x 4 with M x 4 boxes (x0, y0, x1, y1), N x M."""
    shared = _shared(first, second)
    union = _area(first)[:, None] + _area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def matches(found: Detections, truth: Truth, *, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image, the surest first, each to its closest free object.

    Returns:
        The object of each detection (N, -1 for none), and whether it counts (N bool): one without
        an object does not where more than half of it lies in one region to ignore.
    """
    scores = overlaps(found.boxes, truth.people)
    taken = np.zeros(len(truth.people), bool)
    objects = np.full(len(found.scores), -1)
    for row in np.argsort(-found.scores, kind='stable'):
        free = np.where(taken, 0, scores[row])
        if free.size and free.max() >= overlap:
            objects[row] = int(free.argmax())
            taken[objects[row]] = True
    ignored = np.zeros(len(found.scores), bool)
    if len(truth.ignore) and len(found.scores):
        share = _shared(found.boxes, truth.ignore) / np.maximum(_area(found.boxes), 1e-9)[:, None]
        ignored = share.max(axis=1) > IGNORED_SHARE
    return objects, (objects >= 0) | ~ignored


def average_precision(images: Sequence[tuple[Detections, Truth]], *, overlap: float) -> float:
    """Return the area under precision over recall of all images together; NaN without objects.

    Precision at a recall is the best at that or a higher one, as in PASCAL VOC since 2010.
    """
    objects = sum(len(truth.people) for _, truth in images)
    if not objects:
        return np.nan
    scores, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for found, truth in images:
        matched, counts = matches(found, truth, overlap=overlap)
        scores.append(found.scores[counts])
        hits.append(matched[counts] >= 0)
    hit = np.concatenate(hits)[np.argsort(-np.concatenate(scores), kind='stable')]
    true = np.cumsum(hit)
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return float(np.sum(precision[hit]) / objects)


def objects_found(images: Sequence[tuple[Detections, Truth]]) -> int:
    """Return how many objects are found at a score of at least 0.3 and an overlap of 0.4."""
    return sum(
        int(np.sum(matches(sure(found), truth, overlap=FOUND_OVERLAP)[0] >= 0))
        for found, truth in images
    )


def sure(found: Detections) -> Detections:
    """Return the detections with a score of at least 0.3."""
    return found.only(found.scores >= FOUND_SCORE)


def found_again(reference: Detections, found: Detections) -> int:
    """Return how many of reference are in found: of one class, overlapping by at least a half."""
    again = 0
    for number in np.unique(reference.classes):
        own, other = (one.only(one.classes == number) for one in (reference, found))
        matched, _ = matches(other, Truth(own.boxes, np.zeros((0, 4))), overlap=AGAIN_OVERLAP)
        again += int(np.sum(matched >= 0))
    return again


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Area of the intersections, N x M."""
    upper = np.minimum(first[:, None, 2:], second[None, :, 2:])
    lower = np.maximum(first[:, None, :2], second[None, :, :2])
    return np.prod(np.clip(upper - lower, 0, None), axis=2, dtype=np.float64)


def drawn(
    picture: np.ndarray, found: Detections, truth: Truth | None, *, wanted: int
) -> np.ndarray:
    """Return a copy of a picture with boxes.

    Args:
        picture: uint8, H x W or H x W x 3 BGR.
        found: detections, of which those with a score of at least 0.3 are drawn: orange where they
            are of the class wanted, else blue; with their scores, else also with the class.
        truth: objects are green, regions to ignore gray.
        wanted: number of the class of the objects.

    Returns:
        H x W x 3 uint8, BGR.
    """
    image = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture.copy()
    if truth is not None:
        for boxes, color in ((truth.ignore, IGNORED), (truth.people, TRUTH)):
            for box in boxes:
                _box(image, box, color)
    for box, score, number in zip(*sure(found), strict=True):
        _box(image, box, WANTED if number == wanted else OTHER)
        label = f'{score:.2f}' if number == wanted else f'{number}: {score:.2f}'
        place = round(float(box[0])), max(9, round(float(box[1])) - 2)
        cv2.putText(
            image,
            label,
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.35,
            WANTED if number == wanted else OTHER,
            1,
            cv2.LINE_AA,
        )
    return image


def _box(image: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), color, 1)
