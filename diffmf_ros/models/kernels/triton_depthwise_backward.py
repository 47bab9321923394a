# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the gradients of `triton_depthwise`. Imported only where triton is.

A program takes some tokens. It convolves them once more, because the slope of SiLU depends on the
result, and adds up its part of the gradients of the filters while the neighbors are in the cache.
The gradient of the input is a convolution with the filters turned round: the forward kernel.
"""

import torch
import triton
import triton.language as tl

from .triton_depthwise import _neighbors, launch
from .triton_rows import LOG2E, multiply, rows_of
from .triton_small import added

# Tokens times channels that a program of eight warps holds; products in float32 take registers.
ELEMENTS = {torch.float32: 1024, torch.float16: 4096, torch.bfloat16: 4096}


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
    at_once = max(16, ELEMENTS[weight.dtype] // max(block, outs_at_once))
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
