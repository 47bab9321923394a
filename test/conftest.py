# SPDX-License-Identifier: Apache-2.0
"""What tests over real DDS share: a domain of their own, child processes, and a ROS participant.

Every wait has a condition and a deadline; nothing sleeps for a fixed time. rclpy is imported only
where it is used, so that the tests of the core run without it.
"""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from diffmf_ros.bag_messages import camera_info_message, image_message
from diffmf_ros.bags import CAMERA_INFO, IMAGE, START_NS, BagWriter
from diffmf_ros.resources import FASTDDS_VARIABLES, fastdds_environment

LAST_DOMAIN = 101  # beyond it the ports may collide with the ephemeral ports of Linux
DEADLINE_S = 30.0


@pytest.fixture
def domain(tmp_path, monkeypatch):
    """Yield a ROS domain that no other test of this machine uses now, set up in the environment."""
    for number in range(1, LAST_DOMAIN + 1):
        lock = open(Path(tempfile.gettempdir()) / f'ros_domain_{number}.lock', 'w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.close()
    else:
        pytest.fail('every ROS domain is in use')
    for variable in FASTDDS_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    settings = {'ROS_DOMAIN_ID': str(number), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                'ROS_LOG_DIR': str(tmp_path / 'log'), 'OMP_NUM_THREADS': '1', **fastdds_environment({})}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with lock:
        yield number


class Child:
    """A child process running a module of the project, its output going to a file."""

    def __init__(self, module: str, *arguments: object, log: Path):
        self._log = log
        with log.open('w') as output:
            self.process = subprocess.Popen([sys.executable, '-m', module, *map(str, arguments)],
                                            stdout=output, stderr=subprocess.STDOUT, env=os.environ)

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


@pytest.fixture
def start(domain, tmp_path):
    """Return start(module, *arguments) -> Child on the test's domain; survivors are killed at the end."""
    children = []

    def start_child(module: str, *arguments: object) -> Child:
        children.append(Child(module, *arguments, log=tmp_path / f'{len(children)}.log'))
        return children[-1]

    yield start_child
    for child in children:
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait()


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

    def collect(self, message_type: type, topic: str, *, reliability: str = 'reliable', depth: int = 1000):
        """Return a list that grows with the messages of topic."""
        from diffmf_ros.ros.qos import profile

        received = []
        self.node.create_subscription(message_type, topic, received.append, profile(reliability, depth=depth))
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


def write_bag(path: Path, *, seconds: int, rgb_size: tuple[int, int], thermal_size: tuple[int, int]) -> Path:
    """Write a bag of two 30 Hz cameras: bgr8 with camera info, and mono16 stamped 7 ms later."""
    rng = np.random.default_rng(1)
    (rgb_w, rgb_h), (thermal_w, thermal_h) = rgb_size, thermal_size
    colours = rng.integers(0, 256, (4, rgb_h, rgb_w, 3), dtype=np.uint8)
    heats = rng.integers(7000, 9000, (4, thermal_h, thermal_w), dtype=np.uint16)
    k = np.array([[500.0, 0.0, rgb_w / 2], [0.0, 500.0, rgb_h / 2], [0.0, 0.0, 1.0]])
    with BagWriter(path) as writer:
        for i in range(30 * seconds):
            stamp_ns = START_NS + i * 1_000_000_000 // 30
            rgb = {'stamp_ns': stamp_ns, 'frame_id': 'rgb_optical'}
            info = camera_info_message(k, width=rgb_w, height=rgb_h, **rgb)
            writer.write('/rgb/camera_info', CAMERA_INFO, info, stamp_ns)
            writer.write('/rgb/image_raw', IMAGE, image_message(colours[i % 4], 'bgr8', **rgb), stamp_ns)
            stamp_ns += 7_000_000
            thermal = image_message(heats[i % 4], 'mono16', stamp_ns=stamp_ns, frame_id='thermal_optical')
            writer.write('/thermal/image_raw', IMAGE, thermal, stamp_ns)
    return path


@pytest.fixture(scope='session')
def camera_bag(tmp_path_factory):
    """Return a bag of 4 s of 640x480 colour and 320x256 thermal images: 120 pairs."""
    path = tmp_path_factory.mktemp('bags') / 'cameras'
    return write_bag(path, seconds=4, rgb_size=(640, 480), thermal_size=(320, 256))


@pytest.fixture(scope='session')
def small_bag(tmp_path_factory):
    """Return a bag of 1 s of 64x48 colour and 32x24 thermal images: 30 pairs."""
    path = tmp_path_factory.mktemp('bags') / 'small'
    return write_bag(path, seconds=1, rgb_size=(64, 48), thermal_size=(32, 24))
