# SPDX-License-Identifier: Apache-2.0
"""Aligned pairs of the synthetic drive for evaluation: files, boxes, and who is left out of them.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffmf_ros.cli.sample_pairs import sample_pairs
from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.io.folders import pair_files
from diffmf_ros.io.writing import WriteError
from diffmf_ros.tools.synthetic.cameras import DriveError
from diffmf_ros.tools.synthetic.drive import ActorTruth, Drive, DriveSettings
from diffmf_ros.tools.synthetic.record import alignment_of, boxes_of, instants


def actor(kind='person', height=60, visible=500, silhouette=600):
    return ActorTruth(1, kind, (10, 20, 30, 20 + height), visible, silhouette, 12.0, 25.0)


@pytest.mark.parametrize(('found', 'expected'), [
    (actor(), 'people'),
    (actor('cyclist'), 'people'),
    (actor(height=45), 'people'),
    (actor(height=44), 'ignore'),
    (actor(visible=300), 'people'),
    (actor(visible=299), 'ignore'),
    (actor('car'), None),
])
def test_people_count_by_height_and_visibility(found, expected):
    """People count when they are tall enough and half visible."""
    boxes = boxes_of((found,))

    wanted = {'people': [], 'ignore': []} | ({expected: [found.box_px]} if expected else {})
    assert boxes == wanted


@pytest.mark.parametrize(('rate', 'count', 'expected'), [
    (9, 3, [(0, 0), (10, 3), (20, 6)]),
    (30, 4, [(0, 0), (7, 7), (15, 15), (22, 22)]),
])
def test_instants_are_evenly_spaced(rate, count, expected):
    """Instants are spaced evenly and exposed together."""
    drive = Drive(DriveSettings(seconds=1.0, thermal_rate_hz=rate))

    got = instants(drive, count)

    assert got == expected
    assert all(drive.rig.rgb.exposure_ns(a) == drive.rig.thermal.exposure_ns(b) for a, b in got)


@pytest.mark.parametrize('count', [0, 4])
def test_too_many_pairs_are_refused(count):
    """More pairs than the drive has are refused."""
    drive = Drive(DriveSettings(seconds=1.0))

    with pytest.raises(DriveError, match=f'expected 1 to 3 pairs of a drive of 1 s, got {count}'):
        instants(drive, count)


@pytest.mark.slow
def test_sample_pairs_show_the_drive(tmp_path):
    """Sample pairs writes what the drive shows."""
    sample_pairs(tmp_path, scene=['night', 'smoke'], count=2, seconds=1.0, seed=3)

    files = pair_files(tmp_path)
    boxes = json.loads((tmp_path / 'boxes.json').read_text())
    assert [vi.relative_to(tmp_path).as_posix() for vi, _ in files] == [
        f'{scene}/vi/{scene}_3_{index}.png' for scene in ('night', 'smoke')
        for index in ('0000', '0015')]
    assert [ir.stem for _, ir in files] == list(boxes)
    drive = Drive(DriveSettings(scene='smoke', seed=3, seconds=1.0, thermal_rate_hz=30))
    vi, ir = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files[3])
    np.testing.assert_array_equal(vi[:, :, ::-1], drive.frame(RGB, 15).frame.pixels)
    warped, _ = alignment_of(drive).warp(drive.frame(THERMAL, 15).frame.pixels,
                                         rgb_size=(640, 480))
    np.testing.assert_array_equal(ir, warped)
    truth = drive.truth(5 * 10**8)
    everybody = sorted(list(a.box_px) for a in truth.actors if a.kind != 'car')
    found = boxes['smoke_3_0015']
    assert sorted(found['people'] + found['ignore']) == everybody
    assert len(found['people']) >= 2


@pytest.mark.slow
@pytest.mark.parametrize('name', ['night/vi/mine.png', 'night/ir/night_0_0007.png',
                                  'smoke/vi/smoke_0_0000.png'])
def test_other_pictures_never_mixed(tmp_path, name):
    """A folder with pictures that are none of this run, which its boxes tell nothing of."""
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text('dear')

    with pytest.raises(WriteError, match=f'has 1 other images, such as .*{name}'):
        sample_pairs(tmp_path, scene=['night'], count=1, seconds=1.0, overwrite=True)

    assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == [Path(name).name]


def test_silhouette_counts_what_occludes():
    """Silhouette counts what stands before an actor."""
    drive = Drive(DriveSettings(scene='smoke'))

    # The walker on the right goes behind the parked car and comes out again.
    shares = [
        next((a.visible_px / a.silhouette_px for a in drive.truth(t * 10**9).actors
              if a.label == 5), 0.0) for t in (0, 4)]

    assert shares[0] < 0.3
    assert 0.95 < shares[1] <= 1.0
