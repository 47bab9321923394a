# SPDX-License-Identifier: Apache-2.0
"""The page beside a weights file: how it was trained and what it scores."""

from pathlib import Path

from ...inference.weights import load_weights
from ...inference.weights_header import UNKNOWN
from ...io.writing import write_text
from ..training.config import TrainConfig
from ..training.log import NOT_LOSS, read_log
from .scoring import BASELINES, HEADLINE, by_set, means, network_method, score_pairs

SHOWN = (*HEADLINE, 'EN', 'SD', 'SF', 'AG', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2', 'SSIM_dr255',
         'Nabf', 'salience')
LOSS_ROWS = 12


def write_card(weights_file: Path, *, config: TrainConfig, log: Path, scored_on: Path,
               about_data: str, report=lambda done: None) -> Path:
    """Score weights_file and the baselines on the pairs below scored_on, and write the card beside
    it.

    log is the CSV of the training, about_data a sentence on the training data and its terms;
    report(done) is called after every scored image. Returns the path of the card.
    """
    weights = load_weights(weights_file)
    name, engine = network_method(weights.model, weights=weights_file)
    scored = by_set(score_pairs({**BASELINES, name: engine}, scored_on, report=report))
    card = weights_file.with_suffix('.md')
    iterations = UNKNOWN if weights.iterations is None else f'{weights.iterations:,}'
    write_text(card, '\n'.join([
        f'# {name}', '', f'{iterations} iterations. {about_data}', '',
        '## Training', '', *_training_rows(config), '', '## Loss', '', *_loss_rows(log), '',
        '## Scores', '', f'Mean over the pairs, fused on {engine.description}. MI in nats, VIF '
        f'and SSIM summed '
        f'over both sources, SSIM '
        'with data range 2 (published tables) and 255; target, thermal_detail, detail, haze, '
        'saturation and salience as in docs/quality.md. More is better but for haze and Nabf. The '
        'maximum wins several '
        'columns by itself and washes pictures out, so no single column is a goal.', '',
        *(row for dataset, methods in scored.items() for row in _score_rows(dataset, methods))]))
    return card


def _training_rows(config: TrainConfig) -> list[str]:
    entries = {key: value for key, value in config.as_dict().items()
               if key not in ('data', 'out', 'device', 'threads')}
    entries['optimizer'] = ('Adam, linear warm-up then cosine to 0, averaged weights (EMA) are '
                            'the ones shipped')
    return ['| entry | value |', '|---|---|',
            *(f'| {key} | {value} |' for key, value in entries.items())]


def _loss_rows(log: Path) -> list[str]:
    rows = read_log(log)
    if not rows:
        return ['None was logged: the training was too short.']
    blocks = [rows[i * len(rows) // LOSS_ROWS:(i + 1) * len(rows) // LOSS_ROWS]
              for i in range(LOSS_ROWS)]
    columns = [column for column in rows[0] if column not in NOT_LOSS]
    table = ['| iterations to | ' + ' | '.join(columns) + ' |', '|---' * (1 + len(columns)) + '|']
    for block in filter(None, blocks):
        values = (sum(float(row[column]) for row in block) / len(block) for column in columns)
        table.append(f'| {int(block[-1]["iteration"]):,} | '
                     + ' | '.join(f'{value:.4f}' for value in values) + ' |')
    return table


def _score_rows(dataset: str, methods: dict[str, list[dict[str, float]]]) -> list[str]:
    count = len(next(iter(methods.values())))
    table = [f'### {dataset} ({count} pairs)', '', '| method | ' + ' | '.join(SHOWN) + ' |',
             '|---' * (1 + len(SHOWN)) + '|']
    for method, scores in methods.items():
        mean = means(scores)
        table.append(f'| {method} | ' + ' | '.join(f'{mean[metric]:.3f}' for metric in SHOWN)
                     + ' |')
    return [*table, '']
