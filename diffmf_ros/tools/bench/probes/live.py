# SPDX-License-Identifier: Apache-2.0
"""Measures the node as it is installed, at given rates: `diffmf bench --standard` runs it.

Two processes: the executable fusion_node, and this one, which is both cameras and the receiver of
fused/image. Stamps are the time of publishing, so that the latency of an image, from there to its
receipt here, needs no other clock. Prints one JSON object: 'first_image_s' (since the start of the
node), 'peak_memory_mb', and for each run 'sent_ns', 'received' (pairs of stamp and receipt in ns),
'modes', processor time of the node ('cpu_s') and of everything but the benchmark ('other_s'),
and 'wall_s'.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import Image

from ....ros import messages, process, qos
from ...machine import peak_memory_mb
from .shared import FRAMES, moving_images, write_alignment

START_S = 100.0  # for the node to load its network on a slow machine
WARM_UP_HZ = 5.0
WARM_UP_IMAGES = 5
# A node that has heard nothing for a while takes the first RGB image for the only camera.
LEAD_IN_S = 0.5
DRAIN_S = 1.0  # for the last images of a run, which count when they come by then
DEPTH = 10


class Bench(Node):
    """Both cameras, and the receiver of what becomes of their images."""

    def __init__(self, size: tuple[int, int]):
        super().__init__('bench')
        self.received: list[tuple[int, int]] = []
        self.modes: dict[int, str] = {}
        profile = qos.profile('reliable', depth=DEPTH)
        self._cameras = [
            self.create_publisher(Image, f'{stream}/image_raw', profile)
            for stream in ('rgb', 'thermal')
        ]
        self._images = moving_images(size, seed=0)
        self._count = 0
        self.create_subscription(Image, 'fused/image', self._on_image, profile)
        self.create_subscription(DiagnosticArray, 'fused/status', self._on_status, profile)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def ready(self) -> bool:
        """Return whether the node listens and its way back is open."""
        return bool(
            self.count_publishers('fused/image')
            and all(camera.get_subscription_count() for camera in self._cameras)
        )

    def send(self) -> int:
        """Publish a pair; return its stamp in ns."""
        stamp_ns = time.time_ns()
        for stream, camera in zip(self._images, self._cameras):
            message = stream[self._count % FRAMES]
            message.header.stamp = messages.make_header(stamp_ns, '').stamp
            camera.publish(message)
        self._count += 1
        return stamp_ns

    def receive_until(self, due_s: float) -> None:
        """Receive until due_s of the monotonic clock."""
        while (left_s := due_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left_s, process.POLL_S))

    def _on_image(self, message: Image) -> None:
        self.received.append((messages.stamp_ns(message.header.stamp), time.time_ns()))

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {item.key: item.value for item in message.status[0].values}
        self.modes[messages.stamp_ns(message.header.stamp)] = values['mode']


def warm_up(bench: Bench, node: subprocess.Popen) -> float:
    """Send pairs until some are fused; return seconds to the first image. Raises RuntimeError."""
    start_s = time.monotonic()
    first_s = 0.0
    while len(bench.received) < WARM_UP_IMAGES:
        if node.poll() is not None or time.monotonic() - start_s > START_S:
            raise RuntimeError(f'fused nothing within {START_S:g} s (exit code {node.poll()}, '
                               f'load average {os.getloadavg()[0]:.0f})')
        if bench.ready():
            bench.send()
        bench.receive_until(time.monotonic() + 1 / WARM_UP_HZ)
        if bench.received and not first_s:
            first_s = time.monotonic() - start_s
    return first_s


def run(bench: Bench, node: subprocess.Popen, *, rate_hz: float, seconds: float) -> dict:
    """Send pairs at a rate; return what was sent and received. Raises RuntimeError."""
    bench.received.clear()
    bench.modes.clear()
    send(bench, rate_hz=rate_hz, seconds=LEAD_IN_S)
    start_s, node_s, all_s = time.monotonic(), cpu_seconds(node.pid), busy_seconds()
    own_s = time.process_time()
    sent_ns = send(bench, rate_hz=rate_hz, seconds=seconds)
    wall_s, node_s, all_s = (
        time.monotonic() - start_s,
        cpu_seconds(node.pid) - node_s,
        busy_seconds() - all_s,
    )
    own_s = time.process_time() - own_s
    bench.receive_until(time.monotonic() + DRAIN_S)
    if node.poll() is not None:
        raise RuntimeError(f'the node ended with exit code {node.poll()}')
    of_run = [pair for pair in bench.received if sent_ns[0] <= pair[0] <= sent_ns[-1]]
    modes = Counter(bench.modes.get(stamp, 'unknown') for stamp, _ in of_run)
    return {
        'rate_hz': rate_hz,
        'sent_ns': sent_ns,
        'received': of_run,
        'modes': modes,
        'cpu_s': node_s,
        'other_s': max(0.0, all_s - node_s - own_s),
        'wall_s': wall_s,
    }


def send(bench: Bench, *, rate_hz: float, seconds: float) -> list[int]:
    """Send pairs for so long, and receive meanwhile; return their stamps in ns."""
    start_s, stamps_ns = time.monotonic(), []
    for number in range(round(seconds * rate_hz)):
        bench.receive_until(start_s + number / rate_hz)
        stamps_ns.append(bench.send())
    bench.receive_until(start_s + seconds)
    return stamps_ns


def busy_seconds() -> float:
    """Return the processor time of everything on this machine so far."""
    user, nice, system, _idle, _iowait, *rest = map(
        int, Path('/proc/stat').read_text().split('\n')[0].split()[1:]
    )
    return (user + nice + system + sum(rest[:3])) / os.sysconf('SC_CLK_TCK')


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process so far."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def measure(options: argparse.Namespace) -> dict:
    """Start the node, warm it up and do every run."""
    names = ['-r', f'__ns:=/diffmf_bench_{os.getpid()}', '-r', '/diagnostics:=diagnostics']
    width, height = map(int, options.size.split('x'))
    size = width, height
    process.init(['--ros-args', *names])
    with TemporaryDirectory() as folder:
        parameters = [
            f'model:={options.model}',
            f'alignment.file:={write_alignment(folder, size)}',
        ]
        node = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'diffmf_ros.ros.fusion_node',
                '--ros-args',
                *names,
                *(word for parameter in parameters for word in ('-p', parameter)),
            ],
            stdout=sys.stderr,
        )
        try:
            bench = Bench(size)
            first_s = warm_up(bench, node)
            runs = [
                run(bench, node, rate_hz=rate_hz, seconds=options.seconds)
                for rate_hz in options.rates
            ]
            memory_mb = peak_memory_mb(node.pid)
        finally:
            node.terminate()
            node.wait()
    return {'first_image_s': first_s, 'peak_memory_mb': memory_mb, 'runs': runs}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='diffmf')
    parser.add_argument('--size', default='640x480')
    parser.add_argument('--seconds', type=float, default=8.0)
    parser.add_argument('--rates', type=float, nargs='+', default=[10.0, 30.0])
    options = parser.parse_args()
    process.StopRequest.on_signals()
    process.use_camera_transports()
    try:
        print(json.dumps(measure(options)))
    finally:
        try_shutdown()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
