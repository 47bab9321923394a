# SPDX-License-Identifier: Apache-2.0
"""`diffmf fuse`: one pair of image files."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.settings import DEFAULTS
from . import options


def fuse(
    rgb: Annotated[Path, typer.Argument(help='visible image, colour or grey; or one of a medical pair')],
    thermal: Annotated[Path, typer.Argument(help='thermal image, 8 or 16 bit; or the other one')],
    out: Annotated[Path, typer.Option('--out', '-o', help='file to write')] = Path('fused.png'),
    model: options.Model = DEFAULTS.model,
    preset: options.Preset = DEFAULTS.preset,
    weights: options.Weights = None,
    engine: options.Engine = DEFAULTS.engine,
    alignment: options.AlignmentFile = None,
    scale: options.Scale = DEFAULTS.scale,
    device: options.Device = DEFAULTS.device,
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Fuse one visible and one thermal image file, or a grey and a colour one of a medical pair in either order."""
    from ..inference.pipeline import FusionPipeline
    from ..io.images import read_image_pair, require_format, write_image
    from ..io.writing import require_output

    settings = options.settings_from(
        model=model, preset=preset, weights=weights, engine=engine, alignment__file=alignment, scale=scale,
        device=device)
    require_format(out)
    inputs = (rgb, thermal, weights, alignment)
    require_output(out, overwrite=overwrite, inputs=inputs)
    options.require_json(json, overwrite=overwrite, inputs=inputs)
    pair, note = read_image_pair(rgb, thermal)
    if note:
        typer.echo(note, err=True)
    pipeline = FusionPipeline(settings)
    result = pipeline.fuse(pair)
    write_image(out, result.pixels, result.encoding, overwrite=overwrite)
    for warning in result.warnings:
        typer.echo(f'warning: {warning}', err=True)
    height, width = result.pixels.shape[:2]
    options.write_json(json, {
        'out': str(out), 'mode': result.mode.value, 'by': pipeline.description, 'device': pipeline.device,
        'size': [width, height], 'note': note, 'warnings': result.warnings, 'timings_ms': result.timings_ms})
    options.say(f'{out}: {result.mode.value} by {pipeline.description} on {pipeline.device}', json=json)
