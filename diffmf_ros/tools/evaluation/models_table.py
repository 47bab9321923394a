# SPDX-License-Identifier: Apache-2.0
"""Every network and preset in one table.

Size, work, trained weights and, where asked for, time, memory and scores.

Nothing is filled in that was not counted or measured: the cell is '-'.
"""

import json
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ... import models
from ...core.frames import DiffmfError
from ...core.settings import DEFAULTS, SYNTHETIC, with_changes
from ...inference.network import LibraryMissing
from ...inference.weights_header import WeightsError, read_header, shipped
from ..bench.benchmark import Configuration, compare, measure_startup, with_weights
from ..machine import Machine, this_machine
from .scoring import HEADLINE, by_set, means, network_method, score_pairs

FORMAT = 'diffmf_ros models 1'
METRICS = (*HEADLINE, 'EN', 'SD', 'SF', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2', 'salience')
ABOUT_METRICS = 'more is better; MI in nats, VIF and SSIM summed over both sources'
NONE = '-'
Report = Callable[[int], None]


class ModelsTableError(DiffmfError):
    """There is no such row, or the table cannot be written."""


@dataclass(frozen=True)
class Trained:
    """Weights that come with the package.

    Name of the file, iterations of the training (None: not known), bytes of the file.
    """

    file: str
    iterations: int | None
    bytes: int


@dataclass(frozen=True)
class Timing:
    """Measured on runs_on (device, precision, scan).

    The network stage of a pair in ms, and peaks of memory in MB.
    """

    runs_on: str
    p50_ms: float
    p95_ms: float
    memory_mb: float
    device_memory_mb: float | None

    def quantiles(self, device: str) -> str:
        """Return p50 and p95 as text if it ran on this kind of device."""
        return f'{self.p50_ms:.1f} / {self.p95_ms:.1f}' if self.runs_on.startswith(
            device) else NONE


@dataclass(frozen=True)
class ModelRow:
    """A network with a preset. timing and scores are None where nobody asked.

    Scores are {} without weights.
    """

    model: str
    preset: str
    parameters: int
    multiply_adds: float
    weights: Trained | None
    timing: Timing | None = None
    scores: dict[str, float] | None = None
    kind: str = ''  # of the weights: SYNTHETIC, or empty

    @property
    def shown_preset(self) -> str:
        """Such as 'light', or 'nano synthetic'."""
        return f'{self.preset} {self.kind}'.strip()

    @property
    def name(self) -> str:
        """Such as 'diffmf light'."""
        return f'{self.model} {self.shown_preset}'


@dataclass(frozen=True)
class Host:
    """What measured: the machine, its GPU ('' when none took part), threads, and the version of
    torch."""

    machine: Machine
    gpu: str
    threads: int
    torch: str
    runs_on: tuple[str, ...]

    def __str__(self):
        threads = f'{self.threads} thread{"s" * (self.threads > 1)}'
        return ', '.join(filter(None, (str(self.machine), self.gpu, threads, f'torch {self.torch}',
                                       *self.runs_on)))


@dataclass(frozen=True)
class ModelsTable:
    """All rows for pairs of size (width, height); host is None while nothing was measured."""

    size: tuple[int, int]
    rows: tuple[ModelRow, ...]
    host: Host | None = None
    notes: tuple[str, ...] = ()

    def columns(self) -> dict[str, list[str]]:
        """Return the cells of every column by its heading.

        Time and scores only where somebody asked for them.
        """
        kinds: dict[str, Callable[[Any], str]] = {
                 'network': lambda row: row.model, 'preset': lambda row: row.shown_preset,
                 'parameters': lambda row: f'{row.parameters:,}',
                 f'multiply-adds at '
                 f'{self.size[0]}x{self.size[1]}': lambda row: f'{row.multiply_adds / 1e9:.3g} G'}
        kinds |= _WEIGHTS
        if any(row.timing for row in self.rows):
            kinds |= _TIMING
        if any(row.scores is not None for row in self.rows):
            kinds |= {name: partial(_score_cell, name) for name in METRICS}
        return {heading: [cell(row) for row in self.rows] for heading, cell in kinds.items()}

    def below(self) -> list[str]:
        """Return the lines that belong under the table.

        The machine, and what a reader has to know.
        """
        return [str(self.host)] * (self.host is not None) + [f'note: {note}'
                                                             for note in self.notes]

    def as_markdown(self) -> str:
        """Return the table, and what belongs under it as a paragraph for each line."""
        columns = self.columns()
        lines = [list(columns),
                 ['---' if heading in TEXT_COLUMNS else '---:' for heading in columns],
                 *zip(*columns.values())]
        return '\n\n'.join(['\n'.join(f'| {" | ".join(cells)} |' for cells in lines),
                            *self.below()])

    def as_json(self) -> str:
        """Return strict JSON; what was not measured or is not defined is null."""
        host = {'name': platform.node(), **asdict(self.host)} if self.host else None
        return json.dumps({'format': FORMAT, 'size': self.size, 'host': host,
                           'networks': [_plain(row) for row in self.rows], 'notes': self.notes},
                          indent=1, allow_nan=False)


TEXT_COLUMNS = 'network', 'preset', 'trained weights'
_WEIGHTS = {
    'trained weights': lambda row: row.weights.file if row.weights else NONE,
    'iterations': lambda row: (f'{row.weights.iterations:,}'
                               if row.weights and row.weights.iterations else NONE),
    'MB': lambda row: f'{row.weights.bytes / 1e6:.2f}' if row.weights else NONE}
# A number has the column of the device that it was measured on.
_TIMING = {
    'CPU p50 / p95, ms': lambda row: row.timing.quantiles('cpu') if row.timing else NONE,
    'GPU p50 / p95, ms': lambda row: row.timing.quantiles('cuda') if row.timing else NONE,
    'peak memory, MB': lambda row: _fixed(row.timing and row.timing.memory_mb, 0),
    'GPU memory, MB': lambda row: _fixed(row.timing and row.timing.device_memory_mb, 0)}


def listed(*, size: tuple[int, int], only_models: Sequence[str] = (),
           only_presets: Sequence[str] = ()) -> ModelsTable:
    """Return a row for every network and preset, or those that are named, without anything
    measured.

    Raises ModelsTableError for a name that selects nothing, and LibraryMissing without torch.
    """
    known = [(model, preset) for model, presets in models.PRESETS.items() for preset in presets]
    chosen = [(model, preset) for model, preset in known
              if model in (only_models or [model]) and preset in (only_presets or [preset])]
    if unused := {*only_models, *only_presets}.difference(*chosen):
        raise ModelsTableError(f'there is nothing to list for {", ".join(sorted(unused))}; known: '
                               f'{", ".join(map(" ".join, known))}')
    rows = []
    for names in chosen:
        counted = _counted(*names, size)
        rows.append(ModelRow(*names, *counted, _trained(*names)))
        if synthetic := _trained(*names, SYNTHETIC):
            rows.append(ModelRow(*names, *counted, synthetic, kind=SYNTHETIC))
    return ModelsTable(size, tuple(rows))


def timed(table: ModelsTable, *, frames: int, device: str = DEFAULTS.device,
          report: Report = lambda done: None) -> ModelsTable:
    """Return table with time and memory of every row, all in turn.

    See benchmark.compare and measure_startup.
    """
    settings = [with_changes(DEFAULTS, {'model': row.model, 'preset': row.preset,
                                        'weights': row.kind, 'device': device})
                for row in table.rows]
    with with_weights([Configuration(one, table.size) for one in settings]) as ready:
        results = compare(ready, frames=frames, report=report)
        startups = [measure_startup(configuration) for configuration in ready]
    timings = [Timing(result.runs_on, result.quantile('network', 0.5),
                      result.quantile('network', 0.95), startup.peak_memory_mb,
                      startup.device_memory_mb)
               for result, startup in zip(results, startups)]
    fresh = ', '.join(row.name for row, configuration in zip(table.rows, ready)
                      if not configuration.trained)
    notes = [f'timed with fresh weights, as no trained ones come with this package: '
             f'{fresh}'] if fresh else []
    notes += dict.fromkeys(problem for result in results for problem in result.problems)
    rows = tuple(replace(row, timing=timing) for row, timing in zip(table.rows, timings))
    return _measured(replace(table, rows=rows), (timing.runs_on for timing in timings), notes)


def scored(table: ModelsTable, folder: Path, *, device: str = DEFAULTS.device,
           report: Report = lambda done: None) -> ModelsTable:
    """Return table with the means over all pairs below folder, for every row with trained weights.

    The cells show METRICS, the JSON has every metric. report is called with the number of images
    scored so far. Raises DiffmfError as score_pairs and Engine do.
    """
    engines = {row.name: network_method(row.model, preset=row.preset, weights=row.kind or None,
                                        device=device)[1]
               for row in table.rows if row.weights}
    if not engines:
        return replace(table,
                       notes=(*table.notes, 'nothing was scored: no row has trained weights'))
    pairs = by_set(score_pairs(engines, folder, report=report))['all']
    found = {name: means(scores) for name, scores in pairs.items()}
    rows = tuple(replace(row, scores=found.get(row.name, {})) for row in table.rows)
    note = (f'scores: mean over {len(next(iter(pairs.values())))} pairs below {folder}; '
            f'{ABOUT_METRICS}')
    return _measured(replace(table, rows=rows),
                     (engine.description for engine in engines.values()), [note])


def _counted(model: str, preset: str, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters, and multiply-adds of a pair; nothing is computed."""
    try:
        import torch

        from ..bench.roofs import work_of_preset
        with torch.device('meta'):
            parameters = sum(parameter.numel()
                             for parameter in models.build(model, preset).parameters())
        return parameters, work_of_preset(model, preset, size).operations / 2
    except ImportError as error:
        raise LibraryMissing('the table of networks', error) from error


def _trained(model: str, preset: str, kind: str = '') -> Trained | None:
    try:
        path = shipped(model, preset, kind)
    except WeightsError:
        return None
    return Trained(path.name, read_header(path).iterations, path.stat().st_size)


def _measured(table: ModelsTable, runs_on: Iterable[str], notes: Sequence[str]) -> ModelsTable:
    """table with more notes, and with the host that has just measured."""
    import torch

    runs_on = tuple(dict.fromkeys((*(table.host.runs_on if table.host else ()), *runs_on)))
    gpu = torch.cuda.get_device_name() if any(what.startswith('cuda') for what in runs_on) else ''
    host = Host(this_machine(), gpu, torch.get_num_threads(), torch.__version__, runs_on)
    return replace(table, host=host, notes=(*table.notes, *notes))


def _score_cell(metric: str, row: ModelRow) -> str:
    return _fixed((row.scores or {}).get(metric), 3)


def _fixed(value: float | None, decimals: int) -> str:
    return f'{value:.{decimals}f}' if value is not None and math.isfinite(value) else NONE


def _plain(row: ModelRow) -> dict:
    """Without values that strict JSON lacks."""
    scores = {metric: value if math.isfinite(value) else None for metric,
              value in (row.scores or {}).items()}
    return asdict(row) | {'scores': scores or None}
