# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench`: milliseconds per stage on this machine, several configurations in turn; with
--shell, --plan and --standard other measurements and their tables."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..core.settings import DEFAULTS
from ..io.paths import PLOTS
from ..io.writing import require_output, write_text
from . import options
from .progress import announced, progress

CAPTION = ('floor: the operations of the network, or the bytes that it moves, over the rates of '
           'this machine, measured in this run; speed-up: against the first of the same size; '
           'busy cores: CPU time over wall time; first frame: from the start of a process')
WIDTH = 180  # of the tables where the output is no terminal
SHELL_SIZE, SHELL_PAIRS = (640, 512), 300
# What --shell goes with, and what goes with it alone.
WITH_SHELL = {'shell', 'size', 'frames', 'json', 'compute_ms', 'overload_s', 'overwrite'}
SHELL_ONLY = {'compute_ms', 'overload_s'}
WITH_STANDARD = {'standard', 'json', 'page', 'overwrite'}
WITH_PLAN = {'plan', 'model', 'preset', 'size', 'scale', 'precision', 'scan_backend', 'json',
             'overwrite'}
_SEVERAL = '; several: a,b'
Models = Annotated[str, typer.Option(help='what fuses' + _SEVERAL)]
Presets = Annotated[str, typer.Option(help='size of the network' + _SEVERAL)]
Sizes = Annotated[str, typer.Option(help='of the RGB image, WIDTHxHEIGHT; with --shell one, and '
                                    '640x512 unless given' + _SEVERAL)]
Scales = Annotated[str, typer.Option(
    help='working size of the network, 0.125 to 1' + _SEVERAL)]
Precisions = Annotated[str, typer.Option(help='auto, float32, float16 or bfloat16' + _SEVERAL)]
ScanBackends = Annotated[str, typer.Option(help='selective-scan implementation' + _SEVERAL)]
Engines = Annotated[str, typer.Option(help='torch or onnx' + _SEVERAL)]
PLAN_CAPTION = ('predicted: kernels of the captured graph at the rates measured on an H200, or at '
                'those of data sheets (*), where nothing was measured; floor: layers that read '
                'and write once; x fused: bytes over those; of a step: '
                'kernels launched one by one')
LARGEST_KINDS = 6
COST_CAPTION = ('without receiving, the network, and publishing; pair: with the state of the '
                'cameras; align: gain control and warp; rest: conversion for the network, '
                'hand-over between threads; '
                'cpu: of all threads')
OVERLOAD_CAPTION = ('age: from the publishing of the RGB image to the receipt of the fused one; '
                    'growth: median of the last third minus that of the first')


