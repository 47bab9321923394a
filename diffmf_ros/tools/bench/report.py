# SPDX-License-Identifier: Apache-2.0
"""A whole benchmark: timings, start, publishing and floors of several configurations, its JSON
and its plot.

The names in capitals are those of NVIDIA's ros2_benchmark, with times in milliseconds. They are
computed as if the frames of a configuration had followed each other directly.
"""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from ...core.frames import DiffmfError
from ...core.packages import pip_install
from ...core.settings import iter_specs
from ...io.paths import PLOTS
from ...io.writing import replacing, require_ending
from ..doctor.ros import why_no_rclpy
from ..machine import Machine, this_machine
from .benchmark import Benchmark, Configuration, Startup, compare, measure_startup, with_weights
from .shell_bench import run_probe

FORMAT = 'diffmf_ros bench 1'
PROBE_TIMEOUT_S = 60


@dataclass(frozen=True)
class Floor:
    """The least time of the network stage: what it has to do over the rates measured in the same
    run."""

    floor_ms: float
    operations: float
    bytes_moved: float
    operations_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class BenchRow:
    """One configuration: its timings, its start, its floor (none without a network)."""

    timings: Benchmark
    startup: Startup
    floor: Floor | None

    @property
    def times_floor(self) -> float | None:
        """Median of the network stage over the floor."""
        return self.timings.quantile('network', 0.5) / self.floor.floor_ms if self.floor else None


@dataclass(frozen=True)
class Report:
    """All rows, in the order they took turns, the machine they ran on, and what a reader has to
    know."""

    machine: Machine
    versions: dict[str, str]
    rows: list[BenchRow]
    notes: list[str] = field(default_factory=list)

    def speed_up(self, row: BenchRow) -> float:
        """Median total of the first row of the same size over that of row: 2 is twice as fast."""
        size = row.timings.configuration.size
        first = next(other for other in self.rows if other.timings.configuration.size == size)
        return first.timings.quantile('total', 0.5) / row.timings.quantile('total', 0.5)

    def as_json(self) -> str:
        """Everything, with all samples."""
        return json.dumps({
            'format': FORMAT,
            'host': {'name': platform.node(), **asdict(self.machine), 'versions': self.versions},
            'results': [self._row(row) for row in self.rows], 'notes': self.notes}, indent=1)

    def _row(self, row: BenchRow) -> dict:
        timings, configuration = row.timings, row.timings.configuration
        return {
            'name': configuration.name, 'size': configuration.size, 'runs_on': timings.runs_on,
            'trained_weights': configuration.trained,
            'config': {item.name: item.value for item in iter_specs(configuration.settings)},
            'input_sha256': timings.input_sha256,
            'metrics': frame_metrics(timings.totals_ms()),
            'stages_ms': {stage: {'p50': timings.quantile(stage, 0.5),
                                  'p99': timings.quantile(stage, 0.99),
                                  'samples': samples} for stage,
                          samples in timings.stages_ms.items()},
            'speed_up': self.speed_up(row), 'busy_cores': timings.busy_cores,
            'joules_per_frame': timings.joules, 'startup': asdict(row.startup),
            'problems': timings.problems,
            'floor': {**asdict(row.floor), 'times_floor': row.times_floor} if row.floor else None}


