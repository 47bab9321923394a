# SPDX-License-Identifier: Apache-2.0
"""Steps of the networks between their scans.

They have one interface, in plain torch or fused into one kernel.

The fused form runs where the scans' Triton backend runs an operation of this name, with gradients
only some (`triton.WITH_GRADIENTS`); elsewhere the plain form runs, the modules called one by one.
`backend` is what `scan.backend_for` takes. Features are token-major: B x H x W x C.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from . import scan
from .kernels import plain, triton
from .kernels.plain import Skip

# What the modules of `scan.BACKENDS` may have beside scans.
OPERATIONS = ('norm_linear', 'mlp', 'norm_linear_mlp', 'depthwise', 'depthwise_records', 'conv',
              'layer_norm', 'concat_linear', 'pair', 'guide', 'seen', 'mix')


def form_of(operation: str, x: torch.Tensor, backend: scan.Backend = 'auto') -> ModuleType:
    """Return the module whose form of an operation runs on inputs like x.

    Args:
        operation: One of OPERATIONS.
        x: The first input; its device, type and number of values decide.
        backend: As in `scan.backend_for`.

    Returns:
        A module with a function of that name.

    Raises:
        ScanError: backend is unknown or cannot run here.
    """
    if triton.refuses(x, states=1) is not None:
        return plain
    if torch.is_grad_enabled() and operation not in triton.WITH_GRADIENTS:
        return plain
    return scan.backend_for(x, operation, backend)


def rates(logs: torch.nn.Parameter, *, backend: scan.Backend = 'auto') -> torch.Tensor:
    """Return -exp(logs); where fused forms run without gradients it is kept until logs change.

    Args:
        logs: logarithms of the decays.
        backend: As in form_of; it decides where gradients are enabled.

    Returns:
        A tensor of the same shape.

    Raises:
        ScanError: As form_of.
    """
    if triton.refuses(logs, states=1) is not None or logs.is_inference():
        return plain.rates(logs)
    if torch.is_grad_enabled():
        return scan.backend_for(logs, 'rates', backend).rates(logs)
    state = logs._version, logs.device, logs.data_ptr()
    if _RATES.get(logs, (None,))[0] != state:
        _RATES[logs] = state, plain.rates(logs)
    return _RATES[logs][1]


_RATES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def norm_linear(x: torch.Tensor, norm: nn.Module | None, layer: nn.Module, *,
                gate: torch.Tensor | None = None, gate_first: bool = False,
                scale: torch.Tensor | None = None, residual: torch.Tensor | None = None,
                skip: Skip | None = None, backend: scan.Backend = 'auto') -> torch.Tensor:
    """Compute a linear layer with its neighbors: residual + scale * layer(norm(x) * silu(gate)).

    Args:
        x: B x ... x C, float32 or half precision.
        norm: LayerNorm, RMSNorm or None.
        layer: Linear from C to C' channels.
        gate: Like x, or None for none.
        gate_first: Gate x before the normalization.
        scale: B x 1 x ... x C', or None for 1.
        residual: B x ... x C', or None for 0.
        skip: (inputs like x, factor of each head of channels, times): times * factor * inputs is
            added to x first; or None.
        backend: As in form_of.

    Returns:
        B x ... x C' in the type of the layer, or of the residual if that is wider.
    """
    form = form_of('norm_linear', x, backend)
    return form.norm_linear(x, norm, layer, gate, gate_first, scale, residual, skip)


def mlp(x: torch.Tensor, norm: nn.Module, widen: nn.Module, narrow: nn.Module, *,
        backend: scan.Backend = 'auto') -> torch.Tensor:
    """Compute x + narrow(gelu(widen(norm(x)))) of tokens, with the exact GELU.

    Args:
        x: B x ... x C, float32 or half precision.
        norm: LayerNorm.
        widen, narrow: Linear, from and to C channels.
        backend: As in form_of.

    Returns:
        Like x, in the type of the layers if that is wider.
    """
    return form_of('mlp', x, backend).mlp(x, norm, widen, narrow)


def norm_linear_mlp(x: torch.Tensor, norm: nn.Module, layer: nn.Module, *,
                    gate: torch.Tensor | None, residual: torch.Tensor, mlp_norm: nn.Module,
                    widen: nn.Module, narrow: nn.Module,
                    backend: scan.Backend = 'auto') -> torch.Tensor:
    """Compute norm_linear and then mlp; where gradients are enabled one by one.

    Args:
        x: B x ... x C, float32 or half precision.
        norm: LayerNorm of C channels.
        layer: Linear from C to C' channels.
        gate: Like x, or None for none; behind the normalization.
        residual: B x ... x C'.
        mlp_norm, widen, narrow: As norm, widen and narrow of mlp, of C' channels.
        backend: As in form_of.

    Returns:
        B x ... x C' in the type of the layers, or of the residual if that is wider.
    """
    if torch.is_grad_enabled():
        y = norm_linear(x, norm, layer, gate=gate, residual=residual, backend=backend)
        return mlp(y, mlp_norm, widen, narrow, backend=backend)
    form = form_of('norm_linear_mlp', x, backend)
    return form.norm_linear_mlp(x, norm, layer, gate, residual, mlp_norm, widen, narrow)


def depthwise(x: torch.Tensor, conv: nn.Module, *, minus: torch.Tensor | None = None,
              silu: bool = False, backend: scan.Backend = 'auto') -> torch.Tensor:
    """Convolve each channel of B x H x W x C with its 3x3 filter.

    Args:
        x: B x H x W x C, float32 or half precision.
        conv: TokenConv2d with one filter a channel.
        minus: Like x: x - minus is convolved; or None.
        silu: Apply SiLU to the result.
        backend: As in form_of.

    Returns:
        B x H x W x C in the type of conv.
    """
    return form_of('depthwise', x, backend).depthwise(x, minus, conv, silu)


def depthwise_records(x: torch.Tensor, conv: nn.Module, *weights: torch.Tensor,
                      backend: scan.Backend = 'auto') -> tuple[torch.Tensor, ...]:
    """Convolve each channel, apply SiLU, and project the result to the records of a scan.

    Args:
        x: B x H x W x C, float32 or half precision.
        conv: TokenConv2d with one filter a channel.
        weights: One or two matrices of 4 x record x C. Each is for its share of B, in turn.
        backend: As in form_of.

    Returns:
        B x H x W x C in the type of conv, and for each of weights records in its type, of its
        share of B: B' x H x W x 4 x record.
    """
    return form_of('depthwise_records', x, backend).depthwise_records(x, conv, *weights)


def conv(x: torch.Tensor, layer: nn.Module, *, slope: float | None = None,
         residual: torch.Tensor | None = None, dtype: torch.dtype | None = None,
         backend: scan.Backend = 'auto') -> torch.Tensor:
    """Convolve densely, with what stands behind it: residual + leaky_relu(layer(x)).

    Args:
        x: What layer takes: B x H x W x C for a TokenConv2d, B x C x H x W for a Conv2d.
        layer: Conv2d or TokenConv2d.
        slope: Of the LeakyReLU, or None for none.
        residual: Like the result, or None for 0.
        dtype: Of the LeakyReLU's result; None for that of layer.
        backend: As in form_of.

    Returns:
        What layer returns.
    """
    return form_of('conv', x, backend).conv(x, layer, slope, residual, dtype)


def layer_norm(x: torch.Tensor, norm: nn.Module, *,
               backend: scan.Backend = 'auto') -> torch.Tensor:
    """Normalize tokens.

    Args:
        x: B x ... x C.
        norm: a LayerNorm of tokens.
        backend: as in form_of.

    Returns:
        norm(x).
    """
    return form_of('layer_norm', x, backend).layer_norm(x, norm)


def concat_linear(maps: Sequence[torch.Tensor], layer: nn.Module, *,
                  backend: scan.Backend = 'auto') -> torch.Tensor:
    """Compute a linear layer of several maps side by side in channels.

    Args:
        maps: Up to five B x H x W x C, of any storage.
        layer: Linear from as many times C channels to C'.
        backend: As in form_of.

    Returns:
        B x H x W x C' in the type of the layer.
    """
    return form_of('concat_linear', maps[0], backend).concat_linear(maps, layer)


def pair(a: torch.Tensor, b: torch.Tensor, pairing: str, *, dtype: torch.dtype | None = None,
         backend: scan.Backend = 'auto') -> torch.Tensor:
    """Lay two maps out as one.

    Args:
        a, b: B x H x W x C.
        pairing: 'batch': 2B x H x W x C; 'columns', which take turns, or 'row', side by side:
            B x H x 2W x C.
        dtype: Of the result; None for that of a.
        backend: As in form_of.

    Returns:
        The map of both.
    """
    return form_of('pair', a, backend).pair(a, b, pairing, dtype or a.dtype)


def guide(x: torch.Tensor, layer: nn.Module, a: torch.Tensor, b: torch.Tensor, *,
          backend: scan.Backend = 'auto') -> tuple[torch.Tensor, torch.Tensor]:
    """Compute gain = sigmoid(layer(x)) and return a * (1 + gain) and b * (2 - gain).

    Args:
        x: B x H x W x C.
        layer: Linear with a bias.
        a, b: B x H x W x C' each.
        backend: As in form_of.

    Returns:
        Two maps of the shapes of a and b.
    """
    return form_of('guide', x, backend).guide(x, layer, a, b)


def seen(ir: torch.Tensor, vi_y: torch.Tensor, *,
         backend: scan.Backend = 'auto') -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what `mixing.seen` does.

    Args:
        ir, vi_y: B x 1 x H x W in [0, 1].
        backend: as in form_of.

    Returns:
        As `mixing.seen`.
    """
    return form_of('seen', ir, backend).seen(ir, vi_y)


def mix(ir: torch.Tensor, vi_y: torch.Tensor, maps: torch.Tensor, *,
        backend: scan.Backend = 'auto') -> torch.Tensor:
    """Compute what `mixing.mix` does.

    Args:
        ir, vi_y: B x 1 x H x W in [0, 1].
        maps: B x 4 x H x W.
        backend: as in form_of.

    Returns:
        The fused image, B x 1 x H x W.
    """
    return form_of('mix', ir, backend).mix(ir, vi_y, maps)
