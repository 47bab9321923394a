# SPDX-License-Identifier: Apache-2.0
"""Dead rows of thermal images: found and interpolated, and nothing else touched."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffmf_ros.core.frames import THERMAL, Frame
from diffmf_ros.core.imaging.thermal import GainControl, repaired_rows
from diffmf_ros.core.settings import ThermalSettings

DTYPES = {'mono8': np.uint8, 'mono16': np.uint16, '32FC1': np.float32}


def scene(encoding='mono16', seed=0):
    """A thermal image of 128 x 160 with structure of every size, blurred by optics, and sensor
    noise."""
    rng = np.random.default_rng(seed)
    layers = (cv2.GaussianBlur(rng.normal(0, sigma, (128, 160)), (0, 0), sigma)
              for sigma in (1.2, 4, 12))
    values = sum(layers) * 100 + 7500 + rng.normal(0, 4, (128, 160))
    if encoding == 'mono8':
        values = np.clip((values - 7100) / 4, 0, 255)
    return values.astype(DTYPES[encoding]) if encoding == '32FC1' else values.round().astype(
        DTYPES[encoding])


@pytest.mark.parametrize('encoding', DTYPES)
@pytest.mark.parametrize('first, count', [(50, 1), (50, 2), (1, 1), (125, 2)])
@pytest.mark.parametrize('fault', ['zero', 'full', 'garbage'])
def test_dead_row_is_interpolated(encoding, first, count, fault):
    """A dead row is interpolated and all others stay."""
    whole = scene(encoding)
    spoiled, rows = whole.copy(), slice(first, first + count)
    full = 255 if encoding == 'mono8' else 16383
    spoiled[rows] = {'zero': 0, 'full': full,
                     'garbage': np.random.default_rng(1).integers(0, full, (count, 160))}[fault]

    repaired = repaired_rows(spoiled)

    others = np.delete(np.arange(128), np.arange(128)[rows])
    assert np.array_equal(repaired[others], whole[others])
    between = np.linspace(whole[first - 1], whole[first + count], count + 2)[1:-1]
    assert np.abs(repaired[rows] - between).max() <= (1e-3 if encoding == '32FC1' else 0.5)
    # the input, which may be a message, is as it was
    assert spoiled[first, 0] != repaired[first, 0]


def test_a_row_of_nan_is_dead():
    whole = scene('32FC1')
    spoiled = whole.copy()
    spoiled[60] = np.nan

    repaired = repaired_rows(spoiled)

    assert np.allclose(repaired[60], (whole[59] + whole[61]) / 2)


def test_several_dead_rows_are_all_found():
    spoiled = scene()
    spoiled[[20, 40, 41, 90]] = 0

    assert repaired_rows(spoiled).min() > 6000


@pytest.mark.parametrize('name', ['mono8', 'mono16', '32FC1', 'flat', 'sky', 'gradient', 'stripes',
                                  'target', 'pipe', 'interlaced', 'telemetry', 'three_rows',
                                  'tiny'])
def test_living_rows_return_same_array(name):
    """What is not a dead row is the very same array."""
    values = scene(name if name in DTYPES else 'mono16')
    if name == 'flat':
        values[:] = 7000
    elif name == 'sky':
        values[:60] = 6000
    elif name == 'gradient':
        values[:] = np.arange(128)[:, None] * 20
    elif name == 'stripes':
        values[:] = np.where(np.arange(128) % 2, 7000, 8000)[:, None]
    elif name == 'target':
        values[:] = 7000
        values[50, 80] = 9000
    elif name == 'pipe':  # a level hot pipe one row high, as the optics show it
        values[50] += 1000
        values = cv2.GaussianBlur(values, (0, 0), 0.7)
    elif name == 'interlaced':
        values[1::2] = np.roll(values[1::2], 12, axis=1)
    elif name == 'telemetry':
        values[[0, -1]] = np.random.default_rng(1).integers(0, 65536, (2, 160))
    elif name == 'three_rows':
        values[50:53] = 0
    elif name == 'tiny':
        values = values[:3]

    assert repaired_rows(values) is values


def test_repair_changes_dead_pixels_only():
    """A frame without dead rows is the very same and one with keeps all but its pixels."""
    control = GainControl(ThermalSettings())
    frame = Frame(THERMAL, 17, 'lwir', scene(), 'mono16', arrival_ns=4)
    spoiled = replace(frame, pixels=frame.pixels.copy())
    spoiled.pixels[30] = 0
    spoiled.pixels.flags.writeable = False  # as a view of bytes is

    repaired = control.repaired(spoiled)

    assert control.repaired(frame) is frame
    assert replace(repaired, pixels=frame.pixels) == replace(spoiled, pixels=frame.pixels)
    assert np.array_equal(np.delete(repaired.pixels, 30, 0), np.delete(frame.pixels, 30, 0))


def test_repair_is_optional_skips_color():
    """Repair can be switched off and leaves color alone."""
    spoiled = scene('mono8')
    spoiled[30] = 0
    frame = Frame(THERMAL, 17, 'lwir', spoiled, 'mono8')
    color = replace(frame, pixels=np.dstack([spoiled] * 3), encoding='bgr8')

    assert GainControl(ThermalSettings(repair_rows=False)).repaired(frame) is frame
    assert GainControl(ThermalSettings()).repaired(color) is color
