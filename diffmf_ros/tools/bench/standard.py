# SPDX-License-Identifier: Apache-2.0
"""The benchmark that everybody can repeat: the installed node, live, always with the same job.

Two cameras of 640x480 send at 10 and at 30 Hz to the real node over DDS, with the classical method
and with the default network. The names in capitals are those of NVIDIA's ros2_benchmark, with
times in milliseconds. Files of it become rows: on the screen, a page, docs/machines.md.
"""

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ... import __version__
from ...core.frames import DiffmfError
from ..doctor.ros import require_rclpy
from ..machine import Machine, this_machine
from .shell_bench import run_probe

FORMAT = 'diffmf_ros bench standard 1'
MODELS = ('classical', 'diffmf')
SIZE = (640, 480)
SECONDS = 8.0
RATES_HZ = (10.0, 30.0, 30.0, 30.0)  # one after the other; the repeats give the range
TIMEOUT_S = 240.0
VERSIONS = ('numpy', 'opencv-python-headless', 'torch', 'rclpy')


@dataclass(frozen=True)
class Run:
    """One run as the probe printed it.

    Attributes:
        rate_hz: Of the cameras.
        sent_ns: Stamps of the pairs.
        received: Stamp and receipt of every fused image, in ns.
        modes: Images by mode.
        cpu_s: Processor time of the node.
        other_s: Processor time of everything else on the machine but the benchmark.
        wall_s: Length of the run.
    """

    rate_hz: float
    sent_ns: Sequence[int]
    received: Sequence[Sequence[int]]
    modes: Mapping[str, int]
    cpu_s: float
    other_s: float
    wall_s: float

    @property
    def latencies_ms(self) -> np.ndarray:
        """From the publishing of a pair to the receipt of its image."""
        return np.array([(at_ns - stamp_ns) / 1e6 for stamp_ns, at_ns in self.received])

    @property
    def throughput_hz(self) -> float:
        """Images a second of the run."""
        return len(self.received) / self.wall_s


@dataclass(frozen=True)
class Result:
    """All runs of one model at one rate."""

    model: str
    rate_hz: float
    first_image_s: float
    peak_memory_mb: float
    runs: tuple[Run, ...]

    def metrics(self) -> dict[str, float]:
        """Return the metrics over all repeats.

        Jitter is the change from one interval between images to the next. Throughput counts the
        images over the length of the run, MEAN_FRAME_RATE the intervals between them.

        Raises:
            DiffmfError: Fewer than three images of a repeat came.
        """
        if (fewest := min(len(run.received) for run in self.runs)) < 3:
            raise DiffmfError(
                f'{self.model} at {self.rate_hz:g} Hz: expected at least 3 images in '
                f'{self.runs[0].wall_s:.0f} s, got {fewest}; is the machine busy?'
            )
        latencies = np.concatenate([run.latencies_ms for run in self.runs])
        intervals = [np.diff([at_ns / 1e6 for _, at_ns in run.received]) for run in self.runs]
        jitter = np.concatenate([np.abs(np.diff(one)) for one in intervals])
        throughput = [run.throughput_hz for run in self.runs]
        sent = sum(len(run.sent_ns) for run in self.runs)
        wall_s = sum(run.wall_s for run in self.runs)
        return {
            'NUM_FRAMES_SENT': sent,
            'NUM_MISSED_FRAMES': sent - len(latencies),
            'MEAN_PLAYBACK_FRAME_RATE': sent / wall_s,
            'MEAN_FRAME_RATE': float(1e3 / np.mean(np.concatenate(intervals))),
            'MEAN_THROUGHPUT': float(np.mean(throughput)),
            'MIN_THROUGHPUT': min(throughput),
            'MAX_THROUGHPUT': max(throughput),
            'MIN_LATENCY': float(latencies.min()),
            'MEAN_LATENCY': float(latencies.mean()),
            'MAX_LATENCY': float(latencies.max()),
            **{f'P{q}_LATENCY': float(np.percentile(latencies, q)) for q in (50, 95, 99)},
            'MIN_JITTER': float(jitter.min()),
            'MEAN_JITTER': float(jitter.mean()),
            'MAX_JITTER': float(jitter.max()),
            'STD_DEV_JITTER': float(jitter.std()),
            'MEAN_CPU_CORES': sum(run.cpu_s for run in self.runs) / wall_s,
            'OTHER_CPU_CORES': sum(run.other_s for run in self.runs) / wall_s,
        }

    @property
    def modes(self) -> dict[str, int]:
        """Images of all repeats by mode."""
        return dict(sum((Counter(run.modes) for run in self.runs), Counter()))


