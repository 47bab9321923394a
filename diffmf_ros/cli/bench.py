# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench`: milliseconds per stage on this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..core.settings import DEFAULTS
from . import options


def bench(
    model: options.Model = DEFAULTS.model,
    preset: options.Preset = DEFAULTS.preset,
    size: Annotated[str, typer.Option(help='of the RGB image, WIDTHxHEIGHT')] = '640x480',
    scale: options.Scale = DEFAULTS.scale,
    frames: Annotated[int, typer.Option(min=1, help='pairs to fuse')] = 20,
    device: options.Device = DEFAULTS.device,
    precision: options.Precision = DEFAULTS.precision,
    threads: options.Threads = DEFAULTS.threads,
    scan_backend: options.ScanBackend = DEFAULTS.scan_backend,
    json: Annotated[Path | None, typer.Option(help='also write every sample to this file')] = None,
) -> None:
    """Time every stage of fusing a pair: decode, align, network, colour, encode, publish."""
    from ..evaluation.benchmark import measure

    settings = options.settings_from(model=model, preset=preset, scale=scale, device=device, precision=precision,
                                     threads=threads, scan_backend=scan_backend)
    with Progress(transient=True) as progress:
        task = progress.add_task('fusing', total=frames)
        result = measure(settings, size=_size(size), frames=frames,
                         report=lambda done: progress.update(task, completed=done))
    table = Table('stage', 'p50 ms', 'p99 ms', title=f'{result.name}, {size}, scale {scale:g}')
    for stage in [*result.stages_ms, 'total']:
        table.add_row(stage, *(f'{result.quantile(stage, q):.2f}' for q in (0.5, 0.99)))
    Console().print(table)
    typer.echo(f'{result.machine}; device {result.settings["device"]}; first frame after {result.first_frame_s:.2f} s; '
               f'peak memory {result.peak_memory_mb:.0f} MB')
    for note in result.notes:
        typer.echo(f'note: {note}')
    if json is not None:
        json.write_text(result.as_json())


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f'expected WIDTHxHEIGHT such as 640x480, got {text!r}', param_hint='--size')
    return int(width), int(height)
