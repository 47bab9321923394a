# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the selective scan and of SS2D. Imported only where triton is.

A sequence is cut into chunks, and a program walks one chunk of one block of channels, token by
token, with the state in registers. Three steps: the state at the end of every chunk as if it began
at zero; the carry over the chunks; every chunk again, from the state that enters it, with output.
A chunk of SS2D lies within one row or column, so that a direction is a first token and a step.
Nothing waits for another program and nothing is added atomically: results do not depend on the
order of execution, and the launches can be captured in a CUDA graph.

SS2D of one state writes its output tile by tile (`triton_scan_tiles`). For training, and of more
states, whose chunks are longer than a tile, it does so in two launches, the rows and then the
columns: a program walks its chunk forwards and then backwards while the chunk is in the cache, and
the float32 sum of the directions goes to memory and back once.

Every factor is an exponential of something negative: nothing overflows. Storage is token-major,
b x l x g x e with g = 1 for SS2D; parameters of the scan k of an image or sequence are k x e x n.
"""

import torch
import triton
import triton.language as tl

from .triton_scan_tiles import LOG2E, TILE, _parameters, _token, run_tiles

CARRY_CHANNELS = 8  # 32 bytes, a memory sector
CARRY_CHUNKS = 512
USUAL_CHUNK, LEAST_CHUNK = 32, 16  # tokens, of few states
# A small image has few chunks: with fewer programs than two for each scheduler of a large GPU the
# time is that of one walk, so that chunks are halved. Not for more states than one: storing those
# would be a tenth of all bytes.
ENOUGH_PROGRAMS = 1024


@triton.jit
def _walk(chunk, columns, back, height, width, CHUNK: tl.constexpr):
    """(first token, step, tokens, place in the order of visits) of a chunk.

    After the last chunk it has no tokens.
    """
    length = tl.where(columns, height, width)
    lines = tl.where(columns, width, height)
    per_line = tl.cdiv(length, CHUNK)
    line, start = chunk // per_line, chunk % per_line * CHUNK
    count = tl.where(line < lines, tl.minimum(CHUNK, length - start), 0)
    step = tl.where(columns, width, 1)
    first = tl.where(columns, start * width + line, line * width + start)
    visit = tl.where(back & (count > 0), lines * per_line - 1 - chunk, chunk)
    return tl.where(back, first + (count - 1) * step,
                    first).to(tl.int64), tl.where(back, -step, step), count, visit


@triton.jit
def _start(deltas, B, C, batch, scan, first, tokens, channel, u_stride, channels, batch_stride,
           scan_stride, record_stride, RANK: tl.constexpr, STATES: tl.constexpr,
           IMAGE: tl.constexpr):
    """(offset in u, pointers to delta or its low rank, B and C) of the first token of a chunk."""
    to_u = (batch * tokens + first) * u_stride + channel
    record = batch * batch_stride + scan * scan_stride + first * record_stride
    if IMAGE:  # all in one record, so that one address serves
        deltas += record
        B = deltas + RANK
        C = B + STATES
    else:
        to_u += scan * channels
        deltas, B, C = deltas + to_u, B + record, C + record
    return to_u, deltas, B, C


@triton.jit
def _place(height, width, channels, chunks, SCANS: tl.constexpr, IMAGE: tl.constexpr,
           CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """What a program walks: (its channels, sequence, batch, scan, walk of the chunk)."""
    program, blocks = tl.program_id(0), tl.cdiv(channels, BLOCK)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    chunk, sequence = program // blocks % chunks, (program // blocks // chunks).to(tl.int64)
    batch, scan = sequence // SCANS, sequence % SCANS
    columns, back = (scan % 2 == 1) & IMAGE, (scan >= 2) & IMAGE
    return channel, sequence, batch, scan, _walk(chunk, columns, back, height, width, CHUNK)


@triton.jit(do_not_specialize=['height', 'width', 'chunks'])
def chunk_states(u, deltas, B, C, weight, bias, A, states, sums, height, width, channels, chunks,
                 batch_stride, scan_stride, record_stride, state_stride,
                 SCANS: tl.constexpr, RANK: tl.constexpr, STATES: tl.constexpr,
                 SOFTPLUS: tl.constexpr, IMAGE: tl.constexpr, CHUNK: tl.constexpr,
                 GROUP: tl.constexpr,
                 BLOCK: tl.constexpr):
    """States b x k x chunk x n x e at the ends of chunks that start at zero, and sums b x k x
    chunk x e of delta."""
    channel, sequence, batch, scan, walk = _place(height, width, channels, chunks, SCANS, IMAGE,
                                                  CHUNK, BLOCK)
    first, step, count, visit = walk
    inside, row = channel < channels, scan * channels + channel
    u_stride = channels if IMAGE else channels * SCANS
    to_u, deltas_at, B_at, C_at = _start(deltas, B, C, batch, scan, first, height * width, channel,
                                         u_stride, channels,
                                         batch_stride, scan_stride, record_stride, RANK, STATES,
                                         IMAGE)
    u_step, step = step * u_stride, step * record_stride
    weights, biases, rates = _parameters(weight, bias, A, row, inside, RANK, STATES)
    total, state = tl.zeros_like(biases), ()
    for _n in tl.static_range(STATES):
        state = state + (tl.zeros_like(biases),)
    for t in range(0, count, GROUP):
        for i in tl.static_range(GROUP):
            at = tl.minimum(t + i, count - 1)
            state, _output, delta = _token(
                state, t + i < count, inside, u + to_u + at * u_step,
                deltas_at + at * (step if RANK else u_step),
                B_at + at * step, C_at + at * step, state_stride, weights, biases, rates, 0.0,
                RANK, STATES, SOFTPLUS)
            total += delta
    to = sequence * chunks + visit
    tl.store(sums + to * channels + channel, total, mask=inside)
    for n in tl.static_range(STATES):
        tl.store(states + (to * STATES + n) * channels + channel, state[n], mask=inside)


@triton.jit
def _combine(decay, state, next_decay, next_state):
    return decay * next_decay, next_decay * state + next_state


@triton.jit(do_not_specialize=['chunks'])
def carry(states, sums, A, chunks, channels, scans, A_scan, A_state, A_channel, sum_channel,
          STATES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Turn the states at the ends of chunks that start at zero into those of the whole sequence,
    in place.

    states: b x k x chunk x n x e; sums: b x k x chunk x (e or 1) with sum_channel 1 or 0.
    """
    program, blocks = tl.program_id(0), tl.cdiv(channels, BLOCK)
    channel = (program % blocks * BLOCK + tl.arange(0, BLOCK))[None, :]
    n, sequence = program // blocks % STATES, (program // blocks // STATES).to(tl.int64)
    inside = channel < channels
    rate = tl.load(A + sequence % scans * A_scan + n * A_state + channel * A_channel, mask=inside,
                   other=0.0) * LOG2E
    row = tl.arange(0, ROWS)[:, None]
    sum_width = tl.where(sum_channel == 0, 1, channels)
    before = tl.zeros([1, BLOCK], tl.float32)
    for start in range(0, chunks, ROWS):
        chunk = sequence * chunks + start + row
        mask = inside & (start + row < chunks)
        at = states + (chunk * STATES + n) * channels + channel
        total = tl.load(sums + chunk * sum_width + channel * sum_channel, mask=mask, other=0.0)
        added = tl.load(at, mask=mask, other=0.0)
        decay, state = tl.associative_scan((tl.exp2(rate * total), added), 0, _combine)
        state += decay * before
        tl.store(at, state, mask=mask)
        before = tl.sum(tl.where(row == ROWS - 1, state, 0.0), axis=0, keep_dims=True)


