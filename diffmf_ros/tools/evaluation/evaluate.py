# SPDX-License-Identifier: Apache-2.0
"""Score folders of fused images, or a way of fusing, beside the baselines, image by image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core.frames import DiffmfError
from ...core.settings import DEFAULTS, ThermalSettings
from .detection_scores import Boxes
from .detector_trial import RGB, THERMAL, DetectorTrial, Look, TrialScores
from .eval_files import (
    EvaluationError,
    Images,
    Problem,
    Source,
    UnusableImage,
    data_sets,
    read_images,
    sources,
)
from .metrics import SMALLEST_SIDE, ImageScores, flat_thermal, score
from .perception import Flicker, FlickerMeter
from .scoring import BASELINES, Fuse, by_set, colored, fused_levels, luminance, means

Scores = dict[str, float]
Show = Callable[[Images, np.ndarray, Scores, Look | None], None]
FROM_FILES = 'fused images'  # the method of an evaluation that is given a folder of them
FLAT_THERMAL = 'flat_thermal'


@dataclass(frozen=True)
class Scored:
    """One image: its metrics by method, and whether its targets are boxes of a file."""

    dataset: str
    name: str
    scores: dict[str, ImageScores]
    boxed: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What evaluate found for method and the baselines.

    flicker is by method, empty without a sequence; flat_thermal is by method, over the first image
    of every data set, empty for fused files; detector is what DetectorTrial.table returns, empty
    without one.
    """

    method: str
    images: list[Scored] = field(repr=False)
    problems: list[Problem] = field(repr=False)
    flicker: dict[str, Flicker]
    flat_thermal: dict[str, float]
    detector: TrialScores = field(default_factory=dict, repr=False)

    def means(self) -> dict[str, Scores]:
        """Means over all images by method, with what was measured of flicker and flat thermal."""
        rows = self.set_means().get('all', {})
        for method, measured in self.flicker.items():
            rows.setdefault(method, {})['flicker'] = measured.ratio
        for method, worst in self.flat_thermal.items():
            rows.setdefault(method, {})[FLAT_THERMAL] = worst
        return rows

    def set_means(self) -> dict[str, dict[str, Scores]]:
        """Means by data set, 'all' last, and method. Empty when no image was scored."""
        rows = [(image.dataset, method, scores) for image in self.images
                for method, scores in image.scores.items()]
        return {dataset: {method: means(scores) for method, scores in methods.items()}
                for dataset, methods in (by_set(rows) if rows else {}).items()}


def evaluate(rgb: Path | None = None, thermal: Path | None = None, *, pairs: Path | None = None,
             fused: Path | None = None, method: tuple[str, Fuse] | None = None,
             sequence: bool = False, boxes: Boxes | None = None,
             trial: DetectorTrial | None = None, show: Show | None = None,
             thermal_settings: ThermalSettings = DEFAULTS.thermal,
             report: Callable[[int, int], None] = lambda done, total: None) -> Evaluation:
    """Score fused images, or what method makes, for the files of equal stems in rgb and thermal.

    Files that are missing or cannot be read, and sizes that differ, become problems.

    Args:
        rgb, thermal: folders of visible and thermal images.
        pairs: instead of them a folder with vi and ir somewhere below, a data set each.
        fused: folder of fused images; with pairs it holds a folder for each data set.
        method: instead of fused, a name and the function.
        sequence: the images of a set are consecutive frames by name: flicker is measured too.
        boxes: boxes of people, which become the targets of the images that they name.
        trial: runs a detector on every image.
        show: gets images, picture (H x W or H x W x 3 BGR uint8), metrics and finds of each.
        thermal_settings: how thermal files become gray.
        report: called with the number of images that are done and that of all.

    Raises:
        EvaluationError: not one of fused and method, neither pairs nor both folders, no images.
    """
    require_one_way(fused, method)
    name, fuse = method or (FROM_FILES, None)
    ways = {name: fuse} | {way: function for way, function in BASELINES.items() if way != name}
    found, problems = sources(data_sets(rgb=rgb, thermal=thermal, pairs=pairs, fused=fused))
    run = _Run(ways, {way: FlickerMeter() for way in ways} if sequence else {}, problems)
    for done, source in enumerate(found, start=1):
        result = _score(source, ways, boxes, thermal_settings) if source.files else None
        run.take(source, result)
        if isinstance(result, _Result):
            look = result.look(trial, source) if trial else None
            if show:
                show(result.images, result.picture(name), result.scores[name], look)
        report(done, len(found))
    return Evaluation(name, run.scored, problems, run.flicker(), run.flat,
                      trial.table() if trial else {})


