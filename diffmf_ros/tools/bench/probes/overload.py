# SPDX-License-Identifier: Apache-2.0
"""Measures a node that gets three times as many images as it can fuse: `diffmf bench --shell` runs
it.

Three processes: the node under test, two cameras, and this one, which receives fused/image. The
network is a stand-in that takes a fixed time and leaves the processor free, as a GPU does. Stamps
are the time of publishing, so that the age of an image, from there to its receipt here, needs no
other clock. Prints one JSON object: 'times_capacity' (what the cameras really sent, in
capacities), 'received_s' and 'age_ms' of every fused image while they sent, and how many images
the node says it made otherwise ('not_fused').
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from tempfile import TemporaryDirectory

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import CameraInfo, Image

from ....core.frames import Mode
from ....inference.prepare import StageTimer
from ....ros import messages, process, qos
from ....ros.fusion_node import FusionNode
from .shared import (
    FRAMES,
    QUEUE,
    UsualFusion,
    homography,
    moving_images,
    synchronizer,
    timed_pipeline,
    write_alignment,
)

OVERLOAD = 3.0
THERMAL_LATER = 0.3  # periods of the cameras by which they are out of step
WAIT_S = 60.0
NS_PER_S = 1_000_000_000


class UsualNode(Node):
    """message_filters, with conversion and network in its callback."""

    def __init__(self, *, size: tuple[int, int], compute_ms: float):
        from message_filters import Subscriber

        super().__init__('usual_node')
        self._fusion = UsualFusion(homography(size), partial(_sleep_and_return, compute_ms / 1e3))
        self._image_out = self.create_publisher(Image, 'fused/image', QUEUE)
        self._info_out = self.create_publisher(CameraInfo, 'fused/camera_info', QUEUE)
        inputs = [Subscriber(self, Image, f'{stream}/image_raw', qos_profile=QUEUE)
                  for stream in ('rgb', 'thermal')]
        self._synchronizer = synchronizer(inputs, self._fuse)

    def _fuse(self, rgb: Image, thermal: Image) -> None:
        image, info = self._fusion(rgb, thermal, StageTimer())
        self._image_out.publish(image)
        self._info_out.publish(info)


def _sleep_and_return(duration_s, thermal, y):
    time.sleep(duration_s)
    return y


def run_node(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Run the node of this package until stopped. Raises RuntimeError when it does not start."""
    with TemporaryDirectory() as folder:
        process.init(['--ros-args', *_names(options), '-p', 'model:=classical', '-p',
                      f'warm_up_size:={options.size}', '-p',
                      f'alignment.file:={write_alignment(folder, _size(options))}'])
        node = FusionNode(make_pipeline=partial(timed_pipeline, compute_ms=options.compute_ms))
        try:
            if not node.start():
                raise RuntimeError('the node did not start')
            process.spin_until(node, stop)
            node.trigger_shutdown()
        finally:
            node.destroy_node()


def run_usual(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Run the usual node until stopped."""
    process.init(['--ros-args', *_names(options)])
    process.spin_until(UsualNode(size=_size(options), compute_ms=options.compute_ms), stop)


def run_cameras(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Publish both streams for options.seconds once there are subscribers.

    Print how many pairs a second.
    """
    process.init(['--ros-args', *_names(options)])
    node = Node('cameras')
    streams = ('rgb', 'thermal')
    publishers = [node.create_publisher(Image, f'{stream}/image_raw', QUEUE) for stream in streams]
    images = moving_images(_size(options), seed=0)
    deadline_s = time.monotonic() + WAIT_S
    while not (stop.requested
               or all(publisher.get_subscription_count() for publisher in publishers)):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f'the node did not subscribe within {WAIT_S:g} s')
        time.sleep(process.POLL_S)
    period_s = options.compute_ms / 1e3 / OVERLOAD
    start_s = due_s = time.monotonic()
    sent = 0
    while due_s < start_s + options.seconds and not stop.requested:
        for stream, publisher, later in zip(images, publishers, (0.0, THERMAL_LATER)):
            time.sleep(max(0.0, due_s + later * period_s - time.monotonic()))
            message = stream[sent % FRAMES]
            message.header.stamp = messages.make_header(time.time_ns(), '').stamp
            publisher.publish(message)
        sent += 1
        due_s = max(due_s + period_s, time.monotonic())  # a camera that is late does not catch up
    print(sent / (time.monotonic() - start_s), flush=True)


