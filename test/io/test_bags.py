# SPDX-License-Identifier: Apache-2.0
"""rosbag2 without ROS: what is written comes back, and every broken bag says what is wrong with
it."""

import os

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Writer

from diffmf_ros.core.frames import RGB, THERMAL, FrameError
from diffmf_ros.io.bag_messages import camera_info_message, frames, image_message
from diffmf_ros.io.bags import CAMERA_INFO, IMAGE, BagError, BagReader, BagWriter

STORAGES = ('sqlite3', 'mcap')
RGB_TOPIC, THERMAL_TOPIC = '/rgb/image_raw', '/thermal/image_raw'


def picture(k, shape=(6, 8, 3), dtype=np.uint8):
    return np.random.default_rng(k).integers(0, np.iinfo(dtype).max, shape, dtype)


def image(k, encoding='rgb8', **kwargs):
    return image_message(picture(k, **kwargs), encoding, stamp_ns=10**9 + k, frame_id='camera')


def write(path, storage='sqlite3', count=3, **options):
    """A bag of `count` RGB frames at 0, 100, ... ns and one thermal frame in between."""
    with BagWriter(path, storage, **options) as bag:
        for k in range(count):
            bag.write(RGB_TOPIC, IMAGE, image(k), 100 * k)
        bag.write(THERMAL_TOPIC, IMAGE, image(9, 'mono16', shape=(5, 4), dtype=np.uint16), 150)
    return path


def storage_file(bag):
    return next(path for path in bag.iterdir() if path.suffix in ('.db3', '.mcap'))


@pytest.mark.parametrize('storage', STORAGES)
def test_what_is_written_comes_back(tmp_path, storage):
    path = write(tmp_path / 'bag', storage)

    with BagReader(path) as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {
            RGB_TOPIC: 3, THERMAL_TOPIC: 1}
        assert (bag.start_ns, bag.duration_ns) == (0, 200)
        recorded = list(bag.messages())
        decoded = list(frames(bag, RGB_TOPIC, THERMAL_TOPIC))

    assert [(m.topic, m.stamp_ns) for m in recorded] == [
        (RGB_TOPIC, 0), (RGB_TOPIC, 100), (THERMAL_TOPIC, 150), (RGB_TOPIC, 200)]
    assert [(f.stream, f.arrival_ns, f.stamp_ns, f.encoding) for f in decoded] == [
        (RGB, 0, 10**9, 'rgb8'), (RGB, 100, 10**9 + 1, 'rgb8'),
        (THERMAL, 150, 10**9 + 9, 'mono16'), (RGB, 200, 10**9 + 2, 'rgb8')]
    np.testing.assert_array_equal(decoded[1].pixels, picture(1))
    np.testing.assert_array_equal(decoded[2].pixels, picture(9, (5, 4), np.uint16))
    assert decoded[2].frame_id == 'camera'


@pytest.mark.parametrize('storage', STORAGES)
def test_metadata_version_8_plain_qos(tmp_path, storage):
    """Metadata is version 8 with a plain QoS string."""
    path = write(tmp_path / 'bag', storage)

    about = yaml.safe_load((path / 'metadata.yaml').read_text())['rosbag2_bagfile_information']

    assert about['version'] == 8
    assert about['storage_identifier'] == storage
    for topic in about['topics_with_message_count']:
        assert topic['topic_metadata']['offered_qos_profiles'] == ''


def test_raw_messages_are_copied_unchanged(tmp_path):
    with BagReader(write(tmp_path / 'a')) as source, BagWriter(tmp_path / 'b') as copy:
        for message in source.messages():
            copy.write(message.topic, message.msgtype, message.raw, message.stamp_ns)

    with BagReader(tmp_path / 'a') as first, BagReader(tmp_path / 'b') as second:
        assert list(first.messages()) == list(second.messages())


def test_single_storage_file_is_read(tmp_path):
    """A single storage file can be read."""
    with BagReader(storage_file(write(tmp_path / 'bag'))) as bag:
        assert len(list(bag.messages([RGB_TOPIC]))) == 3


def test_other_files_do_no_harm(tmp_path):
    """Other files in the folder do no harm."""
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(RGB_TOPIC, IMAGE, image(0), 0)
        (bag.folder / 'alignment.yaml').write_text('x: 1')

    assert (tmp_path / 'bag' / 'alignment.yaml').read_text() == 'x: 1'
    with BagReader(tmp_path / 'bag') as bag:
        assert len(list(bag.messages())) == 1


def test_missing_path_is_named(tmp_path):
    with pytest.raises(BagError, match='there is no bag at .*nowhere'), BagReader(
            tmp_path / 'nowhere'):
        pass


def test_folder_without_metadata(tmp_path):
    path = write(tmp_path / 'bag')
    (path / 'metadata.yaml').unlink()
    storage_file(path).unlink()

    with pytest.raises(BagError, match='not a finished bag: it has no metadata.yaml'), BagReader(
            path):
        pass


