# SPDX-License-Identifier: Apache-2.0
"""What a detector finds, and the boxes of objects, drawn into a picture."""

import cv2
import numpy as np

from .detection_scores import Truth, sure
from .detector import Detections

# BGR
TRUTH, IGNORED, WANTED, OTHER = (80, 220, 80), (150, 150, 150), (0, 140, 255), (255, 160, 60)


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
