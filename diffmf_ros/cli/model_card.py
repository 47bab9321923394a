# SPDX-License-Identifier: Apache-2.0
"""`diffmf model-card`: score trained weights and write the page that goes with them."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress


def model_card(
    config: Annotated[Path, typer.Argument(help='the YAML file of the training')],
    scored_on: Annotated[Path,
                         typer.Argument(help='folder of held-out pairs: ir/ and vi/ somewhere '
                                        'below')],
    about_data: Annotated[str,
                          typer.Option(help='a sentence on the training data and its terms')] = '',
    overwrite: options.Overwrite = False,
    json: options.Json = None,
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
    options.require_json(json, overwrite=overwrite, inputs=(config, scored_on))
    with progress('scoring', len(pair_files(scored_on)) * (len(BASELINES) + 1)) as report:
        card = write_card(weights, config=settings, log=out / 'log.csv', scored_on=scored_on,
                          about_data=about_data, report=report)
    options.write_json(json, {'out': str(card), 'weights': str(weights),
                              'model': settings.model, 'preset': settings.preset})
    options.say(str(card), json=json)
