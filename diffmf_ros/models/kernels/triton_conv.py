# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of 3x3 convolutions, dense and depth-wise. Imported only where triton is.

The dense one, with bias, LeakyReLU and residual, is a product over the channels of each of the
nine neighbors. It reads any storage and type, mirrors at the border where asked for, and writes
channels-last, so that no copy stands before it or behind it.

For the depth-wise one of tokens cuDNN takes many times as long in channels-last storage. A program
makes some tokens: it reads their nine neighbors, which the cache keeps, adds the bias, applies
SiLU and, where asked for, multiplies with the matrix that makes the records of a scan, while the
values are in registers. For the gradients it convolves its tokens once more, because the slope of
SiLU depends on the result, and adds up its part of the gradients of the filters while the
neighbors are in the cache; the gradient of the input is a convolution with the filters turned
round: the forward kernel.
"""

import torch
import triton
import triton.language as tl

from .triton_rows import LOG2E, multiply, rows_of, silu
from .triton_small import added

NO_SLOPE = 1.0  # of a LeakyReLU that changes nothing
ELEMENTS = 2048  # tokens times channels that a program of four warps holds
# Tokens times channels that a program of eight warps holds; products in float32 take registers.
GRADIENT_ELEMENTS = {torch.float32: 1024, torch.float16: 4096, torch.bfloat16: 4096}


@triton.jit(do_not_specialize=['pixels', 'height', 'width', 'high', 'wide'])
def conv_pixels(x, weight, bias, residual, y, pixels, height, width, high, wide, channels, outs,
                x_image, x_channel, x_row, x_column, w_out, w_channel, w_row, w_column, slope,
                STRIDE: tl.constexpr, MIRROR: tl.constexpr, BIAS: tl.constexpr,
                RESIDUAL: tl.constexpr, EXACT: tl.constexpr, PIXELS: tl.constexpr,
                CHANNELS: tl.constexpr, OUTS: tl.constexpr):
    """The output y: pixels x outs, high x wide in each image, of x: height x width."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    out, channel = tl.program_id(1) * OUTS + tl.arange(0, OUTS), tl.arange(0, CHANNELS)
    image = (pixel // wide // high).to(tl.int64)
    kind: tl.constexpr = weight.dtype.element_ty
    sums = tl.zeros([PIXELS, OUTS], tl.float32)
    for tap in range(9):
        down, right = tap // 3, tap % 3
        row = pixel // wide % high * STRIDE + down - 1
        column = pixel % wide * STRIDE + right - 1
        if MIRROR:
            row, column = tl.abs(row), tl.abs(column)
            row = tl.where(row < height, row, 2 * (height - 1) - row)
            column = tl.where(column < width, column, 2 * (width - 1) - column)
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (pixel < pixels)
        at = (image * x_image + row.to(tl.int64) * x_row + column * x_column)[:, None]
        factors = weight + down * w_row + right * w_column + out[None, :] * w_out
        for start in range(0, channels, CHANNELS):
            here = start + channel
            values = tl.load(x + at + (here * x_channel)[None, :],
                             mask=there[:, None] & (here < channels)[None, :], other=0.0)
            block = tl.load(factors + here[:, None] * w_channel,
                            mask=(here < channels)[:, None] & (out < outs)[None, :], other=0.0)
            sums += multiply(values.to(kind), block, EXACT)
    if BIAS:
        sums += tl.load(bias + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    sums = tl.where(sums < 0, sums * slope, sums)
    inside, to = (pixel < pixels)[:, None] & (out < outs)[None,
                                                          :], pixel.to(tl.int64)[:, None] * outs
    if RESIDUAL:
        sums += tl.load(residual + to + out[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y + to + out[None, :], sums.to(y.dtype.element_ty), mask=inside)


@torch.library.custom_op('diffmf_ros::conv', mutates_args=())
def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int,
         mirror: bool, slope: float, residual: torch.Tensor | None,
         dtype: torch.dtype) -> torch.Tensor:
    """As `plain.conv` with its module's parameters, without gradients.

    x: B x C x H x W; residual like the result: B x H' x W' x C' in dtype, tokens.
    """
    y = _result(x, weight, stride, dtype)
    (_, channels, height, width), (batch, high, wide, outs) = x.shape, y.shape
    exact, pixels = weight.dtype == torch.float32, batch * high * wide
    widest = 32 if exact else 64
    outs_at_once, channels_at_once = (min(widest, max(16, triton.next_power_of_2(n)))
                                      for n in (outs, channels))
    at_once = 64 if exact else 128
    grid = triton.cdiv(pixels, at_once), triton.cdiv(outs, outs_at_once)
    with torch.cuda.device_of(x):
        conv_pixels[grid](
            x, weight, weight if bias is None else bias,
            x if residual is None else residual.contiguous(),
            y, pixels, height, width, high, wide, channels, outs, *x.stride(), *weight.stride(),
            slope, STRIDE=stride, MIRROR=mirror, BIAS=bias is not None,
            RESIDUAL=residual is not None,
            EXACT=exact, PIXELS=at_once, CHANNELS=channels_at_once, OUTS=outs_at_once, num_warps=4,
            num_stages=2, enable_fp_fusion=True)
    return y


def _result(x, weight, stride, dtype):
    """An empty result: B x H' x W' x C'."""
    high, wide = (triton.cdiv(side, stride) for side in x.shape[2:])
    return x.new_empty((len(x), high, wide, len(weight)), dtype=dtype)


@conv.register_fake
def _(x, weight, bias, stride, mirror, slope, residual, dtype):
    return _result(x, weight, stride, dtype)


@triton.jit
def _neighbors(x, other, weight, token, column, row, line, height, width, x_token, other_token,
               channel, channels, DIFFERENCE: tl.constexpr, ROWS: tl.constexpr,
               CHANNELS: tl.constexpr, TURNED: tl.constexpr = False):
    """The convolution of some tokens, ROWS x CHANNELS in float32; of x - other with DIFFERENCE,
    with the filters turned round with TURNED."""
    sums = tl.zeros([ROWS, CHANNELS], tl.float32)
    for down in range(-1, 2):  # unrolled, the nine loads would take all registers
        above = (line + down >= 0) & (line + down < height) & row
        for right in tl.static_range(-1, 2):
            there = (column + right >= 0) & (column + right < width) & above
            inside = there[:, None] & (channel < channels)[None, :]
            at = (token + (down * width + right))[:, None]
            values = tl.load(x + at * x_token + channel[None, :], mask=inside, other=0.0)
            values = values.to(tl.float32)
            if DIFFERENCE:
                values -= tl.load(other + at * other_token + channel[None, :], mask=inside,
                                  other=0.0).to(tl.float32)
            tap = 4 - 3 * down - right if TURNED else 4 + 3 * down + right
            factor = tl.load(weight + channel * 9 + tap, mask=channel < channels, other=0.0)
            sums += values * factor.to(tl.float32)[None, :]
    return sums


@triton.jit(do_not_specialize=['tokens', 'height', 'width'])
def depthwise_tokens(x, other, weight, bias, matrix, second, y, records, tokens, height, width,
                     x_token, other_token, channels, outs, DIFFERENCE: tl.constexpr,
                     BIAS: tl.constexpr, SILU: tl.constexpr, PROJECT: tl.constexpr,
                     SECOND: tl.constexpr, TURNED: tl.constexpr,
                     EXACT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
                     OUTS: tl.constexpr):
    """The output y: tokens x channels and, with PROJECT, records: tokens x outs.

    The first half of the programs multiplies with matrix and the rest with second; tokens: of a
    half.
    """
    half = tl.program_id(1)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = token < tokens
    token += half * tokens
    column, line = token % width, token // width % height
    token = token.to(tl.int64)
    out = tl.arange(0, OUTS)
    projected = tl.zeros([ROWS, OUTS], tl.float32)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        sums = _neighbors(x, other, weight, token, column, row, line, height, width, x_token,
                          other_token, channel, channels, DIFFERENCE, ROWS, CHANNELS, TURNED)
        if BIAS:
            sums += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
        if SILU:
            sums = silu(sums)
        values = sums.to(y.dtype.element_ty)
        tl.store(y + token[:, None] * channels + channel[None, :], values,
                 mask=row[:, None] & (channel < channels)[None, :])
        if PROJECT:
            at = out[None, :] * channels + channel[:, None]
            here = (channel < channels)[:, None]
            block = tl.load(matrix + at, mask=here & (out < tl.where(half == 0, outs, 0))[None, :],
                            other=0.0)
            if SECOND:
                block += tl.load(second + at,
                                 mask=here & (out < tl.where(half == 1, outs, 0))[None, :],
                                 other=0.0)
            projected += multiply(values.to(matrix.dtype.element_ty), block, EXACT)
    if PROJECT:
        tl.store(records + token[:, None] * outs + out[None, :],
                 projected.to(records.dtype.element_ty), mask=row[:, None] & (out < outs)[None, :])


def launch(x, other, weight, bias, matrices, silu, *, turned=False, dtype=None):
    """Launch the kernel on x and other: B x H x W x C, of any storage. Returns y and records.

    turned: Turn the filters round. dtype: Of y, else that of the weight.
    """
    (*image, channels), other = x.shape, x if other is None else other
    difference, project = other is not x, bool(matrices)
    y = records = x.new_empty(x.shape, dtype=dtype or weight.dtype)
    if project:
        records = x.new_empty((*image, *matrices[0].shape[:2]), dtype=matrices[0].dtype)
    outs = records.shape[3:].numel() if project else 1
    block = max(16, triton.next_power_of_2(channels))
    outs_at_once = max(16, triton.next_power_of_2(outs))
    block = min(block, 128 if block <= 128 else 64, max(32, 8192 // outs_at_once))
    at_once = max(16, ELEMENTS // max(block, outs_at_once))
    tokens, halves = rows_of(x), max(1, len(matrices))
    others = rows_of(other) if difference else tokens
    weight, bias, first, second = (p.contiguous() for p in (
        weight, weight if bias is None else bias, *(matrices or [weight]), weight)[:4])
    with torch.cuda.device_of(x):
        depthwise_tokens[(triton.cdiv(len(tokens) // halves, at_once), halves)](
            tokens, others, weight, bias, first, second, y, records, len(tokens) // halves,
            *image[1:], tokens.stride(0), others.stride(0), channels, outs, DIFFERENCE=difference,
            BIAS=bias is not weight, SILU=silu, PROJECT=project, SECOND=halves == 2,
            TURNED=turned, EXACT=weight.dtype == torch.float32, ROWS=at_once, CHANNELS=block,
            OUTS=outs_at_once, num_warps=4, num_stages=1,
            enable_fp_fusion=True)
    return y, records


@torch.library.custom_op('diffmf_ros::depthwise', mutates_args=())
def depthwise(x: torch.Tensor, other: torch.Tensor | None, weight: torch.Tensor,
              bias: torch.Tensor | None, silu: bool) -> torch.Tensor:
    """As `plain.depthwise` with its module's parameters, without gradients."""
    return launch(x, other, weight, bias, [], silu)[0]


@depthwise.register_fake
def _(x, other, weight, bias, silu):
    return x.new_empty(x.shape, dtype=weight.dtype)


@torch.library.custom_op('diffmf_ros::depthwise_records', mutates_args=())
def depthwise_records(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
                      matrices: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain.depthwise_records` with its module's parameters, without gradients.

    The records of all halves of the batch are one tensor.
    """
    return launch(x, None, weight, bias, matrices, True)


@depthwise_records.register_fake
def _(x, weight, bias, matrices):
    return (x.new_empty(x.shape, dtype=weight.dtype),
            x.new_empty((*x.shape[:-1], *matrices[0].shape[:2]), dtype=matrices[0].dtype))


@triton.jit(do_not_specialize=['tokens', 'height', 'width'])
def depthwise_gradients(x, other, weight, bias, matrix, dy, drecords, dsums, parts, tokens, height,
                        width, x_token, other_token, dy_token, channels, outs,
                        DIFFERENCE: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
                        PROJECT: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr,
                        CHANNELS: tl.constexpr, OUTS: tl.constexpr):
    """The gradient dsums: tokens x channels of what SiLU took.

    parts: program x (9 and with BIAS 1) x channels, its sums over the tokens of the gradients of
    the filters and of the bias.
    """
    program = tl.program_id(0)
    token = program * ROWS + tl.arange(0, ROWS)
    row = token < tokens
    column, line = token % width, token // width % height
    token, out = token.to(tl.int64), tl.arange(0, OUTS)
    part = parts + program.to(tl.int64) * ((9 + BIAS) * channels)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = row[:, None] & (channel < channels)[None, :]
        given = tl.load(dy + token[:, None] * dy_token + channel[None, :], mask=inside, other=0.0)
        given = given.to(tl.float32)
        if PROJECT:
            records = tl.load(drecords + token[:, None] * outs + out[None, :],
                              mask=row[:, None] & (out < outs)[None, :], other=0.0)
            block = tl.load(matrix + out[:, None] * channels + channel[None, :],
                            mask=(out < outs)[:, None] & (channel < channels)[None, :], other=0.0)
            given += multiply(records.to(matrix.dtype.element_ty), block, EXACT)
        if SILU:
            sums = _neighbors(x, other, weight, token, column, row, line, height, width, x_token,
                              other_token, channel, channels, DIFFERENCE, ROWS, CHANNELS)
            if BIAS:
                sums += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
            share = 1 / (1 + tl.exp2(sums * -LOG2E))
            given *= share * (1 + sums * (1 - share))
        tl.store(dsums + token[:, None] * channels + channel[None, :],
                 given.to(dsums.dtype.element_ty), mask=inside)
        if BIAS:
            tl.store(part + 9 * channels + channel, tl.sum(given, 0), mask=channel < channels)
        for down in range(-1, 2):
            above = (line + down >= 0) & (line + down < height) & row
            for right in range(-1, 2):
                there = (column + right >= 0) & (column + right < width) & above
                inside = there[:, None] & (channel < channels)[None, :]
                at = (token + (down * width + right))[:, None]
                values = tl.load(x + at * x_token + channel[None, :], mask=inside, other=0.0)
                values = values.to(tl.float32)
                if DIFFERENCE:
                    values -= tl.load(other + at * other_token + channel[None, :], mask=inside,
                                      other=0.0).to(tl.float32)
                tl.store(part + channel * 9 + (3 * down + right + 4), tl.sum(given * values, 0),
                         mask=channel < channels)


def depthwise_backward(x, other, weight, bias, dy, *, silu, matrix=None, drecords=None):
    """Return (dx, dweight, dbias) of `plain.depthwise` for the gradient dy.

    With matrix, 4 x record x channels, the result went to records too, whose gradient is drecords.
    The gradient of other is -dx.
    """
    (*image, channels), project = x.shape, matrix is not None
    tokens, given, weight = rows_of(x), rows_of(dy), weight.contiguous()
    others = tokens if other is None else rows_of(other)
    outs = matrix.shape[:2].numel() if project else 1
    records = rows_of(drecords.flatten(-2)).contiguous() if project else given
    outs_at_once = max(16, triton.next_power_of_2(outs))
    block = min(64, max(16, triton.next_power_of_2(channels)))
    at_once = max(16, GRADIENT_ELEMENTS[weight.dtype] // max(block, outs_at_once))
    dsums = weight.new_empty((*image, channels))
    parts = x.new_empty((triton.cdiv(len(tokens), at_once), (9 + (bias is not None)) * channels),
                        dtype=torch.float32)
    with torch.cuda.device_of(x):
        depthwise_gradients[(len(parts),)](
            tokens, others, weight, weight if bias is None else bias.contiguous(),
            matrix.contiguous() if project else weight, given, records, dsums, parts, len(tokens),
            *image[1:], tokens.stride(0), others.stride(0), given.stride(0), channels, outs,
            DIFFERENCE=other is not None, BIAS=bias is not None, SILU=silu, PROJECT=project,
            EXACT=weight.dtype == torch.float32, ROWS=at_once, CHANNELS=block, OUTS=outs_at_once,
            num_warps=8, num_stages=1, enable_fp_fusion=True)
    dx, _ = launch(dsums, None, weight, None, [], False, turned=True, dtype=x.dtype)
    _, total = added(parts, 0, weight.dtype)
    dweight, dbias = total.split([9 * channels, total.numel() - 9 * channels])
    return dx, dweight.view(weight.shape), None if bias is None else dbias
