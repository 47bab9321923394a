# SPDX-License-Identifier: Apache-2.0
"""Which working size the node asks for, and when it is let alone."""

import pytest

from diffmf_ros.core.frames import Mode
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.working_size import ScaleController


def working_scale(**changes):
    return ScaleController(with_changes(DEFAULTS, changes))


def fuse(scale, pairs, *, busy_ms, mode=Mode.FUSED):
    """Feed pairs of 30 Hz; return how often the scale changed."""
    changed = 0
    for i in range(pairs):
        scale.arrived(i * 33_000_000)
        changed += scale.fused(mode, scale=scale.value, busy_ms=busy_ms)
    return changed


def test_without_the_setting_the_scale_stays():
    scale = working_scale(scale=0.5)
    assert fuse(scale, 100, busy_ms=500) == 0
    assert (scale.value, scale.issue) == (0.5, None)


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


def test_failed_size_says_nothing():
    """A pair that was fused smaller after a failure says nothing about the size asked for."""
    scale = working_scale(adaptive_scale=True)
    scale.trusted.failed(scale=1.0, out_of_memory=True)
    assert (scale.asked, scale.value) == (1.0, 0.75)
    assert fuse(scale, 100, busy_ms=500) == 0
    assert (scale.asked, scale.value) == (1.0, 0.75)


def test_settings_keep_the_trust():
    """Other settings ask for another size; what the network failed at stays out of reach."""
    scale = working_scale()
    scale.trusted.failed(scale=1.0, out_of_memory=True)
    scale.configure(with_changes(DEFAULTS, {'scale': 0.9}))
    assert (scale.asked, scale.value) == (0.9, 0.75)


@pytest.mark.parametrize('changes, names', [
    ({'adaptive_scale': True}, 'adaptive_scale'),
    ({'scale': 0.5}, 'scale'),
    ({'scale': 0.5, 'adaptive_scale': True}, 'scale and adaptive_scale'),
])
def test_classical_has_no_working_size(changes, names):
    """Classical fusion has no working size and says so."""
    scale = working_scale(model='classical', **changes)
    assert scale.issue.text == f'{names} without effect: classical fusion has no working size'
    assert fuse(scale, 100, busy_ms=500, mode=Mode.CLASSICAL) == 0
    assert scale.value == 1.0
    assert working_scale(model='classical').issue is None
