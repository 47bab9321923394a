# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a table for the terminal and as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from .eval_files import EvaluationError
from .evaluate import Evaluation, Scores

HEADLINE = ('target', 'target_worst', 'target_dark', 'thermal_detail', 'detail', 'haze', 'saturation')
METRICS = (*HEADLINE, 'EN', 'SD', 'SF', 'AG', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2', 'SSIM_dr255', 'CC', 'PSNR',
           'Nabf', 'salience')
CAPTION = ('More is better but for haze (levels, 0 is none), Nabf and flicker. MI in nats; VIF and SSIM summed over '
           'both sources. Means of target are over all targets. -: not defined for this image')


def columns(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the names of the metrics, with flicker where it was measured."""
    return (*METRICS, 'flicker') if evaluation.flicker else METRICS


def cells(scores: Scores, names: tuple[str, ...]) -> list[str]:
    """Return scores as text, three decimals, '-' for what is not defined."""
    return [f'{scores[name]:.3f}' if math.isfinite(scores.get(name, math.nan)) else '-' for name in names]


def table(evaluation: Evaluation) -> Table:
    """Return the metrics of every image, then the means of the method and of the baselines."""
    names = columns(evaluation)
    result = Table(title=evaluation.method, caption=CAPTION)
    result.add_column('image')
    for name in names:
        result.add_column(name, justify='right', no_wrap=True)
    for image in evaluation.images:
        result.add_row(image.name, *cells(image.scores[evaluation.method], names))
    result.add_section()
    for method, scores in evaluation.means().items():
        result.add_row(f'mean, {method}', *cells(scores, names),
                       style='bold' if method == evaluation.method else None)
    return result


def as_json(evaluation: Evaluation) -> str:
    """Return strict JSON: images, mean, baselines (their means), problems and, of a sequence, flicker.

    What is not defined or not finite is null.
    """
    names, mean = columns(evaluation), evaluation.means()
    rows = {method: _plain(scores, names) for method, scores in mean.items()}
    content = {
        'method': evaluation.method,
        'images': [{'name': image.name, **_plain(image.scores[evaluation.method], METRICS)}
                   for image in evaluation.images],
        'mean': rows.pop(evaluation.method, _plain({}, names)),
        'baselines': rows,
        'problems': [asdict(problem) for problem in evaluation.problems],
    }
    if evaluation.flicker:
        content['flicker'] = {method: _plain(asdict(measured) | {'ratio': measured.ratio})
                              for method, measured in evaluation.flicker.items()}
    return json.dumps(content, indent=1, allow_nan=False)


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Write as_json to path. Raises EvaluationError when that is not possible."""
    try:
        path.write_text(as_json(evaluation), encoding='utf-8')
    except OSError as error:
        raise EvaluationError(f'{path} cannot be written: {error}') from error


def _plain(values: Scores, names: tuple[str, ...] | None = None) -> dict[str, float | None]:
    found = ((name, values.get(name, math.nan)) for name in names or values)
    return {name: value if math.isfinite(value) else None for name, value in found}
