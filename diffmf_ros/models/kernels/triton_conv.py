# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of a dense 3x3 convolution with bias, LeakyReLU and residual. Imported only where
triton is.

A product over the channels of each of the nine neighbors. It reads any storage and type, mirrors
at the border where asked for, and writes channels-last, so that no copy stands before it or behind
it.
"""

import torch
import triton
import triton.language as tl

from .triton_rows import multiply

NO_SLOPE = 1.0  # of a LeakyReLU that changes nothing


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