@triton.jit(do_not_specialize=['height', 'width', 'chunks'])
def outputs(u, deltas, B, C, weight, bias, A, skip, states, total, y, height, width, channels,
            chunks, batch_stride, scan_stride, record_stride, state_stride,
            COLUMNS: tl.constexpr, SCANS: tl.constexpr, RANK: tl.constexpr, STATES: tl.constexpr,
            SOFTPLUS: tl.constexpr, IMAGE: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
            BLOCK: tl.constexpr):
    """The output y like u, of one scan; of an image, of the rows into total: b x l x e, or with
    the columns into y."""
    program, blocks = tl.program_id(0), tl.cdiv(channels, BLOCK)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    chunk, sequence = program // blocks % chunks, (program // blocks // chunks).to(tl.int64)
    inside, u_stride = channel < channels, channels if IMAGE else channels * SCANS
    for back in tl.static_range(2 if IMAGE else 1):
        batch, scan = (sequence, COLUMNS + 2 * back) if IMAGE else (sequence // SCANS,
                                                                    sequence % SCANS)
        first, step, count, visit = _walk(chunk, COLUMNS == 1, back == 1, height, width, CHUNK)
        row = scan * channels + channel
        to_u, deltas_at, B_at, C_at = _start(
            deltas, B, C, batch, scan, first, height * width, channel, u_stride, channels,
            batch_stride, scan_stride,
            record_stride, RANK, STATES, IMAGE)
        u_step, step = step * u_stride, step * record_stride
        weights, biases, rates = _parameters(weight, bias, A, row, inside, RANK, STATES)
        skips = tl.load(skip + row, mask=inside, other=0.0)
        state = ()
        entering = ((batch * SCANS + scan) * chunks + visit - 1) * STATES * channels + channel
        for n in tl.static_range(STATES):
            h = tl.load(states + entering + n * channels,
                        mask=channel < tl.where(visit > 0, channels, 0), other=0.0)
            state = state + (h,)
        if back == 1:
            tl.debug_barrier()  # what the way forwards has written to total is read now
        for t in range(0, count, GROUP):
            results = ()
            for i in tl.static_range(GROUP):
                at = tl.minimum(t + i, count - 1)
                state, result, _delta = _token(
                    state, t + i < count, inside, u + to_u + at * u_step,
                    deltas_at + at * (step if RANK else u_step),
                    B_at + at * step, C_at + at * step, state_stride, weights, biases, rates,
                    skips, RANK, STATES, SOFTPLUS)
                if COLUMNS + back > 0:
                    result += tl.load(total + to_u + at * u_step, mask=inside, other=0.0)
                results = results + (result,)
            # Stored together: loads of the next tokens need not wait behind a store that might
            # alias them.
            for i in tl.static_range(GROUP):
                to = to_u + (t + i) * u_step
                mask = channel < tl.where(t + i < count, channels, 0)
                if IMAGE and COLUMNS + back < 2:
                    tl.store(total + to, results[i], mask=mask)
                else:
                    tl.store(y + to, results[i], mask=mask)


