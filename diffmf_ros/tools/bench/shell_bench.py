# SPDX-License-Identifier: Apache-2.0
"""What the node costs around the network, and what it does under overload, beside the usual way to
write it.

Everything is measured by probes/shell.py and probes/overload.py in processes of their own; this
module runs them, judges what they print, and makes the JSON.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from ...core.frames import DiffmfError
from ..doctor.ros import require_rclpy
from ..machine import Machine, this_machine

FORMAT = 'diffmf_ros bench shell 1'
OURS, USUAL = 'diffmf_ros', 'usual'
TOTAL_P50_MS, TOTAL_P99_MS = 5.0, 10.0
AGE_PERIODS = 2.0  # age p99, in compute times
GROWTH_PERIODS = 0.1  # what passes for no growth: medians of thirds wander by less
THROUGHPUT = 0.95  # of one over the compute time
PROBE_START_S = 120.0
MIN_IMAGES = 12


@dataclass(frozen=True)
class Cost:
    """Milliseconds per pair: all samples by stage, in the order of the data flow.

    cpu_ms is the processor time of all threads, which other processes of a busy machine do not
    touch.
    """

    stages_ms: Mapping[str, list[float]] = field(repr=False)
    cpu_ms: list[float] = field(repr=False)

    def quantile(self, stage: str, q: float) -> float:
        """Quantile q of a stage in ms; 'total' adds the stages of each pair, 'cpu' is the
        processor time."""
        if stage == 'cpu':
            return float(np.quantile(self.cpu_ms, q))
        samples = np.sum(list(self.stages_ms.values()),
                         axis=0) if stage == 'total' else self.stages_ms[stage]
        return float(np.quantile(samples, q))


@dataclass(frozen=True)
class Overload:
    """The images of an overloaded node.

    When each was received, and its age then, since its RGB image was sent.

    compute_ms is the time of the stand-in network, times_capacity how many pairs were sent for
    each that it can fuse. Images that the node says it made without the network are counted in
    not_fused alone. Raises DiffmfError at construction when there are too few images to say
    anything.
    """

    compute_ms: float
    times_capacity: float
    not_fused: int
    received_s: list[float] = field(repr=False)
    age_ms: list[float] = field(repr=False)

    def __post_init__(self):
        if len(self.age_ms) < MIN_IMAGES:
            raise DiffmfError(f'expected at least {MIN_IMAGES} images under overload, got '
                              f'{len(self.age_ms)}; '
                              'let it last longer (--overload-s)')

    def age_quantile_ms(self, q: float) -> float:
        """Quantile q of the ages."""
        return float(np.quantile(self.age_ms, q))

    @property
    def growth_ms(self) -> float:
        """Median age of the last third of the images minus that of the first third."""
        third = len(self.age_ms) // 3
        return float(np.median(self.age_ms[-third:]) - np.median(self.age_ms[:third]))

    @property
    def rate_hz(self) -> float:
        """Images a second between the first and the last."""
        return (len(self.received_s) - 1) / (self.received_s[-1] - self.received_s[0])

    @property
    def throughput(self) -> float:
        """Images a second over one over the compute time."""
        return self.rate_hz * self.compute_ms / 1e3


@dataclass(frozen=True)
class Bar:
    """What was measured beside what is asked for."""

    what: str
    value: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the limit, or on it."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class ShellReport:
    """Cost and overload of ours and of the usual way ('usual', where it could be measured).

    load is the mean number of busy processes of the minute before: above 0, the machine had other
    work.
    """

    machine: Machine
    load: float
    size: tuple[int, int]
    versions: Mapping[str, str]
    costs: Mapping[str, Cost]
    overloads: Mapping[str, Overload]
    notes: tuple[str, ...] = ()

    def bars(self) -> list[Bar]:
        """Return what is asked of the node."""
        cost, overload = self.costs[OURS], self.overloads[OURS]
        return [Bar('cost p50', cost.quantile('total', 0.5), TOTAL_P50_MS, 'ms'),
                Bar('cost p99', cost.quantile('total', 0.99), TOTAL_P99_MS, 'ms'),
                Bar('age p99', overload.age_quantile_ms(0.99), AGE_PERIODS * overload.compute_ms,
                    'ms'),
                Bar('growth of the age', overload.growth_ms, GROWTH_PERIODS * overload.compute_ms,
                    'ms'),
                Bar('throughput', 100 * overload.throughput, 100 * THROUGHPUT,
                    '% of 1 / compute time', at_least=True)]

    def as_json(self) -> str:
        """Everything, with all samples."""
        return json.dumps({
            'format': FORMAT,
            'host': {'name': platform.node(), **asdict(self.machine), 'versions': self.versions,
                     'load_before': self.load},
            'size': self.size,
            'cost': {name: _cost(cost) for name, cost in self.costs.items()},
            'overload': {name: _overload(overload) for name, overload in self.overloads.items()},
            'bars': [{**asdict(bar), 'met': bar.met} for bar in self.bars()], 'notes': self.notes},
                          indent=1)


def _cost(cost: Cost) -> dict:
    quantiles = {stage: {'p50': cost.quantile(stage, 0.5), 'p99': cost.quantile(stage, 0.99)}
                 for stage in (*cost.stages_ms, 'total', 'cpu')}
    return {'total_ms': quantiles['total'], 'cpu_ms': {**quantiles['cpu'], 'samples': cost.cpu_ms},
            'stages_ms': {stage: {**quantiles[stage], 'samples': samples}
                          for stage, samples in cost.stages_ms.items()}}


def _overload(overload: Overload) -> dict:
    return {'age_p50_ms': overload.age_quantile_ms(0.5),
            'age_p99_ms': overload.age_quantile_ms(0.99), 'growth_ms': overload.growth_ms,
            'rate_hz': overload.rate_hz,
            'throughput': overload.throughput, **asdict(overload)}


def run(*, size: tuple[int, int], pairs: int, compute_ms: float, overload_s: float,
        report: Callable[[str], None] = lambda what: None) -> ShellReport:
    """Measure everything; report is called with what begins.

    Raises DiffmfError without ROS, or when a probe fails.
    """
    require_rclpy('the shell of the node is measured with real messages and real DDS')
    machine, load = this_machine(), os.getloadavg()[0]
    side = '{}x{}'.format(*size)
    report(f'cost of {pairs} pairs')
    cost = run_probe('shell', '--size', side, '--pairs', pairs, timeout_s=PROBE_START_S + pairs)
    overloads = {}
    for name in (OURS, USUAL) if cost['message_filters'] else (OURS,):
        report(f'overload of {name}, {overload_s:g} s')
        measured = run_probe('overload', '--size', side, '--compute-ms', compute_ms, '--seconds',
                             overload_s, *(['--usual'] if name == USUAL else []),
                             timeout_s=PROBE_START_S + overload_s)
        overloads[name] = Overload(compute_ms, **measured)
    notes = () if cost['message_filters'] else (
        'message_filters is not installed: of the usual way only the conversions were measured',)
    costs = {name: Cost(cost['stages_ms'][name], cost['cpu_ms'][name]) for name in (OURS, USUAL)}
    return ShellReport(machine, load, size, cost['versions'], costs, overloads, notes)


def run_probe(module: str, *arguments: object, timeout_s: float) -> dict:
    """Run a module of the folder probes in a process of its own and return the JSON that it prints
    last.

    Raises DiffmfError, with what it wrote, when it fails or takes longer than timeout_s.
    """
    command = [sys.executable, '-m', f'{__package__}.probes.{module}', *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s,
                              check=False)
    except subprocess.TimeoutExpired as error:
        raise DiffmfError(f'{module} took longer than {timeout_s:g} s; is the machine '
                          f'busy?') from error
    if done.returncode:
        reason = done.stderr.strip().rpartition('\n')[2]  # of a traceback the error
        raise DiffmfError(f'{module} could not measure: {reason}')
    return json.loads(done.stdout.splitlines()[-1])
