# SPDX-License-Identifier: Apache-2.0
"""Disturbs the real node at camera rate for a long time, and judges whether anything grows.

    python benchmarks/soak.py --minutes 120 [--rate 30] [--out out/soak] [--seed 1]
        [--only network lifecycle]

One disturbance follows another, drawn at random: a fault of a camera, a clock or the network (the
cells of test/faults), other parameters, another network, lifecycle transitions, a bag in a loop.
After each the node has to fuse again, and its latency is measured for a while in calm. Memory,
threads, handles and shared memory of the soak's own processes go to samples.csv every 5 s. The
exit code is 1 when the second half of the run shows growth, or the node did not come back.
"""

import argparse
import csv
import os
import random
import shutil
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / 'test'))

import soak_report  # noqa: E402
from conftest import Child, write_bag  # noqa: E402
from faults import rig as rig_module  # noqa: E402
from faults.cells import CAMERAS, CLOCKS, COMPUTE  # noqa: E402
from faults.matrix import settled  # noqa: E402
from faults.rig import PARAMETERS, RGB_SIZE, THERMAL_SIZE, Record, Rig, started  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from trends import GROWS  # noqa: E402

from diffmf_ros.core.settings import DEFAULTS, iter_specs  # noqa: E402

SAMPLE_S, CALM_S, BACK_S, ANSWER_S = 5.0, 3.0, 60.0, 60.0
HEAP = 'heap'
FEWEST = 20  # latencies of which quantiles are worth anything
COLUMNS = ('seconds', *soak_report.JUDGED, 'p99_ms', 'fused', 'disturbances', 'load')
# Other values of parameters, of which a disturbance takes some; afterwards they are set back.
CHANGES = {
    'output.color': ('gray', 'inferno', 'raw_chroma'), 'output.jpeg_quality': (20, 100),
    'output.temporal_filter': (0.5, 0.9), 'thermal.polarity': ('black_hot',),
    'thermal.gain_control': ('linear',), 'thermal.time_constant_s': (0.0, 5.0),
    'alignment.trim_x_px': (-12.5, 3.0), 'alignment.output_grid': ('thermal',),
    'sync.thermal_offset_ms': (4.0,), 'sync.hold_last_ms': (0.0, 200.0), 'scale': (0.5, 0.75),
    'qos.depth': (1, 3), 'input.rgb_orientation': ('rotated_180', 'mirrored'),
    'health.frozen_frames': (0, 5), 'health.detect_blind': (False,), 'adaptive_scale': (True,),
}
# Kinds of disturbances, and how often they come.
KINDS = {'fault': 6, 'parameters': 3, 'network': 1, 'lifecycle': 1, 'loop': 1}
NETWORKS = ({'model': 'classical'}, {'preset': 'light'}, {'model': 's4fusion', 'preset': 'light'})
DOWN_AND_UP = (
    (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE),
    (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
     Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
)


class Soak:
    """Disturbs the node behind rig, and samples its process."""

    def __init__(self, rig: Rig, folder: Path, chance: random.Random,
                 files: soak_report.OwnFiles):
        self.rig, self.folder, self.chance, self._files = rig, folder, chance, files
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.back_s: list[tuple[float, str]] = []  # after which disturbance
        self.samples: list[dict] = []
        self._latencies_ms: list[float] = []
        self._fused = 0
        self._start_s = self._due_s = time.monotonic()
        self._set = rig.peer.node.create_client(SetParametersAtomically,
                                                '/fusion_node/set_parameters_atomically')
        self._state = rig.peer.node.create_client(ChangeState, '/fusion_node/change_state')
        shutil.rmtree(folder / 'bag', ignore_errors=True)  # of an earlier soak
        self._bag = write_bag(folder / 'bag', seconds=2, rgb_size=RGB_SIZE,
                              thermal_size=THERMAL_SIZE)
        self._as_started = self._values(CHANGES) | {'model': 'diffmf', 'preset': 'nano'}
        self._file = (folder / 'samples.csv').open('w', newline='')
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()

    def run(self, minutes: float, only: list[str]) -> None:
        """Disturb and calm down, in turn, for so long, with the kinds that only names."""
        end_s = self._start_s + 60 * minutes
        kinds = {getattr(self, f'_{kind}'): KINDS[kind] for kind in only}
        while time.monotonic() < end_s and self.rig.child.process.poll() is None:
            self.rig.record = Record()
            kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
            name = kind()
            self.counts[name] += 1
            self._come_back(name)
            self._calm()
        if self.rig.child.process.poll() is not None:
            self.troubles.append(f'the node ended: {self.rig.child.output[-2000:]}')

    def _fault(self) -> str:
        cell = self.chance.choice([*CAMERAS, *CLOCKS, *COMPUTE])
        first, ticks = self.rig.tick, self.chance.randint(cell.ticks, 2 * cell.ticks)
        self.rig.break_network(cell.compute)
        self.rig.close_shutter(cell.shutter)
        while self.rig.tick < first + ticks:
            self._tick(rgb=cell.rgb, thermal=cell.thermal, since=self.rig.tick - first)
        self.rig.break_network('')
        self.rig.close_shutter(False)
        return cell.name

    def _parameters(self) -> str:
        names = self.chance.sample(sorted(CHANGES), self.chance.randint(1, 3))
        self._change({name: self.chance.choice(CHANGES[name]) for name in names})
        if self.chance.random() < 0.5:
            self._fault()
        else:
            self._healthy(self.chance.uniform(0.5, 2))
        self._change({name: self._as_started[name] for name in names})
        return 'other parameters'

    def _network(self) -> str:
        self._change(self.chance.choice(NETWORKS))
        self._healthy(self.chance.uniform(0.1, 6))  # it may still be loading
        self._change({name: self._as_started[name] for name in ('model', 'preset')})
        return 'another network'

    def _lifecycle(self) -> str:
        for transition in self.chance.choice(DOWN_AND_UP):
            answer = self._call(self._state, ChangeState.Request(
                transition=Transition(id=transition)))
            if answer is None or not answer.success:
                self.troubles.append(f'lifecycle transition {transition} failed')
        return 'lifecycle'

    def _loop(self) -> str:
        """Play a bag three times over, while the cameras are silent."""
        self._files.before_start()
        player = Child('diffmf_ros.ros.bag_player', self._bag, '--loop', '3',
                       '--wait-for-subscribers', '20', log=self.folder / 'player.log')
        try:
            end_s = time.monotonic() + 60
            while player.process.poll() is None and time.monotonic() < end_s:
                self.rig.peer.executor.spin_once(timeout_sec=0.05)
                self._files.note(player.process.pid)
                self._sample()
            if player.process.poll() != 0:
                self.troubles.append(f'the player failed: {player.output[-500:]}')
        finally:
            player.kill()
        return 'bag in a loop'

    def _come_back(self, name: str) -> None:
        """Send good frames until the node fuses at full size again, and note how long it took."""
        self.rig.record, since_s = Record(), time.monotonic()
        while not settled(self.rig.record.outputs):
            if time.monotonic() - since_s > BACK_S or self.rig.child.process.poll() is not None:
                self.troubles.append(f'not fused again {BACK_S:g} s after: {name}')
                return
            self._tick()
        self.back_s.append((time.monotonic() - since_s, name))

    def _calm(self) -> None:
        """Measure the latency of good frames for a while."""
        self.rig.record = record = Record()
        self._healthy(CALM_S)
        fused = [output for output in record.outputs if output.mode == 'FUSED']
        self._fused += len(fused)
        self._latencies_ms += [record.ms(output.tick, output.at_ns) for output in fused
                               if output.tick in record.sent_ns]

    def _healthy(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._tick()

    def _tick(self, **behaviors) -> None:
        self.rig.send(**behaviors)
        self._sample()

    def _change(self, values: dict) -> None:
        answer = self._call(self._set, SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]))
        if answer is None or not answer.result.successful:
            self.troubles.append(f'{values} was refused: {answer and answer.result.reason}')

    def _call(self, client, request):
        """Return the answer of a service, or None; the cameras go on meanwhile."""
        client.wait_for_service(ANSWER_S)
        future, end_s = client.call_async(request), time.monotonic() + ANSWER_S
        while not future.done() and time.monotonic() < end_s:
            self._tick()
        return future.result() if future.done() else None

    def _values(self, names) -> dict:
        """Return the defaults of parameters, except for those that the rig sets."""
        defaults = {item.name: item.value for item in iter_specs(DEFAULTS)} | PARAMETERS
        return {name: defaults[name] for name in names}

    def _sample(self) -> None:
        """Append a row, when one is due."""
        now_s = time.monotonic()
        if now_s < self._due_s or self.rig.child.process.poll() is not None:
            return
        self._due_s = now_s + SAMPLE_S
        node = self.rig.child.process.pid
        self._files.note(node)
        self._files.note(os.getpid())
        p50_ms = p99_ms = None
        if len(self._latencies_ms) >= FEWEST:
            cuts = statistics.quantiles(self._latencies_ms, n=100)
            p50_ms, p99_ms = round(cuts[49], 2), round(cuts[98], 2)
            self._latencies_ms = []
        row = {'seconds': round(now_s - self._start_s, 1),
               **soak_report.usage(node, self._files, self.folder / HEAP),
               'p50_ms': p50_ms, 'p99_ms': p99_ms, 'fused': self._fused,
               'disturbances': self.counts.total(), 'load': os.getloadavg()[0]}
        self.samples.append(row)
        self._rows.writerow({name: '' if value is None else value for name, value in row.items()})
        self._file.flush()


