# SPDX-License-Identifier: Apache-2.0
"""Flat thermal, as behind a closed shutter: PSNR to RGB of each method, and what the node does."""

from pathlib import Path

import numpy as np

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.io.folders import pair_files
from diffmf_ros.tools.evaluation.metrics import FLAT_LEVELS, flat_thermal
from diffmf_ros.tools.evaluation.scoring import Fuse, read_pair

STEP_NS = 1_000_000_000


def first_pictures(folder: Path) -> list[np.ndarray]:
    """Return the visible image of the first pair of every data set below folder."""
    firsts: dict[Path, np.ndarray] = {}
    for visible, infrared in pair_files(folder):
        home = infrared.parent.parent
        if home not in firsts:
            firsts[home] = read_pair(visible, infrared)[1]
    return list(firsts.values())


def measure_flat(methods: dict[str, Fuse], luminances: list[np.ndarray]) -> dict[str, float]:
    """Return the worst PSNR to the visible luminance with flat thermal, in dB, by method."""
    return {
        name: min((flat_thermal(fuse, y) for y in luminances), default=np.inf)
        for name, fuse in methods.items()
    }


def passes_rgb_on(pictures: list[np.ndarray]) -> bool:
    """Return whether the pipeline calls flat thermal of every level blind and passes RGB on.

    pictures are H x W x 3 BGR or H x W, uint8. That is judged before a pair is fused, so it does
    not depend on the method.
    """
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'}))
    stamp_ns, modes = 0, set()
    for picture in pictures:
        for level in FLAT_LEVELS:
            stamp_ns += STEP_NS
            flat = np.full(picture.shape[:2], level, np.uint8)
            rgb = Frame(RGB, stamp_ns, 'rgb', picture, 'bgr8' if picture.ndim == 3 else 'mono8')
            pair = Pair(rgb, Frame(THERMAL, stamp_ns, 'thermal', flat, 'mono8'), offset_ns=0)
            modes.add(pipeline.fuse(pair).mode)
    return modes == {Mode.RGB_ONLY}
