# SPDX-License-Identifier: Apache-2.0
"""Gain control of single thermal images; test_thermal_levels.py has that of streams."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffmf_ros.core.frames import FrameError
from diffmf_ros.core.imaging.color import split_luma
from diffmf_ros.core.imaging.encodings import decode_message
from diffmf_ros.core.imaging.thermal import Levels, levels_of
from diffmf_ros.core.imaging.thermal import to_gray as stretched
from diffmf_ros.core.settings import ThermalSettings

SETTINGS = ThermalSettings()
FULL_RANGE = ThermalSettings(low_percentile=0.0, high_percentile=100.0)
BLACK_HOT = ThermalSettings(low_percentile=0.0, high_percentile=100.0, polarity='black_hot')


def to_gray(pixels, encoding, settings):
    """The image stretched by its own levels."""
    return stretched(pixels, encoding, levels_of(pixels, encoding, settings))


def scene(shape=(256, 320), seed=0):
    """Counts of a 14-bit camera: smooth ground near 7600, noise, and a hot person at 8600."""
    rng = np.random.default_rng(seed)
    ground = 7600 + 200 * np.linspace(0, 1, shape[1])[None] + rng.normal(0, 8, shape)
    ground[100:140, 60:75] = 8600
    return ground.round().astype(np.uint16)


def reference(values, settings):
    """The stretch by the percentiles of all pixels, in float64."""
    low, high = np.percentile(values, [settings.low_percentile, settings.high_percentile])
    return np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255)


def test_mono8_passes_without_a_copy():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)

    assert to_gray(pixels, 'mono8', SETTINGS) is pixels


def test_8_bit_color_becomes_its_luminance():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)

    assert np.array_equal(to_gray(pixels, 'bgr8', SETTINGS), split_luma(pixels, 'bgr8')[0])


@pytest.mark.parametrize('encoding, dtype, gain, offset', [
    ('mono16', np.uint16, 1, 0), ('32FC1', np.float32, 0.01, -60.0),
    ('32FC1', np.float32, 1e-6, 0.0)])
def test_counts_and_temperatures_use_percentiles(encoding, dtype, gain, offset):
    """Counts and temperatures are stretched by percentiles."""
    values = (scene() * gain + offset).astype(dtype)
    settings = ThermalSettings(low_percentile=2.0, high_percentile=98.0)

    gray = to_gray(values, encoding, settings)

    assert gray.dtype == np.uint8 and gray.shape == values.shape
    assert np.abs(gray - reference(values, settings)).max() <= 3.0
    assert gray.min() == 0 and gray.max() == 255


def test_hot_person_white_ground_contrast():
    """The hot person is white and the ground keeps contrast."""
    gray = to_gray(scene(), 'mono16', SETTINGS)

    assert gray[100:140, 60:75].min() == 255
    assert gray[:, -20:].mean() - gray[:, :20].mean() > 40


def test_unclipped_extremes_are_black_white():
    """Without clipping the extremes are black and white."""
    values = np.array([[7000, 7100], [7150, 7200]], np.uint16)

    assert to_gray(values, 'mono16', FULL_RANGE).tolist() == [[0, 128], [191, 255]]


def test_nonfinite_values_change_nothing_else():
    """Values that are not finite leave the rest unchanged."""
    values = scene().astype(np.float32)
    spoiled = values.copy()
    spoiled[3, 5:8] = np.nan, np.inf, -np.inf

    gray = to_gray(spoiled, '32FC1', SETTINGS)

    untouched = np.isfinite(spoiled)
    assert gray[3, 5:8].tolist() == [0, 255, 0]
    assert np.abs(gray.astype(int) - to_gray(values, '32FC1', SETTINGS))[untouched].max() <= 1


def test_a_few_finite_values_are_enough():
    values = np.full((480, 640), np.nan, np.float32)
    values[1, 1:4] = 10.0, 20.0, 30.0

    assert to_gray(values, '32FC1', FULL_RANGE)[1, :5].tolist() == [0, 0, 128, 255, 0]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_nothing_finite_is_refused(value):
    with pytest.raises(FrameError, match='4x3 thermal image of NaN and infinity'):
        to_gray(np.full((3, 4), value, np.float32), '32FC1', SETTINGS)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('encoding, value', [
    ('mono16', 0), ('mono16', 65535), ('32FC1', -12.5), ('32FC1', 0.0)])
def test_a_flat_image_becomes_black(encoding, value):
    dtype = np.uint16 if encoding == 'mono16' else np.float32

    gray = to_gray(np.full((5, 6), value, dtype), encoding, SETTINGS)

    assert gray.shape == (5, 6) and not gray.any()


def test_small_target_on_flat_ground():
    """A small target on flat ground stays visible."""
    values = np.full((480, 640), 7000, np.uint16)
    values[201, 301] = 7040

    gray = to_gray(values, 'mono16', SETTINGS)

    assert gray[201, 301] == 255 and gray.sum(dtype=int) == 255


def test_odd_row_step_is_read():
    """Rows of odd step are read right."""
    values = scene((5, 6))
    data = b''.join(row.tobytes() + b'\xee' for row in values.astype('<u2'))
    pixels, encoding = decode_message(SimpleNamespace(
        height=5, width=6, encoding='mono16', step=13, is_bigendian=False, data=data))

    assert np.array_equal(to_gray(pixels, encoding, SETTINGS), to_gray(values, 'mono16', SETTINGS))


@pytest.mark.parametrize('encoding, dtype', [('mono16', np.uint16), ('32FC1', np.float32)])
def test_black_hot_inverts_counts(encoding, dtype):
    """Black hot values give the inverted image."""
    values = scene().astype(dtype)

    gray, inverted = (to_gray(values, encoding, settings) for settings in (FULL_RANGE, BLACK_HOT))

    assert np.array_equal(inverted, 255 - gray)


def test_black_hot_inverts_8_bit():
    """An 8-bit black hot image is inverted."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)

    assert levels_of(pixels, 'bgr8', BLACK_HOT) == Levels(0.0, 255.0, black_hot=True)
    assert np.array_equal(to_gray(pixels[..., 0], 'mono8', BLACK_HOT), 255 - pixels[..., 0])
    assert np.array_equal(to_gray(pixels, 'bgr8', BLACK_HOT), 255 - split_luma(pixels, 'bgr8')[0])


