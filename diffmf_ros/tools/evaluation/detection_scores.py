# SPDX-License-Identifier: Apache-2.0
"""How well detections fit the boxes of objects: average precision, objects found, found again."""

from collections.abc import Sequence

import numpy as np

from .boxes import Truth
from .detector import Detections

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
