# SPDX-License-Identifier: Apache-2.0
"""Fuses over a network that loses, delays and cuts: cameras on one host, the node on another.

    sudo python benchmarks/two_hosts.py [--rate 10] [--seconds 15] [--size 64x48 320x240]

The hosts are network namespaces with a TAP device each, and this process is the cable between
them: it carries Ethernet frames, so that what is lost of a large image is a fragment, as on a real
link. UDP alone, as between real hosts. The exit code is 1 when the node ended, or fused nothing
BACK_S after the line was whole again. Needs root, `ip` and /dev/net/tun.
"""

import argparse
import ctypes
import fcntl
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / 'test'))

from conftest import Child, Peer, ros_domain  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from diffmf_ros.io.resources import FASTDDS_VARIABLES, find  # noqa: E402
from diffmf_ros.ros.messages import make_header, make_image, stamp_ns  # noqa: E402
from diffmf_ros.ros.qos import profile  # noqa: E402
from diffmf_ros.tools.machine import this_machine  # noqa: E402

BACK_S, SETTLED_S, DRAIN_S, IN_A_ROW, DEPTH = 30.0, 2.0, 1.0, 5, 5
# Share of the frames that are lost on either way, and how late the others come, in ms.
LINES = ((0.0, 0), (0.01, 0), (0.05, 0), (0.2, 0), (0.0, 50), (0.05, 50))
CUTS_S = (1, 3, 8)
# How often a reliable sender asks what has arrived; Fast DDS: every 3 s.
HEARTBEAT = """
    <data_writer profile_name="heartbeat" is_default_profile="true">
      <times><heartbeat_period><sec>0</sec><nanosec>{ns}</nanosec></heartbeat_period></times>
    </data_writer>"""
PAIRS = ('FUSED', 'CLASSICAL')
TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET, FRAME_BYTES = 0x400454CA, 2, 0x1000, 0x40000000, 65536


class Cable(threading.Thread):
    """Carries Ethernet frames between two TAP devices: loses the share `loss` of them, and
    delivers the others `delay_s` later. `carried` and `lost` count them."""

    def __init__(self, taps: tuple[int, int], chance: random.Random):
        super().__init__(daemon=True)
        self.loss, self.delay_s, self.carried, self.lost = 0.0, 0.0, 0, 0
        self._other = {taps[0]: taps[1], taps[1]: taps[0]}
        self._chance, self._ended = chance, False
        self._under_way: deque[tuple[float, int, bytes]] = deque()

    def run(self) -> None:
        """Carry until end() is called."""
        while not self._ended:
            wait_s = self._under_way[0][0] - time.monotonic() if self._under_way else 0.1
            for tap in select.select([*self._other], [], [], min(0.1, max(0.0, wait_s)))[0]:
                self._take(tap)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, tap, frame = self._under_way.popleft()
                os.write(tap, frame)

    def end(self) -> None:
        """Stop carrying."""
        self._ended = True
        self.join()

    def _take(self, tap: int) -> None:
        frame = os.read(tap, FRAME_BYTES)
        if self._chance.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        self._under_way.append((time.monotonic() + self.delay_s, self._other[tap], frame))


@contextmanager
def hosts(chance: random.Random) -> Iterator[tuple[tuple[str, str], Cable]]:
    """Yield the names of two network namespaces, and the cable between them."""
    names = tuple(f'diffmf{os.getpid()}{end}' for end in 'ab')
    with ExitStack() as undo:
        taps = tuple(_host(name, f'10.77.0.{number}/24', undo)
                     for number, name in enumerate(names, 1))
        cable = Cable(taps, chance)
        cable.start()
        undo.callback(cable.end)
        yield names, cable


def _host(name: str, address: str, undo: ExitStack) -> int:
    """Make a namespace with a TAP device of this address, and return the device's other end."""
    tap = os.open('/dev/net/tun', os.O_RDWR)
    undo.callback(os.close, tap)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH', name.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(['ip', 'netns', 'add', name], check=True)
    undo.callback(subprocess.run, ['ip', 'netns', 'delete', name])
    for command in (f'link set {name} netns {name}', f'-n {name} address add {address} dev {name}',
                    f'-n {name} link set {name} up', f'-n {name} link set lo up',
                    f'-n {name} route add 224.0.0.0/4 dev {name}'):
        subprocess.run(['ip', *command.split()], check=True)
    return tap


