# SPDX-License-Identifier: Apache-2.0
"""The demo as a whole: processes over real DDS, a fused bag, a picture, a video and the node's report."""

import cv2
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diffmf_ros import demo  # noqa: E402
from diffmf_ros.bags import BagError, BagReader  # noqa: E402
from diffmf_ros.cli import demo as command  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, updated  # noqa: E402
from diffmf_ros.replay import FUSED_INFO_TOPIC, FUSED_TOPIC  # noqa: E402

CLASSICAL = updated(DEFAULTS, {'model': 'classical'})


@pytest.fixture
def run_of(tmp_path):
    def make(bag, settings=CLASSICAL):
        return demo.DemoRun(bag=bag, fused=tmp_path / 'fused', logs=tmp_path / 'log', rate=1.0, settings=settings)
    return make


def test_demo_fuses_the_pairs_and_draws_them(run_of, camera_bag, capsys):
    run = run_of(camera_bag)
    values = demo.run(run)
    fused = int(values['fused'])
    assert (values['rgb_in'], values['thermal_in'], values['mode']) == ('120', '120', 'CLASSICAL')
    assert fused + int(values.get('dropped.overtaken', 0)) == int(values['pairs']) >= 114
    # The outputs keep the last message only: a recorder that the machine starves can miss one.
    with BagReader(run.fused) as reader:
        recorded, infos = (reader.topics[topic].count for topic in (FUSED_TOPIC, FUSED_INFO_TOPIC))
    assert 0.95 * fused <= min(recorded, infos) <= max(recorded, infos) <= fused
    video, sheet = command._draw(demo, run, fused)
    assert cv2.imread(str(sheet)).shape[0] > 5 * 250
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == recorded


def test_node_that_cannot_start_ends_the_demo_with_its_message(run_of, small_bag):
    settings = updated(CLASSICAL, {'alignment.file': '/nowhere/alignment.yaml'})
    with pytest.raises(demo.DemoError, match='(?s)fusion_node ended with exit code 1.*cannot read the alignment file'):
        demo.run(run_of(small_bag, settings))


def test_bag_that_is_none_is_refused_before_anything_starts(run_of, tmp_path):
    with pytest.raises(BagError, match='there is no bag'):
        demo.run(run_of(tmp_path / 'nothing'))
    assert list(tmp_path.iterdir()) == []
