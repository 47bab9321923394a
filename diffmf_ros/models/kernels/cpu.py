# SPDX-License-Identifier: Apache-2.0
"""Compiled CPU kernels of SS2D, the selective scan and SSD, through ctypes; forward and backward.

`native/` is built by the package's normal build as optional extensions, one for each instruction
set; without any this backend says so and the portable one is used.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch.autograd import Function

from . import portable

LANES = 16  # channels in a vector of the kernels
# Vectors in a channel block at most. Forward, two blocks of a 320x240 map share a cache of 32 MB.
WIDEST_FORWARD, WIDEST = 2, 4
HALF = torch.bfloat16
ADDRESS, LONG, INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int


# What torch calls the instruction sets, widest first, and the extensions that setup.py builds for
# them.
BUILDS = {'AVX512': '_cpu_v4', 'AVX2': '_cpu_v3', 'DEFAULT': '_cpu'}


def _build() -> Path | None:
    """Return the file of the widest build that the processor can run, of those that are there."""
    capability = torch.backends.cpu.get_cpu_capability()
    builds = list(BUILDS.values())
    usable = builds[builds.index(BUILDS.get(capability, '_cpu')):]
    files = (Path(__file__).with_name(name + suffix) for name in usable
             for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.exists()), None)


@lru_cache(maxsize=1)
def _library() -> Any:
    """Return the loaded kernels, or the reason why they could not be loaded."""
    file = _build()
    if file is None:
        return 'the compiled kernel is not there: the package was installed without a C++ compiler'
    try:
        library = ctypes.CDLL(str(file))
        for name in ('ss2d_forward_float32', 'ss2d_forward_bfloat16', 'ss2d_backward',
                     'ssd_forward_float32', 'ssd_forward_bfloat16', 'ssd_backward', 'scan_forward',
                     'scan_backward'):
            getattr(library, f'diffmf_{name}').errcheck = _got_memory
        for name in ('float32_float32', 'float32_bfloat16', 'bfloat16_bfloat16'):
            getattr(library, f'diffmf_layer_norm_{name}').restype = None
    except (OSError, AttributeError) as error:
        return f'{file.name} could not be loaded: {error}'
    return library


def _got_memory(failed: int, function: Callable[..., int], arguments: tuple[object, ...]) -> None:
    """Raise MemoryError when a scan could not allocate what it works in."""
    if failed:
        raise MemoryError(f'{function.__name__} got no memory for its states; use a smaller image '
                          f'or working size')


def unavailable() -> str | None:
    """Return why this backend cannot run here, or None."""
    library = _library()
    return library if isinstance(library, str) else None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u, or None: float32 or bfloat16 on the CPU."""
    if u.device.type != 'cpu' or u.dtype not in (torch.float32, HALF):
        return f'it takes float32 and bfloat16 on the CPU, not {u.dtype} on {u.device.type}'
    return None


def _block_vectors(batch: int, channels: int, *, widest: int) -> int:
    """Vectors in a channel block of a call on so many sequences.

    Fewer where threads would stand idle.
    """
    return _library().diffmf_block_vectors(LONG(batch), INT(channels),
                                           INT(torch.get_num_threads()), INT(widest))


def _addresses(tensors: Sequence[Any]) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors]