def test_nan_is_cold_in_black_hot():
    """A value that is not a number is cold in black hot too."""
    values = np.array([[10, 20, 30, np.nan, np.inf, -np.inf]], np.float32)

    assert to_gray(values, '32FC1', BLACK_HOT).tolist() == [[255, 127, 0, 0, 0, 255]]


@pytest.mark.parametrize('unit, counts_per_k', [('kelvin', 1), ('centikelvin', 100)])
@pytest.mark.parametrize('encoding, dtype', [('mono16', np.uint16), ('32FC1', np.float32)])
def test_radiometric_levels_are_temperatures(unit, counts_per_k, encoding, dtype):
    """Radiometric levels are temperatures whatever the scene."""
    settings = ThermalSettings(gain_control='radiometric', radiometric_unit=unit,
                               radiometric_low_k=250.0, radiometric_high_k=352.0)
    kelvin = np.array([[200, 250, 260, 301, 352, 400]])

    gray = to_gray((counts_per_k * kelvin).astype(dtype), encoding, settings)

    # 2.5 levels per kelvin, halves to the even one
    assert gray.tolist() == [[0, 0, 25, 128, 255, 255]]


def test_linear_levels_are_counts():
    settings = ThermalSettings(gain_control='linear', linear_low=1000.0, linear_high=1510.0)

    assert to_gray(np.array([[0, 1000, 1100, 1510, 60000]], np.uint16), 'mono16',
                   settings).tolist() == [
        [0, 0, 50, 255, 255]]


@pytest.mark.parametrize('gain_control', ['agc', 'radiometric', 'linear'])
def test_gain_control_needs_finite_values(gain_control):
    """Nothing finite is refused by every gain control."""
    with pytest.raises(FrameError, match='NaN and infinity alone') as caught:
        levels_of(np.full((3, 4), np.nan, np.float32), '32FC1', ThermalSettings(
            gain_control=gain_control, radiometric_unit='centikelvin'))

    assert caught.value.reason == 'no_finite_value'


def test_count_levels_are_whole_and_distinct():
    """Levels of counts are whole below and never equal."""
    radiometric = ThermalSettings(gain_control='radiometric', radiometric_unit='centikelvin',
                                  radiometric_low_k=273.151,
                                  radiometric_high_k=273.152)

    assert levels_of(np.zeros((2, 2), np.uint16), 'mono16',
                     radiometric) == Levels(27315.0, 27316.0)
    assert levels_of(np.full((2, 2), 9, np.uint16), 'mono16', SETTINGS) == Levels(9.0, 10.0)


def test_unlimited_image_uses_its_percentiles():
    """Without a limit an image by itself has the levels of its percentiles."""
    values = scene()
    sample = values[::2, ::2]  # 20 480 pixels

    low, high = np.percentile(sample, (0.5, 99.5), method='nearest')

    assert levels_of(values, 'mono16', ThermalSettings(max_tail_share=1.0)) == Levels(low, high)