@dataclass(frozen=True)
class StandardReport:
    """All results and the machine. device: the GPU that networks run on, or 'cpu'."""

    machine: Machine
    device: str
    date: str
    versions: Mapping[str, str]
    results: tuple[Result, ...]

    def as_dict(self) -> dict:
        """Return everything but the single frames."""
        return {
            'format': FORMAT,
            'diffmf_ros': __version__,
            'date': self.date,
            'host': {
                **asdict(self.machine),
                'device': self.device,
                'versions': dict(self.versions),
            },
            'job': {'size': SIZE, 'seconds': SECONDS, 'rates_hz': RATES_HZ},
            'results': [
                {
                    'model': one.model,
                    'rate_hz': one.rate_hz,
                    'repeats': len(one.runs),
                    'first_image_s': round(one.first_image_s, 2),
                    'peak_memory_mb': round(one.peak_memory_mb, 1),
                    'modes': one.modes,
                    'metrics': {name: round(value, 3) for name, value in one.metrics().items()},
                }
                for one in self.results
            ],
        }

    def as_json(self) -> str:
        """Return as_dict() as text."""
        return json.dumps(self.as_dict(), indent=1)


def run(report: Callable[[str], None] = lambda what: None) -> StandardReport:
    """Measure everything; report is called with what begins.

    Raises:
        DiffmfError: There is no ROS, or the node does not run here.
    """
    require_rclpy('the standard benchmark runs the node over real DDS')
    results = []
    for model in MODELS:
        report(f'{model}: {len(RATES_HZ)} runs of {SECONDS:g} s')
        results += _measured(model)
    date = f'{datetime.now(timezone.utc):%Y-%m-%d}'
    return StandardReport(this_machine(), _device(), date, _versions(), tuple(results))


def _measured(model: str) -> list[Result]:
    """Run the node with a model at every rate; return a result for each different rate."""
    measured = run_probe('live', '--model', model, '--size', '{}x{}'.format(*SIZE), '--seconds',
                         SECONDS, '--rates', *RATES_HZ, timeout_s=TIMEOUT_S)
    runs = [Run(**one) for one in measured.pop('runs')]
    return [
        Result(model, rate_hz, **measured,
               runs=tuple(run for run in runs if run.rate_hz == rate_hz))
        for rate_hz in dict.fromkeys(RATES_HZ)
    ]


def _device() -> str:
    """Return the name of the GPU that the network runs on, or 'cpu'."""
    if find_spec('torch') is None:
        return 'cpu'
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'


def _versions() -> dict[str, str]:
    versions = {'python': platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass  # of a distribution of ROS or of the system
    return versions


COLUMNS = (
    'fuses with',
    'pairs sent, Hz',
    'images, Hz (least to most)',
    'latency p50 / p99, ms',
    'left out, %',
    'cores of the node',
    'cores of others',
    'first image, s',
    'memory, MB',
)
CAPTION = (
    '640x480, two cameras, the installed node over DDS; latency from the publishing of a pair to '
    'the receipt '
    'of its image; left out: pairs that a newer one overtook; cores of others: what else the '
    'machine did meanwhile'
)
TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>diffmf_ros on {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1em; max-width: 70em }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1em 0 }}
td, th {{ padding: .3em .6em; text-align: right; font-variant-numeric: tabular-nums;
  font-weight: normal }}
