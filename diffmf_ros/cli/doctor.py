# SPDX-License-Identifier: Apache-2.0
"""`diffmf doctor`: what this machine can do. Exit code 0 when the node can run, else 1."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import options

STYLE = {'good': 'green', 'warn': 'yellow', 'error': 'bold red', 'fail': 'red'}
RESULT = 'node_can_run', 'advice', 'findings'  # keys of --json


def doctor(
    json: Annotated[Path | None, typer.Argument(
        metavar='NAME.json', show_default=False,
        help='file to write, with --json; none, or -: the screen')] = None,
    as_json: Annotated[bool, typer.Option(
        '--json', help='JSON, printed in place of the table or written to a file')] = False,
) -> None:
    """Report what this machine can do, and what to do about the rest."""
    from ..io.writing import is_stream, require_ending
    from ..tools.doctor import examine

    if json is not None and not as_json:
        raise typer.BadParameter(f'expected --json before the name of a file, got {json} alone')
    if json is not None and json != options.SCREEN and not is_stream(json):
        require_ending(json, ('.json',), what='a file of --json')
    options.require_own_json(json, RESULT)
    diagnosis = examine()
    if as_json:
        options.write_json(json or options.SCREEN, diagnosis.as_dict())
    if not as_json or json not in (None, options.SCREEN):
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
