# SPDX-License-Identifier: Apache-2.0
"""What the pipeline gives when a camera sees nothing: the image of the other one, and why."""

from dataclasses import replace

import numpy as np
import pytest
from blind_scenes import noisy, pair, rgb_scene, smoke, thermal_scene

from diffmf_ros.core.alignment.homography import Alignment
from diffmf_ros.core.frames import Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

SIZE, SHAPE = (160, 120), (120, 160)
LEVELS = [0, 1, 64, 128, 192, 254, 255]
ENCODINGS = {'mono8': (np.uint8, 1), 'mono16': (np.uint16, 257), '32FC1': (np.float32, 0.2)}
RGB, THERMAL = rgb_scene(size=SIZE), thermal_scene(size=SIZE)


def pipeline_of(**changes):
    usual = {'model': 'classical', 'device': 'cpu', 'threads': 1, 'warm_up_size': ''}
    return FusionPipeline(with_changes(DEFAULTS, {**usual, **changes}))


@pytest.fixture(scope='module', params=['classical', 'nano'])
def pipeline(request):
    """Yield a pipeline that fuses classically, and one with the network nano."""
    if request.param == 'classical':
        return pipeline_of()
    pytest.importorskip('torch', reason='torch is not installed')
    return pipeline_of(model='diffmf', preset='nano')


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_flat_thermal_leaves_rgb(pipeline, level, encoding):
    """Thermal of one level leaves the RGB image."""
    dtype, gain = ENCODINGS[encoding]
    thermal = np.full(SHAPE, gain * level, dtype)

    result = pipeline.fuse(pair(RGB, thermal, encoding=encoding))

    assert result.mode is Mode.RGB_ONLY
    assert np.array_equal(result.pixels, RGB) and result.encoding == 'rgb8'
    assert [issue.code for issue in result.issues] == ['thermal_flat']
    assert result.warnings[-1].startswith('thermal is flat')


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_noisy_flat_thermal_leaves_rgb(pipeline, level, encoding):
    """Thermal of one level and noise leaves the RGB image."""
    dtype, gain = ENCODINGS[encoding]
    values = np.random.default_rng(0).normal(gain * level, 3 * min(gain, 2), SHAPE)
    low, high = (0, np.iinfo(dtype).max) if encoding != '32FC1' else (-1e3, 1e3)

    result = pipeline.fuse(pair(RGB, values.clip(low, high).astype(dtype), encoding=encoding))

    assert (result.mode, np.array_equal(result.pixels, RGB)) == (Mode.RGB_ONLY, True)


@pytest.mark.parametrize('level, code', [(0, 'rgb_black'), (5, 'rgb_black'), (255, 'rgb_white')])
def test_blind_rgb_leaves_the_thermal_image(pipeline, level, code):
    both = pair(np.full((*SHAPE, 3), level, np.uint8), THERMAL)

    result = pipeline.fuse(both)

    assert result.mode is Mode.THERMAL_ONLY and result.grid == 'rgb'
    assert np.array_equal(result.pixels, np.repeat(THERMAL[..., None], 3, 2))
    assert [issue.code for issue in result.issues] == [code]