def _learns(*tensors: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def ss2d(u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor, dt_bias: torch.Tensor,
         A: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Compute `scan.ss2d`, fused: u: B x H x W x D; proj: B x H x W x 4 x (R + 2N)."""
    parameters = [x.float() for x in (dt_weight, dt_bias, A, skip)]
    if _learns(u, proj, *parameters):
        return _SS2D.apply(u.float(), proj.float(), *parameters).to(u.dtype)
    return _ss2d_forward(*(x.contiguous() for x in (u, proj, *parameters)))


def _ss2d_forward(u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor,
                  dt_bias: torch.Tensor, A: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    if proj.dtype != u.dtype or proj.shape[-1] > _library().diffmf_ss2d_largest_record():
        u_, proj = u.float(), proj.float()
        return portable.ss2d(u_, proj, dt_weight, dt_bias, A, skip).to(u.dtype)
    function = _library().diffmf_ss2d_forward_bfloat16 if u.dtype == HALF else _library(
        ).diffmf_ss2d_forward_float32
    y = torch.empty_like(u)
    _call_ss2d(function, [u, proj, dt_weight, dt_bias, A, skip, y], widest=WIDEST_FORWARD)
    return y


def _call_ss2d(function: Callable[..., int], tensors: Sequence[Any], *,
               widest: int) -> None:
    u, _, dt_weight, _, A = tensors[:5]
    sizes = *map(LONG, u.shape[:3]), INT(u.shape[3]), INT(A.shape[2]), INT(dt_weight.shape[2])
    vectors = _block_vectors(u.shape[0], u.shape[3], widest=widest)
    function(*map(ADDRESS, _addresses(tensors)), *sizes, INT(vectors),
             INT(torch.get_num_threads()))


class _SS2D(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        inputs = tuple(x.contiguous() for x in inputs)
        ctx.save_for_backward(*inputs)
        return _ss2d_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = ctx.saved_tensors
        u, proj, *parameters = inputs
        blocks = -(-u.shape[3] // (LANES * _block_vectors(u.shape[0], u.shape[3], widest=WIDEST)))
        du, dproj = torch.empty_like(u), proj.new_empty(blocks, *proj.shape)
        parts = [x.new_empty(u.shape[0], *x.shape) for x in parameters]
        _call_ss2d(_library().diffmf_ss2d_backward, [*inputs, dy.contiguous(), du, dproj, *parts],
                   widest=WIDEST)
        return du, dproj.sum(0), *(part.sum(0) for part in parts)


def selective_scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                   C: torch.Tensor, D: torch.Tensor | None, delta_bias: torch.Tensor | None,
                   delta_softplus: bool) -> torch.Tensor:
    """Compute `scan.selective_scan`, in whatever storage u and delta have.

    Half precision in float32.
    """
    inputs = (None if x is None else x.float() for x in (u, delta, A, B, C, D, delta_bias))
    return _SelectiveScan.apply(*inputs, delta_softplus).to(u.dtype)


class _SelectiveScan(Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                C: torch.Tensor, D: torch.Tensor | None, bias: torch.Tensor | None,
                softplus: bool) -> torch.Tensor:
        if B.stride() != C.stride() or B.stride(1) != B.shape[2] * B.stride(2):
            B, C = B.contiguous(), C.contiguous()
        parameters = (None if x is None else x.contiguous() for x in (A, D, bias))
        inputs = u, delta, B, C, *parameters
        ctx.softplus = softplus
        ctx.save_for_backward(*inputs)
        y = torch.empty_like(u)  # in the storage of u
        _call_scan(_library().diffmf_scan_forward, inputs, softplus, [y])
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, _, B, *_ = ctx.saved_tensors
        (batch, channels, length), (groups, states) = u.shape, B.shape[1:3]
        blocks = -(-(channels // groups) // (LANES * _scan_vectors(u, groups)))
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dB, dC = u.new_empty(2, blocks, batch, length, groups, states)
        dA = u.new_empty(batch, channels, states)
        dD, dbias = u.new_empty(2, batch, channels)
        _call_scan(_library().diffmf_scan_backward, ctx.saved_tensors, ctx.softplus,
                   [dy, du, ddelta], [dB, dC, dA, dD, dbias])
        dB, dC = (x.sum(0).movedim(1, 3) for x in (dB, dC))
        dA, dD, dbias = (x.sum(0) for x in (dA, dD, dbias))
        _, _, _, _, _, D, bias = ctx.saved_tensors
        dD, dbias = None if D is None else dD, None if bias is None else dbias
        return du, ddelta, dA, dB, dC, dD, dbias, None


def _scan_vectors(u: torch.Tensor, groups: int) -> int:
    return _block_vectors(u.shape[0] * groups, u.shape[1] // groups, widest=WIDEST)


def _call_scan(function: Callable[..., int], inputs: Sequence[Any], softplus: bool,
               images: Sequence[torch.Tensor], others: Sequence[torch.Tensor] = ()) -> None:
    """Call a kernel: inputs in its order, images are views like b x d x l, others contiguous."""
    u, delta, B, C = inputs[:4]
    strides = [*u.stride(), *delta.stride()]
    strides += [stride for x in (B, C) for stride in (x.stride(0), x.stride(2), x.stride(3))]
    strides += [stride for x in images for stride in x.stride()]
    pointers = _addresses([*inputs, *images, *others])
    sizes = u.shape[0], u.shape[2], u.shape[1], B.shape[1], B.shape[2], int(softplus)
    function((ADDRESS * len(pointers))(*pointers), (LONG * len(strides))(*strides),
             (LONG * len(sizes))(*sizes), INT(_scan_vectors(u, B.shape[1])),
             INT(torch.get_num_threads()))


def ssd(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        directions: int) -> torch.Tensor:
    """Compute `scan.ssd` without D: the plain recurrence.

    Half precision in float32 where it learns.
    """
    if x.shape[3] > _library().diffmf_ssd_widest_head() or not _ssd_wins():
        return portable.ssd(x, delta, A, B, C, directions)
    delta, A = delta.float(), A.float()
    if _learns(x, delta, A, B, C):
        return _SSD.apply(x.float(), delta, A, B.float(), C.float(), directions).to(x.dtype)
    x, delta, A, B, C = _ssd_inputs(x, delta, A, B.to(x.dtype), C.to(x.dtype))
    return _ssd_forward(x, delta, A, B, C, directions)


def _ssd_wins() -> bool:
    """Return whether this form is faster: with fewer vector registers than AVX2 has it is not."""
    return torch.backends.cpu.get_cpu_capability() in ('AVX512', 'AVX2')


def _ssd_inputs(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                C: torch.Tensor) -> tuple[Any, ...]:
    return _rows(x, 2), _rows(delta, 1), A.contiguous(), _rows(B, 1), _rows(C, 1)


def _ssd_forward(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                 C: torch.Tensor, directions: int) -> torch.Tensor:
    y = x.new_empty(x.shape)
    function = _library().diffmf_ssd_forward_bfloat16 if x.dtype == HALF else _library(
        ).diffmf_ssd_forward_float32
    _call_ssd(function, [x, delta, A, B, C, y], (x, delta, B, C), directions)
    return y


def _call_ssd(function: Callable[..., int], tensors: Sequence[Any],
              strided: Sequence[torch.Tensor], directions: int) -> None:
    x, B = tensors[0], tensors[3]
    strides = [stride for t in strided for stride in t.stride()[:2]]
    function(*map(ADDRESS, _addresses(tensors)), (LONG * len(strides))(*strides),
             *map(LONG, x.shape[:2]),
             *map(INT, (*x.shape[2:], B.shape[2], directions, torch.get_num_threads())))


class _SSD(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        *tensors, ctx.directions = inputs
        x, delta, A, B, C = _ssd_inputs(*tensors)
        ctx.save_for_backward(x, delta, A, B, C)
        return _ssd_forward(x, delta, A, B, C, ctx.directions)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, delta, A, B, C = inputs = ctx.saved_tensors
        dy, heads = _rows(dy, 2), len(A)
        dx, ddelta, dA = x.new_empty(x.shape), delta.new_empty(delta.shape), A.new_empty(
            len(x), heads)
        dB, dC = B.new_empty(2, heads, *B.shape)
        _call_ssd(_library().diffmf_ssd_backward, [*inputs, dy, dx, ddelta, dA, dB, dC],
                  (x, delta, B, C, dy), ctx.directions)
        return dx, ddelta, dA.sum(0), dB.sum(0), dC.sum(0), None


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float,
               dtype: torch.dtype) -> torch.Tensor | None:
    """Normalize x over its last axis, for inference.

    Args:
        x: B x ... x C.
        weight, bias: C.
        epsilon: Added to the variance.
        dtype: Of the result: that of x, or bfloat16.

    Returns:
        Like x in dtype; None where this kernel does not apply.
    """
    known = {(torch.float32, torch.float32), (torch.float32, HALF), (HALF, HALF)}
    fits = -(-x.shape[-1] // LANES) in (1, 2, 3, 4, 8)
    if torch.compiler.is_compiling():
        return None  # a graph being traced, for an export too, has no addresses
    if not fits or unavailable() or x.device.type != 'cpu' or (x.dtype,
                                                               dtype) not in known or _learns(
                                                                   x, weight, bias):
        return None
    x = x.contiguous()
    y = torch.empty_like(x, dtype=dtype)
    names = (str(t).removeprefix('torch.') for t in (x.dtype, dtype))
    function = getattr(_library(), f'diffmf_layer_norm_{"_".join(names)}')
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    function(*map(ADDRESS, _addresses([x, weight, bias])), ctypes.c_float(epsilon),
             ADDRESS(y.data_ptr()), LONG(x.numel() // x.shape[-1]), INT(x.shape[-1]),
             INT(torch.get_num_threads()))
    return y


def _rows(tensor: torch.Tensor, dims: int) -> torch.Tensor:
    """The tensor itself when its last dims dimensions are contiguous, else a copy."""
    inner = 1
    for size, stride in list(zip(tensor.shape, tensor.stride()))[:-dims - 1:-1]:
        if size != 1 and stride != inner:
            return tensor.contiguous()
        inner *= size
    return tensor