def test_file_of_another_kind(tmp_path):
    (tmp_path / 'film.mp4').write_bytes(b'x')

    with pytest.raises(BagError, match=r'expected a bag folder or a \.db3 or \.mcap file'), \
            BagReader(tmp_path / 'film.mp4'):
        pass


@pytest.mark.parametrize('content',
                         ['{', 'just text', 'rosbag2_bagfile_information: {version: 8}'])
def test_broken_metadata_is_refused(tmp_path, content):
    path = write(tmp_path / 'bag')
    (path / 'metadata.yaml').write_text(content)

    with pytest.raises(BagError, match='cannot read the bag'), BagReader(path):
        pass


def test_missing_storage_file(tmp_path):
    path = write(tmp_path / 'bag')
    storage_file(path).unlink()

    with pytest.raises(BagError, match='cannot read the bag .*missing'), BagReader(path):
        pass


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('keep', [0.0, 0.3, 0.8])
def test_truncated_storage_file(tmp_path, storage, keep):
    path = write(tmp_path / 'bag', storage, count=60)
    content = storage_file(path).read_bytes()
    storage_file(path).write_bytes(content[:int(len(content) * keep)])

    with pytest.raises(BagError, match='cannot read the bag|is damaged|is cut short'), BagReader(
            path) as bag:
        list(bag.messages())


def test_empty_bag_has_nothing(tmp_path):
    with Writer(tmp_path / 'bag', version=8):
        pass

    with pytest.raises(BagError, match='is empty: it declares no message'), BagReader(
            tmp_path / 'bag'):
        pass


def test_missing_topics_list_those_that_exist(tmp_path):
    with BagReader(write(tmp_path / 'bag')) as bag, pytest.raises(BagError) as caught:
        bag.require(RGB_TOPIC, '/ir/image', '/left/image')

    text = str(caught.value)
    assert 'no messages on /ir/image, /left/image' in text
    assert f'{RGB_TOPIC} ({IMAGE}, 3)' in text
    assert f'{THERMAL_TOPIC} ({IMAGE}, 1)' in text


def test_topic_of_another_type(tmp_path):
    info = camera_info_message(None, width=4, height=3, stamp_ns=0, frame_id='camera')
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(RGB_TOPIC, IMAGE, image(0), 0)
        bag.write('/rgb/camera_info', CAMERA_INFO, info, 0)

    with BagReader(tmp_path / 'bag') as bag, pytest.raises(BagError, match=f'must carry {IMAGE}'):
        list(frames(bag, RGB_TOPIC, '/rgb/camera_info'))


def test_metadata_storage_mismatch_is_error(tmp_path):
    """Metadata that disagrees with the storage is not an empty bag."""
    path = write(tmp_path / 'bag')
    text = (path / 'metadata.yaml').read_text()
    qos = ("'[{history: 1, depth: 5, reliability: 1, durability: 2, deadline: {sec: 0, nsec: 0}, "
           "lifespan: "
           "{sec: 0, nsec: 0}, liveliness: 1, liveliness_lease_duration: {sec: 0, nsec: 0}, "
           "avoid_ros_namespace_conventions: false}]'")
    assert "offered_qos_profiles: ''" in text
    edited = text.replace("offered_qos_profiles: ''", f'offered_qos_profiles: {qos}')
    (path / 'metadata.yaml').write_text(edited)

    with BagReader(path) as bag, pytest.raises(BagError,
                                               match='declares 3 messages on .* but yields 0'):
        list(bag.messages())


def test_bad_frame_is_skipped(tmp_path):
    """Bad frame is reported and the next one comes."""
    bad = image(1)
    bad.step = 5
    with BagWriter(tmp_path / 'bag') as bag:
        for k, message in enumerate((image(0), bad, image(2))):
            bag.write(RGB_TOPIC, IMAGE, message, k)
        bag.write(THERMAL_TOPIC, IMAGE, image(3), 3)

    refused = []
    with BagReader(tmp_path / 'bag') as bag:
        good = list(frames(bag, RGB_TOPIC, THERMAL_TOPIC,
                           refused=lambda stream, error: refused.append((stream, error.reason))))
        with pytest.raises(FrameError, match='step is too small'):
            list(frames(bag, RGB_TOPIC, THERMAL_TOPIC))

    assert [frame.arrival_ns for frame in good] == [0, 2, 3]
    assert refused == [(RGB, 'step_too_small')]


def test_message_whose_bytes_are_cut_off(tmp_path):
    with BagReader(write(tmp_path / 'bag')) as bag:
        raw = next(bag.messages()).raw
        with pytest.raises(BagError, match='is damaged'):
            bag.deserialize(raw[:40], IMAGE)
        with pytest.raises(BagError, match='type some_msgs/msg/Odd is not known'):
            bag.deserialize(raw, 'some_msgs/msg/Odd')