def main() -> int:
    """Return the exit code: 1 for growth, a node that did not come back, or too short a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=120)
    parser.add_argument('--rate', type=float, default=30.0, help='of the cameras, in Hz')
    parser.add_argument('--out', type=Path, default=Path('out/soak'))
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--only', nargs='+', choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    rig_module.PERIOD_NS = round(1e9 / options.rate)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / HEAP).unlink(missing_ok=True)
    os.environ['HEAP_FILE'] = str(options.out / HEAP)
    files = soak_report.OwnFiles()
    files.before_start()
    with started(options.out, reports_s=1.0) as rig:
        soak = Soak(rig, options.out, random.Random(options.seed), files)
        soak.run(options.minutes, options.only)
    return finish(soak, options.out)


def finish(soak: Soak, folder: Path) -> int:
    """Write the report and the plot of a run into folder, and print them; return the exit code."""
    soak_report.plot(soak.samples, folder / 'soak.png')
    try:
        judged = soak_report.judge(soak.samples)
    except ValueError as error:
        sys.exit(str(error))
    kinds = ', '.join(f'{name} {count}' for name, count in sorted(soak.counts.items()))
    longest_s, slowest = max(soak.back_s)
    median_s = statistics.median(back_s for back_s, _ in soak.back_s)
    report = '\n'.join([
        *soak_report.table(soak.samples, judged), '',
        f'{soak.counts.total()} disturbances ({kinds}); {soak.samples[-1]["fused"]} images fused '
        f'in calm. Eight fused images in a row came {median_s:.2f} s (median) and at most '
        f'{longest_s:.2f} s after a disturbance, which was: {slowest}.',
        *(f'TROUBLE: {trouble}' for trouble in soak.troubles)])
    (folder / 'report.md').write_text(report + '\n')
    print(report)
    grows = any(verdict == GROWS for _, verdict in judged.values())
    return int(grows or bool(soak.troubles))


if __name__ == '__main__':
    sys.exit(main())
