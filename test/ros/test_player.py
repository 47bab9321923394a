# SPDX-License-Identifier: Apache-2.0
"""The bag player as its own process: what it publishes, when, and how it ends."""

import signal
from itertools import pairwise

import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from diffmf_ros.io.bags import START_NS
from diffmf_ros.ros.messages import stamp_ns

PLAYER = 'diffmf_ros.ros.bag_player'
STAMPS = [START_NS + i * 1_000_000_000 // 30 for i in range(30)]


def test_every_message_arrives_with_its_own_stamp(small_bag, start, peer):
    images, infos = peer.collect(Image, '/rgb/image_raw'), peer.collect(CameraInfo, '/rgb/camera_info')
    thermal = peer.collect(Image, '/thermal/image_raw')

    player = start(PLAYER, small_bag, '--rate', 4, '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(images) == len(infos) == len(thermal) == 30, '30 messages on each topic')

    assert player.wait() == 0, player.output
    assert [stamp_ns(m.header.stamp) for m in images] == STAMPS
    assert [stamp_ns(m.header.stamp) for m in infos] == STAMPS
    assert [stamp_ns(m.header.stamp) for m in thermal] == [s + 7_000_000 for s in STAMPS]
    assert (images[0].width, images[0].height, images[0].encoding) == (64, 48, 'bgr8')
    assert thermal[0].encoding == 'mono16' and infos[0].k[0] == 500.0
    assert 'published 90 messages' in player.output


def test_a_loop_starts_again_and_sets_the_clock_back(small_bag, start, peer):
    images, clock = peer.collect(Image, '/rgb/image_raw'), peer.collect(Clock, '/clock')

    player = start(PLAYER, small_bag, '--rate', 2, '--loop', 2, '--clock', '--topics', '/rgb/image_raw',
                   '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(images) == 60, '60 images')
    ticks = [stamp_ns(tick.clock) for tick in clock]

    assert player.wait() == 0, player.output
    assert [stamp_ns(m.header.stamp) for m in images] == STAMPS * 2
    assert sum(b < a for a, b in pairwise(ticks)) == 1
    assert all(STAMPS[0] <= tick <= STAMPS[-1] for tick in ticks)
    # 2 passes of 29/30 s at twice the speed, 100 ticks a second of real time; a busy machine ticks less.
    assert 20 <= len(ticks) <= 100


def test_the_player_waits_for_a_subscriber_of_each_image(small_bag, start, peer):
    thermal = peer.collect(Image, '/thermal/image_raw')

    player = start(PLAYER, small_bag, '--wait-for-subscribers', 1)

    assert player.wait() == 1
    assert 'nobody subscribed to /rgb/image_raw' in player.output
    assert 'Traceback' not in player.output
    assert not thermal


def test_a_topic_that_is_not_in_the_bag_is_an_error_that_lists_the_topics(small_bag, start):
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


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_endless_loop_cleanly(small_bag, start, peer, number):
    images = peer.collect(Image, '/rgb/image_raw')
    player = start(PLAYER, small_bag, '--loop', 0, '--topics', '/rgb/image_raw')
    peer.wait_for(lambda: images, 'the first image')

    assert player.stop(number) == 0
    assert 'Traceback' not in player.output
