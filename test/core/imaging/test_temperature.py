# SPDX-License-Identifier: Apache-2.0
"""Temperatures of radiometric cameras.

Units, pixels without a measurement, and the grid of the fused image.
"""

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Pair
from diffmf_ros.core.imaging.thermal import temperatures
from diffmf_ros.core.settings import DEFAULTS, SettingsError, ThermalSettings, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

CELSIUS = np.linspace(-20, 60, 24 * 32).reshape(24, 32)
ALIGNMENT = """
rgb_from_thermal: [[1, 0, 8], [0, 1, 4], [0, 0, 1]]
rgb_size: [64, 48]
thermal_size: [32, 24]
"""


def thermal(pixels, encoding='mono16'):
    """Return a thermal frame of these pixels."""
    return Frame(THERMAL, 1, 'lwir', pixels, encoding)


@pytest.mark.parametrize('unit, counts, encoding', [
    ({'radiometric_unit': 'centikelvin'}, np.round((CELSIUS + 273.15) * 100).astype(np.uint16),
     'mono16'),
    ({'radiometric_unit': 'kelvin'}, (CELSIUS + 273.15).astype(np.float32), '32FC1'),
    ({'radiometric_unit': 'celsius'}, CELSIUS.astype(np.float32), '32FC1'),
    ({'radiometric_unit': 'custom', 'kelvin_per_count': 0.1, 'kelvin_at_zero': 173.15},
     np.round(CELSIUS * 10 + 1000).astype(np.uint16), 'mono16')])
def test_units_give_same_temperatures(unit, counts, encoding):
    found = temperatures(thermal(counts, encoding), ThermalSettings(**unit))

    assert found.dtype == np.float32
    step = unit.get('kelvin_per_count', 0.01)
    np.testing.assert_allclose(found, CELSIUS, atol=step / 2 + 1e-4)


def test_no_measurement_is_nan():
    counts = np.full((4, 4), 30000, np.uint16)
    counts[0, :2] = 0, 65535
    floats = np.full((4, 4), 300, np.float32)
    floats[0, :3] = np.nan, np.inf, -1e30

    centikelvin = temperatures(thermal(counts), ThermalSettings(radiometric_unit='centikelvin'))
    kelvin = temperatures(thermal(floats, '32FC1'), ThermalSettings(radiometric_unit='kelvin'))

    assert np.isnan(centikelvin[0, :2]).all() and np.isnan(centikelvin).sum() == 2
    assert np.isnan(kelvin[0, :3]).all() and np.isnan(kelvin).sum() == 3


@pytest.mark.parametrize('pixels, encoding, unit, words', [
    (np.zeros((4, 4), np.uint8), 'mono8', 'centikelvin', 'got mono8, which holds no temperatures'),
    (np.full((4, 4), 30000, np.uint16), 'mono16', 'unknown', 'set thermal.radiometric_unit'),
    # 14 bits of a core
    (np.full((4, 4), 8000, np.uint16), 'mono16', 'centikelvin', '-193 degrees Celsius'),
    (np.full((4, 4), 30000, np.uint16), 'mono16', 'decikelvin', '2727 degrees Celsius')])
def test_what_is_no_temperature_is_refused(pixels, encoding, unit, words):
    with pytest.raises(FrameError, match=words) as caught:
        temperatures(thermal(pixels, encoding), ThermalSettings(radiometric_unit=unit))

    assert caught.value.reason == 'not_radiometric'


def test_kelvin_range_needs_a_unit():
    """A fixed range in kelvin needs a unit."""
    for changes in ({'thermal.gain_control': 'radiometric'}, {'thermal.min_span_k': 3.0}):
        with pytest.raises(SettingsError, match='need thermal.radiometric_unit'):
            with_changes(DEFAULTS, changes)
        assert with_changes(DEFAULTS, {**changes, 'thermal.radiometric_unit': 'centikelvin'})


def test_temperatures_lie_on_fused_grid(tmp_path):
    """Temperatures lie on the grid of the fused image."""
    # given thermal that is 8 columns and 4 rows into the RGB image
    path = tmp_path / 'alignment.yaml'
    path.write_text(ALIGNMENT)
    settings = with_changes(DEFAULTS, {'model': 'classical', 'alignment.file': str(path),
                                  'thermal.radiometric_unit': 'celsius'})
    celsius = CELSIUS.astype(np.float32)
    pair = Pair(Frame(RGB, 1, 'rgb', np.full((48, 64, 3), 90, np.uint8), 'rgb8'),
                thermal(celsius, '32FC1'), 0)
    pipeline = FusionPipeline(settings)

    # when it is fused, and thermal then is alone
    result = pipeline.fuse(pair)
    found, alone = pipeline.fuse(pair).temperature(), pipeline.pass_through(
        pair.thermal).temperature()

    # then every pixel that thermal sees has its temperature, and all others none
    assert found.shape == alone.shape == result.pixels.shape[:2]
    np.testing.assert_allclose(found[4:28, 8:40], celsius, atol=1e-4)
    np.testing.assert_array_equal(found, alone)
    assert np.isfinite(found).sum() == celsius.size
    assert pipeline.pass_through(pair.rgb).temperature() is None


def test_temperatures_of_the_whole_thermal_grid(tmp_path):
    """On the thermal grid every pixel has its temperature, also where RGB does not see."""
    # given thermal that lies partly beside the RGB image
    path = tmp_path / 'alignment.yaml'
    path.write_text(ALIGNMENT)
    settings = with_changes(DEFAULTS, {'model': 'classical', 'alignment.file': str(path),
                                       'alignment.output_grid': 'thermal',
                                       'alignment.trim_x_px': -40.0,
                                       'thermal.radiometric_unit': 'celsius'})
    celsius = CELSIUS.astype(np.float32)
    pair = Pair(Frame(RGB, 1, 'rgb', np.full((48, 64, 3), 90, np.uint8), 'rgb8'),
                thermal(celsius, '32FC1'), 0)

    # when it is fused
    result = FusionPipeline(settings).fuse(pair)

    # then the temperatures are those that the camera sent
    assert not result.images.seen.all()
    np.testing.assert_allclose(result.temperature(), celsius, atol=1e-4)
