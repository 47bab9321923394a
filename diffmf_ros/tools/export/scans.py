# SPDX-License-Identifier: Apache-2.0
"""A scan backend that writes calls of SS2D and SSD into an ONNX graph instead of computing them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import parser

from ...models import scan
from ...models.kernels.composed import ssd_with

DOMAIN = 'diffmf_ros.tools.export'
OPSET = 18


def parse(text: str) -> onnx.FunctionProto:
    """Return the function that text defines; it may call others of DOMAIN."""
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : '
                                 f'1]>{text}')


@contextmanager
def recorded(network: torch.nn.Module) -> Iterator[None]:
    """Let every scan of network be written into the graph while the context lasts."""
    scanning = [module for module in network.modules() if hasattr(module, 'backend')]
    before = [module.backend for module in scanning]
    scan.BACKENDS['onnx'] = sys.modules[__name__]
    try:
        for module in scanning:
            module.backend = 'onnx'  # type: ignore[assignment]
        yield
    finally:
        del scan.BACKENDS['onnx']
        for module, backend in zip(scanning, before):
            module.backend = backend


def unavailable() -> str | None:
    """Return why this backend cannot run here: it is only there while an export lasts."""
    return None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it cannot write a scan of inputs like u into a graph, or None."""
    return None if u.dtype == torch.float32 else f'a graph is written in float32, not {u.dtype}'


def ss2d(u, proj, dt_weight, dt_bias, A, skip):
    """As `models.scan.ss2d`."""
    return interleaved_ss2d([u], [proj], dt_weight, dt_bias, A, skip)[0]


def interleaved_ss2d(us, projs, dt_weight, dt_bias, A, skip):
    """As `models.scan.interleaved_ss2d`, for any number of images."""
    return call('SS2D', torch.stack(us), torch.stack(projs), dt_weight.mT, dt_bias, A.mT,
                skip).unbind()


def ssd(*inputs):
    """As `models.scan.ssd`, without D."""
    return ssd_with(lambda *one_direction: call('SSD', *one_direction), *inputs)


def call(name, x, *others):
    """Call a function of `ss2d` or `ssd` in the graph; its output is like x."""
    return torch.onnx.ops.symbolic(f'{DOMAIN}::{name}', (x, *others), dtype=x.dtype, shape=x.shape,
                                   version=1)
