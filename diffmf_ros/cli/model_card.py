# SPDX-License-Identifier: Apache-2.0
"""`diffmf model-card`: score trained weights and write the page that goes with them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from . import options


def model_card(
    config: Annotated[Path, typer.Argument(help='the YAML file of the training')],
    scored_on: Annotated[Path,
                         typer.Argument(help='folder of held-out pairs: ir/ and vi/ somewhere '
                                        'below')],
    about_data: Annotated[str,
                          typer.Option(help='a sentence on the training data and its terms')] = '',
    overwrite: options.Overwrite = False,
) -> None:
    """Score trained weights and the baselines; write the model card beside the weights."""
    from ..io.folders import pair_files
    from ..io.writing import require_output
    from ..tools.evaluation.model_card import write_card
    from ..tools.evaluation.scoring import BASELINES
    from ..tools.training.config import load_config

    settings = load_config(config)
    out = Path(settings.out)
    weights = out / f'{settings.model}_{settings.preset}.safetensors'
    require_output(weights.with_suffix('.md'), overwrite=overwrite)
    with Progress() as progress:
        task = progress.add_task('scoring',
                                 total=len(pair_files(scored_on)) * (len(BASELINES) + 1))
        card = write_card(weights, config=settings, log=out / 'log.csv', scored_on=scored_on,
                          about_data=about_data,
                          report=lambda done: progress.update(task, completed=done))
    typer.echo(card)
