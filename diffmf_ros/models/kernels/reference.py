# SPDX-License-Identifier: Apache-2.0
"""Reference form of the scans: a loop over the sequence. Slow; all others are compared with it."""

from functools import partial

import torch

from .composed import selective_scan_with, ss2d_with, ssd_with


def unavailable() -> str | None:
    """Return why this backend cannot run here: it always can."""
    return None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u: it takes all, half precision in float32."""
    return None


def scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
         C: torch.Tensor) -> torch.Tensor:
    """Selective scan (Gu and Dao 2023).

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t, y_t = C_t h_t.

    Args:
        u, delta: b x l x g x e.
        A: g x e x n.
        B, C: b x l x g x n.

    Returns:
        y: b x l x g x e.
    """
    state = u.new_zeros(u.shape[0], *A.shape)
    steps = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, ..., None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[..., None] * B[:, t, :, None, :]
        steps.append((state * C[:, t, :, None, :]).sum(-1))
    return torch.stack(steps, dim=1)


def ssd_scan(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
             C: torch.Tensor) -> torch.Tensor:
    """State-space duality with one decay per head (Mamba-2).

    S_t = exp(delta_t A) S_(t-1) + delta_t x_t B_t', y_t = S_t C_t.

    Args:
        x: b x l x h x p.
        delta: b x l x h.
        A: h.
        B, C: b x l x n, shared by the heads.

    Returns:
        y: b x l x h x p.
    """
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    steps = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t] * A)[..., None, None]
        state = decay * state + torch.einsum('bh,bhp,bn->bhpn', delta[:, t], x[:, t], B[:, t])
        steps.append(torch.einsum('bhpn,bn->bhp', state, C[:, t]))
    return torch.stack(steps, dim=1)


selective_scan = partial(selective_scan_with, scan)
ss2d = partial(ss2d_with, scan)
ssd = partial(ssd_with, ssd_scan)
