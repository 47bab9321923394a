# SPDX-License-Identifier: Apache-2.0
"""Score ways of fusing on a folder of registered pairs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..core import classical
from ..folders import pair_files, read_pair
from .metrics import score

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ir, vi_y) -> fused, H x W float32 in [0, 1]
# What needs no network. The maximum is hard to beat in several metrics, the average in none.
BASELINES: dict[str, Fuse] = {
    'average': lambda ir, y: (ir + y) / 2,
    'maximum': np.maximum,
    'classical': classical.fuse,
}


def score_pairs(methods: dict[str, Fuse], folder: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield (data set, method, metrics) for every pair below folder and every method.

    The data set is the folder that holds ir/ and vi/. Fused images are rounded to 8 bit before they are
    scored. Raises FolderError for a folder without pairs.
    """
    for vi_file, ir_file in pair_files(folder):
        pair = read_pair(vi_file, ir_file)
        ir, y = (np.float32(1 / 255) * image for image in (pair.ir, pair.vi_y))
        for name, fuse in methods.items():
            fused = np.rint(255 * fuse(ir, y)).astype(np.uint8)
            yield ir_file.parent.parent.name, name, score(pair.ir, pair.vi_y, fused)


def means(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the images that define it (finite values); NaN where none does."""
    columns = {metric: np.array([row[metric] for row in scores]) for metric in scores[0]}
    finite = {metric: values[np.isfinite(values)] for metric, values in columns.items()}
    return {metric: float(values.mean()) if values.size else np.nan for metric, values in finite.items()}
