# SPDX-License-Identifier: Apache-2.0
"""Gain control of images with parts that are no scene, with hot spots, and of flat scenes."""

from dataclasses import replace

import numpy as np
import pytest

from diffmf_ros.core.frames import THERMAL, Frame
from diffmf_ros.core.imaging.gray_range import (
    foreign_rows,
    gray_range,
    percentiles,
    quiet_noise,
    without_foreign_borders,
)
from diffmf_ros.core.imaging.thermal import GainControl, levels_of, to_gray
from diffmf_ros.core.settings import ThermalSettings

SETTINGS = ThermalSettings()
CENTIKELVIN = 100


def scene(shape=(120, 160), seed=0):
    """Centikelvin: ground of 288 to 294 K with noise of 50 mK, a person of 305 K on 3 % of it."""
    rng = np.random.default_rng(seed)
    counts = 28800 + 600 * np.linspace(0, 1, shape[1])[None] + rng.normal(0, 5, shape)
    counts[person(shape)] = 30500 + rng.normal(0, 5, counts[person(shape)].shape)
    return counts.round().astype(np.uint16)


def person(shape):
    """The part of the image that the person covers."""
    height, width = shape
    return np.s_[height // 3:height // 3 + height // 4, width // 2:width // 2 + width // 8]


def beside(shape):
    """A part of the ground as warm as that around the person."""
    height, width = shape
    return np.s_[height // 3:height // 3 + height // 4, width // 2 - width // 8:width // 2 - 4]


def gray_of(values, encoding='mono16', settings=SETTINGS):
    return to_gray(values, encoding, levels_of(values, encoding, settings)).astype(int)


def with_rows(values, *rows):
    return np.vstack((values, *[np.full((1, values.shape[1]), row, values.dtype) for row in rows]))


def telemetry(values, count=2, seed=1):
    """The scene with rows of counters, serial numbers and flags at its end."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 65536, (count, values.shape[1]), dtype=np.uint16)
    numbers[:, values.shape[1] // 2:] = 0
    return np.vstack((values, numbers))


def with_patch(values, value):
    spoiled = values.copy()
    spoiled[20:30, 30:42] = value
    return spoiled


def masked(values, value=0, share=0.2):
    """The scene with black corners, as a round aperture or a registration leaves them."""
    y, x = np.mgrid[-1:1:values.shape[0] * 1j, -1:1:values.shape[1] * 1j]
    radius = np.hypot(x, y)
    return np.where(radius > np.quantile(radius, 1 - share), value, values).astype(values.dtype)


NO_SCENE = {
    '160x120, 1 row of 0': ((120, 160), lambda values: with_rows(values, 0)),
    '160x120, 2 rows of 0': ((120, 160), lambda values: with_rows(values, 0, 0)),
    '160x120, 2 rows of 65535': ((120, 160), lambda values: with_rows(values, 65535, 65535)),
    '160x120, a row of each': ((120, 160), lambda values: with_rows(values, 0, 65535)),
    '160x120, 2 rows of numbers': ((120, 160), telemetry),
    '80x60, 3 rows of 0': ((60, 80), lambda values: with_rows(values, 0, 0, 0)),
    '80x60, 3 rows of numbers': ((60, 80), lambda values: telemetry(values, 3)),
    '320x256, 2 rows of 0': ((256, 320), lambda values: with_rows(values, 0, 0)),
    '208x156, rows of numbers above': ((156, 206), lambda values: telemetry(values)[::-1]),
    '208x156, 2 columns of numbers': ((206, 156), lambda values: telemetry(values).T),
    'dead patch of 0': ((120, 160), lambda values: with_patch(values, 0)),
    'dead patch of 65535': ((120, 160), lambda values: with_patch(values, 65535)),
    'masked corners': ((120, 160), masked),
    'masked corners above 2 rows of numbers': (
        (120, 160), lambda values: telemetry(masked(values))),
    'a frame of 3 pixels of 0': ((120, 160), lambda values: np.pad(values, 3)),
}


@pytest.mark.parametrize('name', NO_SCENE)
def test_non_scene_values_are_ignored(name):
    """What is no scene does not change the scene."""
    shape, spoil = NO_SCENE[name]
    clean = scene(shape)
    spoiled = spoil(clean)

    expected, found = (gray_range(values, SETTINGS) for values in (clean, spoiled))

    assert np.abs(found - expected).max() <= 0.04 * (expected[2] - expected[0])


@pytest.mark.parametrize('rows', [(0, 0), (65535, 65535)])
def test_telemetry_rows_keep_brightness(rows):
    """A person above rows of telemetry is as bright as without them."""
    clean, spoiled = gray_of(scene()), gray_of(with_rows(scene(), *rows))

    assert clean[person(clean.shape)].mean() > 250 and clean[beside(clean.shape)].mean() < 100
    for part in (person, beside):
        assert abs(spoiled[part(clean.shape)].mean() - clean[part(clean.shape)].mean()) <= 4


@pytest.mark.parametrize('border', [-1e30, 1e30, -9999.0, 0.0, np.nan, -np.inf])
def test_missing_float_values_are_ignored(border):
    """Float values that mean no value do not change the scene."""
    kelvin = scene().astype(np.float32) / CENTIKELVIN
    spoiled = np.pad(kelvin, 4, constant_values=np.float32(border))
    spoiled[40:50, 20:32] = border

    gray = gray_of(spoiled, '32FC1')[4:-4, 4:-4]
    expected = gray_of(kelvin, '32FC1')

    assert abs(gray[person(gray.shape)].mean() - expected[person(gray.shape)].mean()) <= 4
    assert abs(gray[beside(gray.shape)].mean() - expected[beside(gray.shape)].mean()) <= 4


def test_levels_survive_telemetry_changes():
    """Levels survive a stream whose telemetry comes and goes."""
    control = GainControl(SETTINGS)
    frames = [telemetry(scene(seed=k), seed=k) if k % 2 else with_rows(scene(seed=k), 0, 0)
              for k in range(20)]

    levels = [control.levels(Frame(THERMAL, 10**9 + k * 33_000_000, '', values, 'mono16'))
              for k, values in enumerate(frames)]

    assert max(level.low for level in levels) - min(level.low for level in levels) < 20
    assert min(level.low for level in levels) > 28700
    assert max(level.high for level in levels) < 30700


def test_scene_borders_stay():
    """Borders that belong to the scene stay."""
    cold_sky = scene()
    cold_sky[:12] = 28500

    assert without_foreign_borders(scene()).shape == (120, 160)
    assert without_foreign_borders(cold_sky).shape == (120, 160)
    assert without_foreign_borders(telemetry(scene())).shape == (120, 160)


@pytest.mark.parametrize('turns', range(4), ids=['bottom', 'left', 'top', 'right'])
@pytest.mark.parametrize('value', [26300, 33000])
def test_border_lines_cut_at_each_side(turns, value):
    """Up to eight lines beyond the scene by half its width are cut off, at whatever side."""
    clean = np.rot90(scene(), -turns)
    ninth = clean.copy()
    ninth[-1, ::3] = value
    border = np.full((8, clean.shape[1]), value, np.uint16)

    for inside in (clean, ninth):
        kept = without_foreign_borders(np.rot90(np.vstack((inside, border)), turns))
        assert np.array_equal(kept, np.rot90(inside, turns))


def flat_with(value, share):
    """Return an image of 7000 with a patch of another value in the middle: a share of it."""
    values = np.full((100, 100), 7000, np.uint16)
    values[30:30 + round(100 * share), 20:80] = value
    return values


@pytest.mark.parametrize('value, share, low', [(0, 0.05, 7000), (0, 0.2, 0), (6500, 0.05, 6500)])
def test_flat_image_keeps_what_it_shows(value, share, low):
    """Of a flat image only few pixels of a value that means no signal are left out."""
    assert gray_range(flat_with(value, share), SETTINGS).tolist() == [low, 7000, 7000]


def test_no_signal_near_scene_is_ignored():
    """No signal is left out when it is further from the scene than this is wide."""
    values = np.tile(np.linspace(3000, 5000, 160).astype(np.uint16), (120, 1))
    values[40:60, 50:80] = 0

    assert gray_range(values, SETTINGS)[0] == pytest.approx(3000, abs=60)


def test_full_type_values_are_scene():
    """Values of the whole type are a scene."""
    whole = np.tile(np.linspace(0, 65535, 160).astype(np.uint16), (120, 1))

    assert gray_range(whole, SETTINGS).tolist() == pytest.approx([0, 32767, 65535], abs=500)


def with_hot_spot(values, share=0.009, kelvin=70):
    """The scene with a spot so much hotter on this share of its area."""
    hot = values.copy()
    side = round((share * values.size) ** 0.5)
    hot[5:5 + side, 5:5 + side] += np.uint16(CENTIKELVIN * kelvin)
    return hot


@pytest.mark.parametrize('share', [0.002, 0.006, 0.009, 0.012, 0.02])
def test_hot_spot_keeps_others_visible(share):
    """A hot spot leaves everybody else visible."""
    shape = (240, 320)
    without, hot = gray_of(scene(shape)), gray_of(with_hot_spot(scene(shape), share))

    contrast = [gray[person(shape)].mean() - gray[beside(shape)].mean() for gray in (without, hot)]

    assert hot[6, 6] == 255
    assert contrast[1] > 0.35 * contrast[0]


def test_unlimited_hot_spot_takes_range():
    """Without the limit the hot spot takes the range."""
    shape = (240, 320)
    hot = gray_of(with_hot_spot(scene(shape)), settings=replace(SETTINGS, max_tail_share=1.0))

    assert hot[person(shape)].mean() - hot[beside(shape)].mean() < 55


def test_hottest_hundredth_takes_its_share():
    """The hottest hundredth takes max_tail_share of the range, at any of its values."""
    values = np.tile(np.linspace(1000, 2000, 100), (100, 1)).astype(np.uint16)
    values[45:54, 45:55] = 10_000
    settings = replace(SETTINGS, max_tail_share=0.5, low_percentile=0.0, high_percentile=100.0)
    scene_high = gray_range(values, replace(settings, max_tail_share=1.0))[2]
    cold, hot = np.quantile(values, (0.01, 0.99), method='nearest')

    found = gray_range(values, settings)[2]

    assert scene_high == 10_000
    assert found == pytest.approx(hot + (hot - cold), rel=0.003)


def test_cold_spot_keeps_others_visible():
    """A cold spot leaves everybody else visible."""
    shape = (240, 320)
    cold = gray_of(with_hot_spot(scene(shape), kelvin=0) - np.where(
        with_hot_spot(scene(shape)) > 34000, 5000, 0).astype(np.uint16))

    assert cold[person(shape)].mean() - cold[beside(shape)].mean() > 70


@pytest.mark.parametrize('encoding, gain, offset', [('mono16', 1, 0), ('32FC1', 0.01, -273.15)])
@pytest.mark.parametrize('shape', [(60, 80), (120, 160), (512, 640)])
def test_flat_noise_is_not_stretched(encoding, gain, offset, shape):
    """Noise of a flat scene is not stretched to the full range."""
    counts = np.random.default_rng(0).normal(29300, 5, shape).round()
    values = (gain * counts + offset).astype(np.uint16 if encoding == 'mono16' else np.float32)

    gray = gray_of(values, encoding)
    stretched = gray_of(values, encoding, replace(SETTINGS, min_span_noise=0.0))

    assert 6 < gray.std() < 14 and gray.max() < 110
    assert stretched.std() > 40


def test_flat_black_hot_is_dark():
    """A flat black hot scene is dark too."""
    values = np.random.default_rng(0).normal(29300, 5, (120, 160)).round().astype(np.uint16)

    assert gray_of(values, settings=ThermalSettings(polarity='black_hot')).max() < 110


@pytest.mark.parametrize('polarity, kept', [('white_hot', 0), ('black_hot', 2)])
def test_least_span_keeps_black_end(polarity, kept):
    """What is cold stays black, and what noise lacks of a range is added at the other end."""
    values = np.random.default_rng(0).normal(29300, 5, (120, 160)).round().astype(np.uint16)
    settings = ThermalSettings(polarity=polarity)

    found = gray_range(values, settings)
    narrow = gray_range(values, replace(settings, min_span_noise=0.0))

    assert found[kept] == narrow[kept]
    assert found[2] - found[0] == pytest.approx(
        SETTINGS.min_span_noise * quiet_noise(values, narrow[0], narrow[2]))


@pytest.mark.parametrize('dtype, widened', [(np.uint16, False), (np.float32, True)])
def test_counts_of_texture_are_no_noise(dtype, widened):
    """No camera has noise of 400 counts; a float image may have it, in whatever unit."""
    values = np.random.default_rng(0).normal(20_000, 400, (120, 160)).astype(dtype)

    found = gray_range(values, SETTINGS)
    narrow = gray_range(values, replace(SETTINGS, min_span_noise=0.0))

    assert (found[2] > narrow[2] + 1000) == widened


def test_person_on_noisy_flat_ground():
    """A person on flat ground is white although there is noise."""
    values = np.random.default_rng(0).normal(29300, 5, (240, 320)).round().astype(np.uint16)
    values[100:120, 100:108] += 300  # 3 K on 0.2 % of the area

    gray = gray_of(values)

    assert gray[100:120, 100:108].min() > 200 and gray[:90].mean() < 50


@pytest.mark.parametrize('unit, gain', [('centikelvin', 1), ('kelvin', 0.01)])
def test_the_least_span_in_kelvin(unit, gain):
    settings = ThermalSettings(min_span_k=20.0, radiometric_unit=unit)
    values = (gain * scene()).astype(np.float32)

    low, _, high = gray_range(values, settings)

    assert high - low == pytest.approx(2000 * gain, rel=1e-3)
    assert gray_range(values, replace(settings, min_span_k=5.0))[2] < 30600 * gain


@pytest.mark.parametrize('deviation', [2.0, 8.0, 40.0])
def test_noise_measured_despite_scene(deviation):
    """Noise is measured in spite of the scene."""
    rng = np.random.default_rng(3)
    values = 8000 + rng.normal(0, deviation, (480, 640))
    values[:, :320] += 500 * np.sin(np.arange(320) / 3)
    values[100:200, 400:500] += 900

    measured = quiet_noise(values.round().astype(np.uint16), 0, 65535)

    assert measured == pytest.approx(deviation, rel=0.25)


def test_noiseless_image_has_zero_noise():
    """Noise of images without any is zero."""
    assert quiet_noise(np.full((120, 160), 7000, np.uint16), 0, 65535) == 0
    assert quiet_noise(np.zeros((4, 4), np.float32), -1, 1) == 0


@pytest.mark.parametrize('shape, measured', [
    ((16, 32), True), ((15, 32), False), ((16, 31), False)])
def test_noise_needs_two_patches(shape, measured):
    """Noise is measured in images of at least 16 rows and 32 columns."""
    values = np.random.default_rng(0).normal(8000, 20, shape).astype(np.float32)

    assert (quiet_noise(values, 0, 65535) > 5) == measured


@pytest.mark.parametrize('shape, rows', [((64, 160), 8), ((66, 160), 8), ((40, 160), 5),
                                         ((120, 40), 8)])
def test_border_rows_are_an_eighth(shape, rows):
    """Up to eight rows at a border may be no image, at most an eighth of them, whatever the width;
    as many in the borders of an image."""
    values = scene(shape)
    values[-rows:] = 40000

    assert foreign_rows(values) == (0, rows)
    assert without_foreign_borders(values).shape[0] == shape[0] - rows


@pytest.mark.parametrize('values', [
    np.full((64, 80), np.nan, np.float32), scene((7, 160)),
    np.where(np.arange(5)[:, None] == 0, 65000, scene((5, 160))).astype(np.uint16),
], ids=['no value', 'few rows', 'few rows, one odd'])
def test_no_rows_are_found(values):
    """Where there is no value, or less than eight rows, no row is a reference row."""
    assert foreign_rows(values) == (0, 0)
    assert without_foreign_borders(values) is values


def test_few_columns_keep_rows():
    """An image of less than eight columns keeps its borders, whatever they hold."""
    values = scene((64, 160))[:, :7].copy()
    values[-4:] = 65000

    assert without_foreign_borders(values) is values


def test_noise_of_each_patch():
    """Patches without a value, or beyond the range, say nothing of the noise of the others."""
    chance = np.random.default_rng(2)
    values = (300 + chance.normal(0, 0.05, (128, 256))).astype(np.float32)
    values[:, 128:] += chance.normal(0, 2, (128, 128)) + 40  # warmer, and a texture
    noisy = quiet_noise(values, 330, 350)
    values[:, 64:128] = np.nan

    assert quiet_noise(values, 290, 310) == pytest.approx(0.05, rel=0.2)
    assert noisy == pytest.approx(2, rel=0.2)
    assert quiet_noise(values, 400, 500) == 0


def test_rows_of_different_levels_are_no_noise():
    """Means are those of patches: a range that holds one row of patches measures it alone."""
    chance = np.random.default_rng(3)
    values = chance.normal(0, 1, (128, 256)).astype(np.float32)
    values[64:] = 100 + chance.normal(0, 5, (64, 256))

    assert quiet_noise(values, 90, 110) == pytest.approx(5, rel=0.2)
    assert quiet_noise(values, -10, 10) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize('sizes, kept', [((60, 40), 100), ((49, 51), 51)])
def test_sentinels_are_less_than_half(sizes, kept):
    """A constant at the end is a sentinel only when most values are something else."""
    sentinel, rest = sizes
    values = np.append(np.zeros(sentinel), np.linspace(28000, 29000, rest)).astype(np.uint16)

    low = gray_range(values.reshape(10, 10), replace(SETTINGS, min_span_noise=0.0))[0]

    assert (low == 0) == (kept == 100)


def test_two_sentinels_at_one_end():
    """Sentinels below one another are all left out, and those at the other end, too."""
    values = scene()
    values[20:24], values[40:44], values[60:64] = 0, 14000, 65535

    low, _, high = gray_range(values, SETTINGS)

    assert 28700 < low and high < 31500


def test_zero_least_span_in_kelvin():
    """Without a least span a nearly flat image takes its own."""
    values = (28800 + np.arange(19200) % 3).astype(np.uint16).reshape(120, 160)

    low, _, high = gray_range(values, replace(SETTINGS, min_span_noise=0.0, min_span_k=0.0))

    assert (low, high) == (28800, 28802)


@pytest.mark.parametrize('shape', [(1, 1), (1, 2), (3, 7), (60, 80)])
def test_percentiles_are_those_of_numpy(shape):
    gray = np.random.default_rng(5).normal(90, 40, shape).clip(0, 255).astype(np.uint8)
    percents = 0, 5, 33.3, 50, 99.5, 100
    for image in (gray, gray[::2, ::2]):
        assert percentiles(image, *percents) == pytest.approx(np.percentile(image, percents))
