# SPDX-License-Identifier: Apache-2.0
"""Compiled CPU kernel of SS2D, forward and backward, through ctypes.

`cpu_scan.cpp` is built by the package's normal build as an optional extension; without it this backend
says so and the portable one is used.
"""

import ctypes
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

LANES = 16  # channels in a vector of the kernel


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """Return the loaded kernel, or why it could not be loaded."""
    folder = Path(__file__).parent
    found = [folder / f'_cpu{suffix}' for suffix in EXTENSION_SUFFIXES if (folder / f'_cpu{suffix}').exists()]
    if not found:
        return 'the compiled kernel is not there: the package was installed without a C++ compiler'
    try:
        library = ctypes.CDLL(str(found[0]))
        library.diffmf_ss2d_forward.restype = library.diffmf_ss2d_backward.restype = None
    except (OSError, AttributeError) as error:
        return f'{found[0].name} could not be loaded: {error}'
    return library


def unavailable() -> str | None:
    """Return why this backend cannot run here, or None."""
    library = _library()
    return library if isinstance(library, str) else None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u, or None: float32 on the CPU."""
    if u.device.type != 'cpu' or u.dtype != torch.float32:
        return f'it takes float32 on the CPU, not {u.dtype} on {u.device.type}'
    return None


def ss2d(u, proj, dt_weight, dt_bias, A, skip):
    """As `scan.ss2d`, fused: u: B x H x W x D; proj: B x H x W x 4 x (R + 2N)."""
    return _SS2D.apply(u, proj, dt_weight, dt_bias, A, skip)


def _split(u) -> tuple[int, int]:
    """Return (vectors in a channel block, threads) for a call on u."""
    threads = torch.get_num_threads()
    return _library().diffmf_block_vectors(ctypes.c_long(u.shape[0]), u.shape[3], threads), threads


def _call(function, tensors, u, A, dt_weight, split):
    """Call a function of the kernel with the addresses of tensors, the sizes and the split of the work."""
    sizes = *map(ctypes.c_long, u.shape[:3]), u.shape[3], A.shape[2], dt_weight.shape[2]
    function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), *sizes, *split)


class _SS2D(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        inputs = [x.contiguous() for x in inputs]
        u, _, dt_weight, _, A, _ = inputs
        y = torch.empty_like(u)
        _call(_library().diffmf_ss2d_forward, [*inputs, y], u, A, dt_weight, _split(u))
        ctx.save_for_backward(*inputs)
        return y

    @staticmethod
    def backward(ctx, dy):
        inputs = ctx.saved_tensors
        u, proj, dt_weight, dt_bias, A, skip = inputs
        split = _split(u)
        blocks = -(-u.shape[3] // (LANES * split[0]))
        du, dproj = torch.empty_like(u), proj.new_empty(blocks, *proj.shape)
        parts = [x.new_empty(u.shape[0], *x.shape) for x in (dt_weight, dt_bias, A, skip)]
        tensors = [*inputs, dy.contiguous(), du, dproj, *parts]
        _call(_library().diffmf_ss2d_backward, tensors, u, A, dt_weight, split)
        return du, dproj.sum(0), *(part.sum(0) for part in parts)
