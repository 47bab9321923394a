# SPDX-License-Identifier: Apache-2.0
"""The node among other processes, over real DDS: in one process, losses would not show."""

import signal
from collections import Counter

import pytest
from conftest import DEADLINE_S, write_bag
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.io.bag_messages import frames, stamp_of
from diffmf_ros.io.bags import BagReader
from diffmf_ros.ros.qos import profile

NODE = 'diffmf_ros.ros.fusion_node'
PLAYER = 'diffmf_ros.ros.bag_player'
RECORDER = 'diffmf_ros.ros.recorder'
CLASSICAL = ('--ros-args', '-p', 'model:=classical')
# The outputs keep one message; a recorder that waits for its disk while two are published needs
# more.
KEEP_TEN = [text for topic in ('/fused/image', '/fused/camera_info')
            for text in ('-p', f'qos_overrides.{topic}.publisher.depth:=10')]


def recorded(path, topic):
    """Return the messages of one topic of a bag."""
    with BagReader(path) as reader:
        return [reader.deserialize(m.raw, m.msgtype) for m in reader.messages([topic])]


def expected_headers(path):
    """Return (stamp_ns, frame_id) of the base image of every pair that the stamps of a bag allow.
    """
    pairing = ClosestPairing(DEFAULTS.sync)
    with BagReader(path) as reader:
        pairs = [pair for frame in frames(reader, '/rgb/image_raw', '/thermal/image_raw')
                 for pair in pairing.add(frame)]
    return [(pair.rgb.stamp_ns, pair.rgb.frame_id) for pair in pairs + pairing.flush()]


def header_of(message):
    return stamp_of(message), message.header.frame_id


def values_of(array):
    """Return the key values of a diagnostics message as a dictionary."""
    return {item.key: item.value for item in array.status[0].values}


@pytest.mark.alone
def test_best_effort_cameras_arrive_fused(camera_bag, start, peer, tmp_path):
    # Given the node, a recorder of its output, and cameras that offer best effort only
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    node = start(NODE, *CLASSICAL, *KEEP_TEN)
    recorder = start(RECORDER, tmp_path / 'fused', 'fused/image', 'fused/camera_info')
    peer.wait_for(lambda: recorder.output.count('recording /fused/') == 2,
                  'the recorder to subscribe')

    # When the bag is played, at half speed because the subject is what DDS loses, and the node is
    # stopped
    player = start(PLAYER, camera_bag, '--reliability', 'best_effort', '--rate', 0.5,
                   '--wait-for-subscribers', 20)
    peer.wait_for(lambda: player.process.poll() is not None, 'the end of the bag')
    assert player.process.returncode == 0, player.output
    # A node that ends takes along what nobody has acknowledged yet: let the last images arrive
    # first.
    so_far = len(reports)
    peer.wait_for(lambda: len(reports) > so_far + 1, 'two more reports')
    assert node.stop(signal.SIGTERM) == 0, node.output
    assert recorder.stop(signal.SIGINT) == 0, recorder.output

    # Then nearly every pair that the stamps allow arrived, under the headers of its RGB image
    expected = expected_headers(camera_bag)
    assert len(expected) == 120
    images = recorded(tmp_path / 'fused', '/fused/image')
    infos = recorded(tmp_path / 'fused', '/fused/camera_info')
    headers = [header_of(image) for image in images]
    assert set(headers) <= set(expected)
    assert headers == sorted(set(headers))
    assert len(headers) >= 0.95 * len(expected), (len(headers), values_of(reports[-1]))
    # and each with the calibration of the RGB camera
    assert [header_of(info) for info in infos] == headers
    assert {(image.width, image.height, len(image.data)) for image in images} == {
        (640, 480, 640 * 480 * 3)}
    assert {(info.width, info.height, info.k[0], info.k[2])
            for info in infos} == {(640, 480, 500.0, 320.0)}
    # and the node, in the report that it sends when it stops, counts the same.
    peer.wait_for(lambda: (values_of(reports[-1])['fused'], values_of(reports[-1])['waiting'])
                  == (str(len(headers)), '0'), 'the last report')
    values = values_of(reports[-1])
    assert values['mode'] == 'CLASSICAL' and values['last_error'] == ''
    assert int(values['rgb_in']) >= 114 and int(values['thermal_in']) >= 114
    assert 0 < float(values['latency_p50_ms']) <= float(values['latency_p99_ms'])
    assert f'frames so far: rgb {values["rgb_in"]} received' in node.output
    assert f'{values["fused"]} images out' in node.output
    # and what came is all accounted for, frame by frame and pair by pair
    count = Counter({key: int(value) for key, value in values.items() if value.isdecimal()})
    assert count['waiting'] == count['in_work'] == 0
    assert (count['rgb_in'] + count['thermal_in'] == 2 * count['pairs'] - count['reused']
            + count['dropped.unpaired'])
    assert (count['pairs'] + count['alone'] == count['fused'] + count['dropped.overtaken']
            + count['dropped.already_out'] + count['dropped.stopped'])
    assert 'Traceback' not in node.output + recorder.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_idle_node_stops_cleanly(start, peer, number):
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    node = start(NODE, *CLASSICAL)
    peer.wait_for(lambda: reports, 'the first report')

    assert node.stop(number) == 0, node.output
    assert 'Traceback' not in node.output
    assert reports[0].status[0].message.startswith('no rgb frames; no thermal frames')


