# SPDX-License-Identifier: Apache-2.0
"""The fast form of the scans in plain torch, for every device and dtype.

The selective scan splits the sequence into about sqrt(l) chunks of about sqrt(l) steps and runs
the steps of all chunks at once: one pass for what each chunk adds to the state, a short loop over
the chunks for the state that enters each of them, one pass for the output. Every factor is exp of
something negative, so nothing overflows; log-space forms do. Mamba-2's scan is evaluated in chunks
of matrix products (Dao and Gu 2024).
"""

import math
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from .composed import (  # noqa: F401, the first and the last beside the scans
    interleave,
    selective_scan_with,
    separate,
    ss2d_with,
    ssd_with,
)
from .plain import (  # noqa: F401, beside the scans
    concat_linear,
    conv,
    depthwise,
    depthwise_records,
    guide,
    layer_norm,
    mix,
    mlp,
    norm_linear,
    norm_linear_mlp,
    pair,
    rates,
    seen,
)

SSD_CHUNK = 64
SSD_MOST_AT_ONCE = 256  # chunks, whose states are carried by a matrix of so many sides


def unavailable() -> str | None:
    """Return why this backend cannot run here: it always can."""
    return None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it does not take inputs like u: it takes all, half precision in float32."""
    return None


def scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
         C: torch.Tensor) -> torch.Tensor:
    """Compute `reference.scan`: u, delta: b x l x g x e; A: g x e x n; B, C: b x l x g x n."""
    return _Scan.apply(u, delta, A, B, C)


def _chunked(x: torch.Tensor, steps: int, chunks: int) -> torch.Tensor:
    """Split b x l x ... into b x chunks x steps x ..., padded with zeros (no-ops)."""
    x = pad(x, (0, 0, 0, 0, 0, steps * chunks - x.shape[1]))
    return x.unflatten(1, (chunks, steps))


def _entering(added: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """State that enters each chunk: added, decay are b x chunks x g x e x n, returned alike."""
    entering = torch.zeros_like(added)
    for i in range(1, added.shape[1]):
        entering[:, i] = decay[:, i - 1] * entering[:, i - 1] + added[:, i - 1]
    return entering


class _Scan(torch.autograd.Function):
    """Chunk-parallel scan with its own backward, so that no step's state is kept by autograd."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                C: torch.Tensor) -> torch.Tensor:
        length = u.shape[1]
        steps = max(1, math.isqrt(length))
        shape = steps, -(-length // steps)
        du, delta, B, C = (_chunked(x, *shape) for x in (delta * u, delta, B, C))
        added = du.new_zeros(*du.shape[:2], *A.shape)
        for i in range(steps):
            added = torch.exp(delta[:, :, i, ..., None]
                              * A) * added + du[:, :, i, ..., None] * B[:, :, i, :, None]
        state = entering = _entering(added, torch.exp(delta.sum(2)[..., None] * A))
        y = torch.empty_like(du)
        for i in range(steps):
            state = torch.exp(delta[:, :, i, ..., None]
                              * A) * state + du[:, :, i, ..., None] * B[:, :, i, :, None]
            y[:, :, i] = (state * C[:, :, i, :, None]).sum(-1)
        ctx.save_for_backward(u, delta, A, B, C, entering)
        return y.flatten(1, 2)[:, :length]

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
        u, delta, A, B, C, entering = ctx.saved_tensors
        length, (steps, chunks) = u.shape[1], (delta.shape[2], delta.shape[1])
        u, dy = (_chunked(x, steps, chunks) for x in (u, dy))
        before = _states_before(u, delta, A, B, entering)
        # G_t = C_t dy_t + exp(delta_(t+1) A) G_(t+1): the same scan, run from the end.
        added = torch.zeros_like(entering)
        for i in reversed(range(steps)):
            added = torch.exp(delta[:, :, i, ..., None] * A) * (added + dy[:, :, i, ..., None]
                                                                * C[:, :, i, :, None])
        carry = _entering(added.flip(1), torch.exp(delta.sum(2)[..., None] * A).flip(1)).flip(1)
        gradients = [torch.empty_like(x) for x in (u, delta, B, C)]
        dA = torch.zeros_like(A)
        for i in reversed(range(steps)):
            now = u[:, :, i], delta[:, :, i], B[:, :, i], C[:, :, i]
            carry, dA_step, *parts = _step_backward(*now, A, dy[:, :, i], before[i], carry)
            dA += dA_step
            for whole, part in zip(gradients, parts):
                whole[:, :, i] = part
        du, ddelta, dB, dC = (g.flatten(1, 2)[:, :length] for g in gradients)
        return du, ddelta, dA, dB, dC


def _states_before(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                   state: torch.Tensor) -> list[torch.Tensor]:
    """State before every step: a list over the steps of b x chunks x g x e x n."""
    before = []
    for i in range(u.shape[2]):
        before.append(state)
        du = (delta[:, :, i] * u[:, :, i])[..., None]
        state = torch.exp(delta[:, :, i, ..., None] * A) * state + du * B[:, :, i, :, None]
    return before


def _step_backward(u: torch.Tensor, delta: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
                   A: torch.Tensor, dy: torch.Tensor, before: torch.Tensor,
                   carry: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One step of every chunk: the carry to the step before, and dA, du, ddelta, dB, dC."""
    delta_, u_, B_, dy_ = delta[..., None], u[..., None], B[:, :, :, None], dy[..., None]
    decay = torch.exp(delta_ * A)
    decayed = decay * before
    G = dy_ * C[:, :, :, None] + carry
    dC = (dy_ * (decayed + delta_ * u_ * B_)).sum(-2)
    dB = (G * delta_ * u_).sum(-2)
    du = (G * delta_ * B_).sum(-1)
    ddelta = (G * (B_ * u_ + A * decayed)).sum(-1)
    dA = (G * delta_ * decayed).sum((0, 1))
    return decay * G, dA, du, ddelta, dB, dC


def ssd_scan(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
             C: torch.Tensor) -> torch.Tensor:
    """Compute `reference.ssd_scan`: x: b x l x h x p; delta: b x l x h; A: h; B, C: b x l x n."""
    length, chunks = x.shape[1], -(-x.shape[1] // SSD_CHUNK)
    missing = chunks * SSD_CHUNK - length
    dx = _padded(x * delta[..., None], missing).unflatten(1, (chunks, SSD_CHUNK))
    # Running sums in float64: their differences are small, and float32 would lose them.
    total = _padded((delta * A).double(), missing).unflatten(1, (chunks, SSD_CHUNK)).cumsum(2)
    total = total.movedim(3, 2)  # b c h t
    B, C = (_padded(m, missing).unflatten(1, (chunks, SSD_CHUNK)) for m in (B, C))
    dx = dx.movedim(3, 2)  # b c h t p

    # Above the diagonal the difference is positive and exp could overflow before tril removes it.
    # b c h t s
    between = (total[..., :, None] - total[..., None, :]).to(x.dtype).clamp(max=0).exp().tril()
    y = (between * (C @ B.mT)[:, :, None]) @ dx

    to_end = (total[..., -1:] - total).to(x.dtype).exp()
    added = (dx * to_end[..., None]).mT @ B[:, :, None]  # b c h p n
    since_start = total.to(x.dtype).exp()
    if chunks <= SSD_MOST_AT_ONCE:
        entering = _entering_at_once(added, total[..., -1])
    else:
        through = since_start[..., -1, None, None]
        states = [torch.zeros_like(added[:, 0])]
        for i in range(chunks - 1):
            states.append(through[:, i] * states[-1] + added[:, i])
        entering = torch.stack(states, dim=1)
    y = y + since_start[..., None] * (C[:, :, None] @ entering.mT)
    return y.movedim(2, 3).flatten(1, 2)[:, :length]


def _padded(x: torch.Tensor, missing: int) -> torch.Tensor:
    """B x L x ... with so many zeros behind each sequence; itself for none."""
    return pad(x, (0, 0) * (x.dim() - 2) + (0, missing)) if missing else x


def _entering_at_once(added: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    """State that enters each chunk, as one matrix product of all decays between two chunks.

    added: b x chunks x h x p x n; logs: b x chunks x h, float64, of the decay through each.
    """
    ends = logs.movedim(1, 2).cumsum(-1)  # b h c
    # From the end of chunk j to the start of chunk i, which is the end of the one before it.
    between = ends.roll(1, -1)[..., :, None] - ends[..., None, :]
    decays = between.to(added.dtype).clamp(max=0).exp().tril(-1)
    states = decays @ added.movedim(1, 2).flatten(3)  # b h c (p n)
    return states.unflatten(3, added.shape[3:]).movedim(1, 2)


selective_scan = partial(selective_scan_with, scan)
ss2d = partial(ss2d_with, scan)
ssd = partial(ssd_with, ssd_scan)
