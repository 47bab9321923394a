# SPDX-License-Identifier: Apache-2.0
"""Steps of the networks between their scans, in plain torch: as the modules compute them one by one.

`models.fused` documents them.
"""

import torch
from torch.nn.functional import gelu, leaky_relu, linear, silu


def norm_linear(x, norm, layer, gate, gate_first, scale, residual, skip=None):
    """As `fused.norm_linear`."""
    if skip is not None:
        inputs, factor, times = skip
        heads = len(factor), -1
        x = x.unflatten(-1, heads) + times * factor.to(inputs.dtype)[:, None] * inputs.unflatten(-1, heads)
        x = x.flatten(-2)
    if gate is not None and gate_first:
        x = x * silu(gate)
    if norm is not None:
        x = norm(x)
    if gate is not None and not gate_first:
        x = x * silu(gate)
    y = layer(x)
    if scale is not None:
        y = scale * y
    return y if residual is None else residual + y


def mlp(x, norm, widen, narrow):
    """As `fused.mlp`."""
    return x + narrow(gelu(widen(norm(x))))


def depthwise(x, other, conv, with_silu):
    """As `fused.depthwise`."""
    y = conv(x if other is None else x - other)
    return silu(y) if with_silu else y


def depthwise_records(x, conv, *weights):
    """As `fused.depthwise_records`."""
    u = depthwise(x, None, conv, True)
    return u, *(linear(part.to(weight.dtype), weight.flatten(0, 1)).unflatten(-1, weight.shape[:2])
                for part, weight in zip(u.chunk(len(weights)), weights))


def conv(x, layer, slope, residual, dtype):
    """As `fused.conv`."""
    y = layer(x)
    if slope is not None:
        y = leaky_relu(y, slope)
    if dtype is not None:
        y = y.to(dtype)
    return y if residual is None else residual + y


def layer_norm(x, norm):
    """As `fused.layer_norm`."""
    return norm.in_torch(x)


def concat_linear(maps, layer):
    """As `fused.concat_linear`."""
    dtype = layer.weight.dtype  # what the layer would make of it, before it is copied
    return layer(torch.cat([x.to(dtype) for x in maps], dim=-1))


def pair(a, b, pairing, dtype):
    """As `fused.pair`."""
    if pairing == 'columns':
        return torch.stack((a, b), dim=3).flatten(2, 3).to(dtype)
    return torch.cat((a, b), dim=0 if pairing == 'batch' else 2).to(dtype)


def guide(x, layer, a, b):
    """As `fused.guide`."""
    gain = torch.sigmoid(layer(x))
    return a * (1 + gain), b * (2 - gain)


def seen(ir, vi_y):
    """As `fused.seen`."""
    from .. import mixing  # which needs the backends, and thereby this module
    return mixing.seen(ir, vi_y)


def mix(ir, vi_y, maps):
    """As `fused.mix`."""
    from .. import mixing
    return mixing.mix(ir, vi_y, maps)
