# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the output of SS2D with one state, tile by tile. Imported only where triton is.

A program takes a tile of CHUNK x CHUNK tokens of a block of channels, once along its rows and once
along its columns, both ways at the same time: the way forwards takes the first half of a line
while the way back takes the second, then each adds to what the other has left. So a tile of the
input comes from memory once, and the float32 sum of the four directions stays in the cache.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TILE = 16  # tokens of a side
BLOCK = 64  # channels
ELEMENTS = 4  # of a thread


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(e) with e = exp(-|x|); log1p(e) / e as a polynomial, to
    1.5e-6."""
    e = tl.exp2(tl.abs(x) * -LOG2E)
    p = 0.0138744845 * e - 0.0655903064
    p = p * e + 0.148294134
    p = p * e - 0.234545201
    p = p * e + 0.330975258
    p = p * e - 0.499858994
    p = p * e + 0.999998574
    return tl.maximum(x, 0.0) + e * p


@triton.jit
def _columns(matrix, rows, inside, scale, WIDTH: tl.constexpr):
    """The columns of a matrix of rows x WIDTH, times scale, as a tuple of vectors."""
    columns = ()
    for i in tl.static_range(WIDTH):
        columns = columns + (tl.load(matrix + rows * WIDTH + i, mask=inside, other=0.0) * scale,)
    return columns


@triton.jit
def _parameters(weight, bias, A, row, inside, RANK: tl.constexpr, STATES: tl.constexpr):
    """(weights of the low rank, bias, rates in powers of two) of the channels in these rows."""
    biases = tl.load(bias + row, mask=inside, other=0.0)
    return _columns(weight, row, inside, 1.0, RANK), biases, _columns(A, row, inside, LOG2E,
                                                                      STATES)


@triton.jit
def _token(state, valid, inside, u, deltas, B, C, state_stride, weight, bias, A, skip,
           RANK: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr):
    """One step of the scan: (the new state, the output, delta).

    Where not valid the state stays as it is.
    """
    x = tl.load(u, mask=inside, other=0.0).to(tl.float32)
    delta = bias
    if RANK == 0:
        delta += tl.load(deltas, mask=inside, other=0.0).to(tl.float32)
    for r in tl.static_range(RANK):
        delta += tl.load(deltas + r).to(tl.float32) * weight[r]
    if SOFTPLUS:
        delta = _softplus(delta)
    delta = tl.where(valid, delta, 0.0)
    dx, y, new = delta * x, skip * x, ()
    for n in tl.static_range(STATES):
        h = tl.exp2(delta * A[n]) * state[n] + dx * tl.load(B + n * state_stride).to(tl.float32)
        y += h * tl.load(C + n * state_stride).to(tl.float32)
        new = new + (h,)
    return new, y, delta


@triton.jit
def _lines(tile_row, tile_column, height, width, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """(lines of a tile: CHUNK, where they start, tokens of each, lines and length of the image).
    """
    if COLUMNS:
        tile_row, tile_column, height, width = tile_column, tile_row, width, height
    start = tile_column * CHUNK
    return (tile_row * CHUNK + tl.arange(0, CHUNK), start, tl.minimum(CHUNK, width - start),
            height, width)


@triton.jit
def _entering(states, sequence, line, start, lines, length, chunks, channel, channels, inside,
              BACK: tl.constexpr, STATES: tl.constexpr, CHUNK: tl.constexpr):
    """The states that enter a chunk of each line, a tuple of CHUNK x BLOCK."""
    per_line = tl.cdiv(length, CHUNK)
    visit = line * per_line + start // CHUNK
    if BACK:
        visit = lines * per_line - 1 - visit
    at, found = ((sequence * chunks + visit - 1) * STATES * channels)[:, None] + channel, ()
    inside &= (visit > 0)[:, None]
    for n in tl.static_range(STATES):
        found = found + (tl.load(states + at + n * channels, mask=inside, other=0.0),)
    return found


@triton.jit(do_not_specialize=['height', 'width', 'chunks'])
def tile_outputs(u, records, weight, bias, A, skip, states, total, y, height, width, channels,
                 chunks, batch_stride, scan_stride, record_stride, IMAGE: tl.constexpr,
                 SCANS: tl.constexpr, RANK: tl.constexpr, STATES: tl.constexpr,
                 SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
                 BLOCK: tl.constexpr):
    """The output y like u: b x l x e, of all directions; total: a float32 buffer like it, or y."""
    program, blocks, across = tl.program_id(0), tl.cdiv(channels, BLOCK), tl.cdiv(width, CHUNK)
    channel = (program % blocks * BLOCK + tl.arange(0, BLOCK))[None, :]
    tile, down = program // blocks, tl.cdiv(height, CHUNK)
    batch = (tile // across // down).to(tl.int64)
    image = batch * height * width * channels
    for columns in tl.static_range(2):
        line, start, count, lines, length = _lines(tile // across % down, tile % across, height,
                                                   width, columns, CHUNK)
        inside, known = (line < lines)[:, None] & (channel < channels), channel < channels
        row = columns * channels + channel
        back_row = row + 2 * channels
        weights, biases, rates = _parameters(weight, bias, A, row, known, RANK, STATES)
        back_weights, back_biases, back_rates = _parameters(weight, bias, A, back_row, known, RANK,
                                                           STATES)
        skips = tl.load(skip + row, mask=known, other=0.0)
        back_skips = tl.load(skip + back_row, mask=known, other=0.0)
        sequence = batch * SCANS + columns
        state = _entering(states, sequence, line, start, lines, length, chunks, channel, channels,
                          inside, False, STATES, CHUNK)
        back_state = _entering(states, sequence + 2, line, start, lines, length, chunks, channel,
                               channels, inside, True, STATES, CHUNK)
        step = width if columns else 1
        # A line outside the image reads the last one, and nothing of it is written.
        first = tl.minimum(line, lines - 1) * (1 if columns else width) + start * step
        first = first[:, None]
        record = records + batch * batch_stride + columns * scan_stride
        half = (count + 1) // 2
        for second in tl.static_range(2):
            if columns + second > 0:
                tl.debug_barrier()  # what others have written to total is read now
            begin, end = (half, count) if second else (0, half)
            back_begin, back_end = (half - 1, 0) if second else (count - 1, half)
            for t in range(0, half, GROUP):
                for i in tl.static_range(GROUP):
                    at, back_at = begin + t + i, back_begin - t - i
                    valid, back_valid = at < end, back_at >= back_end
                    to = first + tl.minimum(at, count - 1) * step
                    back_to = first + tl.maximum(back_at, 0) * step
                    deltas = record + to * record_stride
                    back_deltas = record + 2 * scan_stride + back_to * record_stride
                    to, back_to = image + (to * channels + channel), image + (back_to * channels
                                                                              + channel)
                    state, result, _delta = _token(
                        state, valid, inside, u + to, deltas, deltas + RANK,
                        deltas + RANK + STATES, 1, weights, biases, rates, skips, RANK, STATES,
                        SOFTPLUS)
                    back_state, back_result, _delta = _token(
                        back_state, back_valid, inside, u + back_to, back_deltas,
                        back_deltas + RANK, back_deltas + RANK + STATES, 1, back_weights,
                        back_biases, back_rates, back_skips, RANK, STATES, SOFTPLUS)
                    if columns + second > 0:
                        result += tl.load(total + to, mask=inside, other=0.0)
                        back_result += tl.load(total + back_to, mask=inside, other=0.0)
                    here = inside & (channel < tl.where(valid, channels, 0))
                    back_here = inside & (channel < tl.where(back_valid, channels, 0))
                    if columns + second < 2:
                        tl.store(total + to, result, mask=here)
                        tl.store(total + back_to, back_result, mask=back_here)
                    else:
                        tl.store(y + to, result, mask=here)
                        tl.store(y + back_to, back_result, mask=back_here)


def run_tiles(u, proj, parameters, ends, total, y, sizes, strides, fixed):
    """Launch the kernel; sizes: (height, width, channels, chunks), fixed: constants of the scan.
    """
    height, width, channels, _ = sizes
    block, side = min(BLOCK, triton.next_power_of_2(channels)), fixed['CHUNK']
    tiles = len(u) * triton.cdiv(height, side) * triton.cdiv(width, side)
    fixed = {**fixed, 'BLOCK': block, 'GROUP': 2,
             'num_warps': max(1, side * block // (32 * ELEMENTS))}
    tile_outputs[(tiles * triton.cdiv(channels, block),)](
        u, proj, *parameters, ends, total, y, *sizes, *strides[:3], **fixed)
