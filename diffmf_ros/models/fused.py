# SPDX-License-Identifier: Apache-2.0
"""Steps of the networks between their scans: one interface, in plain torch or fused into one kernel.

The fused form runs where the scans' Triton backend runs an operation of this name, and only without
gradients; elsewhere the plain form runs, which is the modules called one by one. `backend` is what
`scan.backend_for` takes. Features are token-major: B x H x W x C.
"""

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from . import scan
from .kernels import plain, triton

# What the modules of `scan.BACKENDS` may have beside scans.
OPERATIONS = 'norm_linear', 'mlp', 'depthwise', 'depthwise_records', 'seen', 'mix'


def form_of(operation: str, x: torch.Tensor, backend='auto'):
    """Return the module whose form of an operation runs on inputs like x.

    Args:
        operation: One of OPERATIONS.
        x: The first input; its device, type and number of values decide.
        backend: As in `scan.backend_for`.

    Raises:
        ScanError: backend is unknown or cannot run here.
    """
    if torch.is_grad_enabled() or triton.refuses(x, states=1) is not None:
        return plain
    return scan.backend_for(x, operation, backend)


def rates(logs: torch.nn.Parameter) -> torch.Tensor:
    """Return -exp(logs); where fused forms run it is computed once, until logs change."""
    if torch.is_grad_enabled() or triton.refuses(logs, states=1) is not None or logs.is_inference():
        return -logs.exp()
    state = logs._version, logs.device, logs.data_ptr()
    if _RATES.get(logs, (None,))[0] != state:
        _RATES[logs] = state, -logs.exp()
    return _RATES[logs][1]


_RATES = WeakTensorKeyDictionary()


def norm_linear(x, norm, layer, *, gate=None, gate_first=False, scale=None, residual=None,
                backend='auto'):
    """Compute a linear layer with its neighbors: residual + scale * layer(norm(x) * silu(gate)).

    Args:
        x: B x ... x C, float32 or half precision.
        norm: LayerNorm, RMSNorm or None.
        layer: Linear from C to C' channels.
        gate: Like x, or None for none.
        gate_first: Gate x before the normalization.
        scale: B x 1 x ... x C', or None for 1.
        residual: B x ... x C', or None for 0.
        backend: As in form_of.

    Returns:
        B x ... x C' in the type of the layer, or of the residual if that is wider.
    """
    form = form_of('norm_linear', x, backend)
    return form.norm_linear(x, norm, layer, gate, gate_first, scale, residual)


def mlp(x, norm, widen, narrow, *, backend='auto'):
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


def depthwise(x, conv, *, minus=None, silu=False, backend='auto'):
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


def depthwise_records(x, conv, *weights, backend='auto'):
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


def seen(ir, vi_y, *, backend='auto'):
    """Return what `mixing.seen` does; backend: as in form_of."""
    return form_of('seen', ir, backend).seen(ir, vi_y)


def mix(ir, vi_y, maps, *, backend='auto'):
    """Return what `mixing.mix` does; backend: as in form_of."""
    return form_of('mix', ir, backend).mix(ir, vi_y, maps)
