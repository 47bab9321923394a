# SPDX-License-Identifier: Apache-2.0
"""Which working size the session asks for, and when it is let alone."""

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FusionResult, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.ros.frame_loop import ScaleController

PIXELS = np.zeros((2, 2, 3), np.uint8)


def working_scale(**changes):
    return ScaleController(with_changes(DEFAULTS, changes))


def fuse(scale, pairs, *, busy_ms, mode=Mode.FUSED):
    """Feed pairs of 30 Hz; return how often the scale changed."""
    changed = 0
    for i in range(pairs):
        stamp_ns = i * 33_000_000
        scale.arrived(Pair(Frame(RGB, stamp_ns, 'rgb', PIXELS, 'rgb8'),
                           Frame(THERMAL, 0, 't', PIXELS, 'rgb8'), 0))
        changed += scale.fused(FusionResult(stamp_ns, 'rgb', PIXELS, 'rgb8', mode),
                               busy_ms=busy_ms)
    return changed


def test_without_the_setting_the_scale_stays():
    scale = working_scale(scale=0.5)
    assert fuse(scale, 100, busy_ms=500) == 0
    assert (scale.value, scale.complaint) == (0.5, '')


def test_scale_change_is_reported():
    """With the setting it follows and reports the change."""
    scale = working_scale(adaptive_scale=True)
    assert scale.value == 1.0
    assert fuse(scale, 20, busy_ms=100) >= 1
    assert scale.value < 1.0


def test_unfused_pairs_are_not_counted():
    """Pairs that the network did not fuse are not counted."""
    scale = working_scale(adaptive_scale=True)
    assert fuse(scale, 100, busy_ms=500, mode=Mode.CLASSICAL) == 0
    assert scale.value == 1.0


@pytest.mark.parametrize('changes, names', [
    ({'adaptive_scale': True}, 'adaptive_scale'),
    ({'scale': 0.5}, 'scale'),
    ({'scale': 0.5, 'adaptive_scale': True}, 'scale and adaptive_scale'),
])
def test_classical_has_no_working_size(changes, names):
    """Classical fusion has no working size and says so."""
    scale = working_scale(model='classical', **changes)
    assert scale.complaint == f'{names} without effect: classical fusion has no working size'
    assert fuse(scale, 100, busy_ms=500, mode=Mode.CLASSICAL) == 0
    assert scale.value == 1.0
    assert working_scale(model='classical').complaint == ''
