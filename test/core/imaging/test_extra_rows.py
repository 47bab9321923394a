# SPDX-License-Identifier: Apache-2.0
"""Telemetry rows of thermal images are cut off.

Those of the usual sensors, and those that are named.
"""

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.camera_picture import ExtraRows
from diffmf_ros.core.settings import DEFAULTS, SettingsError, ThermalSettings, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline


def thermal(width, height, *, top=0, bottom=0, telemetry=0):
    """Return a thermal frame with rows of telemetry above and below the picture."""
    random = np.random.default_rng(height)
    picture = np.kron(random.integers(7000, 8000, (height // 4, width // 2)),
                      np.ones((4, 2))).astype(np.uint16)
    picture = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1])),
                     mode='edge')
    rows = [np.full((count, width), telemetry, np.uint16) for count in (top, bottom)]
    return Frame(THERMAL, 1, 'lwir', np.vstack((rows[0], picture, rows[1])), 'mono16'), picture


@pytest.mark.parametrize('size, top, bottom',
                         [((160, 120), 0, 2), ((80, 60), 0, 3), ((160, 120), 2, 0),
                                               ((640, 512), 1, 0), ((320, 256), 0, 2)])
@pytest.mark.parametrize('telemetry', [0, 65535])
def test_known_sensor_rows_are_cut(size, top, bottom, telemetry):
    """The rows of usual sensors are cut off."""
    frame, picture = thermal(*size, top=top, bottom=bottom, telemetry=telemetry)

    cut = ExtraRows().without(frame, ThermalSettings())

    assert cut.size == size and np.array_equal(cut.pixels, picture)
    assert ExtraRows().without(cut, ThermalSettings()) is cut


@pytest.mark.parametrize('size',
                         [(160, 120), (80, 60), (640, 512), (336, 252), (160, 130), (100, 122)])
def test_other_images_stay_as_they_are(size):
    frame, _ = thermal(*size)

    assert ExtraRows().without(frame, ThermalSettings()) is frame


def test_named_rows_are_cut_once():
    """Rows that are named are cut off once."""
    frame, picture = thermal(256, 192, bottom=192, telemetry=3)
    settings = ThermalSettings(extra_rows_top=0, extra_rows_bottom=192)

    cut = ExtraRows().without(frame, settings)

    assert np.array_equal(cut.pixels, picture) and ExtraRows().without(cut, settings) is cut
    with pytest.raises(SettingsError, match='both be -1 or both be counts'):
        ThermalSettings(extra_rows_top=2)


def test_fusion_sees_picture_alone():
    """What is fused is the picture alone."""
    frame, picture = thermal(160, 120, bottom=2)
    rgb = Frame(RGB, 1, 'rgb', np.random.default_rng(1).integers(40, 200, (120, 160, 3), np.uint8),
                'rgb8')
    settings = with_changes(DEFAULTS, {'model': 'classical'})

    results = [FusionPipeline(settings).fuse(Pair(rgb, Frame(THERMAL, 1, 'lwir', pixels, 'mono16'),
                                                  0))
               for pixels in (frame.pixels, picture)]

    assert np.array_equal(results[0].pixels, results[1].pixels)
