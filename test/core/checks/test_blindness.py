# SPDX-License-Identifier: Apache-2.0
"""Detection of blind cameras on single pairs."""

import numpy as np
import pytest
from blind_scenes import SIZE, night_with_lamps, noisy, pair, rgb_scene, smoke, thermal_scene

from diffmf_ros.core.alignment.geometry import Alignment
from diffmf_ros.core.alignment.warp import resized_mapping
from diffmf_ros.core.checks.sight_monitor import (
    Sight,
    is_flat,
    reduced,
    rgb_sight,
    thumbnails,
    veiled_share,
)
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
    flat = is_flat(images.thermal, images.thermal_factor)
    return rgb_sight(images), Sight.FLAT if flat else Sight.CLEAR


def test_a_street_is_clear():
    assert judged(rgb_scene(), thermal_scene()) == (Sight.CLEAR, Sight.CLEAR)


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('deviation', [0, 1, 4, 10])
@pytest.mark.parametrize('shape', [(48, 64), (120, 160), (256, 320), SHAPE])
def test_uniform_thermal_with_noise_is_flat(level, deviation, shape):
    """Thermal of one level is flat with any usual noise."""
    assert judged(rgb_scene(), noisy(level, deviation, shape))[1] is Sight.FLAT


@pytest.mark.parametrize('deviation', [0, 3, 8, 30])
@pytest.mark.parametrize('shape', [(60, 80), (120, 160), (512, 640)])
@pytest.mark.parametrize('level, encoding, dtype', [
    (29300, 'mono16', np.uint16), (60, 'mono16', np.uint16), (29300, '32FC1', np.float32)])
def test_closed_shutter_is_flat(level, encoding, dtype, deviation, shape):
    """Counts of a closed shutter are flat."""
    counts = noisy(level, deviation, shape, dtype=np.uint16).astype(dtype)

    assert judged(rgb_scene(), counts, encoding)[1] is Sight.FLAT


def test_capped_lens_with_telemetry_is_flat():
    """A lens cap above rows of telemetry is flat."""
    counts = noisy(29300, 5, (122, 160), dtype=np.uint16)
    counts[-2:] = np.random.default_rng(1).integers(0, 65536, (2, 160))

    assert judged(rgb_scene(), counts, 'mono16')[1] is Sight.FLAT


def test_capped_lens_with_defects_is_flat():
    """A lens cap with a few defective pixels is flat."""
    image = noisy(100, 2, SHAPE)
    for y, x in ((50, 60), (200, 333), (400, 500)):
        image[y, x] = 255

    assert judged(rgb_scene(), image)[1] is Sight.FLAT


@pytest.mark.parametrize('shape', [(60, 80), (120, 160), SHAPE])
def test_capped_lens_with_shading_is_flat(shape):
    """A lens cap with shading is flat."""
    y, x = np.mgrid[-1:1:shape[0] * 1j, -1:1:shape[1] * 1j]
    shaded = noisy(120, 3, shape) - 15 * (x * x + y * y) + 4 * x

    assert judged(rgb_scene(), shaded.round().astype(np.uint8))[1] is Sight.FLAT


@pytest.mark.parametrize('shape', [(60, 80), (120, 160), SHAPE])
def test_capped_lens_with_stripes_is_flat(shape):
    """A lens cap with the stripes of its columns and rows is flat."""
    rng = np.random.default_rng(4)
    striped = noisy(120, 3, shape) + rng.normal(0, 5, shape[1]) + rng.normal(0, 3, (shape[0], 1))

    assert judged(rgb_scene(), striped.round().astype(np.uint8))[1] is Sight.FLAT


def test_full_range_slope_is_scene():
    """A slope over the whole range is no shading."""
    slope = np.tile(np.linspace(0, 255, SIZE[0]).astype(np.uint8), (SIZE[1], 1))

    assert judged(rgb_scene(), slope)[1] is Sight.CLEAR


@pytest.mark.parametrize('contrast', [12, 20, 40])
def test_faint_structure_is_not_flat(contrast):
    calm = 90 + contrast * (thermal_scene(warmth=0) - 45.0) / 50

    assert judged(rgb_scene(), calm.round().astype(np.uint8))[1] is Sight.CLEAR


@pytest.mark.parametrize('size', [(8, 20), (12, 30), (40, 100)])
def test_single_person_is_not_flat(size):
    """A single person before flat ground is not flat."""
    counts = noisy(29300, 5, SHAPE, dtype=np.uint16)
    counts[200:200 + size[1], 300:300 + size[0]] += 300

    assert judged(rgb_scene(), counts, 'mono16')[1] is Sight.CLEAR


def test_test_picture_is_not_noise():
    """A test picture of full contrast is no noise."""
    picture = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)

    assert judged(rgb_scene(), picture)[1] is Sight.CLEAR


@pytest.mark.parametrize('level, deviation', [(0, 0), (0, 3), (8, 4), (20, 6), (30, 2)])
def test_black_rgb_is_found(level, deviation):
    assert judged(noisy(level, deviation, (*SHAPE, 3)), thermal_scene())[0] is Sight.BLACK


@pytest.mark.parametrize('level, deviation', [(255, 0), (252, 2), (246, 3)])
def test_white_rgb_is_found(level, deviation):
    assert judged(noisy(level, deviation, (*SHAPE, 3)), thermal_scene())[0] is Sight.WHITE


def test_night_with_lamps_is_dark():
    """A dark night with lamps is dark and not black."""
    assert judged(night_with_lamps(), thermal_scene())[0] is Sight.DARK


def test_dim_street_is_dark():
    """A dim street is dark and not black."""
    assert judged(rgb_scene(low=2, high=25), thermal_scene())[0] is Sight.DARK


def test_a_lit_night_is_clear():
    assert judged(rgb_scene(low=5, high=70), thermal_scene())[0] is Sight.CLEAR


@pytest.mark.parametrize('left', [0.0, 0.03, 0.06])
def test_smoke_over_everything_is_a_veil(left):
    stripes = (np.indices(SHAPE).sum(0) // 16 % 2 * 60).astype(np.uint8)

    assert judged(smoke(rgb_scene(), left), thermal_scene() + stripes)[0] is Sight.VEILED


def test_thin_haze_is_no_veil():
    assert judged(smoke(rgb_scene(), 0.5), thermal_scene())[0] is Sight.CLEAR


def test_empty_sky_is_no_veil():
    """An empty sky above a street is no veil."""
    rgb, thermal = rgb_scene(), thermal_scene()
    rgb[:220], thermal[:220] = 200, 15

    assert judged(rgb, thermal)[0] is Sight.CLEAR


def test_veil_has_hysteresis():
    """A veil ends later than it begins."""
    stripes = (np.indices(SHAPE).sum(0) // 16 % 2 * 120).astype(np.uint8)
    rgb = rgb_scene()
    rgb[:, :280] = 190  # 4 of 10 columns of tiles

    images = views_of(rgb, stripes)

    assert 0.35 < veiled_share(images) < 0.42
    assert rgb_sight(images) is Sight.CLEAR
    assert rgb_sight(images, before=Sight.VEILED) is Sight.VEILED


@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
def test_thermal_compared_on_its_area(grid):
    """Thermal is compared where it lies on the grid.

    Smoke over the middle quarter of RGB, which is all that thermal sees, is a veil.
    """
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
