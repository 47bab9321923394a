# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench --standard`: the same job on every machine."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..io.writing import write_text
from . import options
from .progress import announced


def bench_standard(console: Console, *, json: Path | None, page: Path | None) -> None:
    """Measure, print, and write the files that are asked for. Raises DiffmfError."""
    from ..tools.bench import machines, standard

    with announced() as announce:
        measured = standard.run(announce)
    report = measured.as_dict()
    table = Table(*machines.COLUMNS, title=machines.title(report), caption=machines.CAPTION)
    for row in machines.rows(report):
        table.add_row(*(cell.strip('`') for cell in row))
    console.print(table)
    console.print(machines.about(report), highlight=False, markup=False)
    options.write_json(json, measured.as_json())
    if page is not None:
        write_text(page, machines.page(report))
