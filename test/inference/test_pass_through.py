# SPDX-License-Identifier: Apache-2.0
"""One camera alone on the output grid, and thermal levels that are the same whoever makes the
image."""

import numpy as np
import pytest

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.geometry import Alignment
from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Mode, Pair
from diffmf_ros.core.imaging.color import to_rgb8
from diffmf_ros.core.imaging.thermal import levels_of, to_gray
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference import NetworkFailure
from diffmf_ros.inference.pipeline import FusionPipeline

CLASSICAL = with_changes(DEFAULTS, {'model': 'classical'})
RANDOM = np.random.default_rng(0)
RGB_PIXELS = {'mono8': RANDOM.integers(0, 256, (48, 64), np.uint8),
              **{encoding: RANDOM.integers(0, 256, (48, 64, channels), np.uint8)
                 for encoding, channels in (('rgb8', 3), ('bgr8', 3), ('rgba8', 4), ('bgra8', 4))}}
HEAT = RANDOM.integers(7000, 9000, (24, 32), np.uint16)


def rgb_frame(encoding='rgb8', stamp_ns=100):
    return Frame(RGB, stamp_ns, 'rgb_optical', RGB_PIXELS[encoding], encoding)


def thermal_frame(pixels=HEAT, encoding='mono16', stamp_ns=200):
    return Frame(THERMAL, stamp_ns, 'heat', pixels, encoding)


def pipeline_for(**changes):
    return FusionPipeline(with_changes(CLASSICAL, changes))


@pytest.fixture
def shifted(tmp_path):
    """An alignment file: thermal, at half the scale, sees a part of the RGB image."""
    path = tmp_path / 'a.yaml'
    Alignment(((1.0, 0.0, 20.0), (0.0, 1.0, 10.0), (0.0, 0.0, 1.0)), (64, 48), (32, 24)).save(path)
    return str(path)


@pytest.mark.parametrize('encoding', RGB_PIXELS)
def test_rgb_keeps_pixels_and_header(encoding):
    """RGB alone keeps every pixel and its header."""
    result = pipeline_for().pass_through(rgb_frame(encoding))
    assert (result.mode, result.stamp_ns, result.frame_id,
            result.grid) == (Mode.RGB_ONLY, 100, 'rgb_optical', RGB)
    assert result.encoding == ('bgr8' if encoding.startswith('bgr') else 'rgb8')
    assert np.array_equal(to_rgb8(result.pixels, result.encoding),
                          to_rgb8(RGB_PIXELS[encoding], encoding)[..., :3])
    assert result.warnings == () and set(result.timings_ms) == {'align'}


@pytest.mark.parametrize('color, encoding, shape',
                         [('gray', 'mono8', (48, 64)), ('inferno', 'bgr8', (48, 64, 3))])
def test_color_policy_applies_to_rgb(color, encoding, shape):
    """The color policy holds for an RGB image alone."""
    result = pipeline_for(**{'output.color': color}).pass_through(rgb_frame('bgr8'))
    assert (result.encoding, result.pixels.shape) == (encoding, shape)


def test_calibrated_thermal_before_any_rgb():
    """Thermal alone is on the RGB grid before RGB was seen if its calibration is known."""
    pipeline = pipeline_for()
    k = ((50.0, 0.0, 31.5), (0.0, 50.0, 23.5), (0.0, 0.0, 1.0))
    pipeline.aligner.set_camera(RGB, CameraModel((64, 48), k, frame_id='rgb_optical'))

    result = pipeline.pass_through(thermal_frame())

    assert (result.mode, result.grid, result.frame_id) == (Mode.THERMAL_ONLY, RGB, 'rgb_optical')
    assert result.pixels.shape == (48, 64, 3)


def test_thermal_on_known_rgb_grid():
    """Thermal alone is on the RGB grid under its own stamp once RGB was seen."""
    pipeline = pipeline_for()
    pipeline.fuse(Pair(rgb_frame('bgr8'), thermal_frame(), 0))

    result = pipeline.pass_through(thermal_frame(stamp_ns=300))

    assert (result.mode, result.stamp_ns, result.frame_id,
            result.grid) == (Mode.THERMAL_ONLY, 300, 'rgb_optical', RGB)
    assert (result.pixels.shape, result.encoding) == ((48, 64, 3), 'bgr8')
    assert np.ptp(result.pixels, axis=2).max() == 0
    expected = pipeline.align(Pair(rgb_frame(), thermal_frame(stamp_ns=300), 0))[0]
    assert np.array_equal(result.pixels[..., 0], expected)


def test_thermal_black_outside_its_view(shifted):
    """Thermal alone is black where it does not see."""
    pipeline = pipeline_for(**{'alignment.file': shifted})
    pair = Pair(rgb_frame(), thermal_frame(), 0)
    pipeline.pass_through(pair.rgb)

    pixels = pipeline.pass_through(pair.thermal).pixels

    _, seen = pipeline.align(pair)
    assert 0.1 < seen.mean() < 0.4
    assert pixels[~seen].max() == 0 and pixels[seen].mean() > 50


