# SPDX-License-Identifier: Apache-2.0
"""What tests over real DDS share: a domain of their own, child processes, and a ROS participant.

Every wait has a condition and a deadline; nothing sleeps for a fixed time. rclpy is imported only
where it is used, so that the tests of the core run without it.
"""

import fcntl
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from diffmf_ros.io.bag_messages import camera_info_message, image_message
from diffmf_ros.io.bags import CAMERA_INFO, IMAGE, START_NS, BagWriter
from diffmf_ros.io.resources import FASTDDS_VARIABLES, fastdds_environment

LAST_DOMAIN = 101  # beyond it the ports may collide with the ephemeral ports of Linux
DEADLINE_S = 30.0
REPORTS_S = 0.2
_locks: list[int] = []  # the descriptor of the lock on the ROS domain in use
ALL_SLOW = re.compile(r'^pytestmark = \[?pytest\.mark\.slow\b', re.M)
TRAINING = 'test_training*.py'
# A function of a file that talks DDS takes one of these; other files may, too.
TAKES_DDS = re.compile(r'\bdef \w+\([^)]*\b(dds|domain|peer|start|make_cameras|cameras)\b')


def texts(issues) -> tuple[str, ...]:
    """Return what issues say."""
    return tuple(issue.text for issue in issues)


