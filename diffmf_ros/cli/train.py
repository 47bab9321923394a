# SPDX-License-Identifier: Apache-2.0
"""`diffmf train`: train a network, or go on where an interrupted training stopped."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def train(
    config: Annotated[Path, typer.Argument(help='YAML file, such as config/train/diffmf_light.yaml')],
    out: Annotated[Path | None, typer.Option(help="folder of checkpoints, log and weights, instead of the file's")]
    = None,
) -> None:
    """Train a network as CONFIG says; run it again to resume."""
    from ..training.config import load_config
    from ..training.loop import train as run

    settings = load_config(config)
    if out is not None:
        settings = dataclasses.replace(settings, out=str(out))
    with Progress(TextColumn('loss {task.fields[loss]:.3f}'), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn()) as progress:
        task = progress.add_task('training', total=settings.iterations, loss=float('nan'))
        written = run(settings, lambda iteration, terms: progress.update(
            task, completed=iteration, loss=terms['total']))
    typer.echo(f'weights: {written}')
