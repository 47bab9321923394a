# SPDX-License-Identifier: Apache-2.0
"""`diffmf models`: every network and preset in one table, measured on this machine where asked
for."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..core.settings import DEFAULTS
from . import options
from .progress import progress

WIDTH = 280  # of the table where the output is no terminal


def models(
    context: typer.Context,
    model: Annotated[str, typer.Option(help='only these networks; several: a,b')] = '',
    preset: Annotated[str, typer.Option(help='only these presets; several: a,b')] = '',
    size: Annotated[str, typer.Option(help='of the RGB image, WIDTHxHEIGHT')] = '640x480',
    time: Annotated[bool, typer.Option(
        '--time', help='also time the network stage here, and measure memory')] = False,
    frames: Annotated[int, typer.Option(min=1, help='--time: pairs to fuse with each')] = 10,
    score: Annotated[Path | None, typer.Option(
        help='also score what has weights on the registered pairs of this folder: ir/ and vi/ '
        'somewhere below')] = None,
    device: options.Device = DEFAULTS.device,
    markdown: Annotated[bool, typer.Option('--markdown',
                                           help='print Markdown instead of a table')] = False,
    json: options.Json = None,
    overwrite: options.Overwrite = False,
) -> None:
    """List every network and preset: size, work, and whether trained weights come with the
    package."""
    from ..io.folders import pair_files
    from ..tools.evaluation import models_table

    if not time:
        options.refuse(context, ('frames',) if score else ('frames', 'device'),
                       'only with --time' if score else 'only with --time or --score')
    options.require_json(json, overwrite=overwrite, inputs=(score,))
    count = len(pair_files(score)) if score else 0  # before minutes of measuring
    table = models_table.listed(size=options.image_size(size), only_models=_names(model),
                                only_presets=_names(preset))
    if score:
        trained = sum(row.weights is not None for row in table.rows)
        with progress('scoring', count * trained) as report:
            table = models_table.scored(table, score, device=device, report=report)
    if time:
        with progress('timing', frames) as report:
            table = models_table.timed(table, frames=frames, device=device, report=report)
    options.write_json(json, table.as_json())
    if markdown:
        options.say(table.as_markdown(), json=json)
    else:
        _show(options.table_console(json, width=WIDTH), table, text=models_table.TEXT_COLUMNS)


def _names(several: str) -> list[str]:
    return [name for name in several.split(',') if name]


def _show(console: Console, models_table, *, text: tuple[str, ...]) -> None:
    columns = models_table.columns()
    table = Table()
    for heading in columns:
        table.add_column(heading, justify='left' if heading in text else 'right', overflow='fold')
    for cells in zip(*columns.values()):
        table.add_row(*cells)
    options.show_table(console, table)
    for line in models_table.below():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
