# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a table for the terminal and as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from ...io.writing import write_text
from .detector_trial import ABOUT, COLUMNS
from .evaluate import FLAT_THERMAL, Evaluation, Scores
from .metric_names import METRICS, cells

CAPTION = ('More is better but for haze (levels, 0 is none), Nabf and flicker. MI in nats; VIF and SSIM summed over '
           'both sources. Means of target are over all targets. -: not defined for this image')
DECIMALS = {'AP40': 3, 'AP50': 3, 'day_again': 2}


def columns(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the names of the metrics, with flat thermal and flicker where they were measured."""
    return (*METRICS, *((FLAT_THERMAL,) if evaluation.flat_thermal else ()),
            *(('flicker',) if evaluation.flicker else ()))


def table(evaluation: Evaluation) -> Table:
    """Return the metrics of every image, then the means of the method and of the baselines."""
    names = columns(evaluation)
    result = Table(title=evaluation.method, caption=CAPTION)
    result.add_column('image')
    for name in names:
        result.add_column(name, justify='right', no_wrap=True)
    for image in evaluation.images:
        result.add_row(image.name, *cells(image.scores[evaluation.method], names))
    sets = evaluation.set_means()
    for dataset, rows in sets.items() if len(sets) > 2 else ():
        if dataset != 'all':
            _add_means(result, rows, names, evaluation.method, about=dataset)
    _add_means(result, evaluation.means(), names, evaluation.method, about='mean')
    return result


def detector_table(evaluation: Evaluation) -> Table:
    """Return what the detector finds, by data set and method."""
    result = Table(title='an unchanged detector', caption=ABOUT)
    for name in ('data set', 'method', *COLUMNS):
        result.add_column(name, justify='left' if name in ('data set', 'method') else 'right')
    for dataset, rows in shown_sets(evaluation.detector).items():
        result.add_section()
        for method, scores in rows.items():
            result.add_row(dataset, method, *detector_cells(scores),
                           style='bold' if method == evaluation.method else None)
    return result


def shown_sets(found: dict[str, dict]) -> dict[str, dict]:
    """Return every data set, and all together only where there are several."""
    return {dataset: rows for dataset, rows in found.items() if dataset != 'all' or len(found) > 2}


def detector_cells(scores: Scores) -> list[str]:
    """Return the scores of a detector as text, '-' for what is not defined."""
    return [f'{scores[name]:.{DECIMALS.get(name, 0)}f}' if math.isfinite(scores[name]) else '-'
            for name in COLUMNS]


def as_json(evaluation: Evaluation) -> str:
    """Return strict JSON: images, mean, baselines (their means), problems and what else was measured.

    sets has the means by data set where there are several, flicker those of a sequence, detector its
    scores by data set and method. What is not defined or not finite is null.
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
    sets = evaluation.set_means()
    if len(sets) > 2:
        content['sets'] = {dataset: {method: _plain(scores, METRICS) for method, scores in found.items()}
                           for dataset, found in sets.items()}
    if evaluation.flicker:
        content['flicker'] = {method: _plain(asdict(measured) | {'ratio': measured.ratio})
                              for method, measured in evaluation.flicker.items()}
    if evaluation.detector:
        content['detector'] = {dataset: {method: _plain(scores) for method, scores in found.items()}
                               for dataset, found in shown_sets(evaluation.detector).items()}
    return json.dumps(content, indent=1, allow_nan=False)


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Write as_json to path. Raises WriteError when that is not possible."""
    write_text(path, as_json(evaluation))


def _add_means(result: Table, rows: dict[str, Scores], names: tuple[str, ...], method: str, *, about: str) -> None:
    result.add_section()
    for way, scores in rows.items():
        result.add_row(f'{about}, {way}', *cells(scores, names), style='bold' if way == method else None)


def _plain(values: Scores, names: tuple[str, ...] | None = None) -> dict[str, float | None]:
    found = ((name, values.get(name, math.nan)) for name in names or values)
    return {name: value if math.isfinite(value) else None for name, value in found}
