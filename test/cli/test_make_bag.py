# SPDX-License-Identifier: Apache-2.0
"""A folder of image pairs becomes a bag; what is missing or broken is named."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffmf_ros.cli.make_bag import make_bag
from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.io.bag_messages import frames
from diffmf_ros.io.bags import START_NS, BagError, BagReader
from diffmf_ros.io.folders import FolderError, read_folder, write_bag

SEQUENCES = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'sequence'


def visible(k):
    return np.random.default_rng(k).integers(0, 255, (12, 16, 3), np.uint8)


def infrared(k, dtype=np.uint8):
    return np.random.default_rng(100 + k).integers(0, np.iinfo(dtype).max, (6, 8), dtype)


@pytest.fixture
def folder(tmp_path):
    """Three pairs of different sizes: a.png, b.png, c.png, 10 frames a second."""
    for name in ('vi', 'ir'):
        (tmp_path / 'clip' / name).mkdir(parents=True)
    for k, stem in enumerate('abc'):
        cv2.imwrite(str(tmp_path / 'clip' / 'vi' / f'{stem}.png'), visible(k))
        cv2.imwrite(str(tmp_path / 'clip' / 'ir' / f'{stem}.png'), infrared(k))
    (tmp_path / 'clip' / 'sequence.json').write_text(json.dumps({'fps': 10}))
    return tmp_path / 'clip'


def decoded(path):
    with BagReader(path) as bag:
        return list(frames(bag, '/rgb/image_raw', '/thermal/image_raw'))


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_pairs_become_frames_with_equal_stamps(folder, tmp_path, storage):
    make_bag(folder, tmp_path / 'bag', rate=None, storage=storage, overwrite=False)

    got = decoded(tmp_path / 'bag')
    rgb = [frame for frame in got if frame.stream == RGB]
    thermal = [frame for frame in got if frame.stream == THERMAL]
    assert [frame.stamp_ns - START_NS for frame in rgb] == [0, 100_000_000, 200_000_000]
    assert [frame.stamp_ns for frame in thermal] == [frame.stamp_ns for frame in rgb]
    for k in range(3):
        assert (rgb[k].encoding, thermal[k].encoding) == ('bgr8', 'mono8')
        np.testing.assert_array_equal(rgb[k].pixels, visible(k))
        np.testing.assert_array_equal(thermal[k].pixels, infrared(k))
    with BagReader(tmp_path / 'bag') as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {
            '/rgb/image_raw': 3, '/rgb/camera_info': 3, '/thermal/image_raw': 3,
            '/thermal/camera_info': 3}


def test_sixteen_bit_infrared_stays_sixteen_bit(folder, tmp_path):
    for k, stem in enumerate('abc'):
        cv2.imwrite(str(folder / 'ir' / f'{stem}.png'), infrared(k, np.uint16))

    list(write_bag(read_folder(folder), tmp_path / 'bag'))

    thermal = [frame for frame in decoded(tmp_path / 'bag') if frame.stream == THERMAL]
    assert thermal[1].encoding == 'mono16'
    np.testing.assert_array_equal(thermal[1].pixels, infrared(1, np.uint16))


def test_times_from_rate_stamps_or_fps(folder):
    """Times come from the rate then the stamps then FPS."""
    def times(**options):
        return [pair.time_ns for pair in read_folder(folder, **options)]

    assert times() == [0, 100_000_000, 200_000_000]
    (folder / 'sequence.json').write_text(json.dumps({'fps': 10, 'timestamps_ns': [5, 70, 900]}))
    assert times() == [5, 70, 900]
    assert times(rate_hz=30.0) == [0, 33333333, 66666667]


def test_frames_without_a_partner_are_named(folder):
    (folder / 'ir' / 'b.png').unlink()
    with pytest.raises(FolderError, match='1 frames have no partner in .*ir: b'):
        read_folder(folder)

    cv2.imwrite(str(folder / 'ir' / 'b.png'), infrared(1))
    cv2.imwrite(str(folder / 'ir' / 'z.jpg'), infrared(1))
    with pytest.raises(FolderError, match='1 frames have no partner in .*vi: z'):
        read_folder(folder)


def test_unreadable_file_leaves_no_bag(folder, tmp_path):
    """Unreadable file is named and leaves no bag."""
    (folder / 'vi' / 'b.png').write_bytes(b'no picture')

    with pytest.raises(FolderError, match=r'vi/b\.png cannot be read as an image'):
        list(write_bag(read_folder(folder), tmp_path / 'bag'))

    assert [item.name for item in tmp_path.iterdir()] == ['clip']


def test_missing_folders_and_empty_folders(tmp_path):
    with pytest.raises(FolderError, match='expected the folders vi and ir'):
        read_folder(tmp_path)
    (tmp_path / 'vi').mkdir()
    (tmp_path / 'vi' / 'notes.txt').write_text('')
    with pytest.raises(FolderError, match='holds no .jpg'):
        read_folder(tmp_path)


def test_two_files_of_one_stem(folder):
    cv2.imwrite(str(folder / 'vi' / 'a.jpg'), visible(0))

    with pytest.raises(FolderError, match='share one stem'):
        read_folder(folder)


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'say how many frames a second there are: --rate'),
    ('{', 'expected timestamps_ns'),
    ('[]', 'expected timestamps_ns'),
    ('{}', 'expected timestamps_ns'),
    ('{"timestamps_ns": [0, 1]}', 'has 2 timestamps_ns for 3 frames'),
    ('{"timestamps_ns": [0, 2, 2]}', 'must rise'),
    ('{"timestamps_ns": [-1, 2, 3]}', 'must not be negative'),
    ('{"fps": 0}', 'the rate must lie above 0'),
])
def test_times_that_are_missing_or_wrong(folder, content, message):
    (folder / 'sequence.json').unlink()
    if content is not None:
        (folder / 'sequence.json').write_text(content)

    with pytest.raises(FolderError, match=message):
        read_folder(folder)


def test_existing_bag_is_refused(folder, tmp_path):
    list(write_bag(read_folder(folder), tmp_path / 'bag'))

    with pytest.raises(BagError, match='exists already'):
        list(write_bag(read_folder(folder), tmp_path / 'bag'))


@pytest.mark.skipif(not SEQUENCES.is_dir(), reason='the real sequences of ../shared are not here')
def test_real_sequence_becomes_bag(tmp_path):
    list(write_bag(read_folder(SEQUENCES / 'road_0111_1753'), tmp_path / 'bag'))

    got = decoded(tmp_path / 'bag')
    assert len(got) == 40
    assert {frame.size for frame in got} == {(640, 480)}
    assert got[-1].stamp_ns - START_NS == 633333333
