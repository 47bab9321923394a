# SPDX-License-Identifier: Apache-2.0
"""`diffmf fuse`: one pair of image files."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.settings import DEFAULTS
from . import options


def fuse(
    rgb: Annotated[Path, typer.Argument(help='visible image, colour or grey')],
    thermal: Annotated[Path, typer.Argument(help='thermal image, 8 or 16 bit')],
    out: Annotated[Path, typer.Option('--out', '-o', help='file to write')] = Path('fused.png'),
    model: options.Model = DEFAULTS.model,
    preset: options.Preset = DEFAULTS.preset,
    weights: options.Weights = None,
    engine: options.Engine = DEFAULTS.engine,
    alignment: options.AlignmentFile = None,
    scale: options.Scale = DEFAULTS.scale,
    device: options.Device = DEFAULTS.device,
) -> None:
    """Fuse one visible and one thermal image file."""
    from ..core.frames import RGB, THERMAL, Pair
    from ..images import read_frame, write_image
    from ..inference.pipeline import FusionPipeline

    settings = options.settings_from(
        model=model, preset=preset, weights=weights, engine=engine, alignment__file=alignment, scale=scale,
        device=device)
    pair = Pair(read_frame(rgb, stream=RGB), read_frame(thermal, stream=THERMAL), offset_ns=0)
    pipeline = FusionPipeline(settings)
    result = pipeline.fuse(pair)
    write_image(out, result.pixels, result.encoding)
    for warning in result.warnings:
        typer.echo(f'warning: {warning}', err=True)
    typer.echo(f'{out}: {result.mode.value} by {pipeline.description} on {pipeline.device}')
