# SPDX-License-Identifier: Apache-2.0
"""Rendered night, smoke, glare and snow.

In how many of the people in the ground truth the fused image has contrast.
"""

from functools import lru_cache

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.tools.evaluation.targets import targets
from diffmf_ros.tools.synthetic.drive import Drive, DriveSettings
from diffmf_ros.tools.synthetic.record import alignment_of

pytestmark = pytest.mark.slow
FRAME = 60  # two seconds after the start
LEAST_PX, FOUND_LEVELS = 200, 20  # visible pixels of a person; contrast to the ring around him
LUMA = np.array([0.299, 0.587, 0.114])


@lru_cache
def rendered(scene):
    """Return a pair of a drive, the alignment, and the boxes of the people on the grid of RGB."""
    drive = Drive(DriveSettings(scene=scene, seconds=4.0))
    rgb = drive.frame(RGB, FRAME)
    camera = drive.camera(THERMAL)
    index = min(range(drive.count(THERMAL)),
                key=lambda k: abs(camera.exposure_ns(k) - rgb.exposure_ns))
    actors = drive.truth(rgb.exposure_ns).actors
    boxes = [actor.box_px for actor in actors if actor.kind == 'person'
             and actor.visible_px >= LEAST_PX]
    return Pair(rgb.frame, drive.frame(THERMAL, index).frame,
                offset_ns=0), alignment_of(drive), boxes


@pytest.mark.parametrize('scene, model, people, found, issues', [
    ('night', 'classical', 5, 5, set()), ('night', 'diffmf', 5, 5, set()),
    ('smoke', 'classical', 5, 5, {'rgb_veiled'}), ('smoke', 'diffmf', 5, 5, {'rgb_veiled'}),
    ('glare', 'classical', 3, 3, set()), ('glare', 'diffmf', 3, 3, set()),
    ('snow', 'classical', 4, 3, set()), ('snow', 'diffmf', 4, 3, set()),
])
def test_people_found_by_contrast(scene, model, people, found, issues, tmp_path):
    """In snow, dark coats and warm people cancel out in a network; what it lost is restored.

    Nobody is said to be hidden.
    """
    pair, alignment, boxes = rendered(scene)
    alignment.save(tmp_path / 'alignment.yaml')
    if model != 'classical':
        pytest.importorskip('torch', reason='torch is not installed')
    pipeline = FusionPipeline(with_changes(DEFAULTS, {
        'model': model, 'preset': 'nano', 'precision': 'float32', 'device': 'cpu', 'threads': 1,
        'alignment.file': str(tmp_path / 'alignment.yaml')}))

    result = pipeline.fuse(pair)
    thermal, _ = pipeline.align(pair)
    measured = targets(thermal, pair.rgb.pixels @ LUMA, result.pixels @ LUMA, boxes=boxes)

    assert len(measured) == people
    assert sum(abs(target.fused) >= FOUND_LEVELS for target in measured) >= found
    codes = {issue.code for issue in result.issues}
    assert issues <= codes
    assert 'targets_hidden' not in codes