def frame_metrics(latencies_ms: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Metrics of frames that took latencies_ms, one after the other.

    Jitter is the difference between two successive frame intervals (their second difference of
    arrival times). MEAN_FRAME_RATE divides the n - 1 intervals by the time between first and last
    arrival; ros2_benchmark divides n. What too few frames do not define is left out.
    """
    latencies = np.asarray(latencies_ms, float)
    intervals = latencies[1:]
    jitter = np.abs(np.diff(intervals))
    metrics = {
        'NUM_FRAMES_SENT': len(latencies), 'NUM_MISSED_FRAMES': 0,
        'FIRST_INPUT_LATENCY': latencies[0], 'LAST_INPUT_LATENCY': latencies[-1],
        'MIN_LATENCY': latencies.min(), 'MEAN_LATENCY': latencies.mean(),
        'MAX_LATENCY': latencies.max(),
        **{f'P{q}_LATENCY': np.percentile(latencies, q) for q in (50, 95, 99)},
        'RECEIVED_DURATION': intervals.sum()}
    if len(intervals):
        metrics['MEAN_FRAME_RATE'] = 1e3 * len(intervals) / intervals.sum()
    if len(jitter):
        metrics |= {'MIN_JITTER': jitter.min(), 'MEAN_JITTER': jitter.mean(),
                    'MAX_JITTER': jitter.max(), 'STD_DEV_JITTER': jitter.std()}
    return {name: int(value) if name.startswith('NUM') else float(value) for name,
            value in metrics.items()}


def run(configurations: Sequence[Configuration], *, frames: int,
        report: Callable[[int], None] = lambda done: None) -> Report:
    """Measure everything.

    report is called with how many frames, and then start-ups too, are measured.
    Raises DiffmfError as compare, measure_startup and the publishing probe do.
    """
    notes: list[str] = []
    with with_weights(configurations) as ready:
        timings = _with_publishing(compare(ready, frames=frames, report=report), frames, notes)
        startups = []
        for configuration in ready:
            startups.append(measure_startup(configuration))
            report(frames + len(startups))
    for network in dict.fromkeys(c.network for c in ready if not c.trained):
        notes.append(f'{network}: no trained weights come with this package; timed with fresh '
                     f'ones, whose pictures '
                     'mean nothing')
    notes += dict.fromkeys(f'energy is not reported: {t.joules}' for t in timings
                           if isinstance(t.joules, str))
    floors = _floors(ready, notes)
    return Report(this_machine(), _versions(),
                  [BenchRow(*row) for row in zip(timings, startups, floors)], notes)


def _floors(configurations: Sequence[Configuration], notes: list[str]) -> list[Floor | None]:
    """Floors of the network stage; each device and precision is measured once."""
    if all(c.settings.model == 'classical' for c in configurations):
        return [None] * len(configurations)
    try:
        from .roofs import measure_roofs, work_of_preset
    except ImportError as error:
        notes.append(f'no floors: they need torch ({error})')
        return [None] * len(configurations)
    measure = cache(measure_roofs)
    floors = []
    for configuration in configurations:
        settings, floor = configuration.settings, None
        if settings.model != 'classical':
            work = work_of_preset(settings.model, settings.network_preset, configuration.size,
                                  scale=settings.scale)
            roofs = measure(*_device_and_precision(settings))
            floor = Floor(roofs.floor_ms(work), work.operations,
                          work.elements * roofs.element_bytes,
                          roofs.operations_per_s, roofs.bytes_per_s)
        floors.append(floor)
    return floors


def _device_and_precision(settings):
    if settings.engine == 'onnx':
        import torch
        return 'cpu', torch.float32
    from ...inference.engine import device_and_precision
    return device_and_precision(settings)


def _with_publishing(timings: list[Benchmark], frames: int, notes: list[str]) -> list[Benchmark]:
    """Add the stages 'encode' and 'publish', measured once for each size in processes of their
    own."""
    if missing := why_no_rclpy():
        notes.append(f'encode and publish are not measured: {missing}')
        return timings
    stages = {size: _publish(size, frames)
              for size in dict.fromkeys(t.configuration.size for t in timings)}
    return [replace(t, stages_ms=t.stages_ms | stages[t.configuration.size]) for t in timings]


def _publish(size: tuple[int, int], frames: int) -> dict[str, list[float]]:
    return run_probe('publish', '--width', size[0], '--height', size[1], '--frames', frames,
                     timeout_s=PROBE_TIMEOUT_S + frames)


def _versions() -> dict[str, str]:
    """Versions of what the numbers depend on, as far as it is loaded."""
    modules = {name: sys.modules.get(name)
               for name in ('numpy', 'cv2', 'torch', 'triton', 'onnxruntime')}
    return {'python': platform.python_version(),
            **{n: str(m.__version__) for n, m in modules.items() if m}}


class PlotError(DiffmfError):
    """The plot cannot be drawn."""


def figure_class():
    """Return matplotlib's Figure.

    Raises PlotError, saying how to install it, when it cannot be imported.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(f'a plot needs matplotlib, which cannot be imported ({error}): '
                        f'{pip_install("view")}') from error
    return Figure


def write_plot(path: Path, report: Report) -> None:
    """Draw the network stage, p50 with the range to p99, over the pixels of the image.

    The format is that of the file's ending. Raises PlotError as figure_class, WriteError as
    save_figure.
    """
    figure = figure_class()(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(
        title=f'network stage on {report.machine}', xlabel='megapixels of the RGB image',
        ylabel='ms per pair')
    for name, rows in lines(report).items():
        pixels = [_megapixels(row) for row in rows]
        p50 = [row.timings.quantile('network', 0.5) for row in rows]
        above = [row.timings.quantile('network', 0.99) - middle for row, middle in zip(rows, p50)]
        drawn = axes.errorbar(pixels, p50, yerr=[[0] * len(rows), above], marker='o', capsize=3,
                              label=name)
        floors = [row.floor.floor_ms for row in rows if row.floor]
        if len(floors) == len(rows):
            axes.plot(pixels, floors, linestyle='--', marker='.',
                      color=drawn[0].get_color(), label=f'{name}: floor')
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    save_figure(figure, path)


def save_figure(figure, path: Path) -> None:
    """Write a figure. Raises WriteError, also for an ending that is none of PLOTS."""
    require_ending(path, PLOTS, what='a plot')
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower())  # of a link: that of its name


def lines(report: Report) -> dict[str, list[BenchRow]]:
    """Rows that differ in size alone, by what they have in common, from small to large."""
    grouped: dict[str, list[BenchRow]] = {}
    for row in report.rows:
        configuration = row.timings.configuration
        name = configuration.name.replace(' {}x{}'.format(*configuration.size), '')
        grouped.setdefault(f'{name}, {row.timings.runs_on}', []).append(row)
    return {name: sorted(rows, key=_megapixels) for name, rows in grouped.items()}


def _megapixels(row: BenchRow) -> float:
    width, height = row.timings.configuration.size
    return width * height / 1e6
