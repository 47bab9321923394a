# SPDX-License-Identifier: Apache-2.0
"""Bars of a network: with an unchanged detector, by eye, and against other methods."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PEERS = Path(__file__).with_name('peers.csv')
ABOUT_PEERS = 5  # columns before the scores
AGAINST_PEERS = ('EN', 'SD', 'SF', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2')
ABOVE_IN = 6  # of them
ALWAYS_ABOVE = 'SCD', 'SSIM_dr2'  # the median peer
LEAST = {
    'target': 0.9,
    'target_worst': 0.5,
    'target_dark': 0.8,
    'thermal_detail': 0.8,
    'detail': 0.93,
    'saturation': 0.85,
}
MOST_HAZE = 6.0  # levels
MOST_FLICKER = 1.2
LEAST_FLAT_DB = 40.0
AP_MARGIN = 0.01  # below the better camera, on each data set
SMOKE, NIGHT = 'smoke', 'night'  # the rendered drives
TO_THERMAL_IN_SMOKE, TO_CAMERA_AT_NIGHT = 1.3, 1.1
LEAST_FINDS = 20  # in the real smoke clip, every tenth frame
KEPT_WHEN_SHIFTED = 0.9

Scores = dict[str, float]
BySet = dict[str, dict[str, Scores]]  # by data set and method


@dataclass(frozen=True)
class Measured:
    """Measurements of quality.py by method; an empty one was not made and has no bars.

    scores: means by data set; detector and drives: DetectorTrial.table of the pairs and of the
    rendered drives; flicker and finds: by clip; shifted: AP40 over all pairs with thermal
    shifted each of four ways; flat_is_rgb: whether the node passes RGB on where thermal is flat.
    """

    scores: BySet
    flicker: BySet = field(default_factory=dict)
    flat_thermal: Scores = field(default_factory=dict)
    flat_is_rgb: bool = False
    detector: BySet = field(default_factory=dict)
    drives: BySet = field(default_factory=dict)
    finds: BySet = field(default_factory=dict)
    shifted: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """One bar: what is asked, what was reached, and whether that is enough."""

    name: str
    asked: str
    reached: str
    met: bool


def read_peers(file: Path = PEERS) -> BySet:
    """Return {data set: {method: scores}} of the published networks; empty ones are left out.

    'all' is the mean over every pair.
    """
    peers: BySet = {}
    with file.open(newline='') as rows:
        for row in csv.DictReader(rows):
            scores = {
                name: float(value) for name, value in list(row.items())[ABOUT_PEERS:] if value
            }
            peers.setdefault(row['dataset'], {})[row['method']] = scores
    return peers


def bars(name: str, measured: Measured, peers: BySet, *, share: float = 1.0) -> list[Bar]:
    """Check the method of this name.

    Args:
        name: a method of measured.
        measured: the scores of all methods.
        peers: those of published networks, see read_peers.
        share: of what is asked is enough: 0.9 for a preset that may be a tenth worse. Counts of
            metrics, and what has to be above others, stay as they are.
    """
    found = [*_detector(name, measured.detector, share), *_drives(name, measured.drives, share)]
    found += [
        _at_least(f'finds, {clip}', rows[name]['found'], LEAST_FINDS * share, '.0f')
        for clip, rows in measured.finds.items()
        if SMOKE in clip
    ]
    if name in measured.shifted:
        alone = measured.detector['all'][name]['AP40']
        found.append(
            _at_least(
                'AP40 shifted by 8 px', measured.shifted[name], KEPT_WHEN_SHIFTED * share * alone
            )
        )
    own = measured.scores['all'][name]
    found += [
        _at_least(metric, own[metric], least * share)
        for metric, least in LEAST.items()
        if not math.isnan(own[metric])  # no image defines it
    ]
    found.append(_at_most('haze', own['haze'], MOST_HAZE / share, '.1f'))
    if name in measured.flat_thermal:
        flat = measured.flat_thermal[name]
        found.append(_flat(flat, measured.flat_is_rgb, LEAST_FLAT_DB * share))
    for clip, rows in measured.flicker.items():  # of a network as the node publishes it
        ratio = rows.get(f'{name}, filtered', rows[name])['ratio']
        found.append(_at_most(f'flicker, {clip}', ratio, MOST_FLICKER / share, '.2f'))
    if 'MSRS' in measured.scores and 'MSRS' in peers:
        found.append(_above_peers(measured.scores['MSRS'][name], list(peers['MSRS'].values())))
    found.append(_above('classical, all', own, measured.scores['all']['classical']))
    return found


def _detector(name: str, table: BySet, share: float) -> list[Bar]:
    found = []
    for dataset, rows in table.items():
        if dataset == 'all' or math.isnan(rows[name]['AP40']):
            continue
        better = max(rows['rgb']['AP40'], rows['thermal']['AP40'])
        found.append(
            _at_least(
                f'AP40 to the better camera, {dataset}',
                rows[name]['AP40'],
                (better - AP_MARGIN) * share,
            )
        )
    if table:
        rows = table['all']
        if not math.isnan(rows[name]['AP40']):
            found.append(
                _at_least(
                    'AP40 to the 0.85 blend, all',
                    rows[name]['AP40'],
                    rows['blend']['AP40'] * share,
                )
            )
        if not math.isnan(rows[name]['day_others']):
            found.append(
                _at_least(
                    'other classes by day, to RGB',
                    rows[name]['day_others'],
                    rows['rgb']['day_others'] * share,
                    '.0f',
                )
            )
    return found


def _drives(name: str, table: BySet, share: float) -> list[Bar]:
    found = []
    if SMOKE in table:
        rows = {method: scores['found'] for method, scores in table[SMOKE].items()}
        found.append(
            _at_least('rendered smoke, to classical', rows[name], rows['classical'] * share, '.0f')
        )
        found.append(
            _at_least(
                f'rendered smoke, to {TO_THERMAL_IN_SMOKE} x thermal',
                rows[name],
                TO_THERMAL_IN_SMOKE * rows['thermal'] * share,
                '.1f',
            )
        )
    if NIGHT in table:
        rows = {method: scores['found'] for method, scores in table[NIGHT].items()}
        found.append(
            _at_least(
                f'rendered night, to {TO_CAMERA_AT_NIGHT} x the better camera',
                rows[name],
                TO_CAMERA_AT_NIGHT * max(rows['rgb'], rows['thermal']) * share,
                '.1f',
            )
        )
    return found


def _at_least(name: str, value: float, least: float, digits: str = '.3f') -> Bar:
    return Bar(name, f'at least {least:{digits}}', f'{value:{digits}}', value >= least)


def _flat(decibels: float, is_rgb: bool, least: float) -> Bar:
    reached = f'{decibels:.1f} dB' + (', the node passes RGB on' if is_rgb else '')
    asked = f'at least {least:.1f} dB to RGB, or RGB from the node'
    return Bar('flat thermal', asked, reached, is_rgb or decibels >= least)


def _at_most(name: str, value: float, most: float, digits: str) -> Bar:
    return Bar(name, f'at most {most:{digits}}', f'{value:{digits}}', value <= most)


def _above_peers(own: Scores, peers: list[Scores]) -> Bar:
    return _compared(
        'median peer, MSRS',
        own,
        {
            metric: median(peer[metric] for peer in peers if metric in peer)
            for metric in AGAINST_PEERS
        },
        ALWAYS_ABOVE,
    )


def _above(name: str, own: Scores, other: Scores) -> Bar:
    return _compared(name, own, {metric: other[metric] for metric in AGAINST_PEERS}, ())


def _compared(name: str, own: Scores, goals: Scores, always: tuple[str, ...]) -> Bar:
    above = [metric for metric, goal in goals.items() if own[metric] > goal]
    missed = ', '.join(
        f'{m} {own[m]:.3f} of {goal:.3f}' for m, goal in goals.items() if m not in above
    )
    with_these = f', {" and ".join(always)} among them' if always else ''
    return Bar(
        name,
        f'above in {ABOVE_IN} of {len(goals)}{with_these}',
        f'{len(above)}: {", ".join(above) or "none"}' + (f'; not: {missed}' if missed else ''),
        len(above) >= ABOVE_IN and set(always) <= set(above),
    )
