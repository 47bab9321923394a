# SPDX-License-Identifier: Apache-2.0
"""Detections of an unchanged detector by method: on pairs, also shifted ones or placed otherwise
before the detector, and in clips."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from diffmf_ros.io.folders import pair_files
from diffmf_ros.tools.evaluation.detection_scores import (
    Boxes,
    Truth,
    average_precision,
    objects_found,
    sure,
)
from diffmf_ros.tools.evaluation.detector import Detector, pooled
from diffmf_ros.tools.evaluation.detector_trial import (
    POOLED,
    RGB,
    THERMAL,
    DetectorTrial,
    TrialScores,
)
from diffmf_ros.tools.evaluation.scoring import Fuse, colored, fused_levels, read_pair

EVERY = 10
# Pixels to the right and down, and scale, of a finished picture; each also mirrored.
PLACEMENTS = (0, 0, 1.0), (7, 3, 1.0), (3, 12, 1.0), (13, 8, 1.0), (0, 0, 0.95), (5, 9, 0.9)
FILL = 114, 114, 114  # around a picture, as detectors pad


def fused_pictures(
    methods: dict[str, Fuse], thermal: np.ndarray, vi_y: np.ndarray, visible: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the picture of every method in the color of visible, of one pair, H x W uint8 each.

    visible may have the three channels of BGR, and so have the pictures then.
    """
    return {
        name: colored(fused_levels(fuse, thermal, vi_y), visible) for name, fuse in methods.items()
    }


def look_at(
    methods: dict[str, Fuse],
    folder: Path,
    detector: Detector,
    boxes: Boxes,
    *,
    class_number: int = 0,
    shift_px: tuple[int, int] = (0, 0),
) -> TrialScores:
    """Return DetectorTrial.table of every method on the pairs below folder.

    With shift_px thermal lies that many pixels (right, down) beside RGB, on whose grid boxes and
    fused images are; its border is repeated.
    """
    trial = DetectorTrial(detector, boxes=boxes, class_number=class_number)
    for vi_file, ir_file in pair_files(folder):
        pair, visible = read_pair(vi_file, ir_file)
        thermal = shifted(pair.ir, *shift_px)
        pictures = fused_pictures(methods, thermal, pair.vi_y, visible)
        cameras = {RGB: visible, THERMAL: thermal}
        trial.look(ir_file.parent.parent.name, ir_file.stem, pictures | cameras, pair.vi_y)
    return trial.table()


def look_at_shifted(
    methods: dict[str, Fuse], folder: Path, detector: Detector, boxes: Boxes, *, shift_px: int
) -> dict[str, float]:
    """Return AP40 of every method over all pairs, the mean of thermal moved each of four ways."""
    ways = ((shift_px, 0), (-shift_px, 0), (0, shift_px), (0, -shift_px))
    tables = [look_at(methods, folder, detector, boxes, shift_px=way)['all'] for way in ways]
    return {name: sum(table[name]['AP40'] for table in tables) / len(ways) for name in methods}


def shifted(image: np.ndarray, right_px: int, down_px: int) -> np.ndarray:
    """Return an H x W image moved to the right and down, its border repeated."""
    height, width = image.shape
    rows = (np.arange(height) - down_px).clip(0, height - 1)
    return np.ascontiguousarray(image[rows][:, (np.arange(width) - right_px).clip(0, width - 1)])


def look_at_placed(
    methods: dict[str, Fuse],
    folder: Path,
    detector: Detector,
    boxes: Boxes,
    *,
    class_number: int = 0,
) -> dict[str, dict[str, float]]:
    """Return what the detector finds in finished pictures that are placed before it in many ways.

    The average precision of few people depends on where the pixels of a picture happen to lie in
    the cells of a detector. Placed twelve ways, its mean says what one of them leaves to chance.

    Returns:
        By method: mean and standard deviation of AP40 over the placements ('AP40', 'spread'),
        mean of AP50 and of the people found ('AP50', 'found').
    """
    looks: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for vi_file, ir_file in pair_files(folder):
        truth = boxes.of(ir_file.parent.parent.name, ir_file.stem)
        if truth is None:
            continue
        pair, visible = read_pair(vi_file, ir_file)
        cameras = {RGB: visible, THERMAL: pair.ir}
        pictures = fused_pictures(methods, pair.ir, pair.vi_y, visible)
        for name, picture in (cameras | pictures | cameras).items():  # the cameras come first
            for number, (placed, there) in enumerate(placements(picture, truth)):
                found = detector(placed)
                looks[name][number].append((found.only(found.classes == class_number), there))
    return {name: _over_placements(list(placed.values())) for name, placed in looks.items()}


def _over_placements(placed: list[list]) -> dict[str, float]:
    precisions = [average_precision(images, overlap=0.4) for images in placed]
    return {
        'AP40': float(np.mean(precisions)),
        'spread': float(np.std(precisions)),
        'AP50': float(np.mean([average_precision(images, overlap=0.5) for images in placed])),
        'found': float(np.mean([objects_found(images) for images in placed])),
    }


def placements(picture: np.ndarray, truth: Truth) -> Iterator[tuple[np.ndarray, Truth]]:
    """Yield a picture, H x W or H x W x 3 uint8, as PLACEMENTS say, with its boxes moved along."""
    height, width = picture.shape[:2]
    for mirrored in False, True:
        image = np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture
        for right, down, scale in PLACEMENTS:
            grid = np.array([[scale, 0, right], [0, scale, down]])
            placed = cv2.warpAffine(image, grid, (width, height), borderValue=FILL)
            moved = []
            for boxes in (truth.people, truth.ignore):
                left, top, end, bottom = boxes.T
                corners = (width - end, top, width - left, bottom) if mirrored else boxes.T
                corners = scale * np.array(corners) + [[right], [down], [right], [down]]
                moved.append(corners.T.clip(0, [width, height, width, height]))
            yield placed, Truth(*moved)


def finds_in_clips(
    methods: dict[str, Fuse], folder: Path, detector: Detector, *, class_number: int = 0
) -> TrialScores:
    """Return {clip: {method: {'found': detections at 0.3}}} over every tenth frame of clips."""
    clips = defaultdict(list)
    for files in pair_files(folder):
        clips[files[1].parent.parent.name].append(files)
    result: TrialScores = {}
    for clip, frames in clips.items():
        counts: dict[str, dict[str, float]] = {}
        for vi_file, ir_file in frames[::EVERY]:
            pair, visible = read_pair(vi_file, ir_file)
            pictures = fused_pictures(methods, pair.ir, pair.vi_y, visible)
            pictures |= {RGB: visible, THERMAL: pair.ir}
            found = {name: detector(picture) for name, picture in pictures.items()}
            for name, one in (found | {POOLED: pooled(found[RGB], found[THERMAL])}).items():
                row = counts.setdefault(name, {'found': 0})
                row['found'] += int(np.sum(sure(one).classes == class_number))
        result[clip] = counts
    return result
