# SPDX-License-Identifier: Apache-2.0
"""The tables of `diffmf bench --shell`."""

from rich.console import Console
from rich.table import Table

COST_CAPTION = ('without receiving, the network, and publishing; pair: with the state of the '
                'cameras; align: gain control and warp; rest: conversion for the network, '
                'hand-over between threads; '
                'cpu: of all threads')
OVERLOAD_CAPTION = ('age: from the publishing of the RGB image to the receipt of the fused one; '
                    'growth: median of the last third minus that of the first')


def show(console: Console, report) -> None:
    """Print a ShellReport."""
    console.print(_cost(report))
    console.print(_overload(report))
    console.print(_bars(report))
    console.print(f'{report.machine}; {report.load:.1f} other processes busy before',
                  highlight=False)
    for note in report.notes:
        console.print(f'note: {note}', highlight=False, markup=False)


def _cost(report) -> Table:
    stages = [*dict.fromkeys(stage for cost in report.costs.values() for stage in cost.stages_ms),
              'total', 'cpu']
    pairs = len(report.costs['diffmf_ros'].cpu_ms)
    table = Table('written as', *stages, caption=COST_CAPTION,
                  title='{} pairs of {}x{}: p50 / p99 in ms'.format(pairs, *report.size))
    for name, cost in report.costs.items():
        cells = (f'{cost.quantile(stage, 0.5):.2f} / {cost.quantile(stage, 0.99):.2f}'
                 if stage in (*cost.stages_ms, 'total', 'cpu') else '' for stage in stages)
        table.add_row(name, *cells)
    return table


def _overload(report) -> Table:
    ours = report.overloads['diffmf_ros']
    table = Table('written as', 'pairs sent, times capacity', 'fused', 'not fused',
                  'age p50 / p99, ms', 'growth, ms', 'images per s', caption=OVERLOAD_CAPTION,
                  title=f'overload: a network of {ours.compute_ms:g} ms, for '
                  f'{ours.received_s[-1]:.0f} s')
    for name, overload in report.overloads.items():
        table.add_row(name, f'{overload.times_capacity:.2f}', str(len(overload.age_ms)),
                      str(overload.not_fused),
                      '{:.1f} / {:.1f}'.format(*(overload.age_quantile_ms(q)
                                                 for q in (0.5, 0.99))),
                      f'{overload.growth_ms:+.1f}', f'{overload.rate_hz:.2f}')
    return table


def _bars(report) -> Table:
    table = Table('bar', 'measured', 'asked for', 'met', title='diffmf_ros')
    for bar in report.bars():
        asked = f'{"at least" if bar.at_least else "at most"} {bar.limit:g} {bar.unit}'
        table.add_row(bar.what, f'{bar.value:.1f} {bar.unit.split()[0]}', asked,
                      'yes' if bar.met else '[red]no[/]')
    return table
