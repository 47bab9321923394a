# SPDX-License-Identifier: Apache-2.0
"""`diffmf convert-weights`: the checkpoint of S4Fusion's authors as a weights file."""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def convert_weights(
    checkpoint: Annotated[Path,
                          typer.Argument(help="the authors' model.pkl, or its tensors as "
                                         ".safetensors")],
    out: Annotated[Path, options.output('--out', '-o', endings=('.safetensors',),
                                        help='file to write')] = Path('s4fusion.safetensors'),
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Turn the checkpoint of S4Fusion's authors into weights of s4fusion base.

    Nothing of it is executed.
    """
    from ..io.writing import replacing, require_output

    require_output(out, overwrite=overwrite, inputs=(checkpoint,))
    options.require_json(json, overwrite=overwrite, inputs=(checkpoint,))
    from ..inference.conversion import MODEL, PRESET, PUBLISHED, convert

    with replacing(out, overwrite=overwrite) as partial:
        written = convert(checkpoint, partial, overwrite=True)
    options.write_json(json, {
        'out': str(out), 'model': MODEL, 'preset': PRESET, 'tensors': written.tensors,
        'numbers': written.numbers, 'blob': written.blob, 'published': written.published})
    options.say(f'{out}: {MODEL} {PRESET}, {written.tensors} tensors, {written.numbers:,} numbers',
                json=json)
    options.say(f'{checkpoint}: git blob id {written.blob}, ' + (
        "the authors' published file" if written.published
        else f"note: not the authors' published file ({PUBLISHED})"), json=json)