def run_scan(u, deltas, B, C, weight, bias, A, skip, *, batch, size, strides, image, softplus,
             tiled=False):
    """Launch the three steps; u, deltas: token-major, size: (height, width), strides: of B and C.

    tiled: Write the output of an image with one state tile by tile.

    Returns:
        y like u, and the states at the ends of all chunks, b x k x chunk x n x e.
    """
    scans, channels, states = A.shape
    tiled = tiled and image and states == 1
    shape, fixed = tiles(A, size, batch=batch, rank=weight.shape[2], image=image,
                         chunk=TILE if tiled else None)
    fixed['SOFTPLUS'] = softplus
    block, chunks = fixed['BLOCK'], shape[-1]
    weight, bias, A, skip = (p.float().contiguous() for p in (weight, bias, A, skip))
    ends = A.new_empty(batch, scans, chunks, states, channels)
    sums = A.new_empty(batch, scans, chunks, channels)
    y = torch.empty_like(u)
    total = y if u.dtype == torch.float32 or not image else torch.empty_like(
        u, dtype=torch.float32)
    programs = batch * chunks * triton.cdiv(channels, block)
    sizes, shape = shape, (*shape, *strides)
    with torch.cuda.device_of(u):
        chunk_states[(programs * scans,)](u, deltas, B, C, weight, bias, A, ends, sums, *shape,
                                          **fixed)
        run_carry(ends, sums, A, channels=channels)
        if tiled:
            run_tiles(u, deltas, (weight, bias, A, skip), ends, total, y, sizes, strides, fixed)
            return y, ends
        for columns in (0, 1) if image else (0,):
            to = y if columns or not image else total  # the rows write no output
            outputs[(programs if image else programs * scans,)](
                u, deltas, B, C, weight, bias, A, skip, ends, total, to, *shape, COLUMNS=columns,
                **fixed)
    return y, ends


def tiles(A, size, *, batch, rank, image, chunk=None):
    """Return ((height, width, channels, chunks), constants of the kernels but for SOFTPLUS).

    chunk: Tokens of a chunk, where they do not follow from the rest.
    """
    scans, channels, states = A.shape
    # Channels whose states a thread can hold.
    lanes = 4 if states <= 4 else 2 if states <= 16 else 1
    block = min(32 * lanes, max(32, triton.next_power_of_2(channels)))
    if chunk is None:  # few states to store beside the tokens to read
        chunk = min(128, max(USUAL_CHUNK, 8 * triton.next_power_of_2(states)))
        programs = batch * triton.cdiv(channels, block) * chunks_of(size, chunk, image=image)
        if image and states == 1 and chunk > LEAST_CHUNK and programs < ENOUGH_PROGRAMS:
            chunk //= 2
    chunks = chunks_of(size, chunk, image=image)
    return (*size, channels, chunks), {
        'SCANS': scans, 'RANK': rank, 'STATES': states, 'IMAGE': image, 'CHUNK': chunk,
        'GROUP': 4 if states <= 4 else 2, 'BLOCK': block, 'num_warps': 1, 'enable_fp_fusion': True}