td:first-child, th:first-child {{ text-align: left }}
tr:nth-child(even) {{ background: #8882 }}
</style></head><body>
<h1>diffmf_ros on {title}</h1>
<p>{about}</p>
{table}
<p>{caption}.</p>
{all}
</body></html>
"""


def read_report(path: Path) -> dict:
    """Return the content of a file that `diffmf bench --standard --json` has written.

    Raises:
        DiffmfError: It is no such file.
    """
    try:
        report = json.loads(path.read_text(encoding='utf-8'))
        rows(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffmfError(f'{path} is no file of `diffmf bench --standard`: {error!r}') from error
    return report


def rows(report: Mapping) -> list[tuple[str, ...]]:
    """Return the cells of COLUMNS for each result of a report.

    Raises:
        ValueError: It has another format.
    """
    if report['format'] != FORMAT:
        raise ValueError(f'expected {FORMAT}, got {report["format"]}')
    return [_row(result) for result in report['results']]


def title(report: Mapping) -> str:
    """Return what the machine is, in a few words."""
    host = report['host']
    board = f' ({host["board"]})' if host['board'] else ''
    device = '' if host['device'] == 'cpu' else f', {host["device"]}'
    return f'{host["cores"]} cores of {host["cpu"]}{board}{device}'


def about(report: Mapping) -> str:
    """Return the rest of what numbers depend on: system, memory, versions, day."""
    host = report['host']
    versions = ', '.join(f'{name} {number}' for name, number in host['versions'].items())
    return (
        f'{host["os"]}, {host["memory_gb"]:.0f} GB, '
        f'{", ".join(host["extensions"]) or "no extensions"}; '
        f'diffmf_ros {report["diffmf_ros"]}, {versions}; measured {report["date"]}'
    )


def markdown(reports: Iterable[Mapping]) -> str:
    """Return a section with a table for each report."""
    sections = []
    for report in reports:
        lines = [
            '| ' + ' | '.join(cells) + ' |'
            for cells in (COLUMNS, ('---',) * len(COLUMNS), *rows(report))
        ]
        sections.append('\n'.join((f'## {title(report)}', '', f'{about(report)}.', '', *lines)))
    return '\n\n'.join(sections)


def page(report: Mapping) -> str:
    """Return a page about one machine, with every metric; it loads nothing."""
    names = list(report['results'][0]['metrics'])
    metrics = [
        (name, *(f'{result["metrics"][name]:g}' for result in report['results'])) for name in names
    ]
    heads = (
        'metric',
        *(f'{result["model"]}, {result["rate_hz"]:g} Hz' for result in report['results']),
    )
    return TEMPLATE.format(
        title=escape(title(report)),
        about=escape(about(report)),
        caption=escape(CAPTION),
        table=_html(COLUMNS, rows(report)),
        all=_html(heads, metrics),
    )


def _row(result: Mapping) -> tuple[str, ...]:
    metrics = result['metrics']
    return (
        f'`{result["model"]}`',
        f'{metrics["MEAN_PLAYBACK_FRAME_RATE"]:.1f}',
        '{MEAN_THROUGHPUT:.1f} ({MIN_THROUGHPUT:.1f} to {MAX_THROUGHPUT:.1f})'.format(**metrics),
        '{P50_LATENCY:.0f} / {P99_LATENCY:.0f}'.format(**metrics),
        f'{100 * metrics["NUM_MISSED_FRAMES"] / metrics["NUM_FRAMES_SENT"]:.0f}',
        f'{metrics["MEAN_CPU_CORES"]:.2f}',
        f'{metrics["OTHER_CPU_CORES"]:.2f}',
        f'{result["first_image_s"]:.1f}',
        f'{result["peak_memory_mb"]:.0f}',
    )


def _html(heads: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    lines = [f'<tr>{"".join(f"<th>{escape(head)}</th>" for head in heads)}</tr>']
    lines += [f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>' for row in cells]
    return '<table>\n' + '\n'.join(lines).replace('`', '') + '\n</table>'
