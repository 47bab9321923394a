# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gradients of the selective scan and of SS2D.

Imported only where triton is.

The scan is run forwards by `triton_scan`. Its gradient G_t of the state at token t obeys the same
recurrence from the end, G_t = C_t dy_t + exp(delta_(t+1) A) G_(t+1), so the chunks are the same:
what a chunk adds if nothing comes from behind it, the carry over the chunks, and every chunk again
with all gradients, from the states that the forward pass left at the ends of the chunks. Sums over
channels, chunks and directions are made of one part a program, and added in order: nothing is
added atomically, so a training can be repeated bit by bit.
"""

import torch
import triton
import triton.language as tl

from .triton_scan import _place, _start, run_carry, tiles
from .triton_scan_tiles import LOG2E, _parameters, _softplus, _token
from .triton_small import added


@triton.jit
def _step_size(deltas, bias, weight, inside, RANK: tl.constexpr, SOFTPLUS: tl.constexpr):
    """(delta, its slope by what softplus takes) of a token."""
    delta = bias
    if RANK == 0:
        delta += tl.load(deltas, mask=inside, other=0.0).to(tl.float32)
    for r in tl.static_range(RANK):
        delta += tl.load(deltas + r).to(tl.float32) * weight[r]
    slope = tl.full(delta.shape, 1.0, tl.float32)
    if SOFTPLUS:
        slope = 1 / (1 + tl.exp2(delta * -LOG2E))
        delta = _softplus(delta)
    return delta, slope


@triton.jit(do_not_specialize=['height', 'width', 'chunks'])
def chunk_adjoints(
    u,
    deltas,
    C,
    weight,
    bias,
    A,
    dy,
    adjoints,
    sums,
    height,
    width,
    channels,
    chunks,
    batch_stride,
    scan_stride,
    record_stride,
    state_stride,
    SCANS: tl.constexpr,
    RANK: tl.constexpr,
    STATES: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    IMAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What each chunk adds to the gradient of the state before it.

    adjoints: b x k x chunk from the end x n x e.

    sums: b x k x chunk from the end x e of delta.
    """
    channel, sequence, batch, scan, walk = _place(height, width, channels, chunks, SCANS, IMAGE,
                                                  CHUNK, BLOCK)
    first, step, count, visit = walk
    inside, row = channel < channels, scan * channels + channel
    u_stride = channels if IMAGE else channels * SCANS
    to_u, deltas_at, _B, C_at = _start(
        deltas,
        C,
        C,
        batch,
        scan,
        first,
        height * width,
        channel,
        u_stride,
        channels,
        batch_stride,
        scan_stride,
        record_stride,
        RANK,
        STATES,
        IMAGE,
    )
    u_step, step = step * u_stride, step * record_stride
    weights, biases, rates = _parameters(weight, bias, A, row, inside, RANK, STATES)
    total, adjoint = tl.zeros_like(biases), ()
    for _n in tl.static_range(STATES):
        adjoint = adjoint + (tl.zeros_like(biases),)
    for t in range(0, count):
        at = count - 1 - t
        delta, _slope = _step_size(
            deltas_at + at * (step if RANK else u_step), biases, weights, inside, RANK, SOFTPLUS
        )
        given, new = tl.load(dy + to_u + at * u_step, mask=inside, other=0.0).to(tl.float32), ()
        for n in tl.static_range(STATES):
            c = tl.load(C_at + at * step + n * state_stride).to(tl.float32)
            new = new + (tl.exp2(delta * rates[n]) * (adjoint[n] + given * c),)
        adjoint = new
        total += delta
    to = sequence * chunks + chunks - 1 - visit
    tl.store(sums + to * channels + channel, total, mask=inside)
    for n in tl.static_range(STATES):
        tl.store(adjoints + (to * STATES + n) * channels + channel, adjoint[n], mask=inside)


