# SPDX-License-Identifier: Apache-2.0
"""The example detector behind the fusion node: four processes, over real DDS."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from detector_files import write_hot_spot  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402
from test_launch import installed, run  # noqa: E402, F401

from diffmf_ros.io.bag_messages import image_message  # noqa: E402
from diffmf_ros.io.bags import IMAGE, START_NS, BagWriter  # noqa: E402
from diffmf_ros.tools.evaluation.detector import Detections  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
TOPICS = 'rgb/image_raw', 'thermal/image_raw', 'fused/image'
PAIRS, HZ = 20, 10
PERSON = np.s_[24:32, 16:24]
BOX = [16, 24, 24, 32]
YOLO_LAUNCH = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration as Given
DEFAULTS = {'input_image_topic': '/camera/rgb/image_raw', 'image_reliability': '2',
            'model': 'yolov8m.pt', 'namespace': 'yolo'}
def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=value) for name, value in DEFAULTS.items()),
        ExecuteProcess(name='yolo', output='screen', cmd=[
            'echo', 'yolo gets', Given('input_image_topic'), Given('image_reliability'),
            Given('model'), 'in', Given('namespace')])])
"""


@pytest.fixture
def bag(tmp_path):
    """Twenty noisy pairs of 64x64: nobody in RGB, a person in thermal of 16 bits."""
    rng = np.random.default_rng(3)
    with BagWriter(tmp_path / 'bag') as writer:
        for number in range(PAIRS):
            stamp_ns = START_NS + number * 10**9 // HZ
            rgb = rng.integers(25, 35, (64, 64, 3), dtype=np.uint8)
            rgb[:, 40:] += 20
            thermal = rng.integers(7000, 7010, (64, 64), dtype=np.uint16)
            thermal[PERSON] += 900
            for name, pixels, encoding in (('rgb', rgb, 'rgb8'), ('thermal', thermal, 'mono16')):
                message = image_message(pixels, encoding, stamp_ns=stamp_ns, frame_id=name)
                writer.write(f'/{name}/image_raw', IMAGE, message, stamp_ns)
    return tmp_path / 'bag'


