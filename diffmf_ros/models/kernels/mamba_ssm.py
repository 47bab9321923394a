# SPDX-License-Identifier: Apache-2.0
"""The kernels of the mamba_ssm package on an NVIDIA GPU, for inference.

The package may be half installed, so its parts are imported and called directly: the CUDA
extension `selective_scan_cuda`, which needs only torch, and for `ssd` the Triton kernels behind
`mamba_chunk_scan_combined`. The extension checks little; its contract is kept here.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch.nn.functional import pad

from . import ScanError
from .composed import add_directions, along_directions, bidirectional

EXTENSION = 'selective_scan_cuda', 'fwd'
CHUNK_SCAN = 'mamba_ssm.ops.triton.ssd_combined', 'mamba_chunk_scan_combined'
LENGTH_MULTIPLE = 2048  # tokens a block loads at a time; other lengths take a slow path
MOST_CHANNELS = MOST_CHUNKS = 65_535  # second dimension of a CUDA grid
MOST_STATES = 256
SSD_CHUNK = 64  # a power of two
NO_STEP = -1e4  # its softplus is 0 with any bias


@cache
def _probe(module: str, function: str) -> Any:
    """Return a function of the package, or the reason why it cannot be imported."""
    try:
        return getattr(import_module(module), function)
    # half installed, of another torch: the reason is kept, another backend runs
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return f'{error.name} is not installed'
        return f'{module} cannot be imported: {type(error).__name__}: {error}'


def missing() -> tuple[str, ...]:
    """Return why parts of the package cannot be used, one line each."""
    return tuple(found for found in (_probe(*EXTENSION), _probe(*CHUNK_SCAN))
                 if isinstance(found, str))


def unavailable() -> str | None:
    """Return why this backend cannot run here, or None."""
    if not torch.cuda.is_available():
        return 'there is no CUDA device'
    forward = _probe(*EXTENSION)
    return forward if isinstance(forward, str) else None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u, or None."""
    if u.device.type != 'cuda' or u.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return ('it takes float32, float16 and bfloat16 on a CUDA device, '
                f'not {u.dtype} on {u.device.type}')
    if torch.is_grad_enabled() and u.requires_grad:
        return 'it is called without its backward pass and gradients are asked for'
    return beyond_limits(tuple(u.shape), states)


def beyond_limits(shape: tuple[int, ...], states: int) -> str | None:
    """Return the limit of the kernels that inputs exceed, or None.

    Args:
        shape: b x d x l; B x H x W x D of SS2D; or b x l x h x p of SSD.
        states: Number of states.
    """
    images = len(shape) == 4
    elements = (4 if images else 1) * torch.Size(shape).numel()
    channels = 4 * shape[3] if images else shape[1]
    chunks = shape[0] * -(-shape[1] // SSD_CHUNK) if images else 0
    if states > MOST_STATES:
        return f'it takes at most {MOST_STATES} states, not {states}'
    if elements + LENGTH_MULTIPLE * shape[0] * channels >= 2 ** 31:
        return f'it takes fewer than 2^31 elements in all directions, not {elements}'
    if channels > MOST_CHANNELS or chunks > MOST_CHUNKS:
        return f'it takes at most {MOST_CHANNELS} channels and chunks, not {channels} and {chunks}'
    return None


def selective_scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                   C: torch.Tensor, D: torch.Tensor | None, delta_bias: torch.Tensor | None,
                   delta_softplus: bool) -> torch.Tensor:
    """Compute `scan.selective_scan`; token-major storage is copied.

    The kernel walks along contiguous tokens.
    """
    dtype, length = u.dtype, u.shape[2]
    missing_tokens = -length % LENGTH_MULTIPLE
    # The kernel takes one type for all of these; the widest loses nothing.
    common = max((x.dtype for x in (u, delta, B, C)), key=lambda kind: kind.itemsize)
    u, B, C = (pad(x.to(common), (0, missing_tokens)).contiguous() for x in (u, B, C))
    delta = pad(delta.to(common), (0, missing_tokens),
                value=NO_STEP if delta_softplus else 0.0).contiguous()
    rates, skip, bias = (None if x is None else x.float().contiguous()
                         for x in (A, D, delta_bias))
    y, *_ = _probe(*EXTENSION)(u, delta, rates, B, C, skip, None, bias, delta_softplus)
    return y[..., :length].to(dtype)


def ss2d(u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor, dt_bias: torch.Tensor,
         A: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Compute `scan.ss2d`: the directions are laid out and scanned as groups of channels."""
    parts = along_directions(u, proj, dt_weight.shape[2])
    x, low, B, C = (part.mT for part in parts)  # B x 4 x their width x L
    delta = dt_weight.to(u.dtype) @ low.to(u.dtype)
    A, skip, dt_bias = (parameter.flatten(0, 1) for parameter in (A, skip, dt_bias))
    y = selective_scan(x.flatten(1, 2), delta.flatten(1, 2), A, B, C, skip, dt_bias, True)
    return add_directions(y.view_as(x).mT, u.shape).to(u.dtype)


def _ssd(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
         directions: int) -> torch.Tensor:
    """Compute `scan.ssd` without D; the way back is a second sequence."""
    if A.dim() != 1:
        raise ScanError(f'ssd of mamba_ssm takes A of one rate a head, not of shape '
                        f'{tuple(A.shape)}')

    def scan(*tokens: torch.Tensor) -> torch.Tensor:
        x, delta, B, C = (t.contiguous() for t in tokens)
        return _probe(*CHUNK_SCAN)(x, delta, A.float(), B, C, SSD_CHUNK)

    return bidirectional(scan, directions, x, delta, B.to(x.dtype)[:, :, None],
                     C.to(x.dtype)[:, :, None])


def __getattr__(name: str) -> Callable[..., torch.Tensor]:
    """Have `ssd` only where the package's Triton kernels can be imported.

    Elsewhere the portable one is used.
    """
    if name == 'ssd' and unavailable() is None and not isinstance(_probe(*CHUNK_SCAN), str):
        return _ssd
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
