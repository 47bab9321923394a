# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of Mamba-2's scan, in chunks of matrix products (Dao and Gu 2024).

Imported only where triton is.

A program walks a span of chunks of one head with the state in registers: once for the state at the
end of every span as if it began at zero, then, after the carry over the spans, once for the
output. Walking the sequence from its end is another order of the same tokens; one program does
both ways over its span, so nothing is added atomically. Sums of the step sizes run in float64,
because their differences are small.
"""

import torch
import triton
import triton.language as tl

from .triton_scan import run_carry
from .triton_scan_tiles import LOG2E

CHUNK, EXACT_CHUNK = 32, 16  # more would spill registers in the output
CHUNKS_PER_SPAN = 16  # at most, so that tokens outweigh the states in memory
ENOUGH_PROGRAMS = 512  # several for every multiprocessor of a large GPU


@triton.jit
def _place(visit, back, spans, length, SPAN: tl.constexpr, CHUNK: tl.constexpr):
    """(first token, its offsets to the tokens of a chunk: CHUNK, which of them exist) for the
    visit-th token."""
    row = tl.arange(0, CHUNK)
    first = tl.where(back, spans * SPAN - 1 - visit, visit).to(tl.int64)
    row = tl.where(back, -row, row)
    return first, row, first + row < length


@triton.jit
def _tokens(x, delta, B, first, row, inside, p, n, x_token, delta_token, B_token, P: tl.constexpr,
            N: tl.constexpr):
    """(x * delta: CHUNK x P, delta: CHUNK, B: CHUNK x N), zero where not inside."""
    i, j = tl.arange(0, P)[None, :], tl.arange(0, N)[None, :]
    steps = tl.load(delta + first * delta_token + row * delta_token, mask=inside,
                    other=0.0).to(tl.float32)
    values = tl.load(x + first * x_token + (row[:, None] * x_token + i),
                     mask=inside[:, None] & (i < p), other=0.0)
    keys = tl.load(B + first * B_token + (row[:, None] * B_token + j),
                   mask=inside[:, None] & (j < n), other=0.0)
    return values.to(tl.float32) * steps[:, None], steps, keys.to(tl.float32)


@triton.jit
def _advance(state, values, keys, running, total, rate, PRECISION: tl.constexpr):
    """The state P x N after a chunk, from the sums of delta: running: CHUNK and total, in float64.
    """
    to_end = tl.exp2(rate * (total - running).to(tl.float32))
    state = state * tl.exp2(rate * total.to(tl.float32))
    return state + tl.dot(tl.trans(values * to_end[:, None]), keys, input_precision=PRECISION)


@triton.jit
def _decays(running, rate, CHUNK: tl.constexpr):
    """CHUNK x CHUNK: the decay from token s (column) to token t (row), 0 where s comes after t."""
    t, s = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    # Two float32 in place of a float64, which is slow on most GPUs; the first difference is exact.
    high = running.to(tl.float32)
    low = (running - high).to(tl.float32)
    between = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.where(t >= s, tl.exp2(tl.minimum(rate * between, 0.0)), 0.0)


@triton.jit(do_not_specialize=['length', 'spans'])
def span_states(x, delta, A, B, states, sums, length, heads, spans, p, n, x_batch, x_token,
                delta_batch, delta_token, B_batch, B_token, DIRECTIONS: tl.constexpr,
                SPAN: tl.constexpr,
                CHUNK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    """States b x k x span x p x n at the ends of spans that start at zero, and sums b x k x span
    of delta."""
    program = tl.program_id(0)
    head, span, back = (program % heads, program // heads % spans,
                        program // heads // spans % DIRECTIONS)
    batch = (program // heads // spans // DIRECTIONS).to(tl.int64)
    x, delta, B = (x + batch * x_batch + head * p, delta + batch * delta_batch + head,
                   B + batch * B_batch)
    rate = tl.load(A + head) * LOG2E
    state, sum_of_span = tl.zeros([P, N], tl.float32), 0.0
    for start in range(0, SPAN, CHUNK):
        first, row, inside = _place(span * SPAN + start, back == 1, spans, length, SPAN, CHUNK)
        values, steps, keys = _tokens(x, delta, B, first, row, inside, p, n, x_token, delta_token,
                                      B_token, P, N)
        running, total = tl.cumsum(steps.to(tl.float64)), tl.sum(steps.to(tl.float64))
        state = _advance(state, values, keys, running, total, rate, PRECISION)
        sum_of_span += total.to(tl.float32)
    to = ((batch * DIRECTIONS + back) * heads + head) * spans + span
    i, j = tl.arange(0, P)[:, None], tl.arange(0, N)[None, :]
    tl.store(states + to * p * n + (i * n + j), state, mask=(i < p) & (j < n))
    tl.store(sums + to, sum_of_span)


@triton.jit(do_not_specialize=['length', 'spans'])
def outputs(x, delta, A, B, C, states, total, y, length, heads, spans, p, n, x_batch, x_token,
            delta_batch, delta_token, B_batch, B_token, C_batch, C_token, DIRECTIONS: tl.constexpr,
            SPAN: tl.constexpr,
            CHUNK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr):
    """The output y: b x l x h x p; with two directions the float32 total holds the first between
    the two."""
    program = tl.program_id(0)
    head, span, batch = program % heads, program // heads % spans, (program // heads // spans).to(
        tl.int64)
    x, delta, B = (x + batch * x_batch + head * p, delta + batch * delta_batch + head,
                   B + batch * B_batch)
    C += batch * C_batch
    rate = tl.load(A + head) * LOG2E
    i, j, channel = tl.arange(0, P)[:, None], tl.arange(0, N)[None, :], tl.arange(0, P)[None, :]
    for back in tl.static_range(DIRECTIONS):
        visit = spans - 1 - span if back == 1 else span
        entering = (((batch * DIRECTIONS + back) * heads + head) * spans + visit - 1) * p * n
        state = tl.load(states + entering + (i * n + j),
                        mask=(i < tl.where(visit > 0, p, 0)) & (j < n), other=0.0)
        if back == 1:
            tl.debug_barrier()  # what the way forwards has written to total is read now
        for start in range(0, SPAN, CHUNK):
            first, row, inside = _place(visit * SPAN + start, back == 1, spans, length, SPAN,
                                        CHUNK)
            values, steps, keys = _tokens(x, delta, B, first, row, inside, p, n, x_token,
                                          delta_token, B_token, P, N)
            queries = tl.load(C + first * C_token + (row[:, None] * C_token + j),
                              mask=inside[:, None] & (j < n),
                              other=0.0).to(tl.float32)
            running, sum_of_chunk = tl.cumsum(steps.to(tl.float64)), tl.sum(steps.to(tl.float64))
            scores = tl.dot(queries, tl.trans(keys),
                            input_precision=PRECISION) * _decays(running, rate, CHUNK)
            result = tl.dot(queries, tl.trans(state), input_precision=PRECISION)
            result = result * tl.exp2(rate * running.to(tl.float32))[:, None]
            result += tl.dot(scores, values, input_precision=PRECISION)
            state = _advance(state, values, keys, running, sum_of_chunk, rate, PRECISION)
            to = ((batch * length + first) * heads + head) * p + (row[:, None] * (heads * p)
                                                                  + channel)
            mask = inside[:, None] & (channel < p)
            if back == 1:
                result += tl.load(total + to, mask=mask, other=0.0)
            if back < DIRECTIONS - 1:
                tl.store(total + to, result, mask=mask)
            else:
                tl.store(y + to, result, mask=mask)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor if the values of a token are contiguous, as in a slice of a wider projection,
    else a copy."""
    return tensor if tensor[:1, :1].is_contiguous() else tensor.contiguous()


