# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/quality.md in Markdown."""

from quality_bars import Bar, BySet, Scores

from diffmf_ros.tools.evaluation.detector_trial import COLUMNS, TrialScores
from diffmf_ros.tools.evaluation.eval_page import detector_cells, shown_sets
from diffmf_ros.tools.evaluation.perception import Flicker
from diffmf_ros.tools.evaluation.scoring import METRICS, cells, means

TWO_DIGITS = ('EN', 'SD', 'SF', 'AG', 'MI')


def score_lines(table: dict[str, dict[str, list[Scores]]], peers: BySet) -> list[str]:
    """The means, one table per data set; where peers were measured, theirs below ours."""
    lines = []
    for dataset, methods in table.items():
        count = len(next(iter(methods.values())))
        rows = {name: cells(means(scores), METRICS) for name, scores in methods.items()}
        rows |= {name: published(scores) for name, scores in peers.get(dataset, {}).items()}
        lines += [f'### {dataset} ({count} pairs)', '', *_rows(('method', *METRICS), rows), '']
    return lines


def published(scores: Scores) -> list[str]:
    """As many digits as most sources have, and a dash for what was not measured."""
    return [
        f'{scores[name]:.{2 if name in TWO_DIGITS else 3}f}' if name in scores else '-'
        for name in METRICS
    ]


def flat_lines(worst: Scores) -> list[str]:
    """PSNR to the visible image with flat thermal, by method."""
    return [
        '### Flat thermal',
        '',
        *_rows(('method', 'dB to RGB'), {name: [f'{value:.1f}'] for name, value in worst.items()}),
        '',
    ]


def detector_lines(title: str, table: TrialScores) -> list[str]:
    """Return what the detector finds, one table per data set."""
    lines = [f'### {title}', ''] if table else []
    for dataset, rows in shown_sets(table).items():
        lines += [
            f'#### {dataset}',
            '',
            *_rows(
                ('image', *COLUMNS),
                {name: detector_cells(scores) for name, scores in rows.items()},
            ),
            '',
        ]
    return lines


def placed_lines(table: dict[str, Scores]) -> list[str]:
    """Return a table of what the detector finds in pictures placed in many ways, by method."""
    if not table:
        return []
    columns = 'AP40', 'spread', 'AP50', 'found'
    rows = {
        name: [f'{scores[column]:.{1 if column == "found" else 3}f}' for column in columns]
        for name, scores in table.items()
    }
    return [
        '### The same pairs, each picture placed twelve ways',
        '',
        *_rows(('image', *columns), rows),
        '',
    ]


def find_lines(clips: TrialScores) -> list[str]:
    """Detections of the class in every tenth frame, a column for each clip."""
    if not clips:
        return []
    rows = {
        name: [f'{found[name]["found"]:.0f}' for found in clips.values()]
        for name in next(iter(clips.values()))
    }
    return [
        '### Detections in the clips, every tenth frame',
        '',
        *_rows(('image', *clips), rows),
        '',
    ]


def flicker_lines(clips: dict[str, dict[str, Flicker]], peers: BySet) -> list[str]:
    """The flicker of every clip and method, and of published networks where it was measured."""
    columns = (
        'clip',
        'method',
        'flicker',
        'to the noisier input',
        'fused',
        'infrared',
        'visible',
        'static',
    )
    lines = ['### Flicker', '', f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for clip, methods in clips.items():
        lines += [
            f'| {clip} | {name} | {found.ratio:.2f} | '
            f'{found.fused / max(found.ir, found.vi_y):.2f} | '
            f'{found.fused:.2f} | {found.ir:.2f} | {found.vi_y:.2f} | {found.static_share:.0%} |'
            for name, found in methods.items()
        ]
        lines += [
            f'| {clip} | {name} | {scores[f"flicker_{clip}"]:.2f}{" | -" * 5} |'
            for methods in peers.values()
            for name, scores in methods.items()
            if f'flicker_{clip}' in scores
        ]
    return [*lines, '']


def bar_lines(name: str, found: list[Bar]) -> list[str]:
    """The bars of one network."""
    rows = [
        f'| {bar.name} | {bar.asked} | {bar.reached} | {"yes" if bar.met else "**no**"} |'
        for bar in found
    ]
    return [
        f'### Bars, {name}: {sum(bar.met for bar in found)} of {len(found)} met',
        '',
        '| bar | asked | reached | met |',
        '|---' * 4 + '|',
        *rows,
        '',
    ]


def _rows(columns: tuple[str, ...], rows: dict[str, list[str]]) -> list[str]:
    return [
        f'| {" | ".join(columns)} |',
        '|---' * len(columns) + '|',
        *(f'| {name} | {" | ".join(row)} |' for name, row in rows.items()),
    ]