def test_measured_alignment_before_any_rgb(shifted):
    """Thermal alone is on the RGB grid before RGB was seen if the alignment has its size.

    Its frame id is the one that is set, as it is of the pairs after it.
    """
    pipeline = pipeline_for(**{'alignment.file': shifted, 'output.frame_id': 'eye'})

    first = pipeline.pass_through(thermal_frame())
    pair = pipeline.fuse(Pair(rgb_frame(), thermal_frame(), 0))

    for result in (first, pair):
        assert (result.grid, result.frame_id, result.pixels.shape) == (RGB, 'eye', (48, 64, 3))
    assert first.issues == ()


def test_thermal_without_rgb_keeps_grid():
    """Thermal alone stays on its grid while RGB was never seen, which is said."""
    result = pipeline_for().pass_through(thermal_frame())
    assert (result.frame_id, result.grid, result.encoding) == ('heat', THERMAL, 'rgb8')
    assert [issue.code for issue in result.issues] == ['own_grid']
    assert '32x24 in heat' in result.warnings[0]
    expected = to_gray(HEAT, 'mono16', levels_of(HEAT, 'mono16', DEFAULTS.thermal))
    assert np.array_equal(result.pixels, np.dstack([expected] * 3))


def test_unused_rgb_tells_its_grid():
    """Thermal alone is on the RGB grid when RGB was received, but never used, as a frozen one."""
    pipeline = pipeline_for(**{'input.rgb_crop': '48x40+0+0'})
    pipeline.received[RGB] = rgb_frame('bgr8')

    result = pipeline.pass_through(thermal_frame())

    assert (result.frame_id, result.grid, result.encoding) == ('rgb_optical', RGB, 'bgr8')
    assert result.pixels.shape == (40, 48, 3) and result.issues == ()


def test_rgb_on_thermal_grid(shifted):
    """RGB alone is on the thermal grid when that is the output."""
    pipeline = pipeline_for(**{'alignment.file': shifted, 'alignment.output_grid': 'thermal'})
    before = pipeline.pass_through(rgb_frame())
    pipeline.pass_through(thermal_frame())

    result = pipeline.pass_through(rgb_frame())

    assert (before.grid, before.frame_id, before.pixels.shape) == (RGB, 'rgb_optical', (48, 64, 3))
    assert (result.grid, result.frame_id, result.pixels.shape) == (THERMAL, 'heat', (24, 32, 3))
    assert (result.mode, result.stamp_ns) == (Mode.RGB_ONLY, 100)
    assert np.array_equal(result.pixels, RGB_PIXELS['rgb8'][10:34, 20:52])


@pytest.mark.parametrize('frame, reason', [
    (rgb_frame('rgb8'), 'too_large'),
    (Frame(RGB, 1, '', np.zeros((4, 4), np.float32), '32FC1'), 'not_8_bit'),
    (thermal_frame(np.full((4, 4), np.nan, np.float32), '32FC1'), 'no_finite_value')])
def test_unusable_single_frame_is_refused(frame, reason):
    """A single frame that is not usable is refused."""
    with pytest.raises(FrameError) as caught:
        pipeline_for(max_pixels=48 * 64 - 1).pass_through(frame)
    assert caught.value.reason == reason


def warming(count):
    """Pairs of a scene that grows warmer, frame by frame."""
    return [Pair(rgb_frame(stamp_ns=stamp), thermal_frame(HEAT + 60 * index, stamp_ns=stamp), 0)
            for index in range(count) for stamp in [10 ** 9 + index * 33_000_000]]


def test_gain_control_ignores_network_failure(monkeypatch):
    """The gain control follows the stream and a failing network does not change it."""
    def broken(ir, y):
        raise NetworkFailure('gone')
    broken.device, broken.description, broken.problems = 'cpu', 'broken', ()
    classical = [FusionPipeline(CLASSICAL)]
    monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: broken)
    failing = FusionPipeline(DEFAULTS)
    pairs = warming(5)

    images = [[pipeline.fuse(pair).pixels for pair in pairs] for pipeline in (*classical, failing)]

    assert all(np.array_equal(*both) for both in zip(*images))
    alone = FusionPipeline(CLASSICAL).fuse(pairs[-1]).pixels
    assert not np.array_equal(images[0][-1], alone)


def test_repeated_pair_keeps_levels():
    """Asked again about a pair the levels are the same."""
    pipeline = pipeline_for(**{'output.temporal_filter': 0.0})
    for pair in warming(3):
        pixels = pipeline.fuse(pair).pixels
        thermal, _ = pipeline.align(pair)
        assert np.array_equal(pipeline.fuse(pair).pixels, pixels)
        assert np.array_equal(pipeline.align(pair)[0], thermal)


def test_dead_rows_repaired_first():
    """Dead rows are repaired before anything else."""
    smooth = np.tile(np.linspace(7000, 9000, 32, dtype=np.uint16), (24, 1))
    dead = smooth.copy()
    dead[11] = 0
    whole = pipeline_for().align(Pair(rgb_frame(), thermal_frame(smooth), 0))[0]
    broken = Pair(rgb_frame(), thermal_frame(dead), 0)
    assert np.array_equal(pipeline_for().align(broken)[0], whole)
    unrepaired = pipeline_for(**{'thermal.repair_rows': False}).align(broken)[0]
    assert np.abs(unrepaired.astype(int) - whole).max() > 20
