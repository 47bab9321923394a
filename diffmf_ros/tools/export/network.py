# SPDX-License-Identifier: Apache-2.0
"""A network as a self-contained ONNX file of standard operators, compared with torch before it is
written."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ... import models
from ...core.frames import DiffmfError
from ...core.packages import pip_install
from ...inference.onnx_engine import ANY_SIZE, FORMAT, UNSEALED, seal
from ...inference.weights import Weights, digest, load_into, load_weights
from ...inference.weights_header import number_text, shipped, sides_text
from ...io.writing import write_bytes
from ...models import SizeRule

LARGEST_DIFFERENCE = 1e-3
# Height and width in multiples of the network. The first one checked has more than one group of
# the SSD.
TRACED, CHECKED = (32, 40), ((17, 19), (2, 3))


class ExportError(DiffmfError):
    """An exporter that is not installed, or a network that cannot be exported faithfully."""


@dataclass(frozen=True)
class Exported:
    """A file that was written. size is (width, height), or None for every size."""

    path: Path
    size: tuple[int, int] | None
    largest_difference: float  # from torch, of the fused luminance in [0, 1]


def export(path: str | Path, *, model: str, preset: str, weights: str | Path | None = None,
           size: tuple[int, int] | None = None) -> Exported:
    """Export trained weights (None: the shipped ones of the preset) to path.

    size is the (width, height) that the network will get, extended to what it takes; None: every
    size. Raises WeightsError for missing, damaged, untrained or foreign weights, and ExportError.
    """
    if not Path(path).parent.is_dir():
        raise ExportError(f'there is no folder {Path(path).parent} to write {Path(path).name} to; '
                          f'make it first')
    loaded = load_weights(weights or shipped(model, preset))
    if (loaded.model, loaded.preset) != (model, preset):
        raise ExportError(f'{loaded.path} is for {loaded.model} {loaded.preset}, but {model} '
                          f'{preset} was asked for; '
                          'set model and preset to match')
    network = models.build(model, preset)
    load_into(network, loaded)
    return export_network(network, path, loaded, size=size)


def export_network(network: torch.nn.Module, path: str | Path, weights: Weights, *,
                   size: tuple[int, int] | None = None) -> Exported:
    """As export(), for a network that holds weights. Raises ExportError."""
    network = network.cpu().float().eval().requires_grad_(False)
    sides = cast(SizeRule, network.sides)
    if size is not None:
        size = sides.padded(size[0]), sides.padded(size[1])
    proto = graph(network, size=size)
    for key, value in {
            'format': FORMAT, 'model': weights.model, 'preset': weights.preset,
            'sides': sides_text(sides),
            'iterations': number_text(weights.iterations), 'seed': number_text(weights.seed),
            'weights_sha256': digest(weights.tensors),
            'size': f'{size[0]}x{size[1]}' if size else ANY_SIZE, 'sha256': UNSEALED}.items():
        proto.metadata_props.add(key=key, value=str(value))
    data = seal(proto.SerializeToString(deterministic=True))
    difference = largest_difference(data, network, size=size)
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportError(f'onnxruntime and torch differ by {difference:.3g} of a luminance in '
                          f'[0, 1], more than {LARGEST_DIFFERENCE:g}: nothing was written; try '
                          f'other versions of '
                          f'torch and onnxruntime')
    write_bytes(path, data)
    return Exported(Path(path), size, difference)


def graph(network: torch.nn.Module, *, size: tuple[int, int] | None):
    """Return network as an onnx.ModelProto of standard operators: ir, vi_y -> fused_y, B x 1 x H x
    W.

    B is 1; size is (width, height), or None for every size that fits network.sides. Raises
    ExportError when torch, onnx or onnxscript cannot do it.
    """
    onnx = _exporter()
    from . import scans
    from .scans import DOMAIN, OPSET

    width, height = size or reversed(_sizes_of(network, TRACED))
    # Two tensors: the exporter takes one and the same for a single input.
    images = torch.rand(1, 1, height, width), torch.rand(1, 1, height, width)
    try:
        with torch.no_grad(), _quiet(), scans.recorded(network):
            program = torch.onnx.export(network, images, dynamo=True, opset_version=OPSET,
                                        verbose=False, input_names=['ir', 'vi_y'],
                                        output_names=['fused_y'],
                                        dynamic_shapes=None if size
                                        else _every_size(network.sides))
    except Exception as error:  # the exporter has many kinds, and its own texts bury the cause
        raise ExportError(f'torch {torch.__version__} cannot export this network: '
                          f'{_cause(error)}') from error
    proto = program.model_proto  # type: ignore[union-attr]
    proto.functions.extend(scans.functions())
    proto = onnx.inliner.inline_local_functions(proto)
    standard = [entry for entry in proto.opset_import if entry.domain != DOMAIN]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    _forget_the_source(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def largest_difference(data: bytes, network: torch.nn.Module, *,
                       size: tuple[int, int] | None) -> float:
    """Return the largest difference of onnxruntime from torch on random images, at size or at two
    sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
    sizes = [size[::-1]] if size else [_sizes_of(network, checked) for checked in CHECKED]
    random, largest = np.random.default_rng(0), 0.0
    for shape in sizes:
        ir, vi_y = random.random((2, 1, 1, *shape), np.float32)
        exported, = session.run(None, {'ir': ir, 'vi_y': vi_y})
        with torch.inference_mode():
            expected = network(torch.from_numpy(ir), torch.from_numpy(vi_y)).numpy()
        largest = np.maximum(largest, np.abs(exported - expected).max())  # keeps a NaN
    return float(largest)


def _exporter():
    """Return the onnx package.

    Raises ExportError when something that the export needs is not there.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        torch.onnx.ops.symbolic  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise ExportError(f'exporting needs torch 2.8 or newer, onnx, onnxscript and onnxruntime '
                          f'({error}; torch is {torch.__version__}); '
                          f'{pip_install("onnx")}') from error
    return onnx


def _cause(error: BaseException) -> str:
    """Return what first went wrong, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'


def _sizes_of(network, multiples: tuple[int, int]) -> tuple[int, int]:
    return tuple(network.sides.multiple * n + network.sides.remainder for n in multiples)


def _every_size(sides) -> tuple[dict, dict]:
    height, width = (torch.export.Dim(name) for name in ('h', 'w'))
    shape = {axis: sides.multiple * side + sides.remainder for axis,
             side in ((2, height), (3, width))}
    return shape, shape


def _forget_the_source(proto) -> None:
    """Drop the stack traces that the exporter notes at every value.

    They name files of this machine.
    """
    whole = proto.graph
    for part in (whole, *whole.node, *whole.initializer, *whole.input, *whole.output):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')
    whole.ClearField('value_info')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own insides from the user."""
    log = logging.getLogger('torch.onnx')
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        log.setLevel(level)
