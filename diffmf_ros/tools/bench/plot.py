# SPDX-License-Identifier: Apache-2.0
"""Time over pixels: one line per configuration, its floor dashed below it."""

from pathlib import Path

from ...core.frames import DiffmfError
from ...core.packages import pip_install
from ...io.writing import replacing
from .report import BenchRow, Report


class PlotError(DiffmfError):
    """The plot cannot be drawn."""


def figure_class():
    """Return matplotlib's Figure.

    Raises PlotError, saying how to install it, when it cannot be imported.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(f'a plot needs matplotlib, which cannot be imported ({error}): '
                        f'{pip_install("view")}') from error
    return Figure


def write_plot(path: Path, report: Report) -> None:
    """Draw the network stage, p50 with the range to p99, over the pixels of the image.

    The format is that of the file's ending. Raises PlotError without matplotlib or for another
    ending.
    """
    figure = figure_class()(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(
        title=f'network stage on {report.machine}', xlabel='megapixels of the RGB image',
        ylabel='ms per pair')
    for name, rows in lines(report).items():
        pixels = [_megapixels(row) for row in rows]
        p50 = [row.timings.quantile('network', 0.5) for row in rows]
        above = [row.timings.quantile('network', 0.99) - middle for row, middle in zip(rows, p50)]
        drawn = axes.errorbar(pixels, p50, yerr=[[0] * len(rows), above], marker='o', capsize=3,
                              label=name)
        if all(row.floor for row in rows):
            axes.plot(pixels, [row.floor.floor_ms for row in rows], linestyle='--', marker='.',
                      color=drawn[0].get_color(), label=f'{name}: floor')
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    try:
        with replacing(path) as partial:
            figure.savefig(partial)
    except ValueError as error:
        raise PlotError(f'{path} cannot be written: {error}') from error


def lines(report: Report) -> dict[str, list[BenchRow]]:
    """Rows that differ in size alone, by what they have in common, from small to large."""
    grouped: dict[str, list[BenchRow]] = {}
    for row in report.rows:
        configuration = row.timings.configuration
        name = configuration.name.replace(' {}x{}'.format(*configuration.size), '')
        grouped.setdefault(f'{name}, {row.timings.runs_on}', []).append(row)
    return {name: sorted(rows, key=_megapixels) for name, rows in grouped.items()}


def _megapixels(row: BenchRow) -> float:
    width, height = row.timings.configuration.size
    return width * height / 1e6
