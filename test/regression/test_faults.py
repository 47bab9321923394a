# SPDX-License-Identifier: Apache-2.0
"""Recordings with faults in simulated time.

How many images, in which modes, when, how late, and which pixels.
"""

import hashlib

import cv2
import numpy as np
import pytest

from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.io.bag_messages import frames
from diffmf_ros.io.bags import BagReader

from .recordings import FIRST_BAD, FIRST_GOOD, frozen, jumping, lost, play, runs, slow, write

pytestmark = pytest.mark.slow

# The hashes are of images each for itself and as they are fused: those of every CPU.
SETTINGS = with_changes(DEFAULTS, {'model': 'classical', 'health.source_timeout_s': 0.4,
                                   'output.temporal_filter': 0.0, 'output.warm_contrast': False})
CLASSICAL, RGB_ONLY, THERMAL_ONLY = 'CLASSICAL', 'RGB_ONLY', 'THERMAL_ONLY'


def played(folder, *, prefix='', **faults):
    """Return what comes out of a recording with these faults."""
    bag = write(folder / 'bag', **faults)
    with BagReader(bag) as reader:
        return play(frames(reader, f'{prefix}/rgb/image_raw', f'{prefix}/thermal/image_raw'),
                    SETTINGS)


def digest(outputs):
    return hashlib.sha256(
        b''.join(output.result.pixels.tobytes() for output in outputs)).hexdigest()[:16]


# Modes over time, and the first 16 digits of the hash of all pixels.
@pytest.mark.parametrize('faults, modes, pixels', [
    ({}, [(CLASSICAL, 80)], 'a03632a4a7af606e'),
    ({'thermal': frozen}, [(CLASSICAL, 22), (RGB_ONLY, 29), (CLASSICAL, 29)], '4cb06e7578dd6041'),
    ({'rgb': frozen}, [(CLASSICAL, 22), (THERMAL_ONLY, 28), (CLASSICAL, 30)], 'd52e263eec2e6532'),
    ({'thermal': lost}, [(CLASSICAL, 20), (RGB_ONLY, 19), (CLASSICAL, 29)], '5a895a9d7b860e23'),
    ({'rgb': lost}, [(CLASSICAL, 20), (THERMAL_ONLY, 18), (CLASSICAL, 30)], 'c21961e172a21980'),
    ({'rgb': jumping, 'thermal': jumping}, [(CLASSICAL, 80)], '71fc8d74a3567404'),
    ({'thermal': jumping}, [(CLASSICAL, 20), (RGB_ONLY, 48)], '35637b0cb4859db8'),
    ({'thermal': slow}, [(CLASSICAL, 70)], '957b669305fc3208'),
], ids=['healthy', 'thermal frozen', 'RGB frozen', 'thermal lost', 'RGB lost', 'clock back',
        'thermal clock back', '30 and 9 Hz'])
def test_recording_counts_modes_and_pixels(faults, modes, pixels, tmp_path):
    """Count modes and pixels of a recording."""
    outputs = played(tmp_path, **faults)

    assert runs(outputs) == modes
    assert digest(outputs) == pixels


@pytest.mark.parametrize('faults, alone, found_by, fused_by', [
    ({'thermal': frozen}, RGB_ONLY, FIRST_BAD + 2, FIRST_GOOD + 1),
    ({'rgb': frozen}, THERMAL_ONLY, FIRST_BAD + 2, FIRST_GOOD + 1),
    ({'thermal': lost}, RGB_ONLY, FIRST_BAD + 12, FIRST_GOOD + 1),
    ({'rgb': lost}, THERMAL_ONLY, FIRST_BAD + 12, FIRST_GOOD + 1),
], ids=['thermal frozen', 'RGB frozen', 'thermal lost', 'RGB lost'])
def test_fault_found_and_left_in_time(faults, alone, found_by, fused_by, tmp_path):
    """A fault is found and left in time.

    A frozen camera is found with its third equal image, a lost one after 0.4 s.

    Fused again with the second.
    """
    outputs = played(tmp_path, **faults)

    ticks = {mode: [output.now_tick for output in outputs if output.result.mode.value == mode]
             for mode in (alone, CLASSICAL)}
    assert ticks[alone][0] == found_by
    assert FIRST_GOOD <= next(tick for tick in ticks[CLASSICAL] if tick > found_by) <= fused_by


def test_latency_at_most_one_period(tmp_path):
    """Latency is the delay of the cameras and one period at most."""
    latencies_ms = [output.latency_ms for output in played(tmp_path)]

    assert np.median(latencies_ms) == 8.0
    assert max(latencies_ms) == pytest.approx(8.0 + 33.3, abs=0.1)


def test_slow_camera_frame_is_held(tmp_path):
    """Between the frames of a slow camera the last one is held."""
    outputs = played(tmp_path, thermal=slow)

    assert sum(output.work.held for output in outputs) == 46
    assert max(abs(output.work.offset_ns) for output in outputs) < 1.25e9 / 9


def test_compressed_recordings_give_the_same_values(tmp_path):
    raw, compressed = played(tmp_path / 'raw'), played(tmp_path / 'compressed', compressed=True)

    assert [output.at_ns for output in raw] == [output.at_ns for output in compressed]
    assert {output.result.encoding for output in compressed} == {'bgr8'}
    worst = max(np.abs(a.result.pixels.astype(int) - b.result.pixels[..., ::-1]).max()
                for a, b in zip(raw, compressed))
    assert worst <= 1


def test_two_rigs_are_independent(tmp_path):
    """Two rigs do not know of each other."""
    front = played(tmp_path / 'front', prefix='/front', rig='front', seed=1)
    rear = played(tmp_path / 'rear', prefix='/rear', rig='rear', seed=2, thermal=lost)

    assert runs(front) == [(CLASSICAL, 80)] and digest(front) == 'bea950738b20cda7'
    assert runs(rear) == [(CLASSICAL, 20), (RGB_ONLY, 19), (CLASSICAL, 29)]
    assert {output.result.frame_id for output in front} == {'frontrgb'}


@pytest.mark.parametrize('model, preset',
                         [('diffmf', 'nano'), ('refinefuse', 'light'), ('s4fusion', 'light')])
def test_network_pixels_match_stored(model, preset, tmp_path, pytestconfig):
    """The pixels of a network are those stored.

    99.9 % of the values are within one level.
    """
    pytest.importorskip('torch', reason='torch is not installed')
    settings = with_changes(SETTINGS, {'model': model, 'preset': preset, 'device': 'cpu',
                                       'precision': 'float32'})
    bag = write(tmp_path / 'bag')
    with BagReader(bag) as reader:
        every = list(frames(reader, '/rgb/image_raw', '/thermal/image_raw'))[:4]
    pixels = play(iter(every), settings)[0].result.pixels
    file = str(pytestconfig.rootpath / 'test' / 'regression' / f'{model}_{preset}.png')

    expected = cv2.imread(file)[..., ::-1]

    assert (np.abs(pixels.astype(int) - expected) <= 1).mean() >= 0.999
