# SPDX-License-Identifier: Apache-2.0
"""Detection of blind cameras on single pairs."""

import numpy as np
import pytest
from blind_scenes import SIZE, night_with_lamps, noisy, pair, rgb_scene, smoke, thermal_scene

from diffmf_ros.core.alignment.geometry import Alignment
from diffmf_ros.core.alignment.warp import resized_mapping
from diffmf_ros.core.checks.sight_monitor import Sight, rgb_sight, thermal_sight, veiled_share
from diffmf_ros.core.checks.thumbnails import reduced, thumbnails
from diffmf_ros.core.imaging.thermal import levels_of
from diffmf_ros.core.settings import ThermalSettings

LEVELS = [0, 1, 64, 128, 192, 254, 255]
SHAPE = SIZE[::-1]


def views_of(rgb, thermal, encoding='mono8', mapping=None):
    both = pair(rgb, thermal, encoding=encoding)
    mapping = mapping or resized_mapping(rgb_size=both.rgb.size, thermal_size=both.thermal.size)
    return thumbnails(both, levels_of(thermal, encoding, ThermalSettings()), mapping)


def judged(rgb, thermal, encoding='mono8', mapping=None):
    images = views_of(rgb, thermal, encoding, mapping)
    return rgb_sight(images), thermal_sight(images)


def test_a_street_is_clear():
    assert judged(rgb_scene(), thermal_scene()) == (Sight.CLEAR, Sight.CLEAR)


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('deviation', [0, 1, 4, 10])
@pytest.mark.parametrize('shape', [(48, 64), (120, 160), (256, 320), SHAPE])
def test_thermal_of_one_level_is_flat_with_any_usual_noise(level, deviation, shape):
    assert judged(rgb_scene(), noisy(level, deviation, shape))[1] is Sight.FLAT


@pytest.mark.parametrize('deviation', [0, 3, 8, 30])
@pytest.mark.parametrize('shape', [(60, 80), (120, 160), (512, 640)])
@pytest.mark.parametrize('level, encoding, dtype', [
    (29300, 'mono16', np.uint16), (60, 'mono16', np.uint16), (29300, '32FC1', np.float32)])
def test_counts_of_a_closed_shutter_are_flat(level, encoding, dtype, deviation, shape):
    counts = noisy(level, deviation, shape, dtype=np.uint16).astype(dtype)

    assert judged(rgb_scene(), counts, encoding)[1] is Sight.FLAT


def test_a_lens_cap_above_rows_of_telemetry_is_flat():
    counts = noisy(29300, 5, (122, 160), dtype=np.uint16)
    counts[-2:] = np.random.default_rng(1).integers(0, 65536, (2, 160))

    assert judged(rgb_scene(), counts, 'mono16')[1] is Sight.FLAT


def test_a_lens_cap_with_a_few_defective_pixels_is_flat():
    image = noisy(100, 2, SHAPE)
    for y, x in ((50, 60), (200, 333), (400, 500)):
        image[y, x] = 255

    assert judged(rgb_scene(), image)[1] is Sight.FLAT


@pytest.mark.parametrize('shape', [(60, 80), (120, 160), SHAPE])
def test_a_lens_cap_with_shading_is_flat(shape):
    y, x = np.mgrid[-1:1:shape[0] * 1j, -1:1:shape[1] * 1j]
    shaded = noisy(120, 3, shape) - 15 * (x * x + y * y) + 4 * x

    assert judged(rgb_scene(), shaded.round().astype(np.uint8))[1] is Sight.FLAT


@pytest.mark.parametrize('shape', [(60, 80), (120, 160), SHAPE])
def test_a_lens_cap_with_the_stripes_of_its_columns_and_rows_is_flat(shape):
    rng = np.random.default_rng(4)
    striped = noisy(120, 3, shape) + rng.normal(0, 5, shape[1]) + rng.normal(0, 3, (shape[0], 1))

    assert judged(rgb_scene(), striped.round().astype(np.uint8))[1] is Sight.FLAT


def test_a_slope_over_the_whole_range_is_no_shading():
    slope = np.tile(np.linspace(0, 255, SIZE[0]).astype(np.uint8), (SIZE[1], 1))

    assert judged(rgb_scene(), slope)[1] is Sight.CLEAR


@pytest.mark.parametrize('contrast', [12, 20, 40])
def test_faint_structure_is_not_flat(contrast):
    calm = 90 + contrast * (thermal_scene(warmth=0) - 45.0) / 50

    assert judged(rgb_scene(), calm.round().astype(np.uint8))[1] is Sight.CLEAR


