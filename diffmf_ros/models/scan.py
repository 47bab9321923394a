# SPDX-License-Identifier: Apache-2.0
"""Selective scans: one interface, several backends, chosen once per call.

Everything is token-major: the channels of a token are contiguous, so linear layers, scans and
channels-last convolutions share one layout and the four directions of SS2D are index orders.
Activations (u, x, delta, B, C, proj) may be float32 or half precision and the result has their type;
parameters, exponents, states and sums are float32 (float64 where the inputs are).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from . import kernels
from .kernels import composed, cpu, mamba_ssm, portable, reference, shapes, triton

# In the order of 'auto'. A backend is a module with
#   unavailable() -> str | None                 why it cannot run on this machine
#   refuses(u, *, states) -> str | None         why it cannot take inputs like u with so many states
# and any of selective_scan, ss2d, interleaved_ss2d, ssd, called with the arguments of the functions here, in their
# order.
BACKENDS = {'triton': triton, 'mamba_ssm': mamba_ssm, 'cpu': cpu, 'portable': portable, 'reference': reference}


# What `backend` may be: a name, or names by operation, where the operations that are not in it are 'auto'.
Backend = str | Mapping[str, str]


class ScanError(ValueError):
    """An unknown backend, or one that cannot run what was asked."""


@dataclass(frozen=True)
class Use:
    """What a network asks of a backend; directions are those of `ssd`."""

    operation: str
    dtype: torch.dtype
    states: int = 1
    directions: int = 1


_noted: ContextVar[set[Use] | None] = ContextVar('noted', default=None)


@contextmanager
def noting_uses() -> Iterator[set[Use]]:
    """Yield a set that every call in this context adds its Use to."""
    uses: set[Use] = set()
    token = _noted.set(uses)
    try:
        yield uses
    finally:
        _noted.reset(token)


def named(backend: Backend, operation: str) -> str:
    """Return the name of the backend for an operation."""
    return backend if isinstance(backend, str) else backend.get(operation, 'auto')


def backend_for(u: torch.Tensor, operation: str, backend: Backend = 'auto', *, states: int = 1,
                directions: int = 1):
    """Return the backend module that runs operation ('selective_scan', 'ss2d', 'ssd') on inputs like u.

    A named backend that lacks the operation leaves it to the portable one. Raises ScanError when backend
    is unknown, or cannot run here, with the reason.
    """
    backend = named(backend, operation)
    if (uses := _noted.get()) is not None:
        uses.add(Use(operation, u.dtype, states, directions))
    if kernels.device_type(u) == 'meta':
        return shapes
    if backend == 'auto':
        return next(module for module in BACKENDS.values() if hasattr(module, operation)
                    and module.unavailable() is None and module.refuses(u, states=states) is None)
    if backend not in BACKENDS:
        raise ScanError(f'unknown scan backend {backend!r}; expected auto or one of {", ".join(BACKENDS)}')
    module = BACKENDS[backend]
    reason = module.unavailable() or module.refuses(u, states=states)
    if reason is not None:
        raise ScanError(f'scan backend {backend!r} cannot run: {reason}; use backend auto')
    return module if hasattr(module, operation) else portable


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, *, backend='auto'):
    """Selective scan in the shapes of mamba_ssm's `selective_scan_fn` (Gu and Dao 2023).

    u, delta: b x d x l; A: d x n, negative; B, C: b x g x n x l with g dividing d (or b x n x l);
    D, delta_bias: d. Strided storage is accepted, and token-major storage is the fastest. Returns y:
    b x d x l, y_t = C_t h_t + D u_t with h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t, where delta is
    softplus(delta + delta_bias) with delta_softplus. Raises ScanError for shapes that do not fit.
    """
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    groups = B.shape[1]
    if u.shape[1] % groups or u.shape != delta.shape or B.shape != C.shape or A.shape != (u.shape[1], B.shape[2]):
        raise ScanError('expected u, delta b x d x l, A d x n, B and C b x g x n x l with g dividing d; got '
                        f'{tuple(u.shape)}, {tuple(delta.shape)}, {tuple(A.shape)}, {tuple(B.shape)}, {tuple(C.shape)}')
    module = backend_for(u, 'selective_scan', backend, states=A.shape[1])
    return module.selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


def ssd(x, delta, A, B, C, D=None, *, directions=1, backend='auto'):
    """Mamba-2's scan with one scalar decay per head (Dao and Gu 2024).

    x: b x l x h x p; delta: b x l x h, positive; A: h, negative; B, C: b x l x n, shared by the heads;
    D: h. With two directions the sequence is also scanned from its end, with the same parameters, and
    both results are added. Returns y: b x l x h x p.
    """
    module = backend_for(x, 'ssd', backend, states=B.shape[-1], directions=directions)
    y = module.ssd(x, delta, A, B, C, directions)
    return y if D is None else y + directions * D.to(x.dtype)[:, None] * x


def ss2d(u, proj, dt_weight, dt_bias, A, skip, *, backend='auto'):
    """Scan an image in four directions and add the results (VMamba, Liu et al. 2024).

    u: B x H x W x D; proj: B x H x W x 4 x (R + 2N), per direction the low-rank step size and the
    vectors B and C of each token; dt_weight: 4 x D x R; dt_bias, skip: 4 x D; A: 4 x D x N, negative.
    Directions: raster, column-major, and the reverses of both. Returns y: B x H x W x D.
    """
    return backend_for(u, 'ss2d', backend, states=A.shape[2]).ss2d(u, proj, dt_weight, dt_bias, A, skip)


def interleaved_ss2d(us, projs, dt_weight, dt_bias, A, skip, *, backend='auto'):
    """Scan two images as one sequence of tokens that take turns, in four directions, and add those (S4Fusion).

    us, projs: two of what `ss2d` takes. Each of the directions of `ss2d` orders the tokens of both images, then the
    first image's token comes before the second's at every step, also in the reverse orders. Returns two
    y: B x H x W x D.
    """
    name = named(backend, 'interleaved_ss2d')
    if hasattr(BACKENDS.get(name), 'interleaved_ss2d'):  # else it is composed of a selective scan
        module = backend_for(us[0], 'interleaved_ss2d', backend, states=A.shape[2])
        return module.interleaved_ss2d(us, projs, dt_weight, dt_bias, A, skip)
    form = composed
    if not torch.is_grad_enabled() and triton.refuses(us[0], states=A.shape[2]) is None:
        form = backend_for(us[0], 'interleave', backend)
    u, delta, B, C = form.interleave(us, projs, dt_weight)
    y = selective_scan(u.flatten(2).mT, delta.flatten(2).mT, A.flatten(0, 1), B.permute(0, 2, 3, 1),
                       C.permute(0, 2, 3, 1), skip.flatten(), dt_bias.flatten(), True, backend=backend)
    return form.separate(y.mT.unflatten(2, A.shape[:2]), us[0])
