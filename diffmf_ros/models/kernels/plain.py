# SPDX-License-Identifier: Apache-2.0
"""Steps of the networks between their scans, in plain torch: as the modules compute them one by one.

`models.fused` documents them.
"""

from torch.nn.functional import gelu, linear, silu


def norm_linear(x, norm, layer, gate, gate_first, scale, residual):
    """As `fused.norm_linear`."""
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


def seen(ir, vi_y):
    """As `fused.seen`."""
    from .. import mixing  # which needs the backends, and thereby this module
    return mixing.seen(ir, vi_y)


def mix(ir, vi_y, maps):
    """As `fused.mix`."""
    from .. import mixing
    return mixing.mix(ir, vi_y, maps)
