# SPDX-License-Identifier: Apache-2.0
"""`diffmf train`: train a network, or go on where an interrupted training stopped."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import options
from .progress import shows_itself

RESULT = ('out', 'iteration', 'iterations', 'stop', 'warnings')  # keys of --json


def train(
    config: Annotated[Path, typer.Argument(help='YAML file, as config/train/diffmf_light.yaml')],
    out: Annotated[Path | None, typer.Option(
        help="folder of checkpoints, log and weights, instead of the file's")] = None,
    data: Annotated[Path | None, typer.Option(
        help="folder of training pairs, instead of the file's")] = None,
    minutes: Annotated[float, typer.Option(min=0, show_default=False, help=(
        'save and end after this time, in minutes; run it again to go on'))] = math.inf,
    json: options.Json = None,
) -> None:
    """Train a network as CONFIG says; run it again to resume. Ctrl-C and SIGTERM save first.

    The data are aligned pairs: folders vi and ir with files of equal names and sizes, anywhere
    below --data. `diffmf sample-pairs FOLDER` renders some to try it with.
    """
    from ..io.folders import pair_files
    from ..io.paths import require_folder_name, require_inputs
    from ..tools.training.config import load_config
    from ..tools.training.distributed import Stop, is_first
    from ..tools.training.loop import train as run

    require_inputs(config, data)
    options.require_own_json(json, RESULT, inputs=(config, data))
    if out is not None:
        require_folder_name(out, of='checkpoints, log and weights')
    given: dict[str, Any] = {name: str(path) for name, path in (('out', out), ('data', data))
                             if path is not None}
    settings = dataclasses.replace(load_config(config), **given)
    pair_files(settings.data)  # says what is missing before the bar begins
    columns = (TextColumn('loss {task.fields[loss]:.3f}'), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not is_first()) as progress:
        # Not shown before there is a loss: a finished training has none, nor a refused one.
        task = progress.add_task('training', total=settings.iterations, loss=math.nan,
                                 visible=False)

        def report(iteration: int, terms: dict[str, float]) -> None:
            if console.is_terminal:
                shows_itself()
            progress.update(task, completed=iteration, loss=terms['total'], visible=True)

        outcome = run(settings, report, minutes=minutes,
                      problem=lambda text: typer.echo(f'ERROR: {text}', err=True))
    if is_first():
        _tell(outcome, settings.iterations, json)
    if outcome.stop > Stop.TIME_IS_UP:
        raise typer.Exit(128 + outcome.stop)  # as a shell reports a process that a signal ended


def _tell(outcome, iterations: int, json: Path | None) -> None:
    for warning in outcome.warnings:
        typer.echo(warning, err=True)
    options.write_json(json, {
        'out': str(outcome.weights), 'iteration': outcome.iteration, 'iterations': iterations,
        'stop': outcome.stop.name.lower(), 'warnings': list(outcome.warnings)})
    if outcome.iteration < iterations:
        options.say(f'{outcome.stop.name.replace("_", " ").lower()} after iteration '
                    f'{outcome.iteration} of {iterations}; run it again to go on', json=json)
    options.say(f'weights: {outcome.weights}', json=json)
