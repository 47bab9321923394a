# SPDX-License-Identifier: Apache-2.0
"""Kills camera, node, recorder, player and detector with SIGKILL at random moments.

    python benchmarks/chaos.py [--kills 200] [--minutes 60] [--seed 1]

Every process is real and talks DDS: two cameras of 30 Hz, the node (classical), a recorder of the
fused images, a detector behind them, and for some rounds a bag in a loop in place of the cameras.
A victim is killed, started again as a supervisor would, and the fused images have to be back
within BACK_S. What a killed recorder leaves has to open, once it had STORED_S to store something.
The exit code is 1 when anything was not so.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (str(ROOT / 'test'), str(ROOT / 'examples'))  # where its processes find theirs
sys.path.append(str(ROOT / 'test'))

from conftest import Child, Peer, ros_domain, write_bag  # noqa: E402
from detector_files import write_hot_spot  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402

from diffmf_ros.core.frames import DiffmfError  # noqa: E402
from diffmf_ros.io.bags import BagReader  # noqa: E402
from diffmf_ros.ros.process import shared_memory  # noqa: E402
from diffmf_ros.ros.qos import profile  # noqa: E402
from diffmf_ros.tools.machine import this_machine  # noqa: E402

SIZE, BACK_S, IN_A_ROW, STORED_S = (64, 48), 30.0, 5, 2.5
CAMERAS = ('rgb', 'thermal')
VICTIMS = {'rgb': 2, 'thermal': 2, 'node': 3, 'recorder': 2, 'detector': 1, 'player': 1}
ROS = ('--ros-args', '-p', 'qos.reliability:=reliable', '-p', 'health.source_timeout_s:=0.5')


class Stage:
    """The processes, and what the node says of the images that it fuses."""

    def __init__(self, folder: Path, peer: Peer, chance: random.Random):
        self.folder, self.peer, self.chance = folder, peer, chance
        self.children: dict[str, Child] = {}
        self.recordings: list[Path] = []
        self.left: list[Path] = []  # shared memory of the killed, for the end
        self.fused = 0
        self._count = 0
        self._bag = write_bag(folder / 'bag', seconds=2, rgb_size=SIZE, thermal_size=SIZE)
        self._detector = write_hot_spot(folder / 'detector.onnx')
        peer.node.create_subscription(DiagnosticArray, '/fused/status', self._on_status,
                                      profile('reliable', depth=100))

    def start(self, name: str) -> None:
        """Start a process of this name; a recorder gets a new bag."""
        if name == 'recorder':
            self.recordings.append(self.folder / f'recording{len(self.recordings)}')
        size = f'{SIZE[0]}x{SIZE[1]}'
        module, *arguments = {
            'rgb': ('camera_process', '/rgb/image_raw', 'Image', 'reliable', size),
            'thermal': ('camera_process', '/thermal/image_raw', 'Image', 'reliable', size),
            'node': ('diffmf_ros.ros.fusion_node', *ROS, '-p', 'model:=classical'),
            'recorder': ('diffmf_ros.ros.recorder', self.recordings and self.recordings[-1],
                         '/fused/image'),
            'detector': ('detector_node', '--ros-args', '-p', f'detector:={self._detector}',
                         '-p', 'topics:=[fused/image]'),
            'player': ('diffmf_ros.ros.bag_player', self._bag, '--loop', '0'),
        }[name]
        self._count += 1
        self.children[name] = Child(module, *arguments,
                                    log=self.folder / f'{self._count}_{name}.log')

    def kill(self, name: str) -> None:
        """Kill a process; nothing of it runs any more."""
        child = self.children.pop(name)
        if child.process.poll() is None:  # else another process may have its number by now
            self.left += shared_memory(child.process.pid)
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()

    def recording_for(self) -> float:
        """Return the time (monotonic) from which on the recorder is known to record."""
        child = self.children['recorder']
        self.peer.wait_for(lambda: 'recording /fused/image' in child.output, 'the recorder')
        return time.monotonic()

    def wait_until_fused(self, count: int = IN_A_ROW) -> float | None:
        """Measure the seconds until a number of further pairs is fused; None after BACK_S."""
        start_s, last = time.monotonic(), self.fused + count
        while self.fused < last:
            if time.monotonic() - start_s > BACK_S:
                return None
            self.peer.executor.spin_once(timeout_sec=0.05)
        return time.monotonic() - start_s

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.peer.executor.spin_once(timeout_sec=0.05)

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {item.key: item.value for item in message.status[0].values}
        self.fused += values['mode'] in ('FUSED', 'CLASSICAL')


def run_round(stage: Stage, victim: str) -> tuple[float | None, str]:
    """Kill a victim at a random moment and start it again.

    Returns:
        Seconds from the kill until pairs are fused again, and what was not as it should be.
    """
    if victim == 'player':
        for camera in CAMERAS:
            stage.kill(camera)
        stage.start('player')
        if stage.wait_until_fused() is None:
            return None, 'nothing is fused of the player'
    started_s = stage.recording_for() if victim == 'recorder' else time.monotonic()
    stage.spin(stage.chance.uniform(0, 2 * STORED_S))
    stored = time.monotonic() - started_s > STORED_S
    stage.kill(victim)
    for name in CAMERAS if victim == 'player' else (victim,):
        stage.start(name)
    seconds = stage.wait_until_fused()
    if seconds is None:
        return None, f'no fused images {BACK_S:g} s after {victim} was killed'
    dead = [name for name, child in stage.children.items() if child.process.poll() is not None]
    trouble = f'ended by themselves: {", ".join(dead)}' if dead else ''
    if victim == 'recorder' and stored:
        trouble = unreadable(stage.recordings[-2]) or trouble
    return seconds, trouble


def unreadable(recording: Path) -> str:
    """Return why what a killed recorder has left does not open, or nothing."""
    left = Path(f'{recording}.unfinished') / recording.name
    try:
        with BagReader(left) as reader:
            for message in reader.messages(['/fused/image']):
                reader.deserialize(message.raw, message.msgtype)
    except DiffmfError as error:
        return f'{left.name} does not open: {error}'
    return ''


def run(folder: Path, domain: int, victims: Iterable[str], chance: random.Random, *,
        minutes: float = 60) -> tuple[dict, list[str]]:
    """Kill victims in turn, none later than `minutes` after the start.

    Returns:
        The seconds to recover by victim, and everything that was not as it should be.
    """
    times, troubles = defaultdict(list), []
    end_s = time.monotonic() + 60 * minutes
    peer = Peer(domain)
    stage = Stage(folder, peer, chance)
    try:
        for name in (*CAMERAS, 'node', 'recorder', 'detector'):
            stage.start(name)
        if stage.wait_until_fused() is None:
            return {}, ['nothing was fused to begin with']
        for victim in victims:
            if time.monotonic() > end_s:
                break
            seconds, trouble = run_round(stage, victim)
            print(f'{victim}: {seconds and round(seconds, 2)} s {trouble}', flush=True)
            times[victim].append(seconds)
            if trouble:
                troubles.append(trouble)
            if seconds is None:
                break
        stage.recording_for()  # a recorder without a message has no bag to make
        stage.spin(STORED_S)
        for child in map(stage.children.get, ('node', 'recorder')):
            if child.stop() != 0:
                troubles.append(f'no clean end: {child.output[-300:]}')
    finally:
        for child in stage.children.values():
            child.kill()
        peer.close()
        for file in stage.left:
            file.unlink(missing_ok=True)
    return times, troubles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--minutes', type=float, default=60, help='no kill later than that')
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    shared = len(os.listdir('/dev/shm'))
    chance = random.Random(options.seed)
    victims = chance.choices(list(VICTIMS), list(VICTIMS.values()), k=options.kills)
    os.environ['PYTHONPATH'] = os.pathsep.join((*MODULES, os.environ.get('PYTHONPATH', '')))
    with tempfile.TemporaryDirectory() as folder, ros_domain(Path(folder)) as domain:
        times, troubles = run(Path(folder), domain, victims, chance, minutes=options.minutes)
    print(f'\n{this_machine()}, load {os.getloadavg()[0]:.0f}; {sum(map(len, times.values()))} '
          f'kills; {len(os.listdir("/dev/shm")) - shared:+d} files in /dev/shm\n\n'
          '| killed | times | fused again after s, median | longest |\n|---|---|---|---|')
    for victim, values in sorted(times.items()):
        seconds = [value for value in values if value is not None] or [float('nan')]
        print(f'| {victim} | {len(values)} | {statistics.median(seconds):.2f} | '
              f'{max(seconds):.2f} |')
    print(json.dumps(troubles, indent=1))
    return int(bool(troubles) or not times)


if __name__ == '__main__':
    sys.exit(main())