@torch.library.custom_op('diffmf_ros::ssd', mutates_args=())
def ssd(x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        directions: int) -> torch.Tensor:
    """As `scan.ssd` without D, without gradients.

    Half precision multiplies in TF32: its mantissa, float32's range.
    """
    (batch, length, heads, p), n = x.shape, B.shape[2]
    x, delta, B, C = (_rows(t) for t in (x, delta, B, C))
    A, exact = A.float().contiguous(), x.dtype == torch.float32
    chunk = EXACT_CHUNK if exact else CHUNK
    wanted = batch * heads * triton.cdiv(length, chunk) // ENOUGH_PROGRAMS
    span = chunk * min(CHUNKS_PER_SPAN, triton.next_power_of_2(max(1, wanted)))
    spans = triton.cdiv(length, span)
    fixed = {'DIRECTIONS': directions, 'SPAN': span, 'CHUNK': chunk,
             'P': max(16, triton.next_power_of_2(p)), 'N': max(16, triton.next_power_of_2(n)),
             'PRECISION': 'ieee' if exact else 'tf32',
             'num_warps': 8 if exact else 4, 'num_stages': 2, 'enable_fp_fusion': True}
    scans = directions * heads
    ends, sums = A.new_empty(batch, scans, spans, 1, p * n), A.new_empty(batch, scans, spans, 1)
    y = x.new_empty(x.shape)
    total = y if exact or directions == 1 else y.new_empty(y.shape, dtype=torch.float32)
    sizes = length, heads, spans, p, n, *x.stride()[:2], *delta.stride()[:2], *B.stride()[:2]
    with torch.cuda.device_of(x):
        span_states[(batch * spans * scans,)](x, delta, A, B, ends, sums, *sizes, **fixed)
        run_carry(ends, sums, A[:, None, None], channels=p * n)
        outputs[(batch * spans * heads,)](x, delta, A, B, C, ends, total, y, *sizes,
                                          *C.stride()[:2], **fixed)
    return y


@ssd.register_fake
def _(x, delta, A, B, C, directions):
    return x.new_empty(x.shape)