def require_one_way(fused: Path | None, method: object | None) -> None:
    """Raise EvaluationError unless one of fused images and something to fuse with is given."""
    if (fused is None) == (method is None):
        raise EvaluationError('expected either a folder of fused images (--fused) or a model to '
                              'fuse with (--model)')


@dataclass(frozen=True)
class _Result:
    images: Images
    levels: dict[str, np.ndarray]
    scores: dict[str, ImageScores]
    boxed: bool

    def picture(self, method: str) -> np.ndarray:
        """Return what the node would publish, or the file."""
        if method == FROM_FILES:
            return self.images.fused_file
        return colored(self.levels[method], self.images.visible)

    def look(self, trial: DetectorTrial, source: Source) -> Look:
        """Run the detector on the cameras' own pictures and on those of every method."""
        pictures = {way: self.picture(way) for way in self.levels}
        cameras = {RGB: self.images.visible, THERMAL: self.images.ir}
        return trial.look(source.dataset, source.stem, pictures | cameras, self.images.vi_y)


def _score(source: Source, ways: dict[str, Fuse | None],
           boxes: Boxes | None, thermal: ThermalSettings) -> '_Result | Problem':
    truth = boxes.of(source.dataset, source.stem) if boxes else None
    known: dict[str, Any] = {'boxes': truth.people, 'ignore': truth.ignore} if truth else {}
    try:
        images = read_images(source.name, source.files, thermal)
        height, width = images.ir.shape
        why = truth.outside(width, height) if truth else ''
        if min(height, width) < SMALLEST_SIDE:
            why = (f'{width}x{height} pixels; the metrics need at least {SMALLEST_SIDE} x '
                   f'{SMALLEST_SIDE}')
        if why:
            raise UnusableImage(source.files['visible'], why)
        levels = {way: fused_levels(fuse, images.ir, images.vi_y) if fuse
                  else luminance(images.fused_file) for way, fuse in ways.items()}
        scores = {way: score(images.ir, images.vi_y, y, colors=_colors(images, y, fuse=ways[way]),
                             **known)
                  for way, y in levels.items()}
        return _Result(images, levels, scores, truth is not None)
    except UnusableImage as error:
        return Problem(source.name, str(error.file), error.reason)
    except DiffmfError as error:  # too small for the metrics, or a network that failed
        return Problem(source.name, str(source.files['visible']), str(error))


def _colors(images: Images, fused_y: np.ndarray, *,
            fuse: Fuse | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The visible and the fused image in BGR (the file where there is no fuse), or None where the
    visible is gray."""
    if images.visible.ndim == 2:
        return None
    fused = colored(fused_y, images.visible) if fuse else images.fused_file
    return images.visible, fused if fused.ndim == 3 else cv2.cvtColor(fused, cv2.COLOR_GRAY2BGR)


@dataclass
class _Run:
    """What is measured over several images.

    Scores, flicker, and flat thermal on the first image of a data set.
    """

    ways: dict[str, Fuse | None]
    meters: dict[str, FlickerMeter]
    problems: list[Problem]
    scored: list[Scored] = field(default_factory=list)
    flat: dict[str, float] = field(default_factory=dict)
    dataset: str | None = None  # of the last image
    measured: set[str] = field(default_factory=set)

    def flicker(self) -> dict[str, Flicker]:
        """Return the flicker of every method, empty without a sequence."""
        return {way: meter.result() for way, meter in self.meters.items()}

    def take(self, source: Source, result: '_Result | Problem | None') -> None:
        """Take the next image; one that could not be scored interrupts the frames of a sequence.
        """
        follows, self.dataset = source.dataset == self.dataset, source.dataset
        if isinstance(result, Problem):
            self.problems.append(result)
        for way, meter in self.meters.items():
            if not (follows and isinstance(result, _Result)):
                meter.interrupt()
            if isinstance(result, _Result):
                meter.add(result.images.ir, result.images.vi_y, result.levels[way])
        if not isinstance(result, _Result):
            return
        self.scored.append(Scored(source.dataset, source.name, result.scores, result.boxed))
        if source.dataset not in self.measured:
            self.measured.add(source.dataset)
            for way, fuse in self.ways.items():
                if fuse:
                    worst = flat_thermal(fuse, result.images.vi_y)
                    self.flat[way] = min(self.flat.get(way, np.inf), worst)
