# SPDX-License-Identifier: Apache-2.0
"""Fused scans on an NVIDIA GPU, written in Triton: `ss2d`, `ssd` and `selective_scan`.

Where gradients are asked for, `ss2d`, `selective_scan` and the steps in WITH_GRADIENTS have
kernels of their own for these; `ssd` is matrix products and runs as the portable backend has them.
The other fused steps have none: `models.fused` does not call them then.

The kernels, `triton_scan` and `triton_ssd`, are imported when the backend is first asked for.
Sizes of tiles follow from the shapes, nothing is tuned at run time, and nothing waits for the GPU:
once a size has run, its calls can be captured in a CUDA graph. With TRITON_INTERPRET=1 the same
kernels run on the CPU, slowly, for tests.
"""

import os
from functools import lru_cache
from types import SimpleNamespace

import torch

from . import ScanError, device_type, planning, portable

OLDEST_TRITON = 3, 4  # tuples that loops carry
OLDEST_CAPABILITY = 8, 0  # Ampere; TF32 products
MOST_STATES = 64  # a thread keeps them in registers
# Steps of `models.fused` that are called where gradients are enabled too.
WITH_GRADIENTS = ('norm_linear', 'mlp', 'depthwise', 'depthwise_records', 'conv', 'seen', 'mix')


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET') == '1'


@lru_cache(maxsize=1)
def _kernels() -> SimpleNamespace | str:
    """Return the kernels, or why they cannot be had."""
    try:
        import triton
        if tuple(map(int, triton.__version__.split('.')[:2])) < OLDEST_TRITON:
            return (f'it needs triton {".".join(map(str, OLDEST_TRITON))} or newer, not '
                    f'{triton.__version__}')
        from . import triton_autograd, triton_steps
        from .triton_scan import selective_scan, ss2d
        from .triton_ssd import ssd
    # missing, too old, half installed: the reason is kept, another backend runs
    except Exception as error:
        return f'its kernels cannot be imported: {type(error).__name__}: {error}'
    return SimpleNamespace(selective_scan=selective_scan, ss2d=ss2d, ssd=ssd, steps=triton_steps,
                           autograd=triton_autograd)


def unavailable() -> str | None:
    """Return why this backend cannot run here, or None."""
    if not _interpreted() and not planning():
        if torch.version.cuda is None:
            return 'this torch is built without CUDA'
        if not torch.cuda.is_available():
            return 'there is no CUDA device'
        if torch.cuda.get_device_capability() < OLDEST_CAPABILITY:
            return (f'the GPU has compute capability {torch.cuda.get_device_capability()}, it '
                    f'needs {OLDEST_CAPABILITY}')
    kernels = _kernels()
    return kernels if isinstance(kernels, str) else None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u, or None."""
    if u.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f'it takes float32, float16 and bfloat16, not {u.dtype}'
    if device_type(u) != ('cpu' if _interpreted() and not planning() else 'cuda'):
        return f'it takes tensors on a CUDA device, not on {u.device.type}'
    if 4 * u.numel() >= 2 ** 31:  # one output for each of four directions, counted in 32 bits
        return f'it takes fewer than 2^29 elements, not {u.numel()}'
    return (None if states <= MOST_STATES else f'it takes at most {MOST_STATES} states, not '
            f'{states}')


def _needs_gradients(inputs) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """As `scan.selective_scan`."""
    inputs = u, delta, A, B, C, D, delta_bias
    if _needs_gradients(inputs):
        return _kernels().autograd.selective_scan(*inputs, delta_softplus)
    return _kernels().selective_scan(*inputs, delta_softplus)


def ss2d(u, proj, dt_weight, dt_bias, A, skip):
    """As `scan.ss2d`."""
    inputs = u, proj, dt_weight, dt_bias, A, skip
    if _needs_gradients(inputs):
        return _kernels().autograd.ss2d(*inputs)
    return _kernels().ss2d(*inputs)


def ssd(x, delta, A, B, C, directions):
    """As `scan.ssd` without D."""
    if _needs_gradients((x, delta, A, B, C)):
        return portable.ssd(x, delta, A, B, C, directions)
    if A.dim() != 1:
        raise ScanError(f'without gradients ssd in Triton takes A of one rate a head, '
                        f'not of shape {tuple(A.shape)}')
    return _kernels().ssd(x, delta, A, B, C, directions)


def _steps():
    """The module of the steps in WITH_GRADIENTS."""
    return _kernels().autograd if torch.is_grad_enabled() else _kernels().steps


def norm_linear(*inputs):
    """As `plain.norm_linear`."""
    return _steps().norm_linear(*inputs)


def mlp(*inputs):
    """As `plain.mlp`."""
    return _steps().mlp(*inputs)


def norm_linear_mlp(*inputs):
    """As `plain.norm_linear_mlp`."""
    return _kernels().steps.norm_linear_mlp(*inputs)


def depthwise(*inputs):
    """As `plain.depthwise`."""
    return _steps().depthwise(*inputs)


def depthwise_records(*inputs):
    """As `plain.depthwise_records`."""
    return _steps().depthwise_records(*inputs)


def seen(*inputs):
    """As `plain.seen`."""
    return _steps().seen(*inputs)


def mix(*inputs):
    """As `plain.mix`."""
    return _steps().mix(*inputs)


def conv(*inputs):
    """As `plain.conv`."""
    return _steps().conv(*inputs)


def layer_norm(*inputs):
    """As `plain.layer_norm`."""
    return _kernels().steps.layer_norm(*inputs)


def concat_linear(*inputs):
    """As `plain.concat_linear`."""
    return _kernels().steps.concat_linear(*inputs)


def pair(*inputs):
    """As `plain.pair`."""
    return _kernels().steps.pair(*inputs)


def guide(*inputs):
    """As `plain.guide`."""
    return _kernels().steps.guide(*inputs)


def interleave(*inputs):
    """As `composed.interleave`."""
    return _kernels().steps.interleave(*inputs)


def separate(*inputs):
    """As `composed.separate`."""
    return _kernels().steps.separate(*inputs)


def rates(logs):
    """Compute `fused.rates` with gradients."""
    return _kernels().autograd.rates(logs)
