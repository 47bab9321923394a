# SPDX-License-Identifier: Apache-2.0
"""Trim that follows the edges of RGB: measured, left alone, followed over time, taken back."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.alignment.auto_trim import AutoTrim
from diffmf_ros.core.alignment.geometry import Aligner
from diffmf_ros.core.alignment.warp import resized_mapping
from diffmf_ros.core.checks.sight_monitor import reduced
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

SIZE = 640, 480
S = 1_000_000_000


def scene(seed=0, size=SIZE):
    """Return plain shapes of random levels before one another, H x W uint8."""
    chance = np.random.default_rng(seed)
    image = np.full(size[::-1], 90, np.uint8)
    for _ in range(40):
        center, axes = chance.integers(0, size), chance.integers(8, size[0] // 8, 2)
        cv2.ellipse(image, center.tolist(), axes.tolist(), int(chance.integers(180)), 0, 360,
                    int(chance.integers(30, 220)), -1, cv2.LINE_AA)
    return image


def thermal_of(luma, right=0, down=0):
    """Return a scene with other levels, dark for bright here and there, moved."""
    levels = (128 + 90 * np.sin(np.arange(256) / 23)).astype(np.uint8)
    return cv2.warpAffine(levels[luma], np.float32([[1, 0, right], [0, 1, down]]),
                          luma.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def followed(trim, thermal, luma, stamp_ns=0):
    size = luma.shape[::-1]
    images = reduced(thermal), reduced(luma)
    return trim.follow(resized_mapping(rgb_size=size, thermal_size=size), *images,
                       np.ones(images[1].shape, bool), stamp_ns=stamp_ns).moved_px


@pytest.mark.parametrize('right, down', [(8, 0), (-12, 5), (0, -14), (9, 9), (15, 0)])
def test_shift_is_measured(right, down):
    """Thermal is moved back by what it lies beside RGB, to two pixels of 640."""
    luma = scene()

    moved = followed(AutoTrim(), thermal_of(luma, right, down), luma)

    assert moved == pytest.approx((-right, -down), abs=2)


@pytest.mark.parametrize('seed', range(4))
def test_few_common_edges_are_enough(seed):
    """Thermal is moved back when a sixth of the view agrees, as in smoke or by night."""
    luma, thermal = scene(2 * seed), thermal_of(scene(2 * seed + 1))
    common = np.s_[:200, :260]
    thermal[common] = thermal_of(luma, 10, -8)[common]

    assert followed(AutoTrim(), thermal, luma) == pytest.approx((-10, 8), abs=3)


@pytest.mark.parametrize('thermal', [
    thermal_of(scene()), thermal_of(scene(), 3, -2), thermal_of(scene(seed=1)),
    np.full(SIZE[::-1], 90, np.uint8),
    np.random.default_rng(0).integers(0, 256, SIZE[::-1], np.uint8), thermal_of(scene(), 60, 0),
    thermal_of(scene(), 0, 20),
], ids=['aligned', 'nearly', 'unrelated', 'flat', 'noise', 'far beyond reach', 'beyond reach'])
def test_others_stay(thermal):
    """What is aligned, shows something else or lies too far away is not moved."""
    assert followed(AutoTrim(), thermal, scene()) == (0, 0)


def test_unrelated_scenes_stay():
    """Of 40 pairs that have nothing in common none is moved, small ones neither."""
    sizes = [(640, 480), (320, 240), (160, 120), (96, 72)]
    moved = [followed(AutoTrim(), thermal_of(scene(2 * seed, size)), scene(2 * seed + 1, size))
             for seed in range(10) for size in sizes]

    assert moved == [(0, 0)] * len(moved)


def test_stream_follows_steadily():
    """A shift that comes is followed within two seconds, and small ones after it are not."""
    trim, luma = AutoTrim(), scene()
    shifts = [0] * 20 + [10] * 60 + [11, 9] * 10

    moved = [followed(trim, thermal_of(luma, shift), luma, stamp_ns=(1 + number) * S // 30)[0]
             for number, shift in enumerate(shifts)]

    assert set(moved[:20]) == {0}
    assert moved[79] == pytest.approx(-10, abs=2)
    assert len(set(moved[70:])) == 1
    steps = np.count_nonzero(np.diff(moved))
    assert steps <= 3


def test_one_odd_pair_changes_nothing():
    """In a stream a single pair that does not fit does not move thermal."""
    trim, luma = AutoTrim(), scene()

    moved = [followed(trim, thermal_of(luma, 12 if number == 30 else 0), luma,
                      stamp_ns=(1 + number) * S // 30) for number in range(60)]

    assert set(moved) == {(0, 0)}


def test_blind_camera_keeps_trim():
    """While thermal shows nothing it stays where it was, and starts anew after a gap."""
    trim, luma = AutoTrim(), scene()
    flat = np.full_like(luma, 100)
    before = [followed(trim, thermal_of(luma, 12), luma, stamp_ns=(1 + n) * S // 10)
              for n in range(10)][-1]

    blind = [followed(trim, flat, luma, stamp_ns=(11 + n) * S // 10) for n in range(40)][-1]

    assert blind == before != (0, 0)
    assert followed(trim, thermal_of(luma), luma, stamp_ns=60 * S) == (0, 0)


@pytest.mark.parametrize('grid', [RGB, THERMAL])
def test_moved_mapping_moves_thermal(grid):
    """On either grid thermal goes to the right and down against RGB; what is lost is not seen."""
    mapping = resized_mapping(rgb_size=(80, 60), thermal_size=(80, 60), grid=grid).moved(5, -3)
    column = np.tile(np.arange(80, dtype=np.uint8), (60, 1))

    difference = mapping.thermal(column).astype(int) - mapping.rgb(column)

    assert set(difference[mapping.seen]) == {-5}
    assert mapping.seen.sum() == 75 * 57 and mapping.moved_px == (5, -3)
    assert not mapping.everywhere


def test_tables_are_moved_whole():
    """A mapping by tables moves as its image would."""
    settings = with_changes(DEFAULTS, {'alignment.trim_x_px': 2.5}).alignment
    mapping = Aligner(settings).mapping(rgb_size=(160, 120), thermal_size=(80, 60))
    thermal = reduced(thermal_of(scene()), 100)[:60, :80]

    moved = mapping.moved(-7, 4)

    assert np.array_equal(moved.thermal(thermal)[4:, :-7], mapping.thermal(thermal)[:-4, 7:])
    assert np.array_equal(moved.seen[4:, :-7], mapping.seen[:-4, 7:])


@pytest.mark.parametrize('rgb_size, thermal_size, grid', [
    ((640, 480), (80, 60), THERMAL), ((160, 120), (640, 480), RGB),
    ((80, 60), (160, 120), THERMAL), ((160, 120), (100, 60), RGB)])
def test_moved_image_is_resized_alike(rgb_size, thermal_size, grid):
    """An image that is moved is averaged or interpolated as the one that is not."""
    mapping = resized_mapping(rgb_size=rgb_size, thermal_size=thermal_size, grid=grid)
    source = thermal_size if grid == RGB else rgb_size
    noise = np.random.default_rng(0).integers(0, 256, source[::-1], np.uint8)
    still, moved = ((one.thermal if grid == RGB else one.rgb)(noise).astype(int)
                    for one in (mapping, mapping.moved(3, -2)))
    x, y = (3, -2) if grid == RGB else (-3, 2)

    back = np.roll(moved, (-y, -x), (0, 1))[4:-4, 4:-4]

    assert np.abs(back - still[4:-4, 4:-4]).max() <= 1


def test_move_beyond_image():
    """An image that is flatter than it is moved is gone, and nothing else happens."""
    mapping = resized_mapping(rgb_size=(640, 10), thermal_size=(640, 10)).moved(0, 16)

    assert not mapping.seen.any()


def _pair(luma, thermal, stamp_ns=S):
    return Pair(Frame(RGB, stamp_ns, 'rgb', cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), 'rgb8'),
                Frame(THERMAL, stamp_ns, 'thermal', thermal, 'mono8'), 0)


def test_other_sizes_begin_anew():
    """In a stream whose images change their size, thermal is measured and moved anew."""
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'}))
    moved = []
    for number, size in enumerate([(768, 576)] * 3 + [(848, 480)] * 3 + [(240, 180)] * 2):
        luma = scene(size=size)
        moved.append(pipeline.fuse(_pair(luma, thermal_of(luma, 15 if number < 3 else 0),
                                         S + number * S // 15)).trim_px)

    assert moved[2] == pytest.approx((-15, 0), abs=2)
    assert moved[3:] == [(0, 0)] * 5


def test_new_calibration_begins_anew():
    """What a calibration makes up for is not moved a second time."""
    luma = scene()
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'}))
    pairs = [_pair(luma, thermal_of(luma, 12), S + number * S // 15) for number in range(12)]
    before = [pipeline.fuse(pair).trim_px for pair in pairs[:6]][-1]

    pipeline.aligner.set_camera(RGB, None)  # nothing changes
    kept = pipeline.fuse(pairs[6]).trim_px
    pipeline.update(with_changes(pipeline.settings, {'alignment.output_grid': 'thermal'}))
    anew = pipeline._preparation._auto_trim
    after = pipeline.fuse(pairs[7]).trim_px

    assert kept == before == after == pytest.approx((-12, 0), abs=2)
    assert pipeline._preparation._auto_trim is not anew


@pytest.mark.parametrize('changes, expected', [
    ({}, (-10, 0)), ({'alignment.auto_trim': False}, (0, 0)),
    ({'alignment.trim_x_px': 4.0}, (0, 0)),
    ({'alignment.output_grid': 'thermal'}, (-10, 0)),
], ids=['default', 'off', 'by hand', 'grid of thermal'])
def test_pipeline_says_trim(changes, expected):
    """A fused pair says by how much thermal was moved, which it is not beside a trim by hand."""
    luma = scene()
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical', **changes}))

    result = pipeline.fuse(_pair(luma, thermal_of(luma, 10)))

    assert result.trim_px == pytest.approx(expected, abs=2)
    assert result.images.seen.all() == (result.trim_px == (0, 0) and 'alignment.trim_x_px'
                                        not in changes)


def test_shifted_pair_fuses_alike():
    """A pair whose thermal lies beside RGB gives nearly the image of the aligned pair."""
    luma = scene()
    aligned, shifted, left = (
        FusionPipeline(with_changes(DEFAULTS, {'model': 'classical', 'alignment.auto_trim': on})
                       ).fuse(_pair(luma, thermal_of(luma, right))).pixels.astype(int)
        for right, on in ((0, True), (10, True), (10, False)))

    inner = np.s_[30:-30, 30:-30]
    error, without = (np.abs(image - aligned)[inner].mean() for image in (shifted, left))

    assert error < 0.4 * without
