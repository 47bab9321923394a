# SPDX-License-Identifier: Apache-2.0
"""Hysteresis of blind cameras over frames, and warm targets that a fused image hides."""

import numpy as np
import pytest
from blind_scenes import PEOPLE, night_with_lamps, noisy, pair, rgb_scene, thermal_scene

from diffmf_ros.core.alignment.geometry import Aligner
from diffmf_ros.core.alignment.warp import resized_mapping
from diffmf_ros.core.checks.image_checks import hidden_targets, warm_targets
from diffmf_ros.core.checks.sight_monitor import SightMonitor, reduced, thumbnails
from diffmf_ros.core.imaging.thermal import Levels
from diffmf_ros.core.settings import DEFAULTS, with_changes

PERIOD_NS = 33_333_333
SIZE = 160, 120


def images(rgb, thermal):
    mapping = resized_mapping(rgb_size=SIZE, thermal_size=SIZE)
    return thumbnails(pair(rgb, thermal), Levels(0.0, 255.0), mapping)


THERMAL, FLAT_THERMAL = thermal_scene(size=SIZE), noisy(90, 2, (120, 160))
RGB, BLACK_RGB = rgb_scene(size=SIZE), noisy(3, 2, (120, 160, 3))
DARK_RGB = night_with_lamps()[::4, ::4]
CLEAR, FLAT = images(RGB, THERMAL), images(RGB, FLAT_THERMAL)
BLACK, DARK = images(BLACK_RGB, THERMAL), images(DARK_RGB, THERMAL)


def codes(scenes, *, period_ns=PERIOD_NS, first_ns=10**18):
    """The codes of every pair of a stream, joined."""
    monitor = SightMonitor()
    return [' '.join(issue.code for issue in monitor.judge(scene, first_ns + k * period_ns))
            for k, scene in enumerate(scenes)]


@pytest.mark.parametrize('blind, code', [(FLAT, 'thermal_flat'), (BLACK, 'rgb_black')])
def test_blindness_reported_at_once(blind, code):
    """A blind camera is reported at once and sees again with the second pair."""
    scenes = [CLEAR] * 3 + [blind] * 3 + [CLEAR] * 3

    assert codes(scenes) == [''] * 3 + [code] * 4 + [''] * 2


def test_alternating_camera_stays_blind():
    """A camera that is blind every second time stays blind."""
    assert codes([CLEAR, FLAT] * 4)[1:] == ['thermal_flat'] * 7


def test_warning_needs_three_pairs():
    """A warning comes and goes with the third pair."""
    assert codes([CLEAR] * 3 + [DARK] * 4 + [CLEAR] * 4) == [''] * 5 + ['rgb_dark'] * 4 + [''] * 2


def test_warnings_do_not_flicker():
    assert codes([CLEAR, CLEAR, DARK, DARK] * 4) == [''] * 16


def test_lamp_ends_black():
    """A lamp in the dark ends the black."""
    assert codes([BLACK, DARK, DARK, DARK]) == ['rgb_black', 'rgb_black', 'rgb_dark', 'rgb_dark']


def test_both_cameras_are_said():
    assert codes([images(BLACK_RGB, FLAT_THERMAL)]) == ['thermal_flat rgb_black']


@pytest.mark.parametrize('period_ns', [2_000_000_000, -PERIOD_NS, 0])
def test_distant_pairs_judged_alone(period_ns):
    """Pairs far apart or going back are judged by themselves."""
    found = codes([FLAT, CLEAR, DARK, CLEAR], period_ns=period_ns)

    assert found == ['thermal_flat', '', 'rgb_dark', '']


def test_untimed_pairs_judged_alone():
    """Pairs without a time are judged by themselves."""
    assert codes([FLAT, CLEAR, DARK], period_ns=0, first_ns=0) == ['thermal_flat', '', 'rgb_dark']


def test_same_pairs_same_issues():
    """The same pairs give the same issues."""
    scenes = [[CLEAR, FLAT, DARK, BLACK][k] for k in np.random.default_rng(0).integers(0, 4, 60)]

    assert codes(scenes) == codes(scenes)


def test_hidden_targets_need_three_pairs():
    """Hidden targets are reported with the third pair in a row."""
    monitor, said = SightMonitor(), []
    for k, hidden in enumerate([0, 0, 1, 2, 1, 0, 0, 0]):
        monitor.judge(CLEAR, 10**18 + k * PERIOD_NS)
        said.append(bool(monitor.compare(hidden, anew=monitor.anew)))

    assert said == [False] * 4 + [True] * 3 + [False]


def test_targets_are_people_not_ground():
    """Targets are people and not the ground."""
    thermal = reduced(thermal_scene())

    targets = warm_targets(thermal)

    assert len(targets) == len(PEOPLE)
    assert all(target.contrast(thermal)[0] > 100 for target in targets)


@pytest.mark.parametrize('shown, hidden', [(140, 0), (60, 0), (-80, 0), (10, 2), (0, 2), (-5, 2)])
def test_contrastless_targets_are_hidden(shown, hidden):
    """Targets without contrast in the fused image are hidden.

    Polarity does not count: a person may be dark on bright ground.
    """
    fused = np.full((480, 640), 100, np.uint8)
    for person in PEOPLE:
        fused[person] = 100 + shown

    assert hidden_targets(reduced(thermal_scene()), reduced(fused)) == hidden


def test_a_scene_without_targets_hides_none():
    thermal = reduced(thermal_scene(warmth=0))

    assert warm_targets(thermal) == [] and hidden_targets(thermal, np.zeros_like(thermal)) == 0


def test_noise_is_no_target():
    rng = np.random.default_rng(0)
    pictures = [reduced(rng.integers(0, 256, (480, 640), np.uint8)) for _ in range(20)]

    assert sum(hidden_targets(picture, np.full_like(picture, 50)) for picture in pictures) == 0


@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
def test_remapped_thumbnails_equal_fresh_ones(grid):
    """Thumbnails under another mapping are those that are made with it."""
    plain, cropped = (Aligner(with_changes(DEFAULTS, {
        'alignment.output_grid': grid, 'alignment.trim_x_px': trim_px}).alignment).mapping(
            rgb_size=SIZE, thermal_size=SIZE) for trim_px in (0.0, 8.0))
    both, levels = pair(RGB, THERMAL), Levels(0.0, 255.0)

    found = thumbnails(both, levels, plain).remapped(cropped)

    expected = thumbnails(both, levels, cropped)
    assert not expected.seen.all() and found.seen.tolist() == expected.seen.tolist()
    for name in ('thermal', 'luma', 'thermal_on_grid', 'luma_on_grid'):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
