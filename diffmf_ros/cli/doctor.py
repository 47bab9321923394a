# SPDX-License-Identifier: Apache-2.0
"""`diffmf doctor`: what this machine can do. Exit code 0 when the node can run, else 1."""

import json as json_format
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLE = {'good': 'green', 'warn': 'yellow', 'error': 'bold red', 'fail': 'red'}


def doctor(
        json: Annotated[bool, typer.Option('--json',
                                           help='print JSON instead of a table')] = False) -> None:
    """Report what this machine can do, and what to do about the rest."""
    from ..tools.doctor import examine

    diagnosis = examine()
    if json:
        typer.echo(json_format.dumps(diagnosis.as_dict(), indent=1))
    else:
        _show(diagnosis)
    raise typer.Exit(0 if diagnosis.node_can_run else 1)


def _show(diagnosis) -> None:
    console = Console()
    table = Table('', '', '', '', box=None, show_header=False)
    section = None
    for finding in diagnosis.findings:
        table.add_row('' if finding.section == section else finding.section, finding.name,
                      Text(finding.state.value, STYLE[finding.state.value]),
                      Text(finding.text, overflow='fold'))
        section = finding.section
    console.print(table)
    for advice in diagnosis.advice():
        console.print(f'advice: {advice}', markup=False, highlight=False, soft_wrap=True)
    console.print(f'the node {"can" if diagnosis.node_can_run else "cannot"} run here')
