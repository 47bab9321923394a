# SPDX-License-Identifier: Apache-2.0
"""Selective scans: one interface, several backends, chosen once per call.

Everything is token-major: the channels of a token are contiguous, so linear layers, scans and
channels-last convolutions share one layout and the four directions of SS2D are index orders.
Activations (u, x, delta, B, C, proj) may be float32 or half precision and the result has their
type; parameters, exponents, states and sums are float32 (float64 where the inputs are).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from . import kernels
from .kernels import ScanError as ScanError
from .kernels import composed, cpu, mamba_ssm, portable, reference, triton

# In the order of 'auto'. A backend is a module with
#   unavailable() -> str | None            reason why it cannot run on this machine
#   refuses(u, *, states) -> str | None    reason why it cannot take inputs like u
# and any of selective_scan, ss2d, interleaved_ss2d, ssd, called with the arguments of the
# functions here, in their order.
BACKENDS = {'triton': triton, 'mamba_ssm': mamba_ssm, 'cpu': cpu, 'portable': portable,
            'reference': reference}


def _like_first(u: torch.Tensor, *others: object) -> torch.Tensor:
    """Return what a scan of tensors without values gives: a shape."""
    return torch.empty_like(u)


_META = ModuleType('meta', "The backend of torch's meta device, where nothing is computed.")
vars(_META).update(selective_scan=_like_first, ss2d=_like_first, ssd=_like_first)


# What `backend` may be: a name, or names by operation, where the operations that are not in it are
# 'auto'.
Backend = str | Mapping[str, str]


@dataclass(frozen=True)
class Use:
    """Use of a backend by a network; directions are those of `ssd`."""

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
    """Return the name of the backend for an operation.

    Args:
        backend: auto, a key of BACKENDS, or such names by operation.
        operation: as in backend_for.

    Returns:
        auto or a key of BACKENDS.
    """
    return backend if isinstance(backend, str) else backend.get(operation, 'auto')


def backend_for(u: torch.Tensor, operation: str, backend: Backend = 'auto', *, states: int = 1,
                directions: int = 1) -> ModuleType:
    """Return the backend module that runs an operation on inputs like u.

    A named backend that lacks the operation leaves it to the portable one.

    Args:
        u: First input of the operation; its device, type and number of values decide.
        operation: 'selective_scan', 'ss2d', 'ssd' or one of `fused.OPERATIONS`.
        backend: 'auto', a key of BACKENDS, or such names by operation.
        states: Number of states.
        directions: Of `ssd`.

    Returns:
        A module with a function of that name.

    Raises:
        ScanError: backend is unknown, or cannot run here; the message has the reason.
    """
    backend = named(backend, operation)
    if (uses := _noted.get()) is not None:
        uses.add(Use(operation, u.dtype, states, directions))
    if kernels.device_type(u) == 'meta':
        return _META
    if backend == 'auto':
        return next(module for module in BACKENDS.values() if hasattr(module, operation)
                    and module.unavailable() is None and module.refuses(u, states=states) is None)
    if backend not in BACKENDS:
        raise ScanError(f'unknown scan backend {backend!r}; expected auto or one of '
                        f'{", ".join(BACKENDS)}')
    module = BACKENDS[backend]
    reason = module.unavailable() or module.refuses(u, states=states)
    if reason is not None:
        raise ScanError(f'scan backend {backend!r} cannot run: {reason}; use backend auto')
    return module if hasattr(module, operation) else portable


def selective_scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                   C: torch.Tensor, D: torch.Tensor | None = None,
                   delta_bias: torch.Tensor | None = None, delta_softplus: bool = False, *,
                   backend: Backend = 'auto') -> torch.Tensor:
    """Selective scan in the shapes of mamba_ssm's `selective_scan_fn` (Gu and Dao 2023).

    y_t = C_t h_t + D u_t with h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t. Strided storage is
    accepted, and token-major storage is the fastest.

    Args:
        u, delta: b x d x l.
        A: d x n, negative.
        B, C: b x g x n x l with g dividing d, or b x n x l.
        D: d, or None for 0.
        delta_bias: d, added to delta; or None.
        delta_softplus: Apply softplus to delta, after the bias.
        backend: As in backend_for.

    Returns:
        y: b x d x l in the type of u.

    Raises:
        ScanError: Shapes do not fit, or the backend cannot run.
    """
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    groups = B.shape[1]
    if u.shape[1] % groups or u.shape != delta.shape or B.shape != C.shape or A.shape != (
            u.shape[1], B.shape[2]):
        raise ScanError('expected u, delta b x d x l, A d x n, B and C b x g x n x l with g '
                        'dividing d; got ' f'{tuple(u.shape)}, {tuple(delta.shape)}, '
                        f'{tuple(A.shape)}, '
                        f'{tuple(B.shape)}, {tuple(C.shape)}')
    module = backend_for(u, 'selective_scan', backend, states=A.shape[1])
    return module.selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)


def ssd(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        D: torch.Tensor | None = None, *, directions: int = 1,
        backend: Backend = 'auto') -> torch.Tensor:
    """Mamba-2's scan with one scalar decay per head (Dao and Gu 2024).

    Args:
        x: b x l x h x p.
        delta: b x l x h, positive.
        A: h, negative; where x has gradients b x 1 x h too.
        B, C: b x l x n, shared by the heads.
        D: h, or None for 0.
        directions: With 2 the sequence is also scanned from its end, with the same parameters, and
            both results are added.
        backend: As in backend_for.

    Returns:
        y: b x l x h x p in the type of x.

    Raises:
        ScanError: The backend cannot run.
    """
    module = backend_for(x, 'ssd', backend, states=B.shape[-1], directions=directions)
    y = module.ssd(x, delta, A, B, C, directions)
    return y if D is None else y + directions * D.to(x.dtype)[:, None] * x


def ssd_of_two(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], *, directions: int,
               backend: Backend = 'auto') -> Sequence[torch.Tensor]:
    """Compute `ssd` of two sequences with parameters of their own; in training on a GPU as one.

    Args:
        first, second: x, delta, A, B and C of `ssd`, in the same shapes.
        directions, backend: As in `ssd`.

    Returns:
        Two y.

    Raises:
        ScanError: The backend cannot run.
    """
    options: dict[str, Any] = {'directions': directions, 'backend': backend}
    # A backend that takes only A of h refuses an x that needs gradients.
    learns = torch.is_grad_enabled() and (first[0].requires_grad or second[0].requires_grad)
    if not learns or kernels.device_type(first[0]) != 'cuda':
        return ssd(*first, **options), ssd(*second, **options)
    x, delta, A, B, C = (torch.stack(pair) for pair in zip(first, second))
    rates = A[:, None, None].expand(-1, x.shape[1], -1, -1)
    x, delta, rates, B, C = (t.flatten(0, 1) for t in (x, delta, rates, B, C))
    return ssd(x, delta, rates, B, C, **options).chunk(2)


def ss2d(u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor, dt_bias: torch.Tensor,
         A: torch.Tensor, skip: torch.Tensor, *, backend: Backend = 'auto') -> torch.Tensor:
    """Scan an image in four directions and add the results (VMamba, Liu et al. 2024).

    The directions are raster, column-major, and the reverses of both.

    Args:
        u: B x H x W x D.
        proj: B x H x W x 4 x (R + 2N), per direction the low-rank step size and the vectors B and
            C of each token.
        dt_weight: 4 x D x R.
        dt_bias, skip: 4 x D.
        A: 4 x D x N, negative.
        backend: As in backend_for.

    Returns:
        y: B x H x W x D in the type of u.

    Raises:
        ScanError: The backend cannot run.
    """
    return backend_for(u, 'ss2d', backend, states=A.shape[2]).ss2d(u, proj, dt_weight, dt_bias, A,
                                                                   skip)


def interleaved_ss2d(us: Sequence[torch.Tensor], projs: Sequence[torch.Tensor],
                     dt_weight: torch.Tensor, dt_bias: torch.Tensor, A: torch.Tensor,
                     skip: torch.Tensor, *, backend: Backend = 'auto') -> Sequence[torch.Tensor]:
    """Scan two images as one interleaved sequence, in four directions, and add those (S4Fusion).

    Each direction of `ss2d` orders the tokens of both images; the first image's token comes before
    the second's at every step, also in the reverse directions.

    Args:
        us, projs: Two each, as u and proj of `ss2d`.
        dt_weight, dt_bias, A, skip: As in `ss2d`.
        backend: As in backend_for.

    Returns:
        Two y: B x H x W x D.

    Raises:
        ScanError: The backend cannot run.
    """
    name = named(backend, 'interleaved_ss2d')
    if hasattr(BACKENDS.get(name), 'interleaved_ss2d'):  # else it is composed of a selective scan
        module = backend_for(us[0], 'interleaved_ss2d', backend, states=A.shape[2])
        return module.interleaved_ss2d(us, projs, dt_weight, dt_bias, A, skip)
    form = composed
    if not torch.is_grad_enabled() and triton.refuses(us[0], states=A.shape[2]) is None:
        form = backend_for(us[0], 'interleave', backend)
    u, delta, B, C = form.interleave(us, projs, dt_weight)
    y = selective_scan(u.flatten(2).mT, delta.flatten(2).mT, A.flatten(0, 1),
                       B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1), skip.flatten(),
                       dt_bias.flatten(), True,
                       backend=backend)
    return form.separate(y.mT.unflatten(2, A.shape[:2]), us[0])