def bench(
    context: typer.Context,
    model: Models = DEFAULTS.model,
    preset: Presets = DEFAULTS.preset,
    size: Sizes = '640x480',
    scale: Scales = f'{DEFAULTS.scale:g}',
    precision: Precisions = DEFAULTS.precision,
    scan_backend: ScanBackends = DEFAULTS.scan_backend,
    engine: Engines = DEFAULTS.engine,
    weights: options.Weights = None,
    frames: Annotated[int,
                      typer.Option(min=1, help='pairs to fuse with each configuration; with '
                                   '--shell 300 unless '
                                              'given')] = 20,
    device: options.Device = DEFAULTS.device,
    threads: options.Threads = DEFAULTS.threads,
    json: options.Json = None,
    plot: Annotated[Path | None, options.output(
        endings=PLOTS, help='also draw time over pixels (.png, .svg, .pdf)')] = None,
    shell: Annotated[bool,
                     typer.Option('--shell',
                                  help='measure the node around the network instead')] = False,
    plan: Annotated[bool,
                    typer.Option('--plan', help='count what a pair and a training step would '
                                 'launch on a GPU '
                                       'instead, and predict their times; needs no GPU')] = False,
    compute_ms: Annotated[float,
                          typer.Option(min=1, max=10_000,
                                       help='--shell: time of the stand-in network')] = 50.0,
    overload_s: Annotated[float,
                          typer.Option(min=1, max=3600, help=(
                              '--shell: how long to send three times as many pairs as it can '
                              'fuse'))] = 60.0,
    standard: Annotated[bool,
                        typer.Option('--standard',
                                     help='measure the installed node, live, with the job that is '
                                           'the same on every machine (docs/machines.md); takes '
                                           'about a minute and a half')] = False,
    page: Annotated[Path | None, options.output(endings=('.html',), help=(
        '--standard: also write a page about this machine (.html)'))] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Time every stage of fusing a pair.

    Every combination of the options given takes its turn, pair by pair.

    With --standard: images a second, latency, losses and CPU of the node itself, to compare
    machines. With --plan: what a pair and a training step would launch and move on a GPU, and how
    long they would take there. With --shell: what a pair costs beside the network, and what the
    node does when it gets too many, in turn with the same job as it is usually written.
    """
    for mode, names, own in ((shell, WITH_SHELL, SHELL_ONLY), (standard, WITH_STANDARD, {'page'}),
                             (plan, WITH_PLAN, set())):
        flag = min(names & {'shell', 'standard', 'plan'})
        options.refuse(context, context.params.keys() - names if mode else own,
                       f'{"not" if mode else "only"} with --{flag}')
    given = options.given(context)
    options.note_idle(options.settings_from(model=model) if model == 'classical' else DEFAULTS,
                      given)
    # before minutes of measuring
    options.require_json(json, overwrite=overwrite, inputs=(weights,))
    for path in (plot, page):
        require_output(path, overwrite=overwrite, inputs=(weights,))
    console = options.table_console(json, width=WIDTH)
    if standard:
        bench_standard(console, json=json, page=page)
        return
    if shell:
        _bench_shell(console, options.image_size(size) if 'size' in given else SHELL_SIZE,
                     frames if 'frames' in given else SHELL_PAIRS, compute_ms, overload_s, json)
        return
    from ..tools.bench import report as bench_report

    if plot is not None:
        bench_report.figure_class()  # before minutes of measuring
    fixed = {'device': device, 'threads': threads, 'weights': weights}
    configurations = _configurations(
        size, fixed, model=model, preset=preset, scale=scale, precision=precision,
        scan_backend=scan_backend,
        engine=engine)
    if plan:
        _bench_plan(console, configurations, json)
        return
    with progress('measuring', frames + len(configurations)) as done:
        report = bench_report.run(configurations, frames=frames, report=done)
    _show(console, report)
    options.write_json(json, report.as_json())
    if plot is not None:
        bench_report.write_plot(plot, report)
        options.say_wrote(plot)


def _bench_shell(console: Console, size: tuple[int, int], pairs: int, compute_ms: float,
                 overload_s: float, json: Path | None) -> None:
    from ..tools.bench import shell_bench

    with announced() as announce:
        report = shell_bench.run(size=size, pairs=pairs, compute_ms=compute_ms,
                                 overload_s=overload_s, report=announce)
    show_shell(console, report)
    options.write_json(json, report.as_json())


def _bench_plan(console: Console, configurations: list, json: Path | None) -> None:
    from ..tools.bench.plan import as_json

    with announced() as announce:
        plans = plans_of(configurations, announce)
    show_plans(console, plans)
    options.write_json(json, as_json(plans))


def _configurations(size: str, fixed: dict, **lists: str) -> list:
    """Every combination of lists, without doubles.

    The classical method has none of a network's options. Raises WeightsError for a network that
    there is not.
    """
    from ..inference.weights_header import require_network
    from ..tools.bench.benchmark import Configuration

    combinations = product(*(text.split(',') for text in lists.values()))
    settings = []
    for combination in combinations:
        changes: dict[str, Any] = dict(zip(lists, combination))
        if changes['model'] == 'classical':
            changes = {'model': 'classical', 'weights': None}
        elif str(fixed['weights']).endswith('.onnx') and changes['engine'] != 'onnx':
            changes['weights'] = None  # an exported file is for the onnx engine alone
        if 'scale' in changes:
            changes['scale'] = _number(changes['scale'])
        one = options.settings_from(**(fixed | changes))
        if one.model != 'classical':
            require_network(one.model, one.network_preset)
        settings.append(one)
    sizes = [options.image_size(text) for text in size.split(',')]
    return [Configuration(*pair) for pair in product(dict.fromkeys(settings),
                                                     dict.fromkeys(sizes))]


def _show(console: Console, report) -> None:
    for problem in dict.fromkeys(problem for row in report.rows
                                 for problem in row.timings.problems):
        console.print(f'ERROR: {problem}', style='bold red', highlight=False, markup=False)
    options.show_table(console, _stages(report))
    options.show_table(console, _summary(report))
    console.print(str(report.machine), highlight=False)
    for note in report.notes:
        console.print(f'note: {note}', highlight=False, markup=False)


def _stages(report) -> Table:
    stages = list(dict.fromkeys(stage for row in report.rows for stage in row.timings.stages_ms))
    table = Table('configuration', 'runs on', *stages, 'total', title='p50 / p99 in ms')
    for row in report.rows:
        cells = ('{:.2f} / {:.2f}'.format(*(row.timings.quantile(stage, q) for q in (0.5, 0.99)))
                 for stage in [*stages, 'total'])
        table.add_row(row.timings.configuration.name, row.timings.runs_on, *cells)
    return table


def _summary(report) -> Table:
    table = Table('configuration', 'runs on', 'network p50, ms', 'floor, ms', 'times floor',
                  'speed-up', 'busy cores', 'first frame, s', 'peak memory, MB', 'energy, J',
                  title='what it takes', caption=CAPTION)
    for row in report.rows:
        timings, startup = row.timings, row.startup
        floor = (f'{row.floor.floor_ms:.1f}', f'{row.times_floor:.1f}') if row.floor else ('', '')
        device = ('' if startup.device_memory_mb is None
                  else f' + {startup.device_memory_mb:.0f} on the device')
        joules = 'not reported' if isinstance(timings.joules, str) else f'{timings.joules:.2f}'
        table.add_row(timings.configuration.name, timings.runs_on,
                      f'{timings.quantile("network", 0.5):.1f}', *floor,
                      f'{report.speed_up(row):.3g}', f'{timings.busy_cores:.2f}',
                      f'{startup.first_frame_s:.1f}', f'{startup.peak_memory_mb:.0f}{device}',
                      joules)
    return table


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f'expected a number, got {text!r}',
                                 param_hint='--scale') from None


def plans_of(configurations: list, report: Callable[[str], None]) -> list:
    """Return the plans of a pair of each configuration, and of a training step of each network."""
    from ..tools.bench.plan import plan_pair, plan_step

    plans = []
    for configuration in configurations:
        settings = configuration.settings
        if settings.model == 'classical':
            continue
        report(f'{configuration.name}: a pair')
        precision = 'float16' if settings.precision == 'auto' else settings.precision
        backend = 'triton' if settings.scan_backend == 'auto' else settings.scan_backend
        plans.append(plan_pair(settings.model, settings.network_preset, configuration.size,
                               scale=settings.scale, precision=precision, scan_backend=backend))
    for network in dict.fromkeys(plan.network for plan in plans):
        report(f'{network}: a training step (some 20 s for the largest)')
        plans.append(plan_step(*network.split()))
    return plans


def show_plans(console: Console, plans: list) -> None:
    """Print the plans: a line each, and the kinds of kernels that move most."""
    from ..tools.bench.plan_operations import GPUS

    names = [gpu.name if gpu.measured else f'{gpu.name}*' for gpu in GPUS]
    table = Table('network', 'of', 'kernels', 'aim', 'read, GB', 'written, GB', 'x fused',
                  'exp, G', *(f'{name}, ms' for name in names), title='predicted / floor',
                  caption=PLAN_CAPTION)
    for plan in plans:
        moved = plan.bytes_read, plan.bytes_written
        fused = f'{sum(moved) / plan.fused_bytes:.1f}' if plan.fused_bytes else ''
        times = (_predicted(plan.times_ms(gpu)) for gpu in GPUS)
        table.add_row(plan.network, plan.of, f'{len(plan.kernels)}', str(plan.goal or ''),
                      *(f'{part / 1e9:.2f}' for part in moved), fused,
                      f'{plan.exponentials / 1e9:.2f}', *times)
    options.show_table(console, table)
    for plan in plans:
        kinds = (f'{name} {launches} ({moved / 1e9:.2f})'
                 for name, launches, moved in plan.by_kind()[:LARGEST_KINDS])
        console.print(f'{plan.network}, {plan.of}: launches (GB) of {", ".join(kinds)}',
                      highlight=False, markup=False)


def _predicted(times: dict) -> str:
    """Predicted milliseconds over the floor; of a step where the cost of launches is known."""
    if times['floor_ms'] is None:
        return f'{times["launched_singly_ms"]:.0f}' if times['launched_singly_ms'] else ''
    return f'{times["predicted_ms"]:.1f} / {times["floor_ms"]:.1f}'


def show_shell(console: Console, report) -> None:
    """Print a ShellReport."""
    options.show_table(console, _cost(report))
    options.show_table(console, _overload(report))
    options.show_table(console, _bars(report))
    console.print(f'{report.machine}; {report.load:.1f} other processes busy before',
                  highlight=False)
    for note in report.notes:
        console.print(f'note: {note}', highlight=False, markup=False)


def _cost(report) -> Table:
    stages = [*dict.fromkeys(stage for cost in report.costs.values() for stage in cost.stages_ms),
              'total', 'cpu']
    pairs = len(report.costs['diffmf_ros'].cpu_ms)
    table = Table('written as', *stages, caption=COST_CAPTION,
                  title='{} pairs of {}x{}: p50 / p99 in ms'.format(pairs, *report.size))
    for name, cost in report.costs.items():
        cells = (f'{cost.quantile(stage, 0.5):.2f} / {cost.quantile(stage, 0.99):.2f}'
                 if stage in (*cost.stages_ms, 'total', 'cpu') else '' for stage in stages)
        table.add_row(name, *cells)
    return table


def _overload(report) -> Table:
    ours = report.overloads['diffmf_ros']
    table = Table('written as', 'pairs sent, times capacity', 'fused', 'not fused',
                  'age p50 / p99, ms', 'growth, ms', 'images per s', caption=OVERLOAD_CAPTION,
                  title=f'overload: a network of {ours.compute_ms:g} ms, for '
                  f'{ours.received_s[-1]:.0f} s')
    for name, overload in report.overloads.items():
        table.add_row(name, f'{overload.times_capacity:.2f}', str(len(overload.age_ms)),
                      str(overload.not_fused),
                      '{:.1f} / {:.1f}'.format(*(overload.age_quantile_ms(q)
                                                 for q in (0.5, 0.99))),
                      f'{overload.growth_ms:+.1f}', f'{overload.rate_hz:.2f}')
    return table


def _bars(report) -> Table:
    table = Table('bar', 'measured', 'asked for', 'met', title='diffmf_ros')
    for bar in report.bars():
        asked = f'{"at least" if bar.at_least else "at most"} {bar.limit:g} {bar.unit}'
        table.add_row(bar.what, f'{bar.value:.1f} {bar.unit.split()[0]}', asked,
                      'yes' if bar.met else '[red]no[/]')
    return table


def bench_standard(console: Console, *, json: Path | None, page: Path | None) -> None:
    """Measure, print, and write the files that are asked for. Raises DiffmfError."""
    from ..tools.bench import standard

    with announced() as announce:
        measured = standard.run(announce)
    report = measured.as_dict()
    table = Table(*standard.COLUMNS, title=standard.title(report), caption=standard.CAPTION)
    for row in standard.rows(report):
        table.add_row(*(cell.strip('`') for cell in row))
    options.show_table(console, table)
    console.print(standard.about(report), highlight=False, markup=False)
    options.write_json(json, measured.as_json())
    if page is not None:
        write_text(page, standard.page(report))
        options.say_wrote(page)
