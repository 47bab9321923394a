# SPDX-License-Identifier: Apache-2.0
"""Triton kernels where two modalities or several scans meet. Imported only where triton is.

`concat_linear` multiplies maps side by side with one matrix without copying them together; `pair`
lays two maps out as one; `guide` makes the guidance and applies it to both modalities;
`layer_norm` is for what no linear layer follows. Around a scan through two images whose tokens
take turns, `interleave` lays both out in the four orders of SS2D, with step sizes, and `separate`
adds the directions up again, each in one launch; orders are computed, no index is read.
"""

import torch
import triton
import triton.language as tl

from .triton_rows import multiply, rows_of, tile

MOST_PIECES = 5
PAIRINGS = 'batch', 'columns', 'row'
ELEMENTS = 1024


@triton.jit(do_not_specialize=['rows', 'line'])
def concat_linear_rows(x0, x1, x2, x3, x4, weight, bias, y, rows, line, width, outs, line0, line1,
                       line2, line3, line4, step0, step1, step2, step3, step4,
                       PIECES: tl.constexpr, BIAS: tl.constexpr, EXACT: tl.constexpr,
                       ROWS: tl.constexpr,
                       COLUMNS: tl.constexpr, OUTS: tl.constexpr):
    """The output y: rows x outs; each of x has lines of so many tokens, with steps of their own.
    """
    row, out = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * OUTS + tl.arange(
        0, OUTS)
    column, pieces = tl.arange(0, COLUMNS), (x0, x1, x2, x3, x4)
    lines, steps = (line0, line1, line2, line3, line4), (step0, step1, step2, step3, step4)
    kind: tl.constexpr = weight.dtype.element_ty
    sums = tl.zeros([ROWS, OUTS], tl.float32)
    for piece in tl.static_range(PIECES):
        at = (row // line).to(tl.int64) * lines[piece] + (row % line) * steps[piece]
        for start in range(0, width, COLUMNS):
            here = start + column
            values = tl.load(pieces[piece] + at[:, None] + here[None, :],
                             mask=(row < rows)[:, None] & (here < width)[None, :], other=0.0)
            block = tl.load(weight + out[None, :] * (PIECES * width)
                            + (piece * width + here)[:, None],
                            mask=(here < width)[:, None] & (out < outs)[None, :], other=0.0)
            sums += multiply(values.to(kind), block, EXACT)
    if BIAS:
        sums += tl.load(bias + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    to = row.to(tl.int64)[:, None] * outs + out[None, :]
    tl.store(y + to, sums.to(y.dtype.element_ty),
             mask=(row < rows)[:, None] & (out < outs)[None, :])


@triton.jit(do_not_specialize=['rows', 'line'])
def pair_rows(a, b, y, rows, line, width, a_row, b_row, MODE: tl.constexpr, BLOCK: tl.constexpr):
    """Two maps of rows x width as one y: a behind the other, taking turns, or side by side in
    lines."""
    second = tl.program_id(1)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // width, at % width
    values = tl.load(a + row * a_row + column, mask=row < tl.where(second == 0, rows, 0),
                     other=0.0)
    values = values.to(tl.float32)
    values += tl.load(b + row * b_row + column, mask=row < tl.where(second == 1, rows, 0),
                      other=0.0).to(tl.float32)
    if MODE == 0:
        to = second * rows + row
    elif MODE == 1:
        to = 2 * row + second
    else:
        to = (2 * (row // line) + second) * line + row % line
    tl.store(y + to * width + column, values.to(y.dtype.element_ty), mask=row < rows)


@triton.jit(do_not_specialize=['rows'])
def guide_rows(x, weight, bias, a, b, more_a, more_b, rows, width, outs, x_row, a_row, b_row,
               EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUTS: tl.constexpr):
    """a * (1 + gain) and b * (2 - gain) with gain = sigmoid of the linear layer of x."""
    row, out = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * OUTS + tl.arange(
        0, OUTS)
    row, column = row.to(tl.int64), tl.arange(0, COLUMNS)
    kind: tl.constexpr = weight.dtype.element_ty
    sums = tl.zeros([ROWS, OUTS], tl.float32)
    for start in range(0, width, COLUMNS):
        here = start + column
        values = tl.load(x + row[:, None] * x_row + here[None, :],
                         mask=(row < rows)[:, None] & (here < width)[None, :], other=0.0)
        block = tl.load(weight + out[None, :] * width + here[:, None],
                        mask=(here < width)[:, None] & (out < outs)[None, :], other=0.0)
        sums += multiply(values.to(kind), block, EXACT)
    sums += tl.load(bias + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    gain = 1 / (1 + tl.exp2(sums * -1.4426950408889634))
    inside, to = (row < rows)[:, None] & (out < outs)[None, :], row[:, None] * outs + out[None, :]
    own = tl.load(a + row[:, None] * a_row + out[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(more_a + to, (own * (1 + gain)).to(more_a.dtype.element_ty), mask=inside)
    own = tl.load(b + row[:, None] * b_row + out[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(more_b + to, (own * (2 - gain)).to(more_b.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows'])
def layer_norm_rows(x, gamma, beta, y, rows, width, x_row, epsilon, ROWS: tl.constexpr,
                    COLUMNS: tl.constexpr):
    """The output y of x: rows x width, each normalized."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    values = tl.load(x + row.to(tl.int64)[:, None] * x_row + column[None, :], mask=inside,
                     other=0.0)
    values = values.to(tl.float32)
    mean = tl.sum(values, 1) / width
    values = tl.where((column < width)[None, :], values - mean[:, None], 0.0)
    values *= tl.rsqrt(tl.sum(values * values, 1) / width + epsilon)[:, None]
    values *= tl.load(gamma + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    values += tl.load(beta + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * width + column[None, :],
             values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _token(step, direction, height, width):
    """The token, row by row, that a direction visits at a step."""
    step = tl.where(direction >= 2, height * width - 1 - step, step)
    return tl.where(direction % 2 == 1, step % height * width + step // height, step)


@triton.jit(do_not_specialize=['height', 'width'])
def interleaved(x, y, x_proj, y_proj, weight, u, delta, records, height, width, channels,
                RANK: tl.constexpr, RECORD: tl.constexpr, ROWS: tl.constexpr,
                CHANNELS: tl.constexpr,
                WIDTH: tl.constexpr):
    """Tokens u, step sizes before their bias, and B and C of one direction: b x 2l x 4 x their
    width."""
    direction, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tokens = height * width
    of_x = place < tl.where(place % 2 == 0, 2 * tokens, 0)
    of_y = place < tl.where(place % 2 == 1, 2 * tokens, 0)
    at = batch * tokens + _token(place // 2, direction, height, width)
    to = (batch * 2 * tokens + place) * 4 + direction
    low = (at * 4 + direction) * (RANK + RECORD)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        here = (channel < channels)[None, :]
        source, goal = at[:, None] * channels + channel[None, :], to[:,
                                                                     None] * channels + channel[
                                                                         None, :]
        value = tl.load(x + source, mask=of_x[:, None] & here, other=0.0)
        value += tl.load(y + source, mask=of_y[:, None] & here, other=0.0)
        inside = (place < 2 * tokens)[:, None] & here
        tl.store(u + goal, value, mask=inside)
        step = tl.zeros([ROWS, CHANNELS], tl.float32)
        for r in tl.static_range(RANK):
            part = tl.load(x_proj + low + r, mask=of_x,
                           other=0.0) + tl.load(y_proj + low + r, mask=of_y, other=0.0)
            by = tl.load(weight + (direction * channels + channel) * RANK + r,
                         mask=channel < channels, other=0.0)
            step += part.to(tl.float32)[:, None] * by.to(tl.float32)[None, :]
        tl.store(delta + goal, step, mask=inside)
    column = tl.arange(0, WIDTH)
    here = (column < RECORD)[None, :]
    source = low[:, None] + RANK + column[None, :]
    record = tl.load(x_proj + source, mask=of_x[:, None] & here, other=0.0)
    record += tl.load(y_proj + source, mask=of_y[:, None] & here, other=0.0)
    tl.store(records + to[:, None] * RECORD + column[None, :], record,
             mask=(place < 2 * tokens)[:, None] & here)


@triton.jit(do_not_specialize=['height', 'width', 'batch'])
def separated(scanned, y, height, width, batch, channels, ROWS: tl.constexpr,
              CHANNELS: tl.constexpr):
    """The sum of the four directions of scanned: b x 2l x 4 x d, for both images: 2b x l x d."""
    second, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token, tokens = tl.program_id(0) * ROWS + tl.arange(0, ROWS), height * width
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (token < tokens)[:, None] & (channel < channels)[None, :]
        sums = tl.zeros([ROWS, CHANNELS], tl.float32)
        for direction in tl.static_range(4):
            step = token
            if direction % 2 == 1:
                step = token % width * height + token // width
            if direction >= 2:
                step = tokens - 1 - step
            at = ((image * tokens + step) * 2 + second) * 4 + direction
            sums += tl.load(scanned + at[:, None] * channels + channel[None, :], mask=inside,
                            other=0.0).to(tl.float32)
        to = ((second * batch + image) * tokens + token)[:, None] * channels + channel[None, :]
        tl.store(y + to, sums.to(y.dtype.element_ty), mask=inside)


def _lines(x):
    """x: B x H x W x C as lines of tokens with contiguous channels, without a copy where that is
    possible."""
    lines = x.reshape(-1, *x.shape[2:])
    return lines if lines.stride(2) == 1 or lines.shape[2] == 1 else lines.contiguous()


@torch.library.custom_op('diffmf_ros::concat_linear', mutates_args=())
def concat_linear(maps: list[torch.Tensor], weight: torch.Tensor,
                  bias: torch.Tensor | None) -> torch.Tensor:
    """As `plain.concat_linear` with its layer's parameters, without gradients.

    At most five maps.
    """
    y, weight, pieces = _concatenated(maps, weight), weight.contiguous(), [_lines(x) for x in maps]
    (_, line, width), outs, rows = pieces[0].shape, len(weight), maps[0][..., 0].numel()
    pieces += pieces[:1] * (MOST_PIECES - len(maps))
    columns = min(128, max(16, triton.next_power_of_2(width)))
    at_once, outs_at_once = tile(columns, outs, weight.dtype)
    with torch.cuda.device_of(y):
        concat_linear_rows[(triton.cdiv(rows, at_once), triton.cdiv(outs, outs_at_once))](
            *pieces, weight, weight if bias is None else bias.contiguous(), y, rows, line, width,
            outs,
            *(x.stride(0) for x in pieces), *(x.stride(1) for x in pieces), PIECES=len(maps),
            BIAS=bias is not None, EXACT=weight.dtype == torch.float32, ROWS=at_once,
            COLUMNS=columns, OUTS=outs_at_once, num_warps=4, num_stages=2, enable_fp_fusion=True)
    return y


def _concatenated(maps, weight):
    return maps[0].new_empty((*maps[0].shape[:-1], len(weight)), dtype=weight.dtype)


@concat_linear.register_fake
def _(maps, weight, bias):
    return _concatenated(maps, weight)


@torch.library.custom_op('diffmf_ros::pair', mutates_args=())
def pair(a: torch.Tensor, b: torch.Tensor, pairing: str, dtype: torch.dtype) -> torch.Tensor:
    """As `plain.pair`, without gradients."""
    y, (a_rows, b_rows) = _paired(a, pairing, dtype), (rows_of(a), rows_of(b))
    rows, width = a_rows.shape
    with torch.cuda.device_of(a):
        pair_rows[(triton.cdiv(rows * width, ELEMENTS), 2)](
            a_rows, b_rows, y, rows, a.shape[2], width, a_rows.stride(0), b_rows.stride(0),
            MODE=PAIRINGS.index(pairing), BLOCK=ELEMENTS, num_warps=4)
    return y


def _paired(a, pairing, dtype):
    batch, height, width, channels = a.shape
    shape = (2 * batch, height, width) if pairing == 'batch' else (batch, height, 2 * width)
    return a.new_empty((*shape, channels), dtype=dtype)


@pair.register_fake
def _(a, b, pairing, dtype):
    return _paired(a, pairing, dtype)


@torch.library.custom_op('diffmf_ros::guide', mutates_args=())
def guide(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, a: torch.Tensor,
          b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain.guide` with its layer's parameters, without gradients."""
    more = torch.empty_like(a, memory_format=torch.contiguous_format), b.new_empty(b.shape)
    x, a, b, weight = rows_of(x), rows_of(a), rows_of(b), weight.contiguous()
    (rows, width), outs = x.shape, len(weight)
    columns = min(128, max(16, triton.next_power_of_2(width)))
    at_once, outs_at_once = tile(columns, outs, weight.dtype)
    with torch.cuda.device_of(x):
        guide_rows[(triton.cdiv(rows, at_once), triton.cdiv(outs, outs_at_once))](
            x, weight, bias.contiguous(), a, b, *more, rows, width, outs, x.stride(0), a.stride(0),
            b.stride(0), EXACT=weight.dtype == torch.float32, ROWS=at_once, COLUMNS=columns,
            OUTS=outs_at_once, num_warps=4, num_stages=2, enable_fp_fusion=True)
    return more


@guide.register_fake
def _(x, weight, bias, a, b):
    return torch.empty_like(a, memory_format=torch.contiguous_format), b.new_empty(b.shape)


@torch.library.custom_op('diffmf_ros::layer_norm', mutates_args=())
def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, epsilon: float,
               dtype: torch.dtype) -> torch.Tensor:
    """As `plain.layer_norm` with its module's parameters, without gradients."""
    y, tokens = x.new_empty(x.shape, dtype=dtype), rows_of(x)
    (rows, width), columns = tokens.shape, max(16, triton.next_power_of_2(x.shape[-1]))
    at_once = max(1, 2048 // columns)
    with torch.cuda.device_of(x):
        layer_norm_rows[(triton.cdiv(rows, at_once),)](
            tokens, gamma.contiguous(), beta.contiguous(), y, rows, width, tokens.stride(0),
            epsilon,
            ROWS=at_once, COLUMNS=columns, num_warps=4, enable_fp_fusion=True)
    return y


@layer_norm.register_fake
def _(x, gamma, beta, epsilon, dtype):
    return x.new_empty(x.shape, dtype=dtype)


def _tokens_and_channels(channels):
    """(tokens, channels) of a program."""
    width = min(64, max(16, triton.next_power_of_2(channels)))
    return 1024 // width, width


@torch.library.custom_op('diffmf_ros::interleave', mutates_args=())
def interleave(us: list[torch.Tensor], projs: list[torch.Tensor],
               weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `composed.interleave`, B and C in one: b x 2l x 4 x 2n; without gradients."""
    made, (batch, height, width, channels) = _laid_out(us, projs, weight), us[0].shape
    us, projs = ([t.contiguous() for t in both] for both in (us, projs))
    rows, block = _tokens_and_channels(channels)
    rank, record = weight.shape[2], projs[0].shape[-1] - weight.shape[2]
    with torch.cuda.device_of(us[0]):
        interleaved[(triton.cdiv(2 * height * width, rows), 4, batch)](
            *us, *projs, weight.contiguous(), *made, height, width, channels, RANK=rank,
            RECORD=record,
            ROWS=rows, CHANNELS=block, WIDTH=triton.next_power_of_2(record), num_warps=4,
            num_stages=1, enable_fp_fusion=True)
    return made


def _laid_out(us, projs, weight):
    (batch, height, width, channels), record = us[0].shape, projs[0].shape[-1] - weight.shape[2]
    tokens = batch, 2 * height * width, 4
    return (us[0].new_empty((*tokens, channels)),
            us[0].new_empty((*tokens, channels), dtype=torch.float32),
            projs[0].new_empty((*tokens, record)))


@interleave.register_fake
def _(us, projs, weight):
    return _laid_out(us, projs, weight)


@torch.library.custom_op('diffmf_ros::separate', mutates_args=())
def separate(scanned: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As `composed.separate`, both images in one: 2b x h x w x d; without gradients."""
    scanned = scanned.contiguous()
    batch, _, _, channels = scanned.shape
    y = scanned.new_empty((2 * batch, height, width, channels))
    rows, block = _tokens_and_channels(channels)
    with torch.cuda.device_of(scanned):
        separated[(triton.cdiv(height * width, rows), 2, batch)](
            scanned, y, height, width, batch, channels, ROWS=rows, CHANNELS=block, num_warps=4,
            num_stages=1, enable_fp_fusion=True)
    return y


@separate.register_fake
def _(scanned, height, width):
    return scanned.new_empty((2 * len(scanned), height, width, scanned.shape[3]))