@pytest.fixture
def example(monkeypatch):
    """The folder of examples is importable, so that start() can run one."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv('PYTHONPATH', str(EXAMPLES), prepend=':')


@pytest.mark.parametrize('parameter, said', [
    ("topics:=['bad topic']", 'expected the name of a topic, such as /rgb/image_raw, got '),
    ('least_score:=2.0', 'least_score must be from 0 to 1, got 2'),
    ('threads:=-3', 'threads must be from 0 to 256, got -3')])
def test_impossible_parameters_are_refused(example, start, tmp_path, parameter, said):
    """Parameters that cannot be used are one line."""
    write_hot_spot(tmp_path / 'd.onnx')

    node = start('detector_node', '--ros-args', '-p', f'detector:={tmp_path / "d.onnx"}', '-p',
                 parameter)

    assert node.wait() == 1
    assert said in node.output and 'Traceback' not in node.output


def test_people_counted_on_all_images(bag, example, start, peer, tmp_path):
    """People are counted on RGB thermal and fused."""
    # Given a detector of bright cells behind the node, on all three images
    detector = write_hot_spot(tmp_path / 'd.onnx')
    boxes = {topic: peer.collect(String, f'{topic}/detections') for topic in TOPICS}
    picture = peer.collect(Image, 'fused/image/detections/picture')
    together, counts = peer.collect(Image, 'side_by_side'), peer.collect(String, 'counts')
    node = start('diffmf_ros.ros.fusion_node', '--ros-args', '-p', 'model:=classical')
    watcher = start('detector_node', '--ros-args', '-p', f'detector:={detector}',
                    '-p', f'topics:=[{", ".join(TOPICS)}]')
    peer.wait_for(lambda: 'boxes as' in watcher.output and 'listening' in node.output.lower()
                  or watcher.process.poll() is not None, 'both nodes')

    # When the bag is played, slowly, because the newest image wins
    player = start('diffmf_ros.ros.bag_player', bag, '--rate', 0.5, '--wait-for-subscribers', 20)
    peer.wait_for(lambda: player.process.poll() is not None, 'the end of the bag')
    seen = {topic: [json.loads(one.data) for one in got] for topic, got in boxes.items()}
    totals = peer.wait_for(lambda: finished(counts), 'counts of all images')
    assert watcher.stop() == 0, watcher.output

    # Then nobody is found in RGB, and the person in thermal and in the fused image, where he is
    assert not any(one['detections'] for one in seen['rgb/image_raw'])
    for topic in TOPICS[1:]:
        assert len(seen[topic]) >= PAIRS // 2, {topic: len(got) for topic, got in seen.items()}
        for one in seen[topic]:
            assert [found['box'] for found in one['detections']] == [BOX], (topic, one)
            assert one['detections'][0]['number'] == 0 and one['detections'][0]['score'] > 0.3
            assert (one['stamp_ns'] - START_NS) % (10**9 // HZ) == 0
    assert {one['frame_id'] for one in seen['fused/image']} == {'rgb'}
    assert totals['rgb/image_raw']['mean'] == 0 and totals['fused/image']['mean'] == 1
    # and the pictures show it: orange lines in the fused image, three images beside each other.
    drawn = np.frombuffer(bytes(picture[-1].data), np.uint8).reshape(64, 64, 3)
    assert drawn[24, 16].tolist() == [0, 140, 255] and picture[-1].encoding == 'bgr8'
    assert together[-1].width == 3 * 360 and 'Traceback' not in watcher.output


def finished(counts):
    """The newest counts when every topic has had images, else None."""
    totals = json.loads(counts[-1].data) if counts else {}
    enough = [one['images'] >= PAIRS // 2 for one in totals.values()]
    return totals if enough and all(enough) else None


def test_missing_detector_ends_node(example, start, tmp_path):
    """A missing detector ends the node with its name."""
    node = start('detector_node', '--ros-args', '-p', f'detector:={tmp_path / "none.onnx"}')

    assert node.wait() == 1
    assert 'none.onnx is not a file' in node.output and 'Traceback' not in node.output


def test_boxes_become_vision_messages():
    # Given stand-ins for vision_msgs, which is not installed here
    def detection(header):
        center = SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0), theta=0.0)
        box = SimpleNamespace(center=center, size_x=0.0, size_y=0.0)
        return SimpleNamespace(header=header, bbox=box, results=[])

    messages = SimpleNamespace(
        Detection2DArray=lambda header: SimpleNamespace(header=header, detections=[]),
        Detection2D=detection,
        ObjectHypothesisWithPose=lambda: SimpleNamespace(hypothesis=SimpleNamespace()))
    as_vision = runpy.run_path(str(EXAMPLES / 'detector_node.py'))['as_vision']
    found = Detections(
        np.array([[10, 20, 30, 60]], np.float32), np.array([0.75], np.float32), np.array([1]))

    array = as_vision(found, Header(frame_id='rgb'), ['car', 'person'], messages)

    one = array.detections[0]
    assert (one.bbox.center.position.x, one.bbox.center.position.y) == (20.0, 40.0)
    assert (one.bbox.size_x, one.bbox.size_y, one.header.frame_id) == (20.0, 40.0, 'rgb')
    guess = one.results[0].hypothesis
    assert (guess.class_id, guess.score) == ('person', 0.75)


def test_the_launch_file_starts_both(installed, domain, tmp_path):  # noqa: F811
    pytest.importorskip('launch_ros.actions', reason='launch is not installed')
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    # When it is launched as in the docs, until both are up
    codes, printed = run(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(EXAMPLES / 'detector.launch.py')),
        launch_arguments={'detector': str(write_hot_spot(tmp_path / 'd.onnx')),
                          'fusion_model': 'classical', 'rgb_image': 'front/image'}.items()),
        until=lambda text: 'active: classical' in text and 'boxes as JSON' in text)

    # then both ended cleanly, and the detector looked at the topics of the launch line
    assert sorted(codes.values()) == [0, 0], printed
    assert 'did you mean' not in printed
    assert '(yolox) on front/image, thermal/image_raw, fused/image' in printed


def test_yolo_ros_reads_fused_image(installed, domain):  # noqa: F811
    """The launch file for yolo_ros gives its launch file the topic and namespaces of their own."""
    pytest.importorskip('launch_ros.actions', reason='launch is not installed')
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    # Given a package in the place of yolo_bringup that says what it is launched with
    share = installed.parent / 'yolo_bringup'
    (share / 'launch').mkdir(parents=True)
    (installed.parent / 'ament_index/resource_index/packages/yolo_bringup').touch()
    (share / 'launch' / 'yolo.launch.py').write_text(YOLO_LAUNCH)

    # when it is launched as in the docs
    codes, printed = run(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(EXAMPLES / 'yolo.launch.py')),
        launch_arguments={'model': 'm.pt', 'fusion_model': 'classical'}.items()),
        until=lambda text: 'active: classical' in text and 'yolo gets' in text)

    # then the detector reads the fused image, and the node is not in its namespace.
    assert 'yolo gets /fused/image 1 m.pt in yolo' in printed
    assert '[fusion_node]' in printed and codes.pop('fusion_node') == 0
