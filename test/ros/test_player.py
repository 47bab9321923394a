# SPDX-License-Identifier: Apache-2.0
"""The bag player as its own process: what it publishes, when, and how it ends."""

import signal
from itertools import pairwise

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from diffmf_ros.io.bags import CAMERA_INFO, IMAGE, START_NS, BagReader, BagWriter, type_store
from diffmf_ros.ros import bag_player
from diffmf_ros.ros.messages import stamp_ns
from diffmf_ros.ros.qos import profile

PLAYER = 'diffmf_ros.ros.bag_player'
STAMPS = [START_NS + i * 1_000_000_000 // 30 for i in range(30)]


def test_messages_keep_their_stamps(small_bag, start, peer):
    """Every message arrives with its own stamp."""
    images, infos = peer.collect(Image, '/rgb/image_raw'), peer.collect(
        CameraInfo, '/rgb/camera_info')
    thermal = peer.collect(Image, '/thermal/image_raw')

    player = start(PLAYER, small_bag, '--rate', 4, '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(images) == len(infos) == len(thermal) == 30,
                  '30 messages on each topic')

    assert player.wait() == 0, player.output
    assert [stamp_ns(m.header.stamp) for m in images] == STAMPS
    assert [stamp_ns(m.header.stamp) for m in infos] == STAMPS
    assert [stamp_ns(m.header.stamp) for m in thermal] == [s + 7_000_000 for s in STAMPS]
    assert (images[0].width, images[0].height, images[0].encoding) == (64, 48, 'bgr8')
    assert thermal[0].encoding == 'mono16' and infos[0].k[0] == 500.0
    assert 'published 90 messages' in player.output


@pytest.mark.parametrize('arguments, said', [
    (('--loop', '-1'), '--loop: must be a whole number from 0 on, got -1'),
    (('--rate', '0'), '--rate: must be a number above 0, got 0'),
    (('--rate', 'fast'), '--rate: must be a number above 0, got fast')])
def test_impossible_options_are_refused(capsys, arguments, said):
    """An option out of its range is named, with what is expected."""
    with pytest.raises(SystemExit):
        bag_player.parse(['bag', *arguments])

    assert said in capsys.readouterr().err


def test_loop_sets_clock_back(small_bag, start, peer):
    """A loop starts again and sets the clock back."""
    images, clock = peer.collect(Image, '/rgb/image_raw'), peer.collect(Clock, '/clock')

    player = start(PLAYER, small_bag, '--rate', 2, '--loop', 2, '--clock', '--topics',
                   '/rgb/image_raw', '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(images) == 60, '60 images')
    ticks = [stamp_ns(tick.clock) for tick in clock]

    assert player.wait() == 0, player.output
    assert [stamp_ns(m.header.stamp) for m in images] == STAMPS * 2
    assert sum(b < a for a, b in pairwise(ticks)) == 1
    assert all(STAMPS[0] <= tick <= STAMPS[-1] for tick in ticks)
    # 2 passes of 29/30 s at twice the speed, 100 ticks a second of real time; a busy machine ticks
    # less.
    assert 20 <= len(ticks) <= 100


def test_rare_topics_are_latched(small_bag, tmp_path, start, peer):
    """A calibration that was recorded once reaches who comes later, as a latched one does."""
    infos = 0
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'one') as writer:
        for message in reader.messages():
            infos += message.topic == '/rgb/camera_info'
            if infos == 1 or message.msgtype == IMAGE:
                writer.write(message.topic, message.msgtype, message.raw, message.stamp_ns)
    images, late = peer.collect(Image, '/rgb/image_raw'), []

    start(PLAYER, tmp_path / 'one', '--loop', 20)
    peer.wait_for(lambda: len(images) > 5, 'images')
    peer.node.create_subscription(CameraInfo, '/rgb/camera_info', late.append,
                                  profile('reliable', depth=1, latched=True))

    peer.wait_for(lambda: late, 'the calibration')
    assert late[0].k[0] == 500.0


def test_player_waits_for_subscribers(small_bag, start, peer):
    """The player waits for a subscriber of each image."""
    thermal = peer.collect(Image, '/thermal/image_raw')

    player = start(PLAYER, small_bag, '--wait-for-subscribers', 1)

    assert player.wait() == 1
    assert 'nobody subscribed to /rgb/image_raw' in player.output
    assert 'Traceback' not in player.output
    assert not thermal


def test_unknown_topic_lists_known_ones(small_bag, start):
    """A topic that is not in the bag is an error that lists the topics."""
    player = start(PLAYER, small_bag, '--topics', '/camera/image')

    assert player.wait() == 1
    assert 'no messages on /camera/image' in player.output
    assert '/thermal/image_raw (sensor_msgs/msg/Image, 30)' in player.output
    assert 'Traceback' not in player.output


def test_a_missing_bag_is_an_error(tmp_path, start):
    player = start(PLAYER, tmp_path / 'nothing')

    assert player.wait() == 1
    assert f'there is no bag at {tmp_path / "nothing"}' in player.output
    assert 'Traceback' not in player.output


def test_empty_topics_and_cut_messages(small_bag, tmp_path, start, peer):
    """A bag with empty topics and cut messages is played."""
    with BagReader(small_bag) as reader, Writer(tmp_path / 'all', version=8,
                                                storage_plugin=StoragePlugin.SQLITE3) as writer:
        writer.add_connection('/camera_info', CAMERA_INFO, typestore=type_store())
        topic = writer.add_connection('/rgb/image_raw', IMAGE, typestore=type_store())
        for number, message in enumerate(reader.messages(['/rgb/image_raw'])):
            writer.write(topic, message.stamp_ns, message.raw[:50] if number == 3 else message.raw)
    images = peer.collect(Image, '/rgb/image_raw')

    player = start(PLAYER, tmp_path / 'all', '--rate', 4, '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(images) == 29, '29 images')

    assert player.wait() == 0, player.output
    assert ('published 29 messages' in player.output
            and '1 damaged ones were left out' in player.output)


@pytest.mark.parametrize('msgtype, raw, words', [
    ('my_pkg/msg/Custom', b'\0\1\0\0abcd',
     'no topic of the bag has messages of a type that is installed here'),
    (IMAGE, b'\x28\xb5\x2f\xfdabcd', 'are compressed: open the folder of the bag'),
])
def test_unplayable_bag_is_one_message(tmp_path, start, msgtype, raw, words):
    """A bag that cannot be played is one message."""
    with Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        about = {'typestore': type_store()} if msgtype == IMAGE else {
            'msgdef': 'uint8 x\n', 'rihs01': 'RIHS01_' + '0' * 64}
        topic = writer.add_connection('/topic', msgtype, **about)
        writer.write(topic, START_NS, raw)

    player = start(PLAYER, tmp_path / 'bag')

    assert player.wait() == 1
    assert words in player.output and 'Traceback' not in player.output


def test_topic_of_two_types_refused(tmp_path, start):
    """Bags that have a topic with different types are not played on one publisher."""
    for name, msgtype in (('a', IMAGE), ('b', CAMERA_INFO)):
        with Writer(tmp_path / name, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
            topic = writer.add_connection('/topic', msgtype, typestore=type_store())
            writer.write(topic, START_NS, b'\0\1\0\0abcd')

    player = start(PLAYER, tmp_path / 'a', tmp_path / 'b')

    assert player.wait() == 1
    assert (f'expected one type of /topic in all bags, got {IMAGE} in {tmp_path / "a"}; '
            f'{CAMERA_INFO} in {tmp_path / "b"}') in player.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_endless_loop(small_bag, start, peer, number):
    """A signal ends an endless loop cleanly."""
    images = peer.collect(Image, '/rgb/image_raw')
    player = start(PLAYER, small_bag, '--loop', 0, '--topics', '/rgb/image_raw')
    peer.wait_for(lambda: images, 'the first image')

    assert player.stop(number) == 0
    assert 'Traceback' not in player.output
