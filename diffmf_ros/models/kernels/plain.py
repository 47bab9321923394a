# SPDX-License-Identifier: Apache-2.0
"""Steps of the networks between their scans, in plain torch: as the modules compute them one by
one.

`models.fused` documents them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, leaky_relu, linear, silu

# Inputs of a skip connection, the factor of each head of channels, and how often it is added.
Skip = tuple[torch.Tensor, torch.Tensor, int]


def norm_linear(x: torch.Tensor, norm: nn.Module | None, layer: Any,
                gate: torch.Tensor | None, gate_first: bool, scale: torch.Tensor | None,
                residual: torch.Tensor | None, skip: Skip | None = None) -> torch.Tensor:
    """Compute `fused.norm_linear`."""
    if skip is not None:
        inputs, factor, times = skip
        heads = len(factor), -1
        added = factor.to(inputs.dtype)[:, None] * inputs.unflatten(-1, heads)
        x = x.unflatten(-1, heads) + times * added
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


def mlp(x: torch.Tensor, norm: nn.Module, widen: nn.Module, narrow: nn.Module) -> torch.Tensor:
    """Compute `fused.mlp`."""
    return x + narrow(gelu(widen(norm(x))))


def norm_linear_mlp(x: torch.Tensor, norm: nn.Module, layer: nn.Module,
                    gate: torch.Tensor | None, residual: torch.Tensor, mlp_norm: nn.Module,
                    widen: nn.Module, narrow: nn.Module) -> torch.Tensor:
    """Compute `fused.norm_linear_mlp`."""
    return mlp(norm_linear(x, norm, layer, gate, False, None, residual), mlp_norm, widen, narrow)


def depthwise(x: torch.Tensor, other: torch.Tensor | None, conv: nn.Module,
              with_silu: bool) -> torch.Tensor:
    """Compute `fused.depthwise`."""
    y = conv(x if other is None else x - other)
    return silu(y) if with_silu else y


def depthwise_records(x: torch.Tensor, conv: nn.Module,
                      *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compute `fused.depthwise_records`."""
    u = depthwise(x, None, conv, True)
    return u, *(linear(part.to(weight.dtype), weight.flatten(0, 1)).unflatten(-1, weight.shape[:2])
                for part, weight in zip(u.chunk(len(weights)), weights))


def conv(x: torch.Tensor, layer: nn.Module, slope: float | None, residual: torch.Tensor | None,
         dtype: torch.dtype | None) -> torch.Tensor:
    """Compute `fused.conv`."""
    y = layer(x)
    if slope is not None:
        y = leaky_relu(y, slope)
    if dtype is not None:
        y = y.to(dtype)
    return y if residual is None else residual + y


def layer_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """Compute `fused.layer_norm`."""
    return norm.in_torch(x)


def concat_linear(maps: Sequence[torch.Tensor], layer: Any) -> torch.Tensor:
    """Compute `fused.concat_linear`."""
    dtype = layer.weight.dtype  # what the layer would make of it, before it is copied
    return layer(torch.cat([x.to(dtype) for x in maps], dim=-1))


def pair(a: torch.Tensor, b: torch.Tensor, pairing: str, dtype: torch.dtype) -> torch.Tensor:
    """Compute `fused.pair`."""
    if pairing == 'columns':
        return torch.stack((a, b), dim=3).flatten(2, 3).to(dtype)
    return torch.cat((a, b), dim=0 if pairing == 'batch' else 2).to(dtype)


def guide(x: torch.Tensor, layer: Any, a: torch.Tensor,
          b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `fused.guide`."""
    gain = torch.sigmoid(layer(x))
    return a * (1 + gain), b * (2 - gain)


def seen(ir: torch.Tensor, vi_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `fused.seen`."""
    from .. import mixing  # which needs the backends, and thereby this module
    return mixing.seen(ir, vi_y)


def mix(ir: torch.Tensor, vi_y: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Compute `fused.mix`."""
    from .. import mixing
    return mixing.mix(ir, vi_y, maps)


def rates(logs: torch.Tensor) -> torch.Tensor:
    """Compute `fused.rates`."""
    return -logs.exp()
