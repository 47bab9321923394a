# SPDX-License-Identifier: Apache-2.0
"""What a network has to reach, checked: against published networks, the pixel-wise maximum, and by eye-like metrics."""

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PEERS = Path(__file__).with_name('peers.csv')
AGAINST_PEERS = ('EN', 'SD', 'SF', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2')
BEST_PEER_IN = 5
MEDIAN_PEER_IN = {'diffmf': len(AGAINST_PEERS), 's4fusion': 6, 'refinefuse': 6}
# The least ratio to the maximum; from 1 on it has to be above.
TO_MAXIMUM = {
    'MSRS': {'EN': 1, 'SD': 1, 'SF': 1, 'AG': 1, 'SCD': 1, 'VIF': 0.96, 'Qabf': 0.96, 'SSIM_dr2': 0.99},
    'all': {'EN': 0.97, 'SD': 0.97, 'SF': 0.97, 'AG': 0.97, 'SCD': 1, 'VIF': 0.96, 'Qabf': 0.96, 'SSIM_dr2': 0.99},
}
LEAST = {'salience': 0.9, 'detail': 0.9}
MOST_FLICKER = 1.2

Scores = dict[str, float]


@dataclass(frozen=True)
class Bar:
    """One bar: what is asked, what was reached, and whether that is enough."""

    name: str
    asked: str
    reached: str
    met: bool


def read_peers(file: Path = PEERS) -> dict[str, dict[str, Scores]]:
    """Return {data set: {method: scores}} of the published networks; 'all' is the mean over every pair."""
    peers: dict[str, dict[str, Scores]] = {}
    with file.open(newline='') as rows:
        for row in csv.DictReader(rows):
            scores = {name: float(value) for name, value in list(row.items())[5:]}
            peers.setdefault(row['dataset'], {})[row['method']] = scores
    return peers


def bars(own: dict[str, Scores], maximum: dict[str, Scores], peers: dict[str, dict[str, Scores]],
         flicker: dict[str, float], *, model: str = 'diffmf') -> list[Bar]:
    """Check the mean scores by data set of a model; flicker is by clip. What was not measured has no bar."""
    found = []
    if 'MSRS' in own and 'MSRS' in peers:
        found += _against_peers(own['MSRS'], list(peers['MSRS'].values()), MEDIAN_PEER_IN[model])
    found += [_against_maximum(name, own[name], maximum[name], least)
              for name, least in TO_MAXIMUM.items() if name in own]
    for metric, least in LEAST.items():
        found += [Bar(f'{metric}, {name}', f'at least {least}', f'{own[name][metric]:.3f}', own[name][metric] >= least)
                  for name in TO_MAXIMUM if name in own]
    return found + [Bar(f'flicker, {clip}', f'at most {MOST_FLICKER}', f'{value:.2f}', value <= MOST_FLICKER)
                    for clip, value in flicker.items()]


def _against_peers(own: Scores, peers: list[Scores], median_in: int) -> list[Bar]:
    result = []
    for what, choose, asked in (('best', max, BEST_PEER_IN), ('median', median, median_in)):
        goals = {metric: choose(peer[metric] for peer in peers) for metric in AGAINST_PEERS}
        # At the best peer is enough, the median has to be passed.
        reached = [m for m, goal in goals.items() if (own[m] >= goal if what == 'best' else own[m] > goal)]
        missed = ', '.join(f'{m} {own[m]:.3f} of {goal:.3f}' for m, goal in goals.items() if m not in reached)
        result.append(Bar(f'{what} peer, MSRS', f'{asked} of {len(goals)} metrics',
                          _reached(reached, missed), len(reached) >= asked))
    return result


def _against_maximum(dataset: str, own: Scores, maximum: Scores, least: dict[str, float]) -> Bar:
    ratios = {metric: own[metric] / maximum[metric] for metric in least}
    reached = [m for m, ratio in ratios.items() if (ratio > 1 if least[m] == 1 else ratio >= least[m])]
    missed = ', '.join(f'{m} {ratios[m]:.3f} of {least[m]}' for m in least if m not in reached)
    return Bar(f'maximum, {dataset}', ', '.join(f'{m} {share}' for m, share in least.items()),
               _reached(reached, missed), not missed)


def _reached(reached: list[str], missed: str) -> str:
    return f'{len(reached)}: {", ".join(reached) or "none"}' + (f'; missed: {missed}' if missed else '')
