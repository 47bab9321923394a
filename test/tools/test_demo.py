# SPDX-License-Identifier: Apache-2.0
"""The demo as a whole: processes over real DDS, a fused bag, a picture, a video and the node's
report."""

import re
import socket
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diffmf_ros.cli import demo as command  # noqa: E402
from diffmf_ros.cli.main import run as run_command  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, with_changes  # noqa: E402
from diffmf_ros.io.bag_messages import image_message  # noqa: E402
from diffmf_ros.io.bags import BagError, BagReader, BagWriter  # noqa: E402
from diffmf_ros.tools import demo  # noqa: E402
from diffmf_ros.tools.demo import draw  # noqa: E402
from diffmf_ros.tools.replay import RGB_TOPIC, THERMAL_TOPIC, pairs_of  # noqa: E402
from diffmf_ros.tools.replay_outputs import FUSED_INFO_TOPIC, FUSED_TOPIC  # noqa: E402

GREEN = (90, 205, 90)
CLASSICAL = with_changes(DEFAULTS, {'model': 'classical'})


@pytest.fixture
def run_of(dds, tmp_path):
    def make(bag, settings=CLASSICAL):
        return demo.DemoRun(bags=(bag,), fused=tmp_path / 'fused', logs=tmp_path / 'log', rate=1.0,
                            settings=settings)
    return make


def test_demo_fuses_and_draws(run_of, camera_bag, tmp_path):
    """Demo fuses the pairs and draws them."""
    # Given half the speed, so that a busy machine loses nothing
    run = replace(run_of(camera_bag), rate=0.5)
    values = demo.run(run)
    fused = int(values['fused'])
    assert (values['rgb_in'], values['thermal_in'], values['mode']) == ('120', '120', 'CLASSICAL')
    left_out = sum(int(values.get(f'dropped.{reason}', 0)) for reason in ('overtaken', 'stopped'))
    assert fused + left_out == int(values['pairs']) >= 114
    # The outputs keep the last message only: a recorder that the machine starves can miss one.
    with BagReader(run.fused) as reader:
        recorded, infos = (reader.topics[topic].count for topic in (FUSED_TOPIC, FUSED_INFO_TOPIC))
    assert 0.95 * fused <= min(recorded, infos) <= max(recorded, infos) <= fused
    counts = []
    assert list(draw(run, counts, fused)) == list(
        range(1, recorded + 1))
    assert counts == []  # nothing is known about the people of this bag
    assert cv2.imread(str(tmp_path / 'fused.png')).shape[0] > 5 * 250
    assert cv2.VideoCapture(str(tmp_path / 'fused.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == recorded


@pytest.mark.slow
def test_demo_two_scenes_two_rows(dds, tmp_path, monkeypatch, capsys):
    """Demo shows two scenes in two rows and counts who stands out."""
    # Given drives short enough for a test
    monkeypatch.setattr(command, 'EACH_S', 0.8)

    assert run_command(['demo', '--out', f'{tmp_path}', '--model', 'classical',
                        '--rate', '0.25']) == 0

    # Then both went through one node, one after the other
    printed = capsys.readouterr().out
    assert [path.name for path in sorted(tmp_path.glob('drive_*'))] == [
        'drive_night', 'drive_smoke']
    with BagReader(tmp_path / 'fused') as reader:
        recorded = reader.topics[FUSED_TOPIC].count
    # 15 thermal frames beside 48 RGB frames, each of which takes the newest thermal frame; between
    # the bags RGB can go out alone, once or twice, and a starved machine overtakes some.
    assert 15 <= recorded <= 50
    # And the picture has a row of each, with who stands out
    sheet = cv2.imread(str(tmp_path / 'fused.png'))
    assert sheet.shape == (2 * (26 + 300 + 6), 3 * 400 + 24, 3)
    assert all((row == GREEN).all(axis=2).any() for row in np.split(sheet[:, 412:818], 2))
    film = cv2.VideoCapture(str(tmp_path / 'fused.mp4'))
    assert film.get(cv2.CAP_PROP_FRAME_HEIGHT) == 2 * (26 + 360 + 6)
    # And thermal shows more people than RGB in smoke
    (smoke,) = re.findall(r'│ smoke\W+(\d+)\W+(\d+)\W+(\d+)\W+(\d+)', printed)
    people, rgb, thermal, fused = map(int, smoke)
    assert people >= 20 and thermal == people and rgb < people / 2 and 0 <= fused <= people


def test_failed_node_ends_demo(run_of, small_bag):
    """Node that cannot start ends the demo with its message."""
    settings = with_changes(CLASSICAL, {'alignment.file': '/nowhere/alignment.yaml'})
    with pytest.raises(demo.DemoError, match='(?s)fusion_node ended with exit code 1.*cannot read '
                       'the alignment file'):
        demo.run(run_of(small_bag, settings))


def test_invalid_bag_refused_early(run_of, tmp_path):
    """Bag that is none is refused before anything starts."""
    with pytest.raises(BagError, match='there is no bag'):
        demo.run(run_of(tmp_path / 'nothing'))
    assert list(tmp_path.iterdir()) == []


def test_unpaired_frames_have_reason(run_of, small_bag):
    """The reason is that of the stamps, which are 7 ms apart here."""
    settings = with_changes(CLASSICAL, {'sync.max_distance_ms': 1.0})

    assert demo.why_unpaired(run_of(small_bag)) == []
    (line,) = demo.why_unpaired(run_of(small_bag, settings))
    assert line.startswith(f'{small_bag}: 60 unpaired: ')
    assert 'typically +7.0 ms from the closest one of rgb; sync.max_distance_ms is 1' in line


@pytest.mark.parametrize('left', ['drive_night', 'fused', 'fused.unfinished', 'fused.mp4',
                                  'fused.png', None])
def test_next_demo_avoids_earlier_one(tmp_path, left):
    """A folder in which a demo was, also an interrupted one, is left alone; others are free."""
    (tmp_path / 'demo' / 'notes').mkdir(parents=True)
    if left is not None:
        (tmp_path / 'demo' / left).mkdir()

    assert command._fresh(tmp_path / 'demo') == tmp_path / ('demo-2' if left else 'demo')


def test_demo_leaves_used_domains():
    """The domain of a node that runs is not taken; a fused image of another one is named."""
    free = demo.domain.__wrapped__()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.bind(('', 7410 + 250 * free))
        assert demo.domain.__wrapped__() != free


def test_images_of_other_nodes_are_named(run_of, small_bag, tmp_path):
    """A recording that another node published into is refused in one sentence."""
    with BagReader(small_bag) as source:
        pair = next(pairs_of(source, CLASSICAL.sync, rgb_topic=RGB_TOPIC,
                             thermal_topic=THERMAL_TOPIC))
    with BagWriter(tmp_path / 'fused') as recorded:
        foreign = image_message(np.zeros((24, 32, 3), np.uint8), 'rgb8', frame_id='camera',
                                stamp_ns=pair.rgb.stamp_ns)
        recorded.write(FUSED_TOPIC, foreign.__msgtype__, foreign, pair.rgb.stamp_ns)

    with pytest.raises(demo.DemoError, match='another node published in ROS domain'):
        next(demo.pictures(run_of(small_bag), small_bag))
