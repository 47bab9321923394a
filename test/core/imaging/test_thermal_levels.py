# SPDX-License-Identifier: Apache-2.0
"""Gain control of thermal streams: what follows slowly, what at once, and what starts afresh."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from diffmf_ros.core.frames import THERMAL, Frame, FrameError
from diffmf_ros.core.imaging.thermal import GainControl, Levels, levels_of, to_gray
from diffmf_ros.core.settings import ThermalSettings

SETTINGS = ThermalSettings(time_constant_s=0.5, max_change=1.0)
BOUNDED = replace(SETTINGS, max_change=0.1)
START_NS = 1_700_000_000_000_000_000


def ground(seed=0, shape=(120, 160)):
    """Counts of a 14-bit camera looking at ground of 7000 to 8000 counts, with noise."""
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return (7000 + 1000 * np.linspace(0, 1, shape[1])[None] + noise).round()


def frame(values, time_s, encoding='mono16', arrival_ns=0):
    dtype = np.uint16 if encoding == 'mono16' else np.float32
    return Frame(THERMAL, START_NS + round(1e9 * time_s), 't', values.astype(dtype), encoding,
                 arrival_ns=arrival_ns)


def followed(settings, scenes, rate_hz=30.0, encoding='mono16'):
    """Return the levels of each of the scenes, one frame apart."""
    control = GainControl(settings)
    return [control.levels(frame(scene, k / rate_hz, encoding)) for k, scene in enumerate(scenes)]


def by_itself(scene, settings=SETTINGS):
    return levels_of(scene.astype(np.uint16), 'mono16', settings)


def with_hot_object(scene):
    """The scene with an object of 1500 counts more than anything on 4 % of it."""
    hot = scene.copy()
    hot[40:72, 60:84] = 9500
    return hot


@pytest.mark.parametrize('rate_hz', [9, 25, 60])
def test_time_constant_ignores_frame_rate(rate_hz):
    """Levels come by the time constant whatever the frame rate."""
    steps = round(0.5 * rate_hz)
    levels = followed(SETTINGS, [ground()] + [ground() + 200] * steps, rate_hz)

    moved = (levels[-1].low - levels[0].low) / 200
    assert moved == pytest.approx(1 - math.exp(-steps / rate_hz / 0.5), abs=0.01)


def test_zero_time_constant_is_per_frame():
    """A time constant of zero takes every frame by itself."""
    scenes = [ground(), with_hot_object(ground(1)), ground(2) + 77]

    assert followed(replace(SETTINGS, time_constant_s=0.0),
                    scenes) == [by_itself(scene) for scene in scenes]


def test_hot_object_moves_white_slowly():
    """A hot object that enters changes white little by little and black not at all."""
    scenes = [ground()] * 5 + [with_hot_object(ground())] * 60
    levels = followed(BOUNDED, scenes)

    for before, after in zip(levels[4:], levels[5:], strict=False):
        assert 0 <= after.high - before.high <= 0.1 * (before.high - before.low) + 1
    assert {level.low for level in levels} == {levels[0].low}
    assert levels[5].high < 8200 and levels[-1].high > 9400


def test_hot_object_white_at_once():
    """The hot object is white from its first frame and the ground keeps its gray."""
    scenes = [ground()] * 5 + [with_hot_object(ground())]
    before, after = (to_gray(scene.astype(np.uint16), 'mono16', level).astype(int)
                     for scene,
                     level in zip(scenes[-2:], followed(BOUNDED, scenes)[-2:], strict=True))

    assert after[40:72, 60:84].min() == 255
    assert np.abs(after[:, :50] - before[:, :50]).max() <= 0.1 * 255


def high_gain(scene):
    return scene


@pytest.mark.parametrize('low_gain', [
    lambda scene: scene / 3.5, lambda scene: 7600 + (scene - 7600) / 4,
    lambda scene: scene + 1500],
    ids=['about_zero', 'about_the_middle', 'offset'])
@pytest.mark.parametrize('there_and_back', [False, True])
def test_gain_mode_jump_is_followed(low_gain, there_and_back):
    """A gain mode jump is followed at once."""
    modes = [high_gain, low_gain] if not there_and_back else [low_gain, high_gain]
    scenes = [modes[0](ground(k)) for k in range(5)] + [modes[1](ground(5))]

    assert followed(BOUNDED, scenes)[-1] == by_itself(scenes[-1])


@pytest.mark.parametrize('scene', [
    with_hot_object(ground(1)), ground(1) + 100, ground(1) * 1.04,
    np.where(ground(1) < 7300, 6000, ground(1))],
    ids=['hot_object', 'drift', 'warmer', 'cold_sky'])
def test_scene_change_is_no_jump(scene):
    """A change of the scene is not a gain mode jump."""
    levels = followed(BOUNDED, [ground(0), scene])

    largest = 0.1 * (levels[0].high - levels[0].low) + 1
    assert abs(levels[1].low - levels[0].low) <= largest and abs(
        levels[1].high - levels[0].high) <= largest
    assert levels[1] != by_itself(scene)


def test_scene_returns_after_flat_image():
    """After a flat image the scene is there at once."""
    scenes = [np.full((120, 160), 7500.0), ground()]

    assert followed(BOUNDED, scenes)[1] == by_itself(ground())


def test_repeated_stamp_moves_nothing():
    """The same stamp asked again has the same levels and moves nothing."""
    once, twice = GainControl(BOUNDED), GainControl(BOUNDED)
    scenes = [ground(), with_hot_object(ground()), with_hot_object(ground())]

    for k, scene in enumerate(scenes):
        expected = once.levels(frame(scene, k / 30))
        assert [twice.levels(frame(scene, k / 30)) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize('time_s', [-0.1, 5.1],
                         ids=['a stamp going back', 'a gap of ten time constants'])
def test_levels_start_afresh_after(time_s):
    control = GainControl(BOUNDED)
    control.levels(frame(ground(), 0))

    assert control.levels(frame(with_hot_object(ground()), time_s)) == by_itself(
        with_hot_object(ground()))


def test_without_a_stamp_the_arrival_counts():
    stamped, arrived = GainControl(BOUNDED), GainControl(BOUNDED)
    for k, scene in enumerate([ground(), with_hot_object(ground()), ground() + 50]):
        seen = frame(scene, k / 9)
        expected = stamped.levels(seen)
        assert arrived.levels(replace(seen, stamp_ns=0, arrival_ns=seen.stamp_ns)) == expected


def test_untimed_images_are_independent():
    """Images without any time do not influence each other."""
    control = GainControl(BOUNDED)
    scenes = [ground(), with_hot_object(ground()), ground() + 50]

    levels = [control.levels(replace(frame(scene, 0), stamp_ns=0)) for scene in scenes]

    assert levels == [by_itself(scene) for scene in scenes]


def test_settings_apply_with_next_frame():
    """Other settings take effect with the next frame and equal ones change nothing."""
    control = GainControl(BOUNDED)
    first = control.levels(frame(ground(), 0))
    control.settings = replace(BOUNDED)
    assert control.levels(frame(with_hot_object(ground()), 0.03)).high < first.high + 120

    control.settings = replace(BOUNDED, high_percentile=90.0)

    assert control.levels(frame(ground(), 0.06)) == by_itself(ground(), control.settings)


def test_reset_starts_afresh():
    """After a reset the next frame is the first."""
    control = GainControl(BOUNDED)
    control.levels(frame(ground(), 0))
    control.reset()

    assert control.levels(frame(with_hot_object(ground()), 0.03)) == by_itself(
        with_hot_object(ground()))


def test_an_unusable_frame_changes_nothing():
    control, undisturbed = GainControl(BOUNDED), GainControl(BOUNDED)
    scenes = [ground(), with_hot_object(ground())]
    for each in (control, undisturbed):
        each.levels(frame(scenes[0], 0, '32FC1'))

    with pytest.raises(FrameError, match='NaN and infinity'):
        control.levels(frame(np.full((4, 4), np.nan), 0.03, '32FC1'))

    assert control.levels(frame(scenes[1], 0.06, '32FC1')) == undisturbed.levels(
        frame(scenes[1], 0.06, '32FC1'))


def test_8_bit_and_fixed_no_memory():
    """Frames of 8-bit and fixed ranges have no memory."""
    control = GainControl(replace(BOUNDED, gain_control='radiometric',
                                  radiometric_unit='centikelvin'))
    gray = Frame(THERMAL, START_NS, 't', np.zeros((4, 4), np.uint8), 'mono8')

    first, second = control.levels(frame(ground(), 0)), control.levels(frame(ground() + 900, 0.03))

    assert first == second
    assert (first.low, first.high) == (26315.0, pytest.approx(32315.0))
    assert control.levels(gray) == Levels(0.0, 255.0)


@hypothesis_settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), max_change=st.sampled_from([0.02, 0.1, 0.5]),
       encoding=st.sampled_from(
    ['mono16', '32FC1']))
def test_level_change_is_bounded(seed, max_change, encoding):
    """Levels are deterministic and their change is bounded unless they jump."""
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(8):
        values = ground(int(rng.integers(100)), (24, 32)) + rng.integers(-200, 200)
        values[:4] += rng.integers(0, 3000)
        scenes.append(values)
    settings = replace(BOUNDED, max_change=max_change)

    levels = followed(settings, scenes, encoding=encoding)

    assert levels == followed(settings, scenes, encoding=encoding)
    for before, after, scene in zip(levels, levels[1:], scenes[1:], strict=False):
        dtype = np.uint16 if encoding == 'mono16' else np.float32
        largest = max_change * (before.high - before.low) + 1.5  # black is a whole count
        bounded = max(abs(after.low - before.low), abs(after.high - before.high)) <= largest
        assert bounded or after == levels_of(scene.astype(dtype), encoding, settings)
