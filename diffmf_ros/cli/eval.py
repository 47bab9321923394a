# SPDX-License-Identifier: Apache-2.0
"""`diffmf eval`: score fused images, or a network, image by image beside the baselines."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ..core.settings import DEFAULTS
from . import options

WIDTH = 260  # of the table where the output is not a terminal


def eval(
    rgb: Annotated[Path, typer.Option(help='folder of visible images')],
    thermal: Annotated[Path, typer.Option(help='folder of thermal images of the same names and sizes')],
    fused: Annotated[Path | None, typer.Option(help='folder of fused images of the same names')] = None,
    model: Annotated[str | None, typer.Option(help='what to fuse with instead: diffmf, s4fusion, refinefuse, '
                                              'classical, average, maximum, blend (0.85 thermal), rgb, thermal')] = None,
    preset: Annotated[str | None, typer.Option(help='size of the network; default: that of the weights')] = None,
    weights: options.Weights = None,
    device: options.Device = DEFAULTS.device,
    sequence: Annotated[bool, typer.Option('--sequence', help='the images are consecutive frames: measure '
                                           'flicker too')] = False,
    json: Annotated[Path | None, typer.Option(help='file to write with all scores')] = None,
    html: Annotated[Path | None, typer.Option(help='page to write with all pictures, sorted by any metric')] = None,
) -> None:
    """Score fused images, or a way of fusing. Exit code 1 when some could not be scored."""
    from ..evaluation import eval_files, eval_report, evaluate, scoring
    from ..evaluation.eval_page import Page

    page = Page(html, count=eval_files.image_count(rgb)) if html else None
    method = scoring.method(model, preset=preset, weights=weights, device=device) if model else None
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task('scoring', total=None)
        evaluation = evaluate.evaluate(
            rgb, thermal, fused=fused, method=method, sequence=sequence, show=page.add if page else None,
            report=lambda done, total: progress.update(task, completed=done, total=total))
    if json:
        eval_report.write_json(json, evaluation)
    if page:
        page.write(evaluation)
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(eval_report.table(evaluation))
    for problem in evaluation.problems:
        typer.echo(f'not scored: {problem.file}: {problem.reason}', err=True)
    if evaluation.problems:
        typer.echo(f'{len(evaluation.images)} scored, {len(evaluation.problems)} problems', err=True)
        raise typer.Exit(1)
