# SPDX-License-Identifier: Apache-2.0
"""Ranges that do not fit, 8-bit thermal that is hardly used, and cameras that see nothing in
common are said."""

import numpy as np
import pytest

from diffmf_ros.core.alignment.homography import Alignment
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

RANDOM = np.random.default_rng(4)
RGB_PIXELS = RANDOM.integers(40, 200, (96, 128, 3), np.uint8)
# Bodies of 280 to 310 K, side by side.
KELVIN = np.kron(RANDOM.uniform(280, 310, (6, 8)),
                 np.ones((16, 16))) + RANDOM.normal(0, 0.1, (96, 128))


def codes(thermal, **changes):
    """Return the codes of the issues of a pair with this thermal image."""
    encoding = {'uint8': 'mono8', 'uint16': 'mono16', 'float32': '32FC1'}[thermal.dtype.name]
    settings = {'model': 'classical'} | {name.replace('__', '.'): value for name,
                                         value in changes.items()}
    pair = Pair(Frame(RGB, 1, 'rgb', RGB_PIXELS, 'rgb8'),
                Frame(THERMAL, 1, 'lwir', thermal, encoding), 0)
    result = FusionPipeline(with_changes(DEFAULTS, settings)).fuse(pair)
    assert all(issue.text in result.warnings for issue in result.issues)
    return {issue.code for issue in result.issues}


UNITS = {  # counts of KELVIN, and the settings that say so
    'centikelvin': (KELVIN * 100, {'thermal__radiometric_unit': 'centikelvin'}),
    'decikelvin': (KELVIN * 10, {'thermal__radiometric_unit': 'decikelvin'}),
    '1/64 K': (KELVIN * 64,
               {'thermal__radiometric_unit': 'custom', 'thermal__kelvin_per_count': 1 / 64}),
    'tenths of a degree above -100': ((KELVIN - 173.15) * 10, {
        'thermal__radiometric_unit': 'custom', 'thermal__kelvin_per_count': 0.1,
        'thermal__kelvin_at_zero': 173.15}),
}


@pytest.mark.parametrize('unit', UNITS)
def test_range_in_camera_unit_fits(unit):
    """A range in the unit of the camera fits."""
    counts, settings = UNITS[unit]
    assert codes(counts.astype(np.uint16), thermal__gain_control='radiometric',
                 **settings) == set()


def test_celsius_in_floats_fits():
    assert codes((KELVIN - 273.15).astype(np.float32), thermal__gain_control='radiometric',
                 thermal__radiometric_unit='celsius') == set()


@pytest.mark.parametrize('counts, settings', [
    ((KELVIN * 64).astype(np.uint16), {'thermal__gain_control': 'radiometric',
                                       'thermal__radiometric_unit': 'centikelvin'}),
    ((KELVIN - 273.15).astype(np.float32), {'thermal__gain_control': 'radiometric',
                                            'thermal__radiometric_unit': 'kelvin'}),
    ((KELVIN * 100).astype(np.uint16),
     {'thermal__gain_control': 'linear', 'thermal__linear_high': 20_000.0}),
])
def test_mismatched_range_is_doubted(counts, settings):
    """A range that fits nothing is reported."""
    assert 'thermal_range' in codes(counts, **settings)


@pytest.mark.parametrize('per_kelvin, said', [(10, True), (100, False)])
def test_too_wide_range_is_doubted(per_kelvin, said):
    """A range in which nothing is left to see is reported beside that; one that is coarse is not.
    """
    found = codes((per_kelvin * KELVIN).astype(np.uint16), thermal__gain_control='linear')
    assert ('wide_range' in found) is ('thermal_flat' in found) is said


@pytest.mark.parametrize('span, said', [(16, True), (60, False)])
def test_narrow_8_bit_range_is_doubted(span, said):
    """8-bit thermal that uses a sliver of its range is reported."""
    thermal = (100 + span * (KELVIN - 280) / 30).astype(np.uint8)
    assert ('thermal_sliver' in codes(thermal)) is said


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('rows, said', [(10, True), (4, False)])
def test_invalid_thermal_pixels_are_doubted(value, rows, said):
    """A tenth of the rows without a number is reported, a twenty-fifth not."""
    thermal = KELVIN.astype(np.float32)
    thermal[:96 * rows // 100] = value
    assert ('thermal_invalid' in codes(thermal)) is said


@pytest.mark.parametrize('gain_control', ['linear', 'radiometric'])
def test_gain_control_of_8_bits_is_doubted(gain_control):
    """A range for more bits than thermal has is reported."""
    unit = {'thermal__radiometric_unit': 'kelvin', 'thermal__gain_control': gain_control}
    assert codes((KELVIN - 180).astype(np.uint8), **unit) == {'idle_gain_control'}
    assert 'idle_gain_control' not in codes((KELVIN * 100).astype(np.uint16), **unit)


@pytest.mark.parametrize('side, said', [(1, True), (3, True), (4, False)])
def test_too_small_thermal_is_doubted(side, said):
    """An image that is too small to be judged is reported, unless nothing is to be judged."""
    thermal = (KELVIN[:side, :side] * 100).astype(np.uint16)
    assert ('thermal_small' in codes(thermal)) is said
    assert 'thermal_small' not in codes(thermal, health__detect_blind=False)


@pytest.mark.parametrize('matrix, said', [
    (((1.0, 0.0, 5000.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), True),
    (((0.2, 0.0, 50.0), (0.0, 0.2, 40.0), (0.0, 0.0, 1.0)), True),
    (((0.5, 0.0, 30.0), (0.0, 0.5, 25.0), (0.0, 0.0, 1.0)), False),
])
def test_little_in_common_is_doubted(tmp_path, matrix, said):
    """Cameras that see little in common are reported."""
    path = tmp_path / 'a.yaml'
    Alignment(matrix, (128, 96), (128, 96)).save(path)
    assert ('little_overlap' in codes((KELVIN * 100).astype(np.uint16),
                                      alignment__file=str(path))) is said