def test_existing_path_is_refused(tmp_path):
    path = write(tmp_path / 'bag')

    with pytest.raises(BagError, match='exists already'):
        write(path, count=1)

    with BagReader(path) as bag:
        assert bag.topics[RGB_TOPIC].count == 3


def test_overwrite_replaces_bags_only(tmp_path):
    """Overwrite replaces a bag but nothing else."""
    path = write(tmp_path / 'bag')
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'cat.jpg').write_bytes(b'x')

    write(path, count=1, overwrite=True)

    with BagReader(path) as bag:
        assert bag.topics[RGB_TOPIC].count == 1
    with pytest.raises(BagError, match='is not a bag, so it is not overwritten'):
        write(tmp_path / 'photos', overwrite=True)
    assert (tmp_path / 'photos' / 'cat.jpg').exists()


def test_failed_writing_keeps_old_bag(tmp_path):
    """Failed writing leaves nothing and keeps the old bag."""
    path = write(tmp_path / 'bag')

    with pytest.raises(ZeroDivisionError), BagWriter(path, overwrite=True) as bag:
        bag.write(RGB_TOPIC, IMAGE, image(0), 0)
        raise ZeroDivisionError

    assert [item.name for item in tmp_path.iterdir()] == ['bag']
    with BagReader(path) as bag:
        assert bag.topics[RGB_TOPIC].count == 3


def test_writing_nothing_makes_no_bag(tmp_path):
    with pytest.raises(BagError, match='no message was written'), BagWriter(tmp_path / 'bag'):
        pass

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('name', ['50 % of #2?', os.fsdecode(b'f\xfcr')])
def test_any_name_is_written_and_read(tmp_path, name, storage):
    """Marks of a URI, and names that are not UTF-8, of folders and of single files."""
    bag = write(tmp_path / name / name, storage)

    for path in (bag, storage_file(bag)):
        with BagReader(path) as reader:
            assert len(list(reader.messages())) == 4
    if storage == 'sqlite3':  # a damaged one is called as it is, not by its URI
        os.truncate(storage_file(bag), 5000)
        with pytest.raises(BagError, match='copy the bag again') as raised, BagReader(bag):
            pass
        assert f'open database {storage_file(bag)}' in str(raised.value)


def test_bad_arguments_of_the_writer(tmp_path):
    with pytest.raises(BagError, match="storage must be one of sqlite3, mcap; got 'zip'"):
        BagWriter(tmp_path / 'bag', 'zip')
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot write a bag at'), BagWriter(
            tmp_path / 'file' / 'bag'):
        pass
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(RGB_TOPIC, IMAGE, image(0), 0)
        with pytest.raises(BagError, match='must not be negative, got -1 ns'):
            bag.write(RGB_TOPIC, IMAGE, image(0), -1)
        with pytest.raises(BagError, match=f'carries {IMAGE}, got a {CAMERA_INFO}'):
            bag.write(RGB_TOPIC, CAMERA_INFO, b'', 0)


def test_image_message_checks_encoding():
    """Image_message refuses what does not fit its encoding."""
    about = {'stamp_ns': 0, 'frame_id': 'camera'}
    with pytest.raises(BagError, match='mono8 needs 1 channel.* of uint8, got uint16'):
        image_message(np.zeros((2, 2), np.uint16), 'mono8', **about)
    with pytest.raises(BagError, match='rgb8 needs 3 channel'):
        image_message(np.zeros((2, 2), np.uint8), 'rgb8', **about)
    with pytest.raises(BagError, match="encoding must be one of .*got 'yuv'"):
        image_message(np.zeros((2, 2), np.uint8), 'yuv', **about)


def test_image_message_strided_big_endian():
    """Image_message holds strided and big endian arrays right."""
    values = np.arange(24, dtype='>u2').reshape(4, 6)[:, ::2]

    message = image_message(values, 'mono16', stamp_ns=3_000_000_007, frame_id='camera')

    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 7)
    assert (message.height, message.width, message.step, message.is_bigendian) == (4, 3, 6, 0)
    np.testing.assert_array_equal(message.data.view('<u2').reshape(4, 3), values)


def test_camera_info_message():
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])

    known = camera_info_message(k, width=640, height=480, stamp_ns=5, frame_id='camera')
    unknown = camera_info_message(None, width=640, height=480, stamp_ns=5, frame_id='camera')

    np.testing.assert_array_equal(known.k.reshape(3, 3), k)
    np.testing.assert_array_equal(known.p.reshape(3, 4), np.column_stack([k, np.zeros(3)]))
    assert (known.distortion_model, len(known.d)) == ('plumb_bob', 5)
    assert not unknown.k.any() and unknown.distortion_model == ''
