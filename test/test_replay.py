# SPDX-License-Identifier: Apache-2.0
"""Fusing a bag offline: every pair, the same bytes each time, bad frames counted."""

import pytest

from diffmf_ros.bag_messages import image_message
from diffmf_ros.bags import IMAGE, BagError, BagReader, BagWriter
from diffmf_ros.core.settings import DEFAULTS, updated
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.replay import FUSED_INFO_TOPIC, FUSED_TOPIC, fuse_bag, pairs_of

SETTINGS = updated(DEFAULTS, {'model': 'classical'})


def fuse(source, target):
    with BagReader(source) as reader, BagWriter(target) as writer:
        return fuse_bag(reader, writer, FusionPipeline(SETTINGS), SETTINGS.sync)


def content(path):
    with BagReader(path) as reader:
        return [(m.topic, m.stamp_ns, m.raw) for m in reader.messages()]


def test_every_pair_is_fused_under_the_header_of_its_rgb_image(small_bag, tmp_path):
    counts = fuse(small_bag, tmp_path / 'fused')
    with BagReader(small_bag) as reader:
        expected = [(p.rgb.stamp_ns, p.rgb.frame_id) for p in pairs_of(reader, SETTINGS.sync)]
    assert (counts.frames, counts.pairs, dict(counts.modes)) == (60, 30, {'CLASSICAL': 30})
    with BagReader(tmp_path / 'fused') as reader:
        for topic in (FUSED_TOPIC, FUSED_INFO_TOPIC):
            headers = [reader.deserialize(m.raw, m.msgtype).header for m in reader.messages([topic])]
            assert [(h.stamp.sec * 10**9 + h.stamp.nanosec, h.frame_id) for h in headers] == expected


def test_camera_info_of_the_rgb_camera_is_passed_on(small_bag, tmp_path):
    fuse(small_bag, tmp_path / 'fused')
    with BagReader(small_bag) as source, BagReader(tmp_path / 'fused') as fused:
        sent, passed = (next(reader.messages([topic])) for reader, topic in
                        ((source, '/rgb/camera_info'), (fused, FUSED_INFO_TOPIC)))
        sent, passed = (fused.deserialize(m.raw, m.msgtype) for m in (sent, passed))
    assert sent.k[0] > 0
    assert (list(passed.k), list(passed.p), passed.width) == (list(sent.k), list(sent.p), sent.width)


def test_the_same_bag_gives_the_same_bytes(small_bag, tmp_path):
    fuse(small_bag, tmp_path / 'a')
    fuse(small_bag, tmp_path / 'b')
    assert content(tmp_path / 'a') == content(tmp_path / 'b')


def test_a_bad_frame_is_counted_and_the_rest_is_fused(small_bag, tmp_path):
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'damaged') as writer:
        for index, m in enumerate(reader.messages(['/rgb/image_raw', '/thermal/image_raw'])):
            message = reader.deserialize(m.raw, m.msgtype)
            if index == 20:
                message.data = message.data[:-5]
            writer.write(m.topic, IMAGE, message, m.stamp_ns)
    counts = fuse(tmp_path / 'damaged', tmp_path / 'fused')
    assert counts.dropped['short_buffer'] == 1
    assert counts.modes['CLASSICAL'] == 29


def test_a_bag_without_the_topics_lists_those_it_has(small_bag, tmp_path):
    import numpy as np
    with BagWriter(tmp_path / 'other') as writer:
        writer.write('/front/image', IMAGE, image_message(
            np.zeros((4, 4), np.uint8), 'mono8', stamp_ns=1, frame_id=''), 1)
    with pytest.raises(BagError, match=r'no messages on /rgb/image_raw, /thermal/image_raw; it has /front/image'):
        fuse(tmp_path / 'other', tmp_path / 'fused')
    assert not (tmp_path / 'fused').exists()