@pytest.mark.parametrize('size', [(8, 20), (12, 30), (40, 100)])
def test_a_single_person_before_flat_ground_is_not_flat(size):
    counts = noisy(29300, 5, SHAPE, dtype=np.uint16)
    counts[200:200 + size[1], 300:300 + size[0]] += 300

    assert judged(rgb_scene(), counts, 'mono16')[1] is Sight.CLEAR


def test_a_test_picture_of_full_contrast_is_no_noise():
    picture = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)

    assert judged(rgb_scene(), picture)[1] is Sight.CLEAR


@pytest.mark.parametrize('level, deviation', [(0, 0), (0, 3), (8, 4), (20, 6), (30, 2)])
def test_black_rgb(level, deviation):
    assert judged(noisy(level, deviation, (*SHAPE, 3)), thermal_scene())[0] is Sight.BLACK


@pytest.mark.parametrize('level, deviation', [(255, 0), (252, 2), (246, 3)])
def test_white_rgb(level, deviation):
    assert judged(noisy(level, deviation, (*SHAPE, 3)), thermal_scene())[0] is Sight.WHITE


def test_a_dark_night_with_lamps_is_dark_and_not_black():
    assert judged(night_with_lamps(), thermal_scene())[0] is Sight.DARK


def test_a_dim_street_is_dark_and_not_black():
    assert judged(rgb_scene(low=2, high=25), thermal_scene())[0] is Sight.DARK


def test_a_lit_night_is_clear():
    assert judged(rgb_scene(low=5, high=70), thermal_scene())[0] is Sight.CLEAR


@pytest.mark.parametrize('left', [0.0, 0.03, 0.06])
def test_smoke_over_everything_is_a_veil(left):
    stripes = (np.indices(SHAPE).sum(0) // 16 % 2 * 60).astype(np.uint8)

    assert judged(smoke(rgb_scene(), left), thermal_scene() + stripes)[0] is Sight.VEILED


def test_thin_haze_is_no_veil():
    assert judged(smoke(rgb_scene(), 0.5), thermal_scene())[0] is Sight.CLEAR


def test_an_empty_sky_above_a_street_is_no_veil():
    rgb, thermal = rgb_scene(), thermal_scene()
    rgb[:220], thermal[:220] = 200, 15

    assert judged(rgb, thermal)[0] is Sight.CLEAR


def test_a_veil_ends_later_than_it_begins():
    stripes = (np.indices(SHAPE).sum(0) // 16 % 2 * 120).astype(np.uint8)
    rgb = rgb_scene()
    rgb[:, :280] = 190  # 4 of 10 columns of tiles

    images = views_of(rgb, stripes)

    assert 0.35 < veiled_share(images) < 0.42
    assert rgb_sight(images) is Sight.CLEAR
    assert rgb_sight(images, before=Sight.VEILED) is Sight.VEILED


@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
def test_thermal_is_compared_where_it_lies_on_the_grid(grid):
    """Smoke over the middle quarter of RGB, which is all that thermal sees, is a veil."""
    stripes = (np.indices((256, 320)).sum(0) // 16 % 2 * 120).astype(np.uint8)
    shift = (1.0, 0.0, 160.0), (0.0, 1.0, 112.0), (0.0, 0.0, 1.0)
    alignment = Alignment(shift, SIZE, (320, 256))
    mapping = alignment.mapping(rgb_size=SIZE, thermal_size=(320, 256), grid=grid)
    rgb = rgb_scene()
    rgb[112:368, 160:480] = 190

    images = views_of(rgb, stripes, mapping=mapping)

    assert veiled_share(images) >= 0.5 > 0.3 > veiled_share(views_of(rgb, stripes))
    assert rgb_sight(images) is Sight.VEILED
    covered = 1 if grid == 'thermal' else 256 * 320 / 640 / 480
    assert images.seen.mean() == pytest.approx(covered, abs=0.02)


@pytest.mark.parametrize('shape', [(1, 1), (8, 20), (31, 64)])
def test_tiny_images_are_not_judged(shape):
    rgb, thermal = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)

    assert judged(rgb, thermal) == (Sight.CLEAR, Sight.CLEAR)


@pytest.mark.parametrize('shape, expected', [
    ((480, 640, 3), (120, 160, 3)), ((512, 640), (128, 160)), ((48, 64), (24, 32)),
    ((31, 40), (31, 40)), ((101, 75), (50, 37)), ((1080, 1920), (135, 240))])
def test_thumbnails_are_averages(shape, expected):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    small = reduced(image)

    assert small.shape == expected
    assert abs(small.mean() - image.mean()) < 1
