# SPDX-License-Identifier: Apache-2.0
"""Counts what becomes of every frame of two drivers as they come, and what the log says of it.

    python benchmarks/losses.py [--minutes 10] [--size 640x480] [--rate 30] [--model classical]

Two drivers, best effort and without a Fast DDS profile, and the node are processes of their own.
A frame that was sent either arrived or is missing; one that arrived was fused, passed on alone,
or dropped for a reason that /diagnostics counts. The exit code is 1 when frames are lost for which
the log of the node has no line.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / 'test'))

from conftest import Child, Peer, ros_domain  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from diffmf_ros.io.resources import FASTDDS_VARIABLES  # noqa: E402
from diffmf_ros.ros.qos import profile  # noqa: E402
from diffmf_ros.tools.machine import this_machine  # noqa: E402

CAMERAS = ('rgb', 'thermal')
NODE = 'diffmf_ros.ros.fusion_node'
# Words of the log by which a loss is explained: on the way, and inside the node.
LOST_ON_THE_WAY, LOST_INSIDE = 'do not arrive', 'frames so far: '


class Losses:
    """Runs the drivers and the node, and keeps the newest report of the node."""

    def __init__(self, folder: Path, peer: Peer):
        self._folder, self._peer = folder, peer
        self._values: dict[str, dict[str, str]] = {}
        self.images: Counter[str] = Counter()
        for topic, callback in (('/diagnostics', self._on_report),
                                ('/fused/status', self._on_status)):
            peer.node.create_subscription(DiagnosticArray, topic, callback,
                                          profile('reliable', depth=1000))

    def run(self, *, seconds: float, size: str, rate_hz: str, model: str) -> dict:
        """Return counts by name, and the lines of the log that speak of losses."""
        node = Child(NODE, '--ros-args', '-p', f'model:={model}', log=self._folder / 'node.log')
        self._peer.wait_for(lambda: 'active: ' in node.output, 'the node')
        for variable in FASTDDS_VARIABLES:  # the node keeps the profile, as it sets it itself
            os.environ.pop(variable, None)
        drivers = {name: Child('camera_process', f'/{name}/image_raw', 'Image', 'best_effort',
                               size, rate_hz, log=self._folder / f'{name}.log')
                   for name in CAMERAS}
        self._receive(seconds)
        for driver in drivers.values():
            driver.stop(signal.SIGINT)
        self._receive(1.0)
        code = node.stop(signal.SIGINT)
        self._receive(1.0)
        sent = {name: int(driver.output.split()[-1]) for name, driver in drivers.items()}
        return {'sent': sent, 'fusion': self._values['fusion'], 'code': code,
                'cameras': {name: self._values[name] for name in CAMERAS},
                'images': dict(self.images), 'log': node.output.splitlines()}

    def _receive(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._peer.executor.spin_once(timeout_sec=0.1)

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._values[status.name.rpartition(' ')[2]] = {
                item.key: item.value for item in status.values}

    def _on_status(self, message: DiagnosticArray) -> None:
        self.images[next(item.value for item in message.status[0].values
                         if item.key == 'mode')] += 1


def report(found: dict) -> tuple[list[str], int]:
    """Return the lines to print, and how many frames nothing in the log explains."""
    fusion, lines, unexplained = found['fusion'], [], 0
    said_on_the_way = [line for line in found['log'] if LOST_ON_THE_WAY in line]
    said_inside = [line for line in found['log'] if LOST_INSIDE in line]
    for name in CAMERAS:
        sent, came = found['sent'][name], int(fusion[f'{name}_in'])
        missing, known = sent - came, found['cameras'][name]['missing']
        said = sum(f'{name}: ' in line for line in said_on_the_way)
        lines.append(f'{name}: sent {sent}, received {came}, missing {missing} '
                     f'({known} by the gaps of the stamps), {said} lines of the log')
        unexplained += 0 if said or said_inside else missing
    dropped = {key.removeprefix('dropped.'): int(value) for key, value in fusion.items()
               if key.startswith('dropped.')}
    lines += [f'images: {fusion["fused"]} out, {found["images"]} received; pairs '
              f'{fusion["pairs"]}; dropped inside: {dropped}',
              *(f'log: {line}' for line in (*said_on_the_way[:3], *said_inside[-2:]))]
    return lines, unexplained + (0 if said_inside else sum(dropped.values()))


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--size', default='640x480')
    parser.add_argument('--rate', default='30', help='of the cameras, in Hz')
    parser.add_argument('--model', default='classical')
    options = parser.parse_args()
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'test'), str(ROOT)])
    with tempfile.TemporaryDirectory() as name, ros_domain(Path(name)) as domain:
        peer = Peer(domain)
        found = Losses(Path(name), peer).run(seconds=60 * options.minutes, size=options.size,
                                             rate_hz=options.rate, model=options.model)
        peer.close()
    lines, unexplained = report(found)
    print(f'{this_machine()}, load {os.getloadavg()[0]:.1f}; {options.model}, {options.size} at '
          f'{options.rate} Hz for {options.minutes:g} min', *lines,
          f'{unexplained} lost without a line in the log', sep='\n')
    return int(unexplained > 0 or found['code'] != 0)


if __name__ == '__main__':
    sys.exit(main())