@triton.jit(do_not_specialize=['height', 'width', 'chunks'])
def gradients(
    u,
    deltas,
    B,
    C,
    weight,
    bias,
    A,
    skip,
    dy,
    states,
    adjoints,
    before,
    du,
    ddelta,
    drecords,
    dparameters,
    height,
    width,
    channels,
    chunks,
    batch_stride,
    scan_stride,
    record_stride,
    state_stride,
    SCANS: tl.constexpr,
    RANK: tl.constexpr,
    STATES: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    IMAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All gradients of a chunk, from the state that enters it and the adjoint from behind it.

    before: scratch, b x k x token x n x e, the states before the tokens. Written are
    du: b x token x k x e; ddelta, with RANK 0: the same, of what softplus takes; drecords:
    block x b x token x k x (RANK + 2 n), of the low rank, B and C; dparameters: for each chunk
    of each image those of weight, bias, skip and A, one behind the other.
    """
    channel, sequence, batch, scan, walk = _place(height, width, channels, chunks, SCANS, IMAGE,
                                                  CHUNK, BLOCK)
    first, step, count, visit = walk
    blocks, tokens = tl.cdiv(channels, BLOCK), height * width
    block, chunk = tl.program_id(0) % blocks, tl.program_id(0) // blocks % chunks
    inside, row = channel < channels, scan * channels + channel
    u_stride = channels if IMAGE else channels * SCANS
    to_u, deltas_at, B_at, C_at = _start(
        deltas,
        B,
        C,
        batch,
        scan,
        first,
        tokens,
        channel,
        u_stride,
        channels,
        batch_stride,
        scan_stride,
        record_stride,
        RANK,
        STATES,
        IMAGE,
    )
    token, token_step = sequence * tokens + first, step
    u_step, step = step * u_stride, step * record_stride
    weights, biases, rates = _parameters(weight, bias, A, row, inside, RANK, STATES)
    skips = tl.load(skip + row, mask=inside, other=0.0)
    state, carried, dA, dweight = (), (), (), ()
    entering, coming = sequence * chunks + visit - 1, sequence * chunks + chunks - 2 - visit
    for n in tl.static_range(STATES):
        here = channel < tl.where(visit > 0, channels, 0)
        state = state + (
            tl.load(states + (entering * STATES + n) * channels + channel, mask=here, other=0.0),
        )
        here = channel < tl.where(visit < chunks - 1, channels, 0)
        carried = carried + (
            tl.load(adjoints + (coming * STATES + n) * channels + channel, mask=here, other=0.0),
        )
        dA = dA + (tl.zeros_like(biases),)
    for _r in tl.static_range(RANK):
        dweight = dweight + (tl.zeros_like(biases),)
    for t in range(0, count):
        to = (token + t * token_step) * STATES
        for n in tl.static_range(STATES):
            tl.store(before + (to + n) * channels + channel, state[n], mask=inside)
        state, _output, _delta = _token(
            state,
            True,
            inside,
            u + to_u + t * u_step,
            deltas_at + t * (step if RANK else u_step),
            B_at + t * step,
            C_at + t * step,
            state_stride,
            weights,
            biases,
            rates,
            0.0,
            RANK,
            STATES,
            SOFTPLUS,
        )
    tl.debug_barrier()  # what was written to before is read now
    dbias, dskip = tl.zeros_like(biases), tl.zeros_like(biases)
    for t in range(0, count):
        at = count - 1 - t
        low = deltas_at + at * (step if RANK else u_step)
        delta, slope = _step_size(low, biases, weights, inside, RANK, SOFTPLUS)
        x = tl.load(u + to_u + at * u_step, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(dy + to_u + at * u_step, mask=inside, other=0.0).to(tl.float32)
        place = token + at * token_step
        to = (batch * tokens + first + at * token_step) * SCANS + scan
        of_x, of_delta = skips * given, tl.zeros_like(biases)
        record = (block * tl.num_programs(0) // blocks // chunks * tokens + to) * (
            RANK + 2 * STATES
        )
        next_carried, next_dA = (), ()
        for n in tl.static_range(STATES):
            b = tl.load(B_at + at * step + n * state_stride).to(tl.float32)
            c = tl.load(C_at + at * step + n * state_stride).to(tl.float32)
            h = tl.load(before + (place * STATES + n) * channels + channel, mask=inside, other=0.0)
            decay = tl.exp2(delta * rates[n])
            decayed, G = decay * h, given * c + carried[n]
            tl.store(drecords + record + RANK + n, tl.sum(tl.where(inside, G * delta * x, 0.0), 0))
            tl.store(
                drecords + record + RANK + STATES + n,
                tl.sum(tl.where(inside, given * (decayed + delta * x * b), 0.0), 0),
            )
            of_x += G * delta * b
            of_delta += G * (b * x + rates[n] / LOG2E * decayed)
            next_dA = next_dA + (dA[n] + G * delta * decayed,)
            next_carried = next_carried + (decay * G,)
        carried, dA = next_carried, next_dA
        dskip += given * x
        of_delta *= slope
        dbias += of_delta
        tl.store(du + to * channels + channel, of_x, mask=inside)
        if RANK == 0:
            tl.store(ddelta + to * channels + channel, of_delta, mask=inside)
        next_dweight = ()
        for r in tl.static_range(RANK):
            tl.store(
                drecords + record + r, tl.sum(tl.where(inside, of_delta * weights[r], 0.0), 0)
            )
            next_dweight = next_dweight + (
                dweight[r] + of_delta * tl.load(low + r).to(tl.float32),
            )
        dweight = next_dweight
    rows = SCANS * channels
    to = dparameters + (batch * chunks + chunk) * (RANK + 2 + STATES) * rows
    for r in tl.static_range(RANK):
        tl.store(to + row * RANK + r, dweight[r], mask=inside)
    to += RANK * rows
    tl.store(to + row, dbias, mask=inside)
    tl.store(to + rows + row, dskip, mask=inside)
    for n in tl.static_range(STATES):
        tl.store(to + 2 * rows + row * STATES + n, dA[n], mask=inside)


def differentiate(
    dy, ends, u, deltas, B, C, weight, bias, A, skip, *, batch, size, strides, image, softplus
):
    """Launch the backward pass; inputs as those of `triton_scan.run_scan`, dy like its y.

    Returns:
        du and ddelta (None for an image): b x tokens x scans x e; drecords: b x tokens x scans x
        (rank + 2 n), in the type of deltas for an image; gradients of weight, bias, skip and A.
    """
    scans, channels, states = A.shape
    shape, fixed = tiles(A, size, batch=batch, rank=weight.shape[2], image=image)
    fixed |= {'SOFTPLUS': softplus, 'BLOCK': fixed['BLOCK'] if states <= 2 else 32}
    tokens, chunks, rank = size[0] * size[1], shape[-1], weight.shape[2]
    weight, bias, A, skip = (p.float().contiguous() for p in (weight, bias, A, skip))
    adjoints, sums = torch.empty_like(ends), A.new_empty(batch, scans, chunks, channels)
    blocks = triton.cdiv(channels, fixed['BLOCK'])
    before = A.new_empty(batch, scans, tokens, states, channels)
    du = A.new_empty(batch, tokens, scans, channels)
    ddelta = du if rank else torch.empty_like(du)
    kind = deltas.dtype if image and blocks == 1 else torch.float32
    drecords = A.new_empty(blocks, batch, tokens, scans, rank + 2 * states, dtype=kind)
    parameters = weight, bias, skip, A
    sizes = [p.numel() for p in parameters]
    dparameters = A.new_empty(batch * chunks, sum(sizes))
    grid, shape = (blocks * chunks * batch * scans,), (*shape, *strides)
    with torch.cuda.device_of(u):
        chunk_adjoints[grid](u, deltas, C, weight, bias, A, dy, adjoints, sums, *shape, **fixed)
        run_carry(adjoints, sums, A, channels=channels)
        gradients[grid](
            u,
            deltas,
            B,
            C,
            weight,
            bias,
            A,
            skip,
            dy,
            ends,
            adjoints,
            before,
            du,
            ddelta,
            drecords,
            dparameters,
            *shape,
            **fixed,
        )
    drecords = drecords[0] if blocks == 1 else drecords.sum(0)
    total, _ = added(dparameters, dparameters.shape[1], A.dtype)
    return (du, ddelta, drecords, *(part.view_as(parameter) for part, parameter
                                    in zip(total.split(sizes), parameters)))