def enter(name: str) -> None:
    """Move this thread, and the threads and processes that it starts, into a namespace."""
    with open(f'/run/netns/{name}') as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f'cannot enter the network namespace {name}')


def cameras(size: str, rate_hz: float, reliability: str) -> None:
    """Publish pairs at a rate until the process is ended, and print the stamp of each in ns."""
    import numpy as np
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node('cameras')
    publishers = [node.create_publisher(Image, f'{stream}/image_raw',
                                        profile(reliability, depth=DEPTH))
                  for stream in ('rgb', 'thermal')]
    width, height = map(int, size.split('x'))
    gray = np.random.default_rng(1).integers(0, 256, (height, width, 1), dtype=np.uint8)
    pictures = {'bgr8': np.repeat(gray, 3, axis=2), 'mono8': gray[..., 0].copy()}
    due_s = time.monotonic()
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s += 1 / rate_hz
        header = make_header(time.time_ns(), 'camera')
        for publisher, (encoding, picture) in zip(publishers, pictures.items()):
            picture += 1  # no two images of a camera are equal
            publisher.publish(make_image(picture, encoding, header))
        print(stamp_ns(header.stamp), flush=True)


@dataclass
class Receiver:
    """Record of the images of the node: stamp in ns -> mode, and milliseconds to its receipt."""

    peer: Peer
    modes: dict[int, str] = field(default_factory=dict)
    latency_ms: dict[int, float] = field(default_factory=dict)

    def __post_init__(self):
        self.peer.node.create_subscription(DiagnosticArray, '/fused/status', self._on_status,
                                           profile('reliable', depth=100))

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.peer.executor.spin_once(timeout_sec=left_s)

    def seconds_until_fused(self) -> float | None:
        """Measure the seconds to IN_A_ROW more fused pairs; None after BACK_S."""
        since_s = time.monotonic()
        self.modes.clear()
        while sum(mode in PAIRS for mode in self.modes.values()) < IN_A_ROW:
            if time.monotonic() - since_s > BACK_S:
                return None
            self.peer.executor.spin_once(timeout_sec=0.05)
        return time.monotonic() - since_s

    def _on_status(self, message: DiagnosticArray) -> None:
        stamp = stamp_ns(message.header.stamp)
        values = {item.key: item.value for item in message.status[0].values}
        self.modes[stamp] = values['mode']
        self.latency_ms[stamp] = (time.time_ns() - stamp) / 1e6


def measure(receiver: Receiver, sent: Child, cable: Cable, *, seconds: float) -> str:
    """Return cells of a table row: frames lost, pairs, fused, one camera, latency, longest gap."""
    receiver.spin(SETTLED_S)
    carried, lost = cable.carried, cable.lost
    first_ns = time.time_ns()
    receiver.spin(seconds)
    last_ns = time.time_ns()
    carried, lost = cable.carried - carried, cable.lost - lost
    receiver.spin(DRAIN_S)
    stamps = [stamp for stamp in map(int, sent.output.split()) if first_ns <= stamp <= last_ns]
    modes = [receiver.modes.get(stamp) for stamp in stamps]
    fused = sum(mode in PAIRS for mode in modes)
    out = [stamp for stamp, mode in zip(stamps, modes) if mode]
    late_ms = sorted(receiver.latency_ms[stamp] for stamp in out) or [float('nan')]
    gaps_ms = [(b - a) / 1e6 for a, b in zip([first_ns, *out], [*out, last_ns])]
    p50, p99 = (late_ms[min(int(q * len(late_ms)), len(late_ms) - 1)] for q in (0.5, 0.99))
    return (f'{100 * lost / max(1, lost + carried):.1f} % of {lost + carried} | {len(stamps)} | '
            f'{100 * fused / max(1, len(stamps)):.0f} % | '
            f'{100 * (len(out) - fused) / max(1, len(stamps)):.0f} % | {p50:.0f} | {p99:.0f} | '
            f'{max(gaps_ms):.0f}')


@contextmanager
def started(names: tuple[str, str], folder: Path, size: str, reliability: str,
            rate_hz: float) -> Iterator[tuple[Child, Child]]:
    """Yield the cameras on the first host and the node on the second; they end with the block."""
    enter(names[0])
    sent = Child('two_hosts', 'cameras', size, rate_hz, reliability, log=folder / 'cameras.log')
    enter(names[1])
    node = Child('diffmf_ros.ros.fusion_node', '--ros-args', '-p', 'model:=classical', '-p',
                 f'qos.reliability:={reliability}', log=folder / 'node.log')
    try:
        yield sent, node
    finally:
        for child in (sent, node):
            child.kill()


