# SPDX-License-Identifier: Apache-2.0
"""Counts what becomes of every frame of two drivers as they come, and what the log says of it.

    python benchmarks/losses.py [--minutes 10] [--size 640x480] [--rate 30] [--model classical]

Two drivers, best effort and without a Fast DDS profile, and the node are processes of their own.
Three sums must come out: the first at the end, the others in every report on /diagnostics.

    sent      = received + missing by the gaps of the stamps, or while a camera was silent for so
                long that it counted as lost; but for 5 % of what is missing
    received  = waiting + two a pair, less thermal frames used again, + refused + without a partner
    pairs and frames handed on alone = in work + images out + left out for a reason that is counted

The first is an estimate, and may be too high: before eight gaps have come nothing is known of what
was sent, and of a silence only its length, so that it counts with the rate that was asked for. The
exit code is 1 when a sum does not come out, when the last line of the log has other counts than
the last report, when more frames of a camera are missing than the node may leave unsaid and no
line of its log says so, or when the node fails.
"""

import argparse
import os
import re
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

from diffmf_ros.core.sync.stream_health import MANY_MISSING  # noqa: E402
from diffmf_ros.io.resources import FASTDDS_VARIABLES  # noqa: E402
from diffmf_ros.ros.qos import profile  # noqa: E402
from diffmf_ros.tools.machine import this_machine  # noqa: E402

CAMERAS = ('rgb', 'thermal')
NODE = 'diffmf_ros.ros.fusion_node'
# Words of the log by which a loss is explained: on the way, and inside the node.
LOST_ON_THE_WAY, LOST_INSIDE = 'do not arrive', 'frames so far: '
# Reasons for which a frame leaves the pairing by itself; the others are those of pairs.
PAIRING = ('unpaired', 'late', 'duplicate', 'out_of_order', 'clock_jump', 'bad_stamp', 'overflow')
# Frames that no gap tells of, and the part of the missing ones by which the estimate may be off.
FIRST_GAPS, ESTIMATE = 16, 0.05


class Losses:
    """Runs the drivers and the node, and keeps the newest report of the node."""

    def __init__(self, folder: Path, peer: Peer):
        self._folder, self._peer = folder, peer
        self._values: dict[str, dict[str, str]] = {}
        self._reports, self._off = 0, {}
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
                'reports': self._reports, 'off': self._off,
                'images': dict(self.images), 'log': node.output.splitlines()}

    def _receive(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._peer.executor.spin_once(timeout_sec=0.1)

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._values[status.name.rpartition(' ')[2]] = {
                item.key: item.value for item in status.values}
        self._reports += 1
        self._off.update({what: count for what, count in sums(self._values).items() if count})

    def _on_status(self, message: DiagnosticArray) -> None:
        self.images[next(item.value for item in message.status[0].values
                         if item.key == 'mode')] += 1


def sums(report: dict[str, dict[str, str]]) -> dict[str, int]:
    """Return how many frames and pairs the sums of a report are off by."""
    fusion = Counter({key: int(value) for key, value in report['fusion'].items()
                      if value.isdecimal()})
    dropped = Counter({key.removeprefix('dropped.'): number for key, number in fusion.items()
                       if key.startswith('dropped.')})
    refused = sum(int(value) for name in CAMERAS for key, value in report[name].items()
                  if key.startswith('refused.'))
    without_partner = sum(dropped[reason] for reason in PAIRING)
    return {
        'frames received': (fusion['rgb_in'] + fusion['thermal_in'] - refused - without_partner
                            - 2 * fusion['pairs'] + fusion['reused'] - fusion['waiting']),
        'pairs and frames alone': (fusion['pairs'] + fusion['alone'] - fusion['fused']
                                   - fusion['in_work'] - dropped.total() + without_partner
                                   + refused)}


def unknown_on_the_way(found: dict, rate_hz: float) -> dict[str, int]:
    """Return the number of frames of each camera that no count explains, beyond 5 %."""
    off = {}
    for name in CAMERAS:
        missing = found['sent'][name] - int(found['fusion'][f'{name}_in'])
        silent = round(rate_hz * float(found['cameras'][name]['silent_s']))
        unknown = missing - int(found['cameras'][name]['missing']) - silent
        off[f'{name} on the way'] = max(0, unknown - max(FIRST_GAPS, round(ESTIMATE * missing)))
    return off


def report(found: dict, rate_hz: float) -> tuple[list[str], list[str]]:
    """Return the lines to print, and what is wrong."""
    fusion, lines, wrong = found['fusion'], [], []
    said_on_the_way = [line for line in found['log'] if LOST_ON_THE_WAY in line]
    said_inside = [line for line in found['log'] if LOST_INSIDE in line]
    for name in CAMERAS:
        sent, came = found['sent'][name], int(fusion[f'{name}_in'])
        said = sum(f'{name}: ' in line for line in said_on_the_way)
        lines.append(f'{name}: sent {sent}, received {came}, missing {sent - came} '
                     f'({found["cameras"][name]["missing"]} by the gaps of the stamps, silent for '
                     f'{found["cameras"][name]["silent_s"]} s), {said} lines of the log')
        if sent - came > MANY_MISSING * sent and not said:
            wrong.append(f'no line of the log says that {name} frames do not arrive')
    lines += [f'images: {found["images"]} received',
              *(f'log: {line}' for line in (*said_on_the_way[:3], *said_inside[-1:]))]
    if not said_inside:
        wrong.append('the log has no line of the counts')
    elif not all(re.search(rf'\b{what}', said_inside[-1]) for what in (
            f'{before}{fusion[key]} {behind}' for key, before, behind in (
                ('rgb_in', 'rgb ', 'received'), ('thermal_in', 'thermal ', 'received'),
                ('pairs', '', 'pairs'), ('waiting', '', 'wait'), ('fused', '', 'images out'),
                ('in_work', '', 'in work')))):
        wrong.append('the last line of the log has other counts than the last report')
    off = unknown_on_the_way(found, rate_hz) | found['off']
    wrong += [f'{what}: the sum is off by {count}' for what, count in off.items() if count]
    return [*lines, f'off by: {off}, in {found["reports"]} reports'], wrong


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
    lines, wrong = report(found, float(options.rate))
    print(f'{this_machine()}, load {os.getloadavg()[0]:.1f}; {options.model}, {options.size} at '
          f'{options.rate} Hz for {options.minutes:g} min', *lines,
          *(wrong or ['every sum comes out']), sep='\n')
    return int(bool(wrong) or found['code'] != 0)


if __name__ == '__main__':
    sys.exit(main())