@pytest.mark.alone
def test_simulated_replay_survives_loop(tmp_path, start, peer):
    """A replay in simulated time survives its loop."""
    # Given 120 pairs that are small enough for any machine to fuse as they come
    bag = write_bag(tmp_path / 'bag', seconds=4, rgb_size=(160, 128), thermal_size=(160, 128))
    fused = peer.collect(Image, '/fused/image')
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    node = start(NODE, *CLASSICAL, '-p', 'use_sim_time:=true')
    player = start(PLAYER, bag, '--clock', '--loop', 2, '--wait-for-subscribers', 20)
    peer.wait_for(lambda: player.process.poll() is not None, 'the end of the bag')
    assert node.stop() == 0, node.output

    stamps = [stamp_of(image) for image in fused]
    jumps = [i for i in range(1, len(stamps)) if stamps[i] < stamps[i - 1]]
    assert len(jumps) == 1
    # Without a reset the second pass gives no pair at all; a busy machine overtakes some of both.
    assert jumps[0] >= 60 and len(stamps) - jumps[0] >= 60
    # Reports follow the clock of the bag: they carry its time.
    with BagReader(bag) as reader:
        first_ns, last_ns = reader.start_ns, reader.start_ns + reader.duration_ns
    report_stamps = [stamp_of(report) for report in reports if stamp_of(report)]
    assert report_stamps and all(first_ns <= stamp <= last_ns for stamp in report_stamps)


def offered(peer, topic, reliability):
    """Return a publisher of the peer that offers this reliability."""
    return peer.node.create_publisher(Image, topic, profile(reliability, depth=1))


def requested(peer, topic):
    """Return the reliabilities that the subscriptions of a topic request."""
    return [info.qos_profile.reliability.name
            for info in peer.node.get_subscriptions_info_by_topic(topic)]


def test_reliability_follows_what_every_publisher_offers(start, peer):
    start(NODE, *CLASSICAL)
    peer.wait_for(lambda: requested(peer, '/rgb/image_raw') == ['BEST_EFFORT'],
                  'a first subscription')

    reliable = offered(peer, '/rgb/image_raw', 'reliable')
    peer.wait_for(lambda: requested(peer, '/rgb/image_raw') == ['RELIABLE'],
                  'a reliable subscription')
    peer.wait_for(reliable.get_subscription_count, 'a match')

    offered(peer, '/rgb/image_raw', 'best_effort')
    peer.wait_for(lambda: requested(peer, '/rgb/image_raw') == ['BEST_EFFORT'],
                  'a best-effort subscription')


def test_an_incompatible_publisher_is_a_warning(start, peer):
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    start(NODE, *CLASSICAL, '-p', 'qos.reliability:=reliable')
    peer.wait_for(lambda: requested(peer, '/thermal/image_raw') == ['RELIABLE'],
                  'a reliable subscription')

    offered(peer, '/thermal/image_raw', 'best_effort')
    complaint = 'thermal/image_raw: a publisher offers incompatible RELIABILITY'
    peer.wait_for(lambda: reports and complaint in reports[-1].status[0].message, 'the complaint')

    assert complaint == values_of(reports[-1])['incompatible_qos']
    # an error from when both cameras count as lost
    assert reports[-1].status[0].level in (b'\x01', b'\x02')


@pytest.mark.slow
def test_adaptive_node_steps_down(camera_bag, start, peer):
    """An adaptive node steps down until it fuses more pairs."""
    # Given a network that takes longer than the time between pairs
    pytest.importorskip('torch', reason='torch is not installed')
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    node = start(NODE, '--ros-args', '-p', 'preset:=nano', '-p', 'adaptive_scale:=true', '-p',
                 'device:=cpu', '-p', 'threads:=1')

    def counts(report):
        values = values_of(report)
        # Not those of classical, which stands in for a network that takes too long.
        return int(values.get('out.FUSED', 0)), int(values['pairs'])

    def reports_at(wanted):
        return [report for report in reports if wanted(float(values_of(report)['scale']))]

    def more_are_fused():
        """Whether, of late, far more of the pairs are fused than at full size, or most of them."""
        small = reports_at(lambda scale: scale < 1)
        if len(small) < 6:
            return False
        before = map(counts, [*reversed(reports_at(lambda scale: scale == 1)), small[0]])
        fused, pairs = next((count for count in before if count[1]), (0, 0))
        (fused_from, pairs_from), (fused_to, pairs_to) = counts(small[-6]), counts(small[-1])
        share = min(3 * max(fused, 1) / max(pairs, 1), 0.7)
        return fused_to - fused_from > share * (pairs_to - pairs_from)

    # When 30 pairs a second come in, then it goes on until far more of them are fused
    start(PLAYER, camera_bag, '--loop', 0, '--wait-for-subscribers', 20)
    peer.wait_for(more_are_fused, 'a smaller scale, at which more pairs are fused',
                  timeout_s=3 * DEADLINE_S)

    # Then because the scale has fallen
    scales = [float(values_of(report)['scale']) for report in reports]
    assert scales[0] == 1.0 and scales[-1] < 1.0, scales
    assert 'working scale is now' in node.output and 'Traceback' not in node.output


def test_scale_without_effect_is_a_warning(start, peer):
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    start(NODE, *CLASSICAL, '-p', 'adaptive_scale:=true')
    peer.wait_for(lambda: reports, 'the first report')

    assert 'adaptive_scale without effect: classical fusion' in reports[0].status[0].message
    assert values_of(reports[0])['scale'] == '1'


def test_recorder_without_messages_no_bag(start, peer, tmp_path):
    """The recorder makes no bag when nothing came."""
    recorder = start(RECORDER, tmp_path / 'empty', '/nobody/publishes')
    peer.wait_for(lambda: any(name == 'recorder' for name in peer.node.get_node_names()),
                  'the recorder')

    assert recorder.stop() == 1
    assert 'no message was written' in recorder.output and 'Traceback' not in recorder.output
    assert not (tmp_path / 'empty').exists()
