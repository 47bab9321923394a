# SPDX-License-Identifier: Apache-2.0
"""`diffmf export`: a network as a file for onnxruntime or TensorRT."""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def export(
    onnx: Annotated[Path, options.output('--onnx', endings=('.onnx',), help='file to write')],
    model: options.ModelOfFile = None,
    preset: options.PresetOfFile = None,
    weights: options.Weights = None,
    size: Annotated[str | None,
                    typer.Option(help='the only size of image, WIDTHxHEIGHT; without it, every '
                                 'size')]
    = None,
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Write a trained network as an ONNX file, once it agrees with torch.

    Model and preset are those of the file of weights, where one is given.
    """
    from ..io.writing import require_output

    require_output(onnx, overwrite=overwrite, inputs=(weights,))  # before half a minute of work
    options.require_json(json, overwrite=overwrite, inputs=(weights,))
    from ..inference.weights_header import read_header, weights_path
    from ..tools.export.network import export as run

    if file := options.weights_file(weights):
        header = read_header(file)
        model, preset = model or header.model, preset or header.preset
    settings = options.settings_from(model=model, preset=preset, weights=weights)
    written = run(onnx, model=settings.model, preset=settings.network_preset,
                  weights=weights_path(settings),
                  size=None if size is None else options.image_size(size))
    sizes = 'every size' if written.size is None else '{}x{}'.format(*written.size)
    options.write_json(json, {
        'out': str(onnx), 'model': settings.model, 'preset': settings.network_preset,
        'size': written.size, 'bytes': onnx.stat().st_size,
        'largest_difference': written.largest_difference})
    options.say(f'{onnx}: {settings.model} {settings.network_preset} for {sizes}, '
                f'{onnx.stat().st_size / 1e6:.1f} MB; onnxruntime differs from torch by at most '
                f'{written.largest_difference:.1e}', json=json)
