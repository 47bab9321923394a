# SPDX-License-Identifier: Apache-2.0
"""A recording as people have them: replay, align and demo take it alike.

It has other topic names, thermal in compressed form alone, a cut message, no camera infos, a
topic without messages, one of a type that is not installed, and a third camera.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bad_inputs import ran
from rosbags.rosbag2 import StoragePlugin, Writer

from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import COMPRESSED, IMAGE, START_NS, BagReader, type_store

TOPICS = '/front/color', '/front/heat'
COUNT, CUT = 30, 12
CUSTOM = {'msgdef': 'uint8 x\n', 'rihs01': 'RIHS01_' + '0' * 64}


def heat_message(scene, stamp_ns):
    header = image_message(scene, 'mono8', stamp_ns=stamp_ns, frame_id='').header
    return type_store().types[COMPRESSED](header, 'png', cv2.imencode('.png', scene)[1].ravel())


@pytest.fixture(scope='module')
def field_bag(tmp_path_factory):
    """A bag of 1 s: 30 color images of a scene, and the scene as thermal at half the size."""
    path, store = tmp_path_factory.mktemp('field') / 'bag', type_store()
    fine = np.random.default_rng(3).integers(0, 256, (60, 80), np.uint8)
    scene = np.kron(fine, np.ones((4, 4), np.uint8))
    color = np.dstack([scene] * 3)
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        writer.add_connection('/front/camera_info', 'sensor_msgs/msg/CameraInfo', typestore=store)
        custom = writer.add_connection('/my/custom', 'my_pkg/msg/Custom', **CUSTOM)
        writer.write(custom, START_NS, b'\0\1\0\0a')
        rgb, third = (writer.add_connection(name, IMAGE, typestore=store)
                      for name in (TOPICS[0], '/rear/color'))
        heat = writer.add_connection(TOPICS[1] + '/compressed', COMPRESSED, typestore=store)
        for number in range(COUNT):
            stamp_ns = START_NS + round(number * 1e9 / 30)
            raw = store.serialize_cdr(image_message(color, 'bgr8', stamp_ns=stamp_ns,
                                                    frame_id=''), IMAGE)
            writer.write(rgb, stamp_ns, raw[:50] if number == CUT else raw)
            writer.write(third, stamp_ns, raw)
            message = heat_message(scene[::2, ::2], stamp_ns)
            writer.write(heat, stamp_ns, store.serialize_cdr(message, COMPRESSED))
    return path


def test_replay_of_field_bag(field_bag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    outcome = ran(['replay', str(field_bag), 'out', '--topics', *TOPICS, '--model', 'classical'])

    assert outcome.code == 1, outcome.said  # one frame could not be used
    with BagReader('out') as reader:
        assert reader.topics['/fused/image'].count == COUNT - 1


@pytest.mark.slow
def test_align_of_field_bag(field_bag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    outcome = ran(['align', '--bag', str(field_bag), '--topics', *TOPICS, '--max-pairs', '2'])
    far = ran(['align', '--bag', str(field_bag), '--topics', *TOPICS, '-o', 'far.yaml',
               '--thermal-offset-ms', '-5000'])

    assert outcome.code == 0 and Path('align.yaml').exists(), outcome.said
    assert 'left out: 1 damaged_message' in outcome.said
    assert far.code == 2 and 'closest one of rgb' in far.said and not Path('far.yaml').exists()


def test_demo_of_field_bag(field_bag, dds, tmp_path):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from diffmf_ros.tools import demo
    run = demo.DemoRun(bags=(field_bag,), fused=tmp_path / 'fused', logs=tmp_path / 'log',
                       rate=0.25, settings=with_changes(DEFAULTS, {'model': 'classical'}),
                       topics=TOPICS)

    values, counts = demo.run(run), []
    drawn = list(demo.draw(run, counts, int(values['fused'])))

    # Then both cameras were received and fused; a starved machine loses many of 59 messages
    assert 10 <= int(values['thermal_in']) <= COUNT and 10 <= int(values['rgb_in']) <= COUNT - 1
    assert 1 <= len(drawn) <= COUNT
    with BagReader(run.fused) as reader:
        assert reader.topics['/fused/image'].count >= len(drawn)
    with pytest.raises(Exception, match='no messages on /rgb/image_raw'):
        demo.run(replace(run, topics=('/rgb/image_raw', TOPICS[1])))
    # And cameras whose stamps are far apart are told so
    far = with_changes(run.settings, {'sync.thermal_offset_ms': -5000.0})
    with pytest.raises(demo.DemoError, match='the node fused no pair: .* 0 pairs; left out: .*; '
                       'its log is'):
        demo.run(replace(run, settings=far, rate=1.0))
