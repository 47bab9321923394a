# SPDX-License-Identifier: Apache-2.0
"""`diffmf make-bag`: a folder of vi/ and ir/ frames as a bag."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import tracked


def make_bag(
    folder: Annotated[Path,
                      typer.Argument(help='holds vi/ and ir/ with frames of equal names, jpg or '
                                     'png')],
    out: Annotated[Path, typer.Argument(help='the bag folder to make')],
    rate: Annotated[float | None,
                    typer.Option(help='frames a second; default: from sequence.json')] = None,
    storage: Annotated[str, typer.Option(help='sqlite3 | mcap')] = 'sqlite3',
    overwrite: options.OverwriteBag = False,
    json: options.Json = None,
) -> None:
    """Turn a folder of image pairs into a bag."""
    from ..io.folders import read_folder, write_bag
    from ..io.images import pages_note

    pairs = read_folder(folder, rate_hz=rate)
    options.require_json(json, overwrite=overwrite, inputs=(folder,))
    written = write_bag(pairs, out, storage=storage, overwrite=overwrite, inputs=(folder,))
    for _ in tracked(written, 'writing', total=len(pairs)):
        pass
    notes = [note for pair in pairs for path in (pair.visible, pair.infrared)
             if (note := pages_note(path))]
    for note in notes:
        typer.echo(f'note: {note}', err=True)
    options.write_json(json, {'out': str(out), 'pairs': len(pairs), 'notes': notes})
    options.say(f'{out}: {len(pairs)} pairs', json=json)