def try_lines(receiver: Receiver, sent: Child, cable: Cable, what: str, seconds: float) -> str:
    """Print a row for each line and the seconds after each cut; return what was amiss, or ''."""
    for loss, delay_ms in LINES:
        cable.loss = cable.delay_s = 0.0
        if receiver.seconds_until_fused() is None:
            return f'not fused {BACK_S:g} s after the start, or after the row before'
        cable.loss, cable.delay_s = loss, delay_ms / 1e3
        print(f'| {what} | {100 * loss:g} % | {delay_ms} | '
              f'{measure(receiver, sent, cable, seconds=seconds)} |', flush=True)
    back_s: list[str] = []
    for cut_s in CUTS_S:
        cable.loss, cable.delay_s = 1.0, 0.0
        receiver.spin(cut_s)
        cable.loss = 0.0
        after_s = receiver.seconds_until_fused()
        if after_s is None:
            return f'not fused {BACK_S:g} s after a cut of {cut_s} s'
        back_s.append(f'{after_s:.1f}')
    print(f'{what}: after cuts of {", ".join(map(str, CUTS_S))} s {IN_A_ROW} pairs were fused '
          f'within {", ".join(back_s)} s', flush=True)
    return ''


def one_link(folder: Path, heartbeat_ms: int, datagram_bytes: int) -> None:
    """Let processes that start from now on talk UDP alone, and to other hosts."""
    text = find('config/fastdds.xml').read_text().replace(
        '<transport_id>camera_shm</transport_id>\n          <transport_id>', '<transport_id>')
    if heartbeat_ms:
        text = text.replace('</participant>', '</participant>' + HEARTBEAT.format(
            ns=1_000_000 * heartbeat_ms))
    if datagram_bytes:
        text = text.replace('<type>UDPv4</type>', '<type>UDPv4</type>'
                            f'<maxMessageSize>{datagram_bytes}</maxMessageSize>')
    udp = folder / 'udp.xml'
    udp.write_text(text)
    os.environ.update({variable: str(udp) for variable in FASTDDS_VARIABLES
                       if os.environ.get(variable)})
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    os.environ['PYTHONPATH'] = os.pathsep.join(
        [str(ROOT / 'benchmarks'), str(ROOT / 'test'), os.environ.get('PYTHONPATH', '')])


def main() -> int:
    if sys.argv[1:2] == ['cameras']:
        cameras(sys.argv[2], float(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', nargs='+', default=['64x48', '320x240'])
    parser.add_argument('--reliability', nargs='+', default=['reliable', 'best_effort'])
    parser.add_argument('--rate', type=float, default=10.0, help='of the cameras, in Hz')
    parser.add_argument('--seconds', type=float, default=15.0, help='of each line')
    parser.add_argument('--heartbeat-ms', type=int, default=0, help='of reliable senders, at most '
                        '999; 0: as Fast DDS has it')
    parser.add_argument('--datagram-bytes', type=int, default=0, help='the largest that Fast DDS '
                        'sends; 0: 64 KB, which the kernel splits')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    print(f'{this_machine()}, load {os.getloadavg()[0]:.0f}; {options.rate:g} Hz, classical, '
          f'heartbeat {options.heartbeat_ms or 3000} ms, datagrams of at most '
          f'{options.datagram_bytes or 65500} bytes\n\n'
          '| images | sent | loss | delay ms | lost of the frames | pairs | fused | one camera | '
          'p50 ms | p99 ms | longest silence ms |\n' + '|---' * 11 + '|', flush=True)
    troubles = []
    with (tempfile.TemporaryDirectory() as name, ros_domain(Path(name)) as domain,
          hosts(random.Random(options.seed)) as (names, cable)):
        folder = Path(name)
        one_link(folder, options.heartbeat_ms, options.datagram_bytes)
        enter(names[1])
        peer = Peer(domain)
        receiver = Receiver(peer)
        for size, reliability in itertools.product(options.size, options.reliability):
            with started(names, folder, size, reliability, options.rate) as (sent, node):
                what = f'{size} | {reliability}'
                trouble = try_lines(receiver, sent, cable, what, options.seconds)
                if trouble or node.process.poll() is not None:
                    troubles.append(f'{what}: {trouble or "the node ended"}\n{node.output[-500:]}')
        peer.close()
    print(*troubles, sep='\n')
    return int(bool(troubles))


if __name__ == '__main__':
    sys.exit(main())
