# SPDX-License-Identifier: Apache-2.0
"""The operations of `models.fused` as Triton kernels: takes modules apart into their parameters.

Imported only where triton is.
"""

import torch
from torch import nn
from torch.nn.functional import gelu

from ..blocks import TokenConv2d
from . import plain, triton_conv, triton_pairs, triton_rows
from .triton_mixing import mix, seen  # noqa: F401, have no modules
from .triton_rows import LAYER_NORM, NO_NORM, RMS_NORM, WIDEST


def norm_linear(x, norm, layer, gate, gate_first, scale, residual, skip=None):
    """As `fused.norm_linear`."""
    if norm is None:
        normalization = NO_NORM, None, None, 0.0
    elif isinstance(norm, nn.LayerNorm):
        normalization = LAYER_NORM, norm.weight, norm.bias, norm.eps
    else:
        normalization = RMS_NORM, norm.weight, None, norm.eps
    return triton_rows.norm_linear(x, *normalization, gate, gate_first, layer.weight, layer.bias,
                                   scale, residual, *(skip or (None, None, 0.0)))


def mlp(x, norm, widen, narrow):
    """As `fused.mlp`; in several kernels for tokens too wide for one."""
    if x.shape[-1] <= WIDEST:
        return triton_rows.mlp(x, norm.weight, norm.bias, norm.eps, widen.weight, widen.bias,
                               narrow.weight, narrow.bias)
    inner = gelu(norm_linear(x, norm, widen, None, False, None, None))
    return norm_linear(inner, None, narrow, None, False, None, x)


def norm_linear_mlp(x, norm, layer, gate, residual, mlp_norm, widen, narrow):
    """As `fused.norm_linear_mlp`; in several kernels for tokens too wide for one."""
    outs = len(layer.weight)
    if x.shape[-1] > WIDEST or outs > WIDEST // 2 or layer.bias is not None:
        y = norm_linear(x, norm, layer, gate, False, None, residual)
        return mlp(y, mlp_norm, widen, narrow)
    return triton_rows.norm_linear_mlp(
        x, norm.weight, norm.bias, norm.eps, gate, layer.weight, residual, mlp_norm.weight,
        mlp_norm.bias, mlp_norm.eps, widen.weight, widen.bias, narrow.weight, narrow.bias)


def depthwise(x, other, conv, with_silu):
    """As `fused.depthwise`."""
    return triton_conv.depthwise(x, other, conv.weight, conv.bias, with_silu)


def depthwise_records(x, conv, *weights):
    """As `fused.depthwise_records`."""
    u, records = triton_conv.depthwise_records(x, conv.weight, conv.bias, weights)
    return u, *records.chunk(len(weights))


def conv(x, layer, slope, residual, dtype):
    """As `fused.conv`; other than 3x3 convolutions run in torch."""
    shape = layer.kernel_size, layer.padding, layer.dilation, layer.groups
    if shape != ((3, 3), (1, 1), (1, 1), 1) or layer.padding_mode not in ('zeros', 'reflect'):
        return plain.conv(x, layer, slope, residual, dtype)
    tokens = isinstance(layer, TokenConv2d)
    dtype = dtype or layer.weight.dtype
    if residual is not None:
        dtype = torch.promote_types(dtype, residual.dtype)
        residual = residual if tokens else residual.permute(0, 2, 3, 1)
    y = triton_conv.conv(x.permute(0, 3, 1, 2) if tokens else x, layer.weight, layer.bias,
                         layer.stride[0], layer.padding_mode == 'reflect',
                         triton_conv.NO_SLOPE if slope is None else slope, residual, dtype)
    return y if tokens else y.permute(0, 3, 1, 2)


def layer_norm(x, norm):
    """As `fused.layer_norm`."""
    return triton_pairs.layer_norm(x, norm.weight, norm.bias, norm.eps, norm.dtype or x.dtype)


def concat_linear(maps, layer):
    """As `fused.concat_linear`; more than five maps are copied together."""
    if len(maps) > triton_pairs.MOST_PIECES:
        return plain.concat_linear(maps, layer)
    return triton_pairs.concat_linear(list(maps), layer.weight, layer.bias)


def pair(a, b, pairing, dtype):
    """As `fused.pair`."""
    return triton_pairs.pair(a, b, pairing, dtype)


def guide(x, layer, a, b):
    """As `fused.guide`."""
    return triton_pairs.guide(x, layer.weight, layer.bias, a, b)


def interleave(us, projs, dt_weight):
    """As `composed.interleave`."""
    u, delta, records = triton_pairs.interleave(list(us), list(projs), dt_weight)
    return u, delta, *records.chunk(2, dim=-1)


def separate(y, image):
    """As `composed.separate`."""
    return triton_pairs.separate(y, *image.shape[1:3]).chunk(2)
