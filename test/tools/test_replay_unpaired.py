# SPDX-License-Identifier: Apache-2.0
"""Why frames of a recording are left out: the reason is the true one, its remedy helps."""

import re

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.tools.replay import typical_distance_ms, why_unpaired

SECONDS = 4
PIXELS = np.zeros((2, 2), np.uint8)


def paired(thermal_hz, sync, *, late_ms=4.0):
    """Pair RGB of 30 Hz with thermal; return the stamps, and the RGB stamps that were paired."""
    stamps_ns = {RGB: [round(k * 1e9 / 30) for k in range(30 * SECONDS)],
                 THERMAL: [round(k * 1e9 / thermal_hz + late_ms * 1e6)
                           for k in range(thermal_hz * SECONDS)]}
    frames = sorted((stamp, name) for name, stamps in stamps_ns.items() for stamp in stamps)
    pairing = ClosestPairing(sync)
    pairs = [pair for stamp, name in frames
             for pair in pairing.add(Frame(name, stamp, '', PIXELS, 'mono8'))]
    return stamps_ns, [pair.rgb.stamp_ns for pair in pairs + pairing.flush()]


def reason(stamps_ns, paired_ns, sync):
    distance_ms = typical_distance_ms(stamps_ns[RGB], stamps_ns[THERMAL])
    return why_unpaired(stamps_ns, paired_ns, sync, distance_ms=distance_ms)


@pytest.mark.parametrize('thermal_hz, words', [
    (27, '^rgb has 30.0 frames a second and thermal 27.0, so 12 of rgb are left over'),
    (25, 'thermal 25.0, so 20 of rgb are left over'),
    (9, '^9 of rgb came in the first 0.4 s, before the rate of the slower thermal camera'),
])
def test_slower_thermal_and_its_remedy(thermal_hz, words):
    stamps_ns, paired_ns = paired(thermal_hz, DEFAULTS.sync)

    why = reason(stamps_ns, paired_ns, DEFAULTS.sync)

    assert re.search(words, why) and 'max_distance' not in why
    # And with what it names every RGB frame has a partner
    hold_ms = float(re.search('sync.hold_last_ms ([0-9]+) keeps', why)[1])
    held = with_changes(DEFAULTS, {'sync.hold_last_ms': hold_ms}).sync
    assert len(paired(thermal_hz, held)[1]) == 30 * SECONDS


def test_distant_stamps_are_the_reason():
    sync = with_changes(DEFAULTS, {'sync.max_distance_ms': 5.0}).sync
    stamps_ns, paired_ns = paired(30, sync, late_ms=12.0)

    assert not paired_ns
    assert reason(stamps_ns, paired_ns, sync) == (
        'the thermal stamps are typically +12.0 ms from the closest one of rgb; '
        'sync.max_distance_ms is 5')
