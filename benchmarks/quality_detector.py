# SPDX-License-Identifier: Apache-2.0
"""Detections of an unchanged detector by method: on pairs, also shifted ones, and in clips."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from diffmf_ros.io.folders import pair_files
from diffmf_ros.tools.evaluation.detection_scores import Boxes, sure
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
        pictures = {
            name: colored(fused_levels(fuse, thermal, pair.vi_y), visible)
            for name, fuse in methods.items()
        }
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
            pictures = {
                name: colored(fused_levels(fuse, pair.ir, pair.vi_y), visible)
                for name, fuse in methods.items()
            } | {RGB: visible, THERMAL: pair.ir}
            found = {name: detector(picture) for name, picture in pictures.items()}
            for name, one in (found | {POOLED: pooled(found[RGB], found[THERMAL])}).items():
                row = counts.setdefault(name, {'found': 0})
                row['found'] += int(np.sum(sure(one).classes == class_number))
        result[clip] = counts
    return result
