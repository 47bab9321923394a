# SPDX-License-Identifier: Apache-2.0
"""Fusing a bag offline: every pair, the same bytes each time, bad frames counted."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from bad_inputs import ran
from two_cameras import EXTRINSICS, RGB_CAMERA, WIDE_THERMAL, rig, shifts, views

from diffmf_ros.core.imaging.encodings import decode_message
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.io.bag_messages import frames, image_message, model_message, stamp_of
from diffmf_ros.io.bags import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    START_NS,
    BagError,
    BagReader,
    BagWriter,
    type_store,
)
from diffmf_ros.tools.replay import ReplayError, fuse_bag, pairs_of
from diffmf_ros.tools.replay_outputs import FUSED_INFO_TOPIC, FUSED_TOPIC, output

pytestmark = pytest.mark.slow

SETTINGS = with_changes(DEFAULTS, {'model': 'classical'})


def fuse(source, target, settings=SETTINGS, **topics):
    with BagReader(source) as reader, output(Path(target), rate_hz=30.0, overwrite=False) as out:
        return fuse_bag(reader, out, FusionPipeline(settings), settings.sync,
                        from_tf=settings.alignment.from_tf, **topics)


def first(path, topic):
    with BagReader(path) as reader:
        message = next(reader.messages([topic]))
        return reader.deserialize(message.raw, message.msgtype)


def write_plane_bag(path, *, thermal_info=WIDE_THERMAL, name='image_raw'):
    """A bag of one pair: a plane at 12 m seen by two cameras with lens distortion, and both camera
    infos."""
    rgb, heat = views(rig(), 12.0)
    images = {'rgb': (np.repeat(rgb[..., None], 3, -1), 'rgb8', RGB_CAMERA),
              'thermal': (heat, 'mono8', thermal_info)}
    with BagWriter(path) as writer:
        for stream, (pixels, encoding, camera) in images.items():
            about = {'stamp_ns': START_NS, 'frame_id': f'{stream}_optical'}
            info = model_message(camera, size=pixels.shape[1::-1], **about)
            writer.write(f'/{stream}/camera_info', CAMERA_INFO, info, START_NS)
            writer.write(f'/{stream}/{name}', IMAGE, image_message(pixels, encoding, **about),
                         START_NS)
    return path


def plane_settings(folder, **changes):
    """Classical fusion, gray, aligned by the mounting that a file holds.

    The cameras are described by their infos.
    """
    mounting = {'rotation': [list(row) for row in EXTRINSICS.rotation],
                'translation_m': list(EXTRINSICS.translation_m)}
    (folder / 'rig.yaml').write_text(yaml.safe_dump({'thermal_from_rgb': mounting}),
                                     encoding='utf-8')
    return with_changes(SETTINGS, {'alignment.file': str(folder / 'rig.yaml'),
                                   'alignment.plane_depth_m': 12.0,
                              'output.color': 'gray', **changes})


def content(path):
    with BagReader(path) as reader:
        return [(m.topic, m.stamp_ns, m.raw) for m in reader.messages()]


def test_pairs_keep_rgb_header(small_bag, tmp_path):
    """Every pair is fused under the header of its RGB image."""
    counts = fuse(small_bag, tmp_path / 'fused')
    with BagReader(small_bag) as reader:
        expected = [(p.rgb.stamp_ns, p.rgb.frame_id) for p in pairs_of(reader, SETTINGS.sync)]
    assert (counts.frames, counts.pairs, dict(counts.modes)) == (60, 30, {'CLASSICAL': 30})
    with BagReader(tmp_path / 'fused') as reader:
        for topic in (FUSED_TOPIC, FUSED_INFO_TOPIC):
            headers = [reader.deserialize(m.raw, m.msgtype).header
                       for m in reader.messages([topic])]
            assert [(h.stamp.sec * 10**9 + h.stamp.nanosec, h.frame_id)
                    for h in headers] == expected


def test_rgb_camera_info_passes_on(small_bag, tmp_path):
    """Camera info of the RGB camera is passed on."""
    fuse(small_bag, tmp_path / 'fused')
    with BagReader(small_bag) as source, BagReader(tmp_path / 'fused') as fused:
        sent, passed = (next(reader.messages([topic])) for reader, topic in
                        ((source, '/rgb/camera_info'), (fused, FUSED_INFO_TOPIC)))
        sent, passed = (fused.deserialize(m.raw, m.msgtype) for m in (sent, passed))
    assert sent.k[0] > 0
    assert (list(passed.k), list(passed.p), passed.width) == (list(sent.k), list(sent.p),
                                                              sent.width)


@pytest.mark.parametrize('grid, camera', [('rgb', RGB_CAMERA), ('thermal', WIDE_THERMAL)])
def test_both_infos_align_either_grid(tmp_path, grid, camera):
    """The infos of both cameras align a plane on the grid of either."""
    bag = write_plane_bag(tmp_path / 'plane')

    counts = fuse(bag, tmp_path / 'fused',
                  plane_settings(tmp_path, **{'alignment.output_grid': grid}))

    image, info = first(tmp_path / 'fused', FUSED_TOPIC), first(tmp_path / 'fused',
                                                                FUSED_INFO_TOPIC)
    assert counts.problems == set()
    assert (image.width, image.height) == (info.width, info.height) == camera.size
    assert image.header.frame_id == info.header.frame_id == f'{grid}_optical'
    assert np.array_equal(info.k, np.ravel(camera.k)) and tuple(info.d) == camera.d
    own = dict(zip(('rgb', 'thermal'), views(rig(), 12.0)))[grid]
    fused = image.data.reshape(own.shape)
    points, moved = shifts(own, fused, rig().mapping(12.0, grid=grid).seen)
    # What is aligned and equal stays where it is when it is fused.
    assert len(points) > 90 and np.abs(moved).max() < 0.25


def test_crop_moves_camera_infos(tmp_path):
    """A crop of the images moves the principal point of their info, and the alignment fits."""
    bag = write_plane_bag(tmp_path / 'plane')
    width, height = RGB_CAMERA.size
    crop = {'input.rgb_crop': f'{width - 40}x{height - 20}+30+10'}

    counts = fuse(bag, tmp_path / 'fused', plane_settings(tmp_path, **crop))

    image, info = first(tmp_path / 'fused', FUSED_TOPIC), first(tmp_path / 'fused',
                                                                FUSED_INFO_TOPIC)
    assert counts.problems == set()
    assert (image.width, image.height) == (info.width, info.height) == (width - 40, height - 20)
    assert (info.k[2], info.k[5]) == pytest.approx((RGB_CAMERA.k[0][2] - 30,
                                                    RGB_CAMERA.k[1][2] - 10))
    own = views(rig(), 12.0)[0][10:height - 10, 30:width - 10]
    fused = image.data.reshape(own.shape)
    seen = rig().mapping(12.0, grid='rgb').seen[10:height - 10, 30:width - 10]
    points, moved = shifts(own, fused, seen)
    assert len(points) > 60 and np.abs(moved).max() < 0.25


@pytest.mark.parametrize('rectified', [False, True])
def test_rectified_images_keep_their_projection(tmp_path, rectified):
    """Their info is that of the rectified image; a name alone raises a doubt, for each camera."""
    bag = write_plane_bag(tmp_path / 'plane', name='image_rect')
    said = dict.fromkeys(('alignment.rgb_rectified', 'alignment.thermal_rectified'), rectified)

    counts = fuse(bag, tmp_path / 'fused', plane_settings(tmp_path, **said),
                  rgb_topic='/rgb/image_rect', thermal_topic='/thermal/image_rect')

    info = first(tmp_path / 'fused', FUSED_INFO_TOPIC)
    doubts = [text for text in counts.problems if 'looks rectified by its name' in text]
    assert any(info.d) != rectified
    assert len(doubts) == (0 if rectified else 2)


def test_missing_thermal_info_reports_resize(tmp_path):
    """A bag without the info of thermal says that thermal was resized."""
    bag = write_plane_bag(tmp_path / 'plane', thermal_info=None)

    counts = fuse(bag, tmp_path / 'fused', plane_settings(tmp_path))

    assert counts.problems == {
        'waiting for a calibration on thermal/camera_info: thermal is resized meanwhile'}


def test_larger_info_is_scaled(small_bag, tmp_path):
    """An info of a larger image of the same shape is scaled."""
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'larger') as writer:
        for m in reader.messages():
            message = reader.deserialize(m.raw, m.msgtype)
            if m.topic == '/rgb/camera_info':
                message.width, message.height = 128, 96
            writer.write(m.topic, m.msgtype, message, m.stamp_ns)

    counts = fuse(tmp_path / 'larger', tmp_path / 'fused')

    sent, passed = first(small_bag, '/rgb/camera_info'), first(tmp_path / 'fused',
                                                               FUSED_INFO_TOPIC)
    assert (passed.width, passed.height, counts.problems) == (64, 48, set())
    assert passed.k[0] == sent.k[0] / 2 and passed.k[2] == (sent.k[2] + 0.5) / 2 - 0.5


def test_other_aspect_info_left_out(small_bag, tmp_path):
    """An info of another shape is left out and said."""
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'other') as writer:
        for m in reader.messages():
            message = reader.deserialize(m.raw, m.msgtype)
            if m.topic == '/rgb/camera_info':
                message.height = 64
            writer.write(m.topic, m.msgtype, message, m.stamp_ns)

    counts = fuse(tmp_path / 'other', tmp_path / 'fused')

    info = first(tmp_path / 'fused', FUSED_INFO_TOPIC)
    assert not info.k.any() and (info.width, info.height) == (64, 48)
    assert len(counts.problems) == 1
    assert 'calibration is for 64x64, the image has 64x48' in counts.problems.pop()


def test_same_bag_same_bytes(small_bag, tmp_path):
    """The same bag gives the same bytes."""
    fuse(small_bag, tmp_path / 'a')
    fuse(small_bag, tmp_path / 'b')
    assert content(tmp_path / 'a') == content(tmp_path / 'b')


def test_bad_frame_counted_rest_fused(small_bag, tmp_path):
    """A bad frame is counted and the rest is fused."""
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'damaged') as writer:
        for index, m in enumerate(reader.messages(['/rgb/image_raw', '/thermal/image_raw'])):
            message = reader.deserialize(m.raw, m.msgtype)
            if index == 20:
                message.data = message.data[:-5]
            writer.write(m.topic, IMAGE, message, m.stamp_ns)
    counts = fuse(tmp_path / 'damaged', tmp_path / 'fused')
    assert counts.dropped['short_buffer'] == 1
    assert counts.modes['CLASSICAL'] == 29


def rewritten(source, target, change):
    """Write a bag of what change(topic, message, index) returns of the images of another: (topic,
    type, message)."""
    with BagReader(source) as reader, BagWriter(target) as writer:
        for index, m in enumerate(reader.messages(['/rgb/image_raw', '/thermal/image_raw'])):
            writer.write(*change(m.topic, reader.deserialize(m.raw, m.msgtype), index), m.stamp_ns)
    return target


def shifted(topic, message, index, *, ms):
    """Move the thermal stamps."""
    if topic.startswith('/thermal'):
        ns = stamp_of(message) + round(ms * 1e6)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)
    return topic, IMAGE, message


@pytest.mark.parametrize('ms', [-30.0, 10_000.0])
def test_unpaired_frames_show_distance(small_bag, tmp_path, ms):
    """Frames that do not pair are reported with the distance of their stamps."""
    bag = rewritten(small_bag, tmp_path / 'late', lambda *item: shifted(*item, ms=ms))
    settings = with_changes(SETTINGS, {'sync.max_distance_ms': 5.0, 'sync.hold_last_ms': 0.0})

    with pytest.raises(ReplayError) as error:
        fuse(bag, tmp_path / 'fused', settings)

    assert 'nothing was fused: 30 of rgb and 30 of thermal came' in str(error.value)
    assert 'sync.max_distance_ms is 5' in str(error.value)
    # And the distance is the median of those that a search through all stamps finds
    with BagReader(bag) as reader:
        found = list(frames(reader, '/rgb/image_raw', '/thermal/image_raw'))
    rgb_ns, thermal_ns = ([f.stamp_ns for f in found if f.stream == stream]
                          for stream in ('rgb', 'thermal'))
    expected = np.median([min((t - r for r in rgb_ns), key=abs) for t in thermal_ns]) / 1e6
    said = float(re.search(r'typically ([+-][0-9.]+) ms', str(error.value))[1])
    assert said == pytest.approx(expected, abs=0.06) and abs(said) > 5
    assert not (tmp_path / 'fused').exists()


@pytest.mark.parametrize('change, reason, words', [
    ({'encoding': 'nv12'}, 'unknown_encoding', "unknown encoding 'nv12'"),
    ({'step': 0}, 'step_too_small', 'step is too small'),
    ({'data': np.zeros(7, np.uint8)}, 'short_buffer', 'short buffer'),
])
def test_unusable_frames_say_why(small_bag, tmp_path, change, reason, words):
    """A bag of frames that cannot be used says why."""
    def changed(topic, message, index):
        for name, value in change.items() if topic.startswith('/rgb') else ():
            setattr(message, name, value)
        return topic, IMAGE, message

    with pytest.raises(ReplayError, match=f'30 {reason}: rgb: .*{words}'):
        fuse(rewritten(small_bag, tmp_path / 'bad', changed), tmp_path / 'fused')


def test_truncated_message_counted_rest_fused(small_bag, tmp_path):
    """A truncated message is counted and the rest is fused."""
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'cut') as writer:
        for index, m in enumerate(reader.messages(['/rgb/image_raw', '/thermal/image_raw'])):
            writer.write(m.topic, IMAGE, m.raw[:20] if index == 20 else m.raw, m.stamp_ns)

    counts = fuse(tmp_path / 'cut', tmp_path / 'fused')

    assert (counts.dropped['damaged_message'], counts.refused,
            counts.modes['CLASSICAL']) == (1, 1, 29)
    assert 'is damaged' in counts.reasons['damaged_message']


def test_bag_compressed_messages_are_named(small_bag, tmp_path):
    """Messages that the bag has compressed are named."""
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'zstd') as writer:
        for m in reader.messages(['/rgb/image_raw', '/thermal/image_raw']):
            writer.write(m.topic, IMAGE, b'\x28\xb5\x2f\xfd' + m.raw[:40], m.stamp_ns)

    with pytest.raises(BagError, match='compressed: open the folder of the bag, with its '
                       'metadata.yaml'):
        fuse(tmp_path / 'zstd', tmp_path / 'fused')


def test_compressed_only_topics_are_read(small_bag, tmp_path):
    """Topics that are there compressed alone are read from those."""
    def compress(topic, message, index):
        pixels, encoding = decode_message(message)
        data = cv2.imencode('.png', pixels[:, :, ::-1] if encoding == 'rgb8'
                            else pixels)[1].ravel()
        return f'{topic}/compressed', COMPRESSED, type_store().types[COMPRESSED](
            message.header, 'png', data)

    counts = fuse(rewritten(small_bag, tmp_path / 'compressed', compress), tmp_path / 'fused')
    fuse(small_bag, tmp_path / 'of_raw')

    assert counts.modes == {'CLASSICAL': 30} and not counts.dropped
    image, of_raw = first(tmp_path / 'fused', FUSED_TOPIC), first(tmp_path / 'of_raw', FUSED_TOPIC)
    pixels, expected = (decode_message(one)[0][:, :, ::-1 if one.encoding == 'bgr8' else 1]
                        for one in (image, of_raw))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_json_counts_and_image_hash(small_bag, tmp_path):
    """The counts of a replay are JSON and their hash is that of the images."""
    a, b = (json.loads(json.dumps(fuse(small_bag, tmp_path / name).as_dict())) for name in 'ab')
    gray = fuse(small_bag, tmp_path / 'c',
                with_changes(SETTINGS, {'output.color': 'raw_chroma'})).as_dict()

    assert a == b
    assert (a['frames'], a['rgb_frames'], a['thermal_frames'], a['pairs']) == (60, 30, 30, 30)
    assert (a['modes'], a['dropped'], a['thermal_minus_rgb_ms']) == ({'CLASSICAL': 30}, {}, None)
    assert a['sha256'] != gray['sha256'] and len(a['sha256']) == 64


def test_missing_topics_list_available(small_bag, tmp_path):
    """A bag without the topics lists those it has."""
    with BagWriter(tmp_path / 'other') as writer:
        writer.write('/front/image', IMAGE, image_message(
            np.zeros((4, 4), np.uint8), 'mono8', stamp_ns=1, frame_id=''), 1)
    with pytest.raises(BagError, match=r'no messages on /rgb/image_raw, /thermal/image_raw; it '
                       r'has /front/image'):
        fuse(tmp_path / 'other', tmp_path / 'fused')
    assert not (tmp_path / 'fused').exists()


def test_video_as_long_as_recording(small_bag, tmp_path):
    """A video shows every image as long as the recording did."""
    # Given a recording of 30 images in which the ten in the middle are lost
    kept = tmp_path / 'gap'
    with BagReader(small_bag) as reader, BagWriter(kept) as writer:
        for m in reader.messages(['/rgb/image_raw', '/thermal/image_raw']):
            number = round((stamp_of(reader.deserialize(m.raw, m.msgtype)) - reader.start_ns) / 1e9
                           * 30)
            if not 10 <= number < 20:
                writer.write(m.topic, m.msgtype, m.raw, m.stamp_ns)

    counts = fuse(kept, tmp_path / 'fused.mp4')

    film = cv2.VideoCapture(str(tmp_path / 'fused.mp4'))
    lasts_s = film.get(cv2.CAP_PROP_FRAME_COUNT) / film.get(cv2.CAP_PROP_FPS)
    with BagReader(kept) as reader:
        assert reader.rate_hz('/rgb/image_raw') == pytest.approx(30, rel=1e-3)
        assert lasts_s == pytest.approx(reader.duration_ns / 1e9, abs=0.07)
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) > sum(counts.modes.values()) - 2
    assert not list(tmp_path.glob('.*partial*'))


def test_files_named_by_stamp(small_bag, tmp_path):
    """Files have the stamp in their name and the pixels of the bag."""
    fuse(small_bag, tmp_path / 'frames' / 'fused_{}.png')
    fuse(small_bag, tmp_path / 'bag')

    files = sorted((tmp_path / 'frames').iterdir())
    image = first(tmp_path / 'bag', FUSED_TOPIC)
    assert len(files) == 30 and files[0].name == f'fused_{stamp_of(image)}.png'
    pixels = decode_message(image)[0]
    written = cv2.imread(str(files[0]))
    assert np.array_equal(written[:, :, ::-1] if image.encoding == 'rgb8' else written, pixels)


def test_image_replaced_only_when_asked(small_bag, tmp_path):
    """An image that is there is replaced only when asked; one of another name does not matter."""
    (tmp_path / 'f*[1]_1.png').write_bytes(b'mine')
    (tmp_path / 'f*[1]_old.png').write_bytes(b'of another kind')
    command = ['replay', str(small_bag), str(tmp_path / 'f*[1]_{}.png'), '--model', 'classical']

    refused = ran(command)
    (tmp_path / 'f*[1]_1.png').rename(tmp_path / 'f_1.png')

    assert refused.code == 2 and 'f*[1]_1.png is there already' in refused.said
    assert ran(command).code == 0
    assert ran([*command, '--overwrite']).code == 0


def transform(parent, child, rotation, translation_m):
    """A TF message of one transform: x_parent = R x_child + t."""
    types = type_store().types
    quaternion = cv2_quaternion(rotation)
    stamp = types['builtin_interfaces/msg/Time'](1, 0)
    return types['tf2_msgs/msg/TFMessage']([types['geometry_msgs/msg/TransformStamped'](
        types['std_msgs/msg/Header'](stamp, parent), child, types['geometry_msgs/msg/Transform'](
            types['geometry_msgs/msg/Vector3'](*translation_m),
            types['geometry_msgs/msg/Quaternion'](*quaternion)))])


def cv2_quaternion(rotation):
    """x, y, z, w of a 3 x 3 rotation by less than half a turn."""
    axis = cv2.Rodrigues(np.asarray(rotation, float))[0].ravel()
    angle = np.linalg.norm(axis)
    return *(np.sin(angle / 2) * axis / max(angle, 1e-12)), np.cos(angle / 2)


def test_mounting_from_bag_transforms(tmp_path):
    """The mounting is taken from the transforms of the bag."""
    # Given a bag with both infos whose cameras hang on one body, and the mounting of them as an
    # alignment file
    plane = write_plane_bag(tmp_path / 'plane')
    turn = cv2.Rodrigues(np.array((0.2, -0.1, 0.3)))[0]
    rotation, shift = np.asarray(EXTRINSICS.rotation), np.asarray(EXTRINSICS.translation_m)
    # x_body = turn x_rgb + (1, 2, 3), and x_rgb = R' (x_thermal - t)
    to_body = turn @ rotation.T, np.array((1, 2, 3)) - turn @ rotation.T @ shift
    with BagReader(plane) as reader, BagWriter(tmp_path / 'with_tf') as writer:
        for m in reader.messages():
            writer.write(m.topic, m.msgtype, m.raw, m.stamp_ns)
        for child, mounting in (('rgb_optical', (turn, (1.0, 2.0, 3.0))),
                                ('thermal_optical', to_body)):
            writer.write('/tf_static', 'tf2_msgs/msg/TFMessage',
                         transform('body', child, *mounting), START_NS)
    settings = plane_settings(tmp_path)

    by_file = fuse(tmp_path / 'with_tf', tmp_path / 'a', settings)
    by_tf = fuse(tmp_path / 'with_tf', tmp_path / 'b',
                 with_changes(settings, {'alignment.file': '', 'alignment.from_tf': True}))
    without = fuse(plane, tmp_path / 'c',
                   with_changes(settings, {'alignment.file': '', 'alignment.from_tf': True}))

    a, b, c = (first(tmp_path / name, FUSED_TOPIC).data.astype(int) for name in 'abc')
    assert by_file.problems == by_tf.problems == set()
    assert np.abs(a - b).max() <= 2 and np.abs(a - c).max() > 50
    assert any('no transform from rgb_optical to thermal_optical on /tf_static and /tf' in problem
               for problem in without.problems)


def test_empty_camera_info_is_none(small_bag, tmp_path):
    """An empty camera info topic is as none."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    with BagReader(small_bag) as reader, Writer(tmp_path / 'empty', version=8,
                                                storage_plugin=StoragePlugin.SQLITE3) as writer:
        writer.add_connection('/rgb/camera_info', CAMERA_INFO, typestore=type_store())
        topics = {name: writer.add_connection(name, IMAGE, typestore=type_store())
                  for name in ('/rgb/image_raw', '/thermal/image_raw')}
        for m in reader.messages(list(topics)):
            writer.write(topics[m.topic], m.stamp_ns, m.raw)

    assert fuse(tmp_path / 'empty', tmp_path / 'fused').modes == {'CLASSICAL': 30}
