# SPDX-License-Identifier: Apache-2.0
"""Counts of what a detector finds in a recording, for each camera and the fused image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ...core.frames import FusionResult, Pair
from ...core.imaging.color import to_rgb8
from ...core.imaging.thermal import levels_of, to_gray
from ...core.settings import ThermalSettings
from ...io.writing import write_text
from .detection_scores import sure
from .detector import Detector
from .eval_files import EvaluationError

KINDS = 'rgb', 'thermal', 'fused'


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
