# SPDX-License-Identifier: Apache-2.0
"""An unchanged detector on each camera, on both together, and on every way of fusing; counts of
what it finds in a recording."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from ...core.frames import FusionResult, Pair
from ...core.imaging.color import to_rgb8
from ...core.imaging.thermal import levels_of, to_gray
from ...core.settings import ThermalSettings
from ...io.writing import write_text
from .detection_scores import Boxes, Truth, average_precision, found_again, objects_found, sure
from .detector import Detections, Detector, DetectorError, class_number, pooled, read_classes
from .eval_files import EvaluationError

RGB, THERMAL, POOLED = 'rgb', 'thermal', 'pooled'
TrialScores = dict[str, dict[str, dict[str, float]]]  # by data set, method and column
DAY_LEVELS = 50  # mean of the visible luminance
COLUMNS = ('AP40', 'AP50', 'found', 'people', 'detections', 'day_others', 'day_again')
ABOUT = (
    'AP40, AP50: average precision at that overlap; found: of the people, at a score of 0.3; '
    'detections: of the class, at 0.3; by day: those of other classes, and the share of the '
    'detections in RGB, of all classes, that are there again'
)
KINDS = 'rgb', 'thermal', 'fused'


@dataclass(frozen=True)
class Look:
    """What the detector finds in one image, by method; truth is None where no boxes are known."""

    dataset: str
    name: str
    found: dict[str, Detections]
    truth: Truth | None
    day: bool


class Chosen(NamedTuple):
    """A detector and the number of the class to look for."""

    detector: Detector
    class_number: int


def chosen_detector(path: Path | None, *, layout: str, wanted: str,
                    classes: str | None) -> Chosen | None:
    """Return the detector that the options of a command name, or None without one.

    Raises DetectorError for a file, layout or class that cannot be used.
    """
    if path is None:
        return None
    names = read_classes(classes) if classes else None
    detector = Detector(path, layout=layout, classes=len(names) if names else None)
    number = class_number(wanted, names)
    if number >= detector.class_count:
        raise DetectorError(f'{path} has {detector.class_count} classes, from 0 on; there is no '
                            f'class {number}')
    return Chosen(detector, number)


class DetectorTrial:
    """Collects what a detector finds, image by image, and scores it.

    class_number is that of the objects in the boxes.
    """

    def __init__(self, detector: Detector, *, boxes: Boxes | None = None, class_number: int = 0):
        self.class_number = class_number
        self.looks: list[Look] = []
        self._detector, self._boxes = detector, boxes

    def look(
        self, dataset: str, name: str, pictures: dict[str, np.ndarray], vi_y: np.ndarray
    ) -> Look:
        """Run the detector on the pictures of one image and keep what it finds.

        Args:
            dataset, name: data set and stem of the image.
            pictures: by method, uint8, H x W or H x W x 3 BGR; rgb and thermal among them.
            vi_y: the visible luminance, H x W, which tells day from night.
        """
        found = {method: self._detector(picture) for method, picture in pictures.items()}
        found = {RGB: found.pop(RGB), THERMAL: found.pop(THERMAL)} | found
        ordered = {
            RGB: found[RGB],
            THERMAL: found[THERMAL],
            POOLED: pooled(found[RGB], found[THERMAL]),
        } | found
        truth = self._boxes.of(dataset, name) if self._boxes else None
        look = Look(dataset, name, ordered, truth, bool(np.mean(vi_y) >= DAY_LEVELS))
        self.looks.append(look)
        return look

    def table(self) -> TrialScores:
        """Return {data set: {method: scores}}, 'all' last; see COLUMNS. What is not defined is
        NaN."""
        sets = sorted({look.dataset for look in self.looks})
        groups = {
            dataset: [look for look in self.looks if look.dataset == dataset] for dataset in sets
        }
        return {
            dataset: {method: self._scores(looks, method) for method in looks[0].found}
            for dataset, looks in (groups | {'all': self.looks}).items()
            if looks
        }

    def _scores(self, looks: Iterable[Look], method: str) -> dict[str, float]:
        own = [(look, self._of_class(look.found[method])) for look in looks]
        known = [(found, look.truth) for look, found in own if look.truth is not None]
        day = [look for look, _ in own if look.day]
        others = [sure(look.found[method]) for look in day]
        seen = sum(len(sure(look.found[RGB]).scores) for look in day)
        again = sum(found_again(sure(look.found[RGB]), sure(look.found[method])) for look in day)
        return {
            'AP40': average_precision(known, overlap=0.4),
            'AP50': average_precision(known, overlap=0.5),
            'found': objects_found(known) if known else np.nan,
            'people': sum(len(truth.people) for _, truth in known) if known else np.nan,
            'detections': sum(len(sure(found).scores) for _, found in own),
            'day_others': sum(int(np.sum(found.classes != self.class_number)) for found in others)
            if day
            else np.nan,
            'day_again': again / seen if seen else np.nan,
        }

    def _of_class(self, found: Detections) -> Detections:
        return found.only(found.classes == self.class_number)


class DetectorCounts:
    """Counts the detections in every n-th pair that it is called with, and in the fused image.

    Args:
        detector: a detector, or a function of its kind.
        thermal: settings of the gain control for thermal of 16 bit, frame by frame.
        class_number: the class that is counted by itself.
        every: 1 looks at every pair, 10 at the first, the eleventh and so on.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        thermal: ThermalSettings,
        class_number: int = 0,
        every: int = 10,
    ):
        if every < 1:
            raise EvaluationError(f'expected to look at every first pair or fewer, got {every}')
        self._detector, self._thermal = detector, thermal
        self._class_number, self._every = class_number, every
        self._seen = 0
        self.rows: list[dict] = []

    def __call__(self, pair: Pair, result: FusionResult) -> None:
        """Look at a pair and its fused image if it is its turn; scores of at least 0.3 count."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        levels = levels_of(pair.thermal.pixels, pair.thermal.encoding, self._thermal)
        pictures = {
            'rgb': _bgr(pair.rgb.pixels, pair.rgb.encoding),
            'thermal': to_gray(pair.thermal.pixels, pair.thermal.encoding, levels),
            'fused': _bgr(result.pixels, result.encoding),
        }
        row: dict[str, Any] = {'stamp_ns': result.stamp_ns, 'mode': result.mode.value}
        for kind, picture in pictures.items():
            classes = sure(self._detector(picture)).classes
            wanted = int(np.sum(classes == self._class_number))
            row[kind] = {'wanted': wanted, 'others': len(classes) - wanted}
        self.rows.append(row)

    def totals(self) -> dict[str, dict[str, int]]:
        """Return {rgb | thermal | fused: {wanted, others}}, sums over the pairs looked at."""
        return {
            kind: {
                what: sum(row[kind][what] for row in self.rows) for what in ('wanted', 'others')
            }
            for kind in KINDS
        }

    def table(self) -> Table:
        """Return the sums, and their means per pair."""
        result = Table(title=f'an unchanged detector on {len(self.rows)} pairs')
        headings = 'image', 'of the class', 'a pair', 'of other classes', 'a pair'
        for number, heading in enumerate(headings):
            result.add_column(heading, justify='right' if number else 'left')
        for kind, found in self.totals().items():
            cells = [(str(found[what]), self._mean(found[what])) for what in ('wanted', 'others')]
            result.add_row(kind, *cells[0], *cells[1])
        return result

    def write_json(self, path: Path) -> None:
        """Write totals, pairs and counts of every pair. Raises WriteError when it cannot."""
        content = {'pairs': len(self.rows), 'every': self._every, 'totals': self.totals()}
        write_text(path, json.dumps(content | {'counts': self.rows}, indent=1))

    def _mean(self, total: int) -> str:
        return f'{total / len(self.rows):.2f}' if self.rows else '-'


def _bgr(pixels: np.ndarray, encoding: str) -> np.ndarray:
    return np.ascontiguousarray(to_rgb8(pixels, encoding)[..., ::-1])
