# SPDX-License-Identifier: Apache-2.0
"""The operations of `models.fused` as Triton kernels: takes modules apart into their parameters.

Imported only where triton is.
"""

from torch import nn
from torch.nn.functional import gelu

from . import triton_depthwise, triton_rows
from .triton_mixing import mix, seen  # noqa: F401, have no modules
from .triton_rows import LAYER_NORM, NO_NORM, RMS_NORM, WIDEST


def norm_linear(x, norm, layer, gate, gate_first, scale, residual):
    """As `fused.norm_linear`."""
    if norm is None:
        normalization = NO_NORM, None, None, 0.0
    elif isinstance(norm, nn.LayerNorm):
        normalization = LAYER_NORM, norm.weight, norm.bias, norm.eps
    else:
        normalization = RMS_NORM, norm.weight, None, norm.eps
    return triton_rows.norm_linear(x, *normalization, gate, gate_first, layer.weight, layer.bias,
                                   scale, residual)


def mlp(x, norm, widen, narrow):
    """As `fused.mlp`; in several kernels for tokens too wide for one."""
    if x.shape[-1] <= WIDEST:
        return triton_rows.mlp(x, norm.weight, norm.bias, norm.eps, widen.weight, widen.bias,
                               narrow.weight, narrow.bias)
    inner = gelu(norm_linear(x, norm, widen, None, False, None, None))
    return norm_linear(inner, None, narrow, None, False, None, x)


def depthwise(x, other, conv, with_silu):
    """As `fused.depthwise`."""
    return triton_depthwise.depthwise(x, other, conv.weight, conv.bias, with_silu)


def depthwise_records(x, conv, *weights):
    """As `fused.depthwise_records`."""
    u, records = triton_depthwise.depthwise_records(x, conv.weight, conv.bias, weights)
    return u, *records.chunk(len(weights))