@contextmanager
def ros_domain(folder: Path):
    """Yield a ROS domain that no other test of this machine uses now, set up in the environment.

    Logs go to folder.
    """
    for number in range(1, LAST_DOMAIN + 1):
        lock = open(Path(tempfile.gettempdir()) / f'ros_domain_{number}.lock', 'w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locks[:] = [lock.fileno()]  # a Child that outlives the test keeps it
            break
        except BlockingIOError:
            lock.close()
    else:
        pytest.fail('every ROS domain is in use')
    settings = {'ROS_DOMAIN_ID': str(number), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                'ROS_LOG_DIR': str(folder / 'log'), 'OMP_NUM_THREADS': '1',
                **fastdds_environment({})}
    with lock, pytest.MonkeyPatch.context() as environment:
        for variable in FASTDDS_VARIABLES:
            environment.delenv(variable, raising=False)
        for name, value in settings.items():
            environment.setenv(name, value)
        yield number


def pytest_configure(config):
    """Keep tests without the fixture dds out of DDS, and parallel ones off each other's cores."""
    # Whoever starts a node without a domain of its own would meet the nodes of other tests.
    os.environ['ROS_DOMAIN_ID'] = 'none: take the fixture domain'
    if 'PYTEST_XDIST_WORKER' in os.environ:
        os.environ['OMP_NUM_THREADS'] = '1'
    # Exports and Triton's interpreter make objects by the million: collections were 6 % of them.
    gc.set_threshold(10_000)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """Collect every file as pytest does.

    The plugin of launch_testing, part of every ROS installation, would import each file outside of
    its collection: the first one that is skipped as a whole then ends the collection of all
    others.
    """
    return pytest.Module.from_parent(parent, path=module_path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Leave to the collector what a test makes itself: every pipeline that closes runs one."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the imported libraries be freed at the end, as they expect."""
    gc.unfreeze()


def pytest_ignore_collect(collection_path, config):
    """Pass over files without a test that is asked for, as `make` asks: with marks and `and`.

    To import all files takes every process some ten seconds.
    """
    words = (config.getoption('markexpr') or '').split()
    if 'or' in words or '(' in ''.join(words) or not collection_path.match('test_*.py'):
        return None
    text = collection_path.read_text()
    without = {mark for before, mark in zip(words, words[1:]) if before == 'not'}
    if ('slow' in without and ALL_SLOW.search(text)
            or 'training' in without and collection_path.match(TRAINING)):
        return True
    asked = set(words) - without - {'and', 'not'}
    if 'dds' not in asked:
        return None
    found = TAKES_DDS.search(text) and all(f'mark.{mark}' in text for mark in asked - {'dds'})
    return None if found else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark every test that takes the fixture dds, directly or through another one, those of
    training, and those for an NVIDIA GPU; begin with files that have slow ones, or train."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, 'callspec') else ()
        reasons = [mark.kwargs.get('reason', '') for mark in item.iter_markers('skipif')]
        if 'cuda' in (value for value in values if isinstance(value, str)) or (
                'no CUDA device' in reasons):
            item.add_marker('cuda')
        if 'dds' in item.fixturenames:
            item.add_marker('dds')
            if not TAKES_DDS.search(item.path.read_text()):
                raise pytest.UsageError(f'{item.path} talks DDS, but no function of it takes the '
                                        'fixture dds, or another one of TAKES_DDS, by name: '
                                        '`make test` would pass it over')
        if item.path.match(TRAINING):
            item.add_marker('training')
    # A worker that begins a long file when the others are done keeps them waiting.
    long = {item.path for item in items
            if item.get_closest_marker('slow') or item.get_closest_marker('training')}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope='session')
def dds():
    """Sign of a test that talks DDS: the hook above marks it, and `make test` runs it later."""


@pytest.fixture
def domain(dds, tmp_path):
    """Yield a ROS domain for this test alone."""
    with ros_domain(tmp_path) as number:
        yield number


class Child:
    """A child process running a module of the project, its output going to a file."""

    def __init__(self, module: str, *arguments: object, log: Path):
        self._log = log
        with log.open('w') as output:
            self.process = subprocess.Popen([sys.executable, '-m', module, *map(str, arguments)],
                                            stdout=output, stderr=subprocess.STDOUT,
                                            env=os.environ, pass_fds=_locks)

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return self._log.read_text()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Return its exit code once it has ended by itself."""
        return self.process.wait(timeout_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it at once, and remove the shared memory that nobody else would."""
        from diffmf_ros.ros.process import shared_memory

        if self.process.poll() is not None:
            return  # another process may have its number by now
        left = shared_memory(self.process.pid)
        self.process.kill()
        self.process.wait()
        for file in left:
            file.unlink(missing_ok=True)


@pytest.fixture
def start(domain, tmp_path):
    """Return start(module, *arguments) -> Child on the test's domain.

    Survivors are killed at the end.
    """
    children = []

    def start_child(module: str, *arguments: object) -> Child:
        children.append(Child(module, *arguments, log=tmp_path / f'{len(children)}.log'))
        return children[-1]

    yield start_child
    for child in children:
        child.kill()


class Peer:
    """The test's own participant: a node, and an executor that runs only inside wait_for."""

    def __init__(self, domain: int):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node('test_peer', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def collect(self, message_type: type, topic: str, *, reliability: str = 'reliable',
                depth: int = 1000):
        """Return a list that grows with the messages of topic."""
        from diffmf_ros.ros.qos import profile

        received = []
        self.node.create_subscription(message_type, topic, received.append,
                                      profile(reliability, depth=depth))
        return received

    def wait_for(self, condition, what: str, *, timeout_s: float = DEADLINE_S):
        """Run callbacks until condition() is true and return its value; fail after timeout_s."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                pytest.fail(f'timed out after {timeout_s:g} s waiting for {what}')
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def close(self) -> None:
        """Leave the domain."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def peer(domain):
    """Yield a Peer on the test's domain."""
    peer = Peer(domain)
    yield peer
    peer.close()


def write_bag(path: Path, *, seconds: int, rgb_size: tuple[int, int],
              thermal_size: tuple[int, int]) -> Path:
    """Write a bag of two 30 Hz cameras: bgr8 with camera info, and mono16 stamped 7 ms later."""
    rng = np.random.default_rng(1)
    (rgb_w, rgb_h), (thermal_w, thermal_h) = rgb_size, thermal_size
    colors = rng.integers(0, 256, (4, rgb_h, rgb_w, 3), dtype=np.uint8)
    heats = rng.integers(7000, 9000, (4, thermal_h, thermal_w), dtype=np.uint16)
    k = np.array([[500.0, 0.0, rgb_w / 2], [0.0, 500.0, rgb_h / 2], [0.0, 0.0, 1.0]])
    with BagWriter(path) as writer:
        for i in range(30 * seconds):
            stamp_ns = START_NS + i * 1_000_000_000 // 30
            rgb = {'stamp_ns': stamp_ns, 'frame_id': 'rgb_optical'}
            info = camera_info_message(k, width=rgb_w, height=rgb_h, **rgb)
            writer.write('/rgb/camera_info', CAMERA_INFO, info, stamp_ns)
            writer.write('/rgb/image_raw', IMAGE, image_message(colors[i % 4], 'bgr8', **rgb),
                         stamp_ns)
            stamp_ns += 7_000_000
            thermal = image_message(heats[i % 4], 'mono16', stamp_ns=stamp_ns,
                                    frame_id='thermal_optical')
            writer.write('/thermal/image_raw', IMAGE, thermal, stamp_ns)
    return path


@pytest.fixture(scope='module')
def shared_graphs(tmp_path_factory):
    """Let exports of the same weights and size share the exporter's work, in all processes."""
    import onnx

    from diffmf_ros.inference.weights import digest
    from diffmf_ros.tools.export import network

    folder, graph = tmp_path_factory.getbasetemp(), network.graph
    if 'PYTEST_XDIST_WORKER' in os.environ:  # a folder for each worker
        folder = folder.parent

    def shared(exported, *, size):
        path = folder / f'{digest(exported.state_dict())}_{size}.onnx'
        if not path.exists():
            made = path.with_suffix(f'.{os.getpid()}')
            onnx.save(graph(exported, size=size), made)
            made.replace(path)
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(network, 'graph', shared)
        yield


@pytest.fixture(scope='session')
def camera_bag(tmp_path_factory):
    """Return a bag of 4 s of 640x480 color and 320x256 thermal images: 120 pairs."""
    path = tmp_path_factory.mktemp('bags') / 'cameras'
    return write_bag(path, seconds=4, rgb_size=(640, 480), thermal_size=(320, 256))


@pytest.fixture(scope='session')
def small_bag(tmp_path_factory):
    """Return a bag of 1 s of 64x48 color and 32x24 thermal images: 30 pairs."""
    path = tmp_path_factory.mktemp('bags') / 'small'
    return write_bag(path, seconds=1, rgb_size=(64, 48), thermal_size=(32, 24))


class Cameras:
    """Two cameras whose frames are made to order, and what a fusion node makes of them.

    Images are 64x48 bgr8 and 32x24 mono16; `stamp_ns` is the stamp of the frames to come.
    """

    def __init__(self, peer: Peer, node=None, *, namespace: str = ''):
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        self.peer, self.node, self.namespace = peer, node, namespace
        self.images = {'rgb': Image, 'thermal': Image}
        self.compressed = CompressedImage
        self.fused = peer.collect(Image, f'{namespace}/fused/image')
        self.infos = peer.collect(CameraInfo, f'{namespace}/fused/camera_info')
        self.states = peer.collect(DiagnosticArray, f'{namespace}/fused/status')
        self.reports = peer.collect(DiagnosticArray, '/diagnostics')
        self.stamp_ns = 1_700_000_000_000_000_000
        self._publishers = {}

    def publisher(self, message_type: type, topic: str):
        """Return the publisher of a topic, once the node has subscribed to it."""
        from diffmf_ros.ros.qos import profile

        name = f'{self.namespace}/{topic}'
        if name not in self._publishers:
            self._publishers[name] = self.peer.node.create_publisher(message_type, name,
                                                                     profile('reliable', depth=10))
        publisher = self._publishers[name]
        self.peer.wait_for(publisher.get_subscription_count, f'a subscription to {topic}')
        return publisher

    def rgb(self, pixels=None, **broken):
        """Publish an RGB image, by default a plain one, with some fields replaced."""
        pixels = np.full((48, 64, 3), 90, np.uint8) if pixels is None else pixels
        self._send('rgb', pixels, 'bgr8', broken)

    def thermal(self, pixels=None, encoding='mono16', **broken):
        """Publish a thermal image, by default a ramp, with some fields replaced."""
        pixels = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) if pixels is None else pixels
        self._send('thermal', pixels, encoding, broken)

    def _send(self, stream, pixels, encoding, broken):
        from diffmf_ros.ros.messages import make_header, make_image

        header = make_header(self.stamp_ns, {'rgb': 'rgb', 'thermal': 'lwir'}[stream])
        message = make_image(pixels, encoding, header)
        for name, value in broken.items():
            setattr(message, name, value)
        self.publisher(self.images[stream], f'{stream}/image_raw').publish(message)

    def next(self):
        """Go on to the stamps of the next frames, at 30 Hz.

        The content of real images changes too.
        """
        self.stamp_ns += 33_333_333

    def pair(self):
        """Publish a good pair of the next stamp, with some noise so that no image equals the one
        before."""
        self.next()
        noise = np.random.default_rng(self.stamp_ns)
        self.rgb(noise.integers(60, 120, (48, 64, 3), dtype=np.uint8))
        self.thermal(noise.integers(7000, 9000, (24, 32), dtype=np.uint16))

    def of(self, messages):
        """Return those of messages that have the present stamp."""
        from diffmf_ros.ros.messages import stamp_ns

        return [message for message in messages if stamp_ns(message.header.stamp) == self.stamp_ns]

    def fuse_one(self):
        """Publish one good pair after what was published so far, and return its fused image."""
        self.pair()
        image = self.peer.wait_for(lambda: self.of(self.fused), 'a fused image')[0]
        return image

    def fuse_until(self, condition, what: str):
        """Fuse pair after pair until condition(the fused image) holds; return that image."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition(image := self.fuse_one()):
            if time.monotonic() > deadline_s:
                pytest.fail(f'timed out after {DEADLINE_S:g} s waiting for {what}')
        return image

    def state(self):
        """Return the key values of fused/status of the present stamp."""
        status = self.peer.wait_for(lambda: self.of(self.states), 'a status')[0].status[0]
        return {item.key: item.value for item in status.values}

    def values(self):
        """Return the key values of the newest report."""
        return {item.key: item.value
                for item in self.reports[-1].status[0].values} if self.reports else {}

    def message(self):
        """Return the summary of the newest report."""
        return self.reports[-1].status[0].message if self.reports else ''


@pytest.fixture
def make_cameras(peer, monkeypatch):
    """Return make_cameras(name__of=value, ...) -> Cameras around an active classical node in the
    peer's executor. The node reports, and looks for publishers, more often than it usually does.
    """
    from rclpy.parameter import Parameter

    from diffmf_ros.ros import session, status
    from diffmf_ros.ros.fusion_node import FusionNode

    for module in (session, status):
        monkeypatch.setattr(module, 'PERIOD_S', REPORTS_S)
    monkeypatch.setattr(session, 'REFRESH_S', REPORTS_S / 2)

    nodes = []

    def make(*, namespace: str = '', **overrides):
        given = {'model': 'classical', 'qos.depth': 10, 'qos.reliability': 'reliable'}
        given |= {name.replace('__', '.'): value for name, value in overrides.items()}
        node = FusionNode(context=peer.context, namespace=namespace or None,
                          parameter_overrides=[Parameter(name, value=value) for name,
                                               value in given.items()])
        peer.executor.add_node(node)
        nodes.append(node)
        assert node.start()
        return Cameras(peer, node, namespace=namespace)

    yield make
    for node in nodes:
        node.finish()
        peer.executor.remove_node(node)
        node.destroy_node()


@pytest.fixture
def cameras(make_cameras):
    """Return Cameras around an active classical node."""
    return make_cameras()