def chunks_of(size, chunk, *, image):
    """Return how many chunks an image has, of rows or columns, or a sequence of size (1, l)."""
    height, width = size
    rows, columns = height * triton.cdiv(width, chunk), width * triton.cdiv(height, chunk)
    return max(rows, columns) if image else rows


def run_carry(ends, sums, A, *, channels):
    """Launch carry on ends (b x k x chunk x n x channels) and sums.

    sums: b x k x chunk x (channels or 1). A: scans x (channels or 1) x n, the rates; those of the
    k-th scan of a batch are at k modulo scans.
    """
    batch, scans, chunks, states = ends.shape[:4]
    strides = A.stride(0), A.stride(2), A.stride(1) if A.shape[1] > 1 else 0, int(
        sums.shape[3] > 1)
    programs = batch * scans * states * triton.cdiv(channels, CARRY_CHANNELS)
    rows = min(CARRY_CHUNKS, triton.next_power_of_2(chunks))
    carry[(programs,)](ends, sums, A, chunks, channels, len(A), *strides, STATES=states,
                       BLOCK=CARRY_CHANNELS, ROWS=rows,
                       num_warps=max(4, rows // 64),  # 4 for 512 rows would spill registers
                       enable_fp_fusion=True)


@torch.library.custom_op('diffmf_ros::ss2d', mutates_args=())
def ss2d(u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor, dt_bias: torch.Tensor,
         A: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """As `scan.ss2d`, fused, without gradients."""
    return scan_image(u.contiguous(), proj.contiguous(), dt_weight, dt_bias, A, skip,
                      tiled=True)[0]


def scan_image(u, proj, dt_weight, dt_bias, A, skip, *, tiled=False):
    """Return y and the states at the ends of all chunks of `scan.ss2d`, of contiguous u, proj.

    tiled: Write y tile by tile, with chunks for which the gradients are not made.
    """
    return run_scan(u, proj, proj, proj, dt_weight, dt_bias, A, skip, **image_options(u, proj),
                    tiled=tiled)


def image_options(u, proj):
    """Return the options of run_scan for an image."""
    strides = proj.stride(0), proj.stride(3), proj.stride(2), 1
    return {'batch': u.shape[0], 'size': u.shape[1:3], 'strides': strides, 'image': True,
            'softplus': True}


@ss2d.register_fake
def _(u, proj, dt_weight, dt_bias, A, skip):
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@torch.library.custom_op('diffmf_ros::selective_scan', mutates_args=())
def selective_scan(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                   C: torch.Tensor, D: torch.Tensor | None, delta_bias: torch.Tensor | None,
                   delta_softplus: bool) -> torch.Tensor:
    """As `scan.selective_scan`, without gradients; u and delta in channel-major storage are
    copied."""
    arguments, options = sequences(u, delta, A, B, C, D, delta_bias)
    return run_scan(*arguments, **options, softplus=delta_softplus)[0].mT


def sequences(u, delta, A, B, C, D, delta_bias):
    """Arguments and options of run_scan, but for softplus, of the inputs of selective_scan."""
    groups = B.shape[1]
    tokens = [x.mT.contiguous() for x in (u, delta)]
    if B.stride() != C.stride():
        B, C = B.contiguous(), C.contiguous()
    A, none = A.unflatten(0, (groups, -1)), A.new_zeros(len(A))
    bias, skip = ((none if p is None else p).view(groups, -1) for p in (delta_bias, D))
    strides = *B.stride()[:2], B.stride(3), B.stride(2)
    return ((*tokens, B, C, A[:, :, :0], bias, A, skip),
            {'batch': u.shape[0], 'size': (1, u.shape[2]), 'strides': strides, 'image': False})


@selective_scan.register_fake
def _(u, delta, A, B, C, D, delta_bias, delta_softplus):
    return torch.empty_like(u.mT, memory_format=torch.contiguous_format).mT
