# SPDX-License-Identifier: Apache-2.0
"""Ways of fusing by their names, and their scores on a folder of registered pairs."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ..core import classical
from ..core.frames import RGB, THERMAL, DiffmfError
from ..core.settings import DEFAULTS, updated
from ..folders import FolderError, LumaPair, pair_files
from ..images import read_frame
from .metrics import score

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ir, vi_y) -> fused, H x W float32 in [0, 1]
# What needs no network. The maximum is hard to beat in several metrics, the average in none.
BASELINES: dict[str, Fuse] = {
    'average': lambda ir, y: (ir + y) / 2,
    'maximum': np.maximum,
    'classical': classical.fuse,
}


class UnknownMethod(DiffmfError):
    """No way of fusing has this name."""


def method(name: str, *, preset: str | None = None, weights: Path | None = None,
           device: str = DEFAULTS.device) -> tuple[str, Fuse]:
    """Return a full name and the function: of a baseline, or of the network with the shipped or given weights.

    Without a preset it is that of the weights. Raises UnknownMethod, or as Engine and load_weights do.
    """
    if name in BASELINES:
        if preset or weights:
            raise UnknownMethod(f'{name} has neither preset nor weights; leave them out')
        return name, BASELINES[name]
    from .. import models
    from ..inference.engine import Engine
    from ..inference.weights import load_weights

    if name not in models.PRESETS:
        raise UnknownMethod(f'unknown model {name!r}; known: {", ".join([*models.PRESETS, *BASELINES])}')
    if preset is None:
        preset = load_weights(weights).preset if weights else DEFAULTS.preset
    settings = {'model': name, 'preset': preset, 'weights': str(weights or ''), 'device': device}
    return f'{name} {preset}', Engine(updated(DEFAULTS, settings))


def fused_levels(fuse: Fuse, ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
    """Fuse two H x W uint8 images as the node does, on one scale 0..1, and round to uint8."""
    return np.rint(255 * fuse(*(np.float32(1 / 255) * image for image in (ir, vi_y)))).astype(np.uint8)


def luminance(image: np.ndarray) -> np.ndarray:
    """round(0.299 R + 0.587 G + 0.114 B) of an H x W x 3 uint8 image in BGR order, as H x W uint8; grey as it is.

    In float32 with ties to even, as the field's common evaluator has it: OpenCV's integers differ in a few pixels.
    """
    if image.ndim == 2:
        return image
    return np.rint(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2GRAY)).astype(np.uint8)


def read_luma(visible: Path, infrared: Path) -> LumaPair:
    """Read a registered pair of 8-bit files for scoring. Raises ImageFileError or FolderError for what does not fit."""
    pair = [read_frame(file, stream=stream) for file, stream in ((visible, RGB), (infrared, THERMAL))]
    for file, frame in zip((visible, infrared), pair):
        if frame.encoding not in ('mono8', 'bgr8'):
            raise FolderError(f'{file} is {frame.encoding}; pairs that are scored have 8 bit')
    y, ir = (luminance(frame.pixels) for frame in pair)
    if ir.shape != y.shape:
        raise FolderError(f'{infrared} is {ir.shape} and {visible} is {y.shape} (height, width): a registered '
                          'pair has one size')
    return LumaPair(infrared.stem, ir, y)


def fused_pairs(methods: dict[str, Fuse], folder: Path) -> Iterator[tuple[str, str, tuple[np.ndarray, ...]]]:
    """Yield (data set, method, (ir, vi_y, fused)) for every pair below folder and every method, all uint8.

    The data set is the folder that holds ir/ and vi/. Raises FolderError for a folder without pairs.
    """
    for vi_file, ir_file in pair_files(folder):
        pair = read_luma(vi_file, ir_file)
        for name, fuse in methods.items():
            yield ir_file.parent.parent.name, name, (pair.ir, pair.vi_y, fused_levels(fuse, pair.ir, pair.vi_y))


def score_pairs(methods: dict[str, Fuse], folder: Path, *,
                report: Callable[[int], None] = lambda done: None) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield (data set, method, metrics) for every pair below folder and every method; see fused_pairs.

    report is called with the number of images that were scored and taken.
    """
    for done, (dataset, name, images) in enumerate(fused_pairs(methods, folder), start=1):
        yield dataset, name, score(*images)
        report(done)


def by_set(scored: Iterable[tuple[str, str, dict[str, float]]]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Gather what score_pairs yields as {data set: {method: metrics of every pair}}; the last set, 'all', is of all."""
    table = defaultdict(lambda: defaultdict(list))
    for dataset, method, scores in scored:
        for key in (dataset, 'all'):
            table[key][method].append(scores)
    table['all'] = table.pop('all')
    return table


def means(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the images that define it (finite values); NaN where none does."""
    columns = {metric: np.array([row[metric] for row in scores]) for metric in scores[0]}
    finite = {metric: values[np.isfinite(values)] for metric, values in columns.items()}
    return {metric: float(values.mean()) if values.size else np.nan for metric, values in finite.items()}