def test_veil_fuses_with_warning(pipeline):
    """A veil is fused with a warning."""
    stripes = (np.indices(SHAPE).sum(0) // 8 % 2 * 60).astype(np.uint8)

    result = pipeline.fuse(pair(smoke(RGB, 0.03), THERMAL + stripes))

    assert result.mode in (Mode.FUSED, Mode.CLASSICAL)
    assert 'rgb_veiled' in [issue.code for issue in result.issues]
    assert any(warning.startswith('rgb is veiled') for warning in result.warnings)


def test_street_fuses_without_warning():
    """A street is fused without a warning."""
    result = pipeline_of().fuse(pair(RGB, THERMAL))

    assert (result.mode, result.warnings, result.issues) == (Mode.CLASSICAL, (), ())


def test_both_blind_gives_grid_camera():
    """Both blind gives the camera of the grid."""
    blind = pair(np.zeros((*SHAPE, 3), np.uint8), np.full(SHAPE, 7, np.uint8))

    results = [pipeline_of(**{'alignment.output_grid': grid}).fuse(blind)
               for grid in ('rgb', 'thermal')]

    assert [result.mode for result in results] == [Mode.RGB_ONLY, Mode.THERMAL_ONLY]
    assert all(len(result.issues) == 2 for result in results)


@pytest.fixture
def inset(tmp_path):
    """The path of an alignment in which thermal, 80x60, sees the middle of the RGB image."""
    path = tmp_path / 'a.yaml'
    Alignment(((1.0, 0.0, 40.0), (0.0, 1.0, 30.0), (0.0, 0.0, 1.0)), SIZE, (80, 60)).save(path)
    return str(path)


@pytest.mark.parametrize('grid, size', [('rgb', (160, 120)), ('thermal', (80, 60))])
def test_survivor_is_on_output_grid(inset, grid, size):
    """The survivor is on the output grid."""
    pipeline = pipeline_of(**{'alignment.file': inset, 'alignment.output_grid': grid})
    rgb, thermal = RGB, thermal_scene(size=(80, 60))

    flat = pipeline.fuse(pair(rgb, np.full((60, 80), 90, np.uint8)))
    black = pipeline.fuse(pair(np.zeros_like(rgb), thermal))

    middle = np.s_[30:90, 40:120]
    assert flat.mode is Mode.RGB_ONLY and black.mode is Mode.THERMAL_ONLY
    assert flat.pixels.shape[1::-1] == black.pixels.shape[1::-1] == size
    assert np.array_equal(flat.pixels, rgb if grid == 'rgb' else rgb[middle])
    seen = black.pixels[middle] if grid == 'rgb' else black.pixels
    assert np.array_equal(seen[..., 0], thermal)
    assert flat.frame_id == black.frame_id == f'{grid}_optical'


def test_colors_and_levels_follow_settings():
    """Colors and levels are those of the settings."""
    gray = pipeline_of(**{'output.color': 'gray'})
    black_hot = pipeline_of(**{'thermal.polarity': 'black_hot'})

    assert gray.fuse(pair(RGB, np.full(SHAPE, 9, np.uint8))).encoding == 'mono8'
    inverted = black_hot.fuse(pair(np.zeros((*SHAPE, 3), np.uint8), 255 - THERMAL))
    assert np.array_equal(inverted.pixels[..., 0], THERMAL)


def test_it_can_be_switched_off():
    pipeline = pipeline_of(**{'health.detect_blind': False})

    results = [pipeline.fuse(pair(RGB, np.full(SHAPE, 9, np.uint8))),
               pipeline.fuse(pair(np.zeros((*SHAPE, 3), np.uint8), THERMAL))]

    assert [(result.mode, result.issues) for result in results] == [(Mode.CLASSICAL, ())] * 2


def test_hidden_warm_targets_are_reported(monkeypatch):
    """Warm targets that a network hides are reported."""
    from diffmf_ros.core.imaging import classical
    monkeypatch.setattr(classical, 'fuse', lambda ir, y: np.full_like(y, 0.4))

    result = pipeline_of(**{'output.warm_contrast': False}).fuse(pair(RGB, THERMAL))

    assert [issue.code for issue in result.issues] == ['targets_hidden']
    assert result.mode is Mode.CLASSICAL


def test_contrast_shows_hidden_targets(monkeypatch):
    """Warm targets that a network hides are shown, and nothing is reported."""
    from diffmf_ros.core.imaging import classical
    monkeypatch.setattr(classical, 'fuse', lambda ir, y: np.full_like(y, 0.4))

    assert pipeline_of().fuse(pair(RGB, THERMAL)).issues == ()


def stream(frames, period_ns=33_333_333):
    for k, both in enumerate(frames):
        stamp_ns = 10**18 + k * period_ns
        yield Pair(*(replace(frame, stamp_ns=stamp_ns) for frame in (both.rgb, both.thermal)), 0)


def test_stream_answers_at_once_recovers_second():
    """A stream is answered at once and fused again with the second pair."""
    clear = pair(RGB, THERMAL)
    shut = [pair(RGB, noisy(90, 2, SHAPE, seed=k)) for k in range(4)]
    pipeline = pipeline_of()

    modes = [pipeline.fuse(both).mode for both in stream([clear, *shut, clear, clear, clear])]

    assert modes == [Mode.CLASSICAL] + [Mode.RGB_ONLY] * 5 + [Mode.CLASSICAL] * 2


def test_same_stream_same_bytes():
    """The same stream gives the same bytes."""
    rng = np.random.default_rng(0)
    frames = list(stream(pair(RGB, THERMAL if rng.uniform() < 0.6 else noisy(80, 2, SHAPE, seed=k))
                         for k in range(20)))

    first, second = ([pipeline.fuse(both).pixels.tobytes() for both in frames]
                     for pipeline in (pipeline_of(), pipeline_of()))

    assert first == second


def test_debug_pictures_are_no_pairs():
    """Debug pictures of a pair do not count as another pair."""
    clear = pair(RGB, THERMAL)
    frames = list(stream([clear, pair(RGB, noisy(90, 2, SHAPE)), clear, clear]))
    pipeline, modes = pipeline_of(), []
    for both in frames:
        modes.append(pipeline.fuse(both).mode)
        pipeline.align(both)

    assert modes == [Mode.CLASSICAL, Mode.RGB_ONLY, Mode.RGB_ONLY, Mode.CLASSICAL]
