# SPDX-License-Identifier: Apache-2.0
"""Score a folder of fused images, or a way of fusing, beside the baselines, image by image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ..core.frames import DiffmfError
from ..core.settings import DEFAULTS
from .eval_files import EvaluationError, Images, Problem, UnusableImage, matched, read_images
from .metrics import score
from .perception import Flicker, FlickerMeter
from .scoring import BASELINES, Fuse, colored, fused_levels, luminance, means

Scores = dict[str, float]
FROM_FILES = 'fused images'  # the method of an evaluation that is given a folder of them


@dataclass(frozen=True)
class Scored:
    """One image: its metrics by method."""

    name: str
    scores: dict[str, Scores]


@dataclass(frozen=True)
class Evaluation:
    """What evaluate found for method and the baselines; flicker is by method, empty without a sequence."""

    method: str
    images: list[Scored] = field(repr=False)
    problems: list[Problem] = field(repr=False)
    flicker: dict[str, Flicker]

    def means(self) -> dict[str, Scores]:
        """Means over all images by method, with flicker where it was measured. Empty when no image was scored."""
        methods = list(self.images[0].scores) if self.images else []
        rows = {method: means([image.scores[method] for image in self.images]) for method in methods}
        for method, measured in self.flicker.items():
            rows.setdefault(method, {})['flicker'] = measured.ratio
        return rows


def evaluate(rgb: Path, thermal: Path, *, fused: Path | None = None, method: tuple[str, Fuse] | None = None,
             sequence: bool = False, show: Callable[[Images, np.ndarray, Scores], None] | None = None,
             report: Callable[[int, int], None] = lambda done, total: None) -> Evaluation:
    """Score the images of the folder `fused`, or what method makes, for the files of equal stems in rgb and thermal.

    A stem that lacks a file, a file that cannot be read and sizes that differ become problems; the rest
    is scored. With sequence the images are consecutive frames in the order of their names, and flicker is
    measured too. show(images, picture, metrics) gets every scored image and the fused picture (H x W or
    H x W x 3 BGR uint8); report(done, total) counts. Raises EvaluationError unless one of fused and method
    is given, and for a folder that is missing or without images.
    """
    if (fused is None) == (method is None):
        raise EvaluationError('expected either a folder of fused images (--fused) or a model to fuse with (--model)')
    name, fuse = method or (FROM_FILES, None)
    ways = {name: fuse} | {way: function for way, function in BASELINES.items() if way != name}
    folders = {'visible': rgb, 'thermal': thermal} | ({'fused': fused} if fused else {})
    found, problems = matched(folders)
    meters = {way: FlickerMeter() for way in ways} if sequence else {}
    scored, stems = [], sorted(found.keys() | {problem.name for problem in problems})
    for done, stem in enumerate(stems, start=1):
        result = _score(stem, found[stem], ways) if stem in found else None
        if isinstance(result, Problem):
            problems.append(result)
        if isinstance(result, _Result):
            scored.append(Scored(stem, result.scores))
            if show:
                show(result.images, result.picture(name), result.scores[name])
        _measure(meters, result)
        report(done, len(stems))
    return Evaluation(name, scored, problems, {way: meter.result() for way, meter in meters.items()})


@dataclass(frozen=True)
class _Result:
    images: Images
    levels: dict[str, np.ndarray]
    scores: dict[str, Scores]

    def picture(self, method: str) -> np.ndarray:
        """What the node would publish, or the file."""
        if self.images.fused is not None:
            return self.images.fused
        return colored(self.levels[method], self.images.visible)


def _score(stem: str, files: dict[str, Path], ways: dict[str, Fuse | None]) -> '_Result | Problem':
    try:
        images = read_images(stem, files, DEFAULTS.thermal)
        levels = {way: fused_levels(fuse, images.ir, images.vi_y) if fuse else luminance(images.fused)
                  for way, fuse in ways.items()}
        return _Result(images, levels, {way: score(images.ir, images.vi_y, y, colors=_colors(images, y, fuse=ways[way]))
                                        for way, y in levels.items()})
    except UnusableImage as error:
        return Problem(stem, str(error.file), error.reason)
    except DiffmfError as error:  # too small for the metrics, or a network that failed
        return Problem(stem, str(files['visible']), str(error))


def _colors(images: Images, fused_y: np.ndarray, *, fuse: Fuse | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The visible and the fused image in BGR (the file where there is no fuse), or None where the visible is gray."""
    if images.visible.ndim == 2:
        return None
    fused = colored(fused_y, images.visible) if fuse else images.fused
    return images.visible, fused if fused.ndim == 3 else cv2.cvtColor(fused, cv2.COLOR_GRAY2BGR)


def _measure(meters: dict[str, FlickerMeter], result) -> None:
    for way, meter in meters.items():
        if isinstance(result, _Result):
            meter.add(result.images.ir, result.images.vi_y, result.levels[way])
        else:
            meter.interrupt()