ROLES = {'node': run_node, 'usual': run_usual, 'cameras': run_cameras}


def measure(options: argparse.Namespace) -> dict:
    """Overload one node and return what its receiver saw.

    Raises RuntimeError when a child fails.
    """
    process.init(['--ros-args', *_names(options)])
    node = Node('receiver')
    received: list[tuple[int, int]] = []  # stamp and receipt
    otherwise: set[int] = set()
    profile = qos.profile('reliable', depth=QUEUE)
    node.create_subscription(Image, 'fused/image', partial(_note_image, received), profile)
    node.create_subscription(DiagnosticArray, 'fused/status', partial(_note_status, otherwise),
                             profile)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    children = [_child(options, 'usual' if options.usual else 'node')]
    try:
        # Cameras that start before the way back is open would only be seen in part.
        while children[0].poll() is None and not node.count_publishers('fused/image'):
            executor.spin_once(timeout_sec=process.POLL_S)
        children.append(_child(options, 'cameras'))
        while all(child.poll() is None for child in children):
            executor.spin_once(timeout_sec=process.POLL_S)
        under_test, cameras = children
        if cameras.poll() != 0:
            raise RuntimeError(f'the node (exit code {under_test.poll()}) or the cameras '
                               f'({cameras.poll()}) failed')
        rate_hz = float(cameras.stdout.read())  # type: ignore[union-attr]
    finally:
        for child in children:
            child.terminate()
            child.wait()
    fused = [image for image in received if image[0] not in otherwise]
    return {'times_capacity': rate_hz * options.compute_ms / 1e3,
            'not_fused': len(received) - len(fused),
            'received_s': [(at_ns - fused[0][1]) / NS_PER_S for _, at_ns in fused],
            'age_ms': [(at_ns - stamp_ns) / 1e6 for stamp_ns, at_ns in fused]}


def _note_image(received: list, message: Image) -> None:
    received.append((messages.stamp_ns(message.header.stamp), time.time_ns()))


def _note_status(otherwise: set, message: DiagnosticArray) -> None:
    mode = next(item.value for item in message.status[0].values if item.key == 'mode')
    if mode != Mode.FUSED.value:
        otherwise.add(messages.stamp_ns(message.header.stamp))


def _child(options: argparse.Namespace, role: str) -> subprocess.Popen:
    arguments = ['--role', role, '--namespace', options.namespace, '--size', options.size,
                 '--compute-ms', str(options.compute_ms), '--seconds', str(options.seconds)]
    return subprocess.Popen([sys.executable, '-m', __spec__.name, *arguments],
                            stdout=subprocess.PIPE, text=True)


def _names(options: argparse.Namespace) -> list[str]:
    """ROS arguments that keep the probe's topics apart from those of a robot that runs meanwhile.
    """
    return ['-r', f'__ns:={options.namespace}', '-r', '/diagnostics:=diagnostics']


def _size(options: argparse.Namespace) -> tuple[int, int]:
    width, height = map(int, options.size.split('x'))
    return width, height


def main() -> int:
    """Measure and print; with --role be one of the other processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--role', choices=ROLES)
    parser.add_argument('--usual', action='store_true',
                        help='measure the usual node instead of ours')
    parser.add_argument('--namespace', default=f'/diffmf_overload_{os.getpid()}')
    parser.add_argument('--size', default='640x512')
    parser.add_argument('--compute-ms', type=float, default=50.0)
    parser.add_argument('--seconds', type=float, default=60.0)
    options = parser.parse_args()
    stop = process.StopRequest.on_signals()
    process.use_camera_transports()
    try:
        if options.role:
            ROLES[options.role](options, stop)
        else:
            print(json.dumps(measure(options)))
    finally:
        try_shutdown()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
