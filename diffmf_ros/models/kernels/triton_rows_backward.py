# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gradients of `triton_rows`: linear layers with what stands around them.

Imported only where triton is.

A program takes some tokens with all their channels and computes what the forward pass did not
keep once more. Gradients of the weights are left to torch's matrix products, for which the kernels
write the factors; those of normalizations and biases are sums over the tokens, one part a program,
which torch adds: nothing is added atomically, so a training can be repeated bit by bit.
"""

import torch
import triton
import triton.language as tl

from .triton_rows import LOG2E, WIDEST, _block, _tile, multiply, rows_of, tile
from .triton_small import added


@triton.jit
def _normalized(x, row, column, rows, width, x_row, epsilon):
    """(tokens minus their mean, over their deviation; 1 / deviation), zero outside."""
    values = _tile(x, x, row, column, rows, width, x_row, x_row, False, x, x, x_row, 1, 0.0, False)
    around = values - (tl.sum(values, 1) / width)[:, None]
    around = tl.where((row < rows)[:, None] & (column < width)[None, :], around, 0.0)
    deviation = tl.rsqrt(tl.sum(around * around, 1) / width + epsilon)
    return around * deviation[:, None], deviation


@triton.jit
def _rows_of_matrix(matrix, row, column, rows, width):
    """ROWS x COLUMNS of a matrix of rows x width, zero outside."""
    inside = (row < rows)[:, None] & (column < width)[None, :]
    return tl.load(matrix + row[:, None] * width + column[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=['rows'])
def norm_linear_gradients(x, gamma, beta, weight, dy, plus, dx, normalized, rounded, sums, rows,
                          width, outs, x_row, dy_row, sums_row, epsilon, PLUS: tl.constexpr,
                          ROUND: tl.constexpr, BIAS: tl.constexpr, EXACT: tl.constexpr,
                          ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUTS: tl.constexpr):
    """The gradient dx: rows x width of linear(LN(x)) for dy: rows x outs, with PLUS added to plus.

    Also normalized: LN(x) in the type of the weight; with ROUND rounded: dy in that type; and the
    program's row of sums: the gradients of gamma, beta and, with BIAS, of the bias.
    """
    program = tl.program_id(0)
    row = (program * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    kind: tl.constexpr = weight.dtype.element_ty
    of_norm = tl.zeros([ROWS, COLUMNS], tl.float32)
    part = sums + program.to(tl.int64) * sums_row
    for start in range(0, outs, OUTS):
        out = start + tl.arange(0, OUTS)
        here = (row < rows)[:, None] & (out < outs)[None, :]
        given = tl.load(dy + row[:, None] * dy_row + out[None, :], mask=here, other=0.0)
        if BIAS:
            tl.store(part + 2 * width + out, tl.sum(given.to(tl.float32), 0), mask=out < outs)
        given = given.to(kind)
        if ROUND:
            tl.store(rounded + row[:, None] * outs + out[None, :], given, mask=here)
        of_norm += multiply(given, _rows_of_matrix(weight, out, column, outs, width), EXACT)
    hat, deviation = _normalized(x, row, column, rows, width, x_row, epsilon)
    scale = tl.load(gamma + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(beta + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    tl.store(normalized + at, (hat * scale + shift).to(kind), mask=inside)
    tl.store(part + column, tl.sum(of_norm * hat, 0), mask=column < width)
    tl.store(part + width + column, tl.sum(of_norm, 0), mask=column < width)
    of_norm *= scale
    along = tl.sum(of_norm * hat, 1) / width
    result = of_norm - (tl.sum(of_norm, 1) / width)[:, None] - hat * along[:, None]
    result *= deviation[:, None]
    if PLUS:
        result += tl.load(plus + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + at, result.to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows'])
def mlp_gradients(x, gamma, beta, widen, widen_bias, narrow, dy, inner, dinner, rounded, sums,
                  rows, width, hidden, x_row, sums_row, epsilon, ROUND: tl.constexpr,
                  EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                  HIDDEN: tl.constexpr):
    """What GELU gave, inner: rows x hidden, and the gradient dinner of what it took, of an MLP.

    In the type of the weights, as rounded: dy with ROUND. The program's row of sums has dy and
    dinner added over its tokens, the gradients of both biases.
    """
    program = tl.program_id(0)
    row = (program * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    kind: tl.constexpr = widen.dtype.element_ty
    part = sums + program.to(tl.int64) * sums_row
    hat, deviation = _normalized(x, row, column, rows, width, x_row, epsilon)
    scale = tl.load(gamma + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(beta + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    values = (hat * scale + shift).to(kind)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    given = tl.load(dy + at, mask=inside, other=0.0)
    tl.store(part + column, tl.sum(given.to(tl.float32), 0), mask=column < width)
    given = given.to(kind)
    if ROUND:
        tl.store(rounded + at, given, mask=inside)
    for start in range(0, hidden, HIDDEN):
        unit = start + tl.arange(0, HIDDEN)
        taken = multiply(values, _block(widen, unit, column, hidden, width), EXACT)
        taken += tl.load(widen_bias + unit, mask=unit < hidden, other=0.0).to(tl.float32)[None, :]
        share = 0.5 * (1 + tl.erf(taken * 0.7071067811865476))
        here = (row < rows)[:, None] & (unit < hidden)[None, :]
        to = row[:, None] * hidden + unit[None, :]
        tl.store(inner + to, (taken * share).to(kind), mask=here)
        slope = share + taken * 0.3989422804014327 * tl.exp2(taken * taken * (-0.5 * LOG2E))
        result = multiply(given, _rows_of_matrix(narrow, column, unit, width, hidden), EXACT)
        result *= slope
        tl.store(part + width + unit, tl.sum(tl.where(here, result, 0.0), 0), mask=unit < hidden)
        tl.store(dinner + to, result.to(kind), mask=here)


def norm_linear_backward(x, gamma, beta, epsilon, weight, dy, *, bias):
    """Return (dx, dgamma, dbeta, dweight, dbias) of linear(LN(x)) for the gradient dy.

    bias: whether there is one; without it dbias is None. x has at most WIDEST channels.
    """
    tokens, weight, given = rows_of(x), weight.contiguous(), rows_of(dy)
    width, outs = tokens.shape[1], len(weight)
    sums = _parts(tokens, weight, 2 * width + outs * bias)
    dx, normalized, rounded = _launch_norm_linear(tokens, gamma, beta, epsilon, weight, given,
                                                  None, sums, bias)
    of_norm, dbias = added(sums, 2 * width, weight.dtype)
    return (dx.view(x.shape), *of_norm.chunk(2), rounded.T @ normalized, dbias if bias else None)


def mlp_backward(x, gamma, beta, epsilon, widen, widen_bias, narrow, dy):
    """Return (dx, dgamma, dbeta, dwiden, dwiden_bias, dnarrow, dnarrow_bias) of `plain.mlp`.

    x has at most WIDEST channels.
    """
    tokens, given = rows_of(x), rows_of(dy).contiguous()
    widen, widen_bias, narrow = (p.contiguous() for p in (widen, widen_bias, narrow))
    (rows, width), hidden = tokens.shape, len(widen)
    sums = _parts(tokens, widen, 3 * width + hidden)
    inner, dinner = (widen.new_empty(rows, hidden) for _ in range(2))
    rounded = given if given.dtype == widen.dtype else torch.empty_like(given, dtype=widen.dtype)
    columns, at_once, hidden_at_once = _tile_of(width, hidden, widen)
    with torch.cuda.device_of(x):
        mlp_gradients[(len(sums),)](
            tokens, gamma, beta, widen, widen_bias, narrow, given, inner, dinner, rounded,
            sums[:, 2 * width:], rows, width, hidden, tokens.stride(0), sums.stride(0), epsilon,
            ROUND=rounded is not given, EXACT=widen.dtype == torch.float32, ROWS=at_once,
            COLUMNS=columns, HIDDEN=hidden_at_once, num_warps=4, num_stages=1,
            enable_fp_fusion=True)
    dx, normalized, _ = _launch_norm_linear(tokens, gamma, beta, epsilon, widen, dinner, given,
                                            sums, False)
    of_norm, of_biases = added(sums, 2 * width, widen.dtype)
    return (dx.view(x.shape), *of_norm.chunk(2), dinner.T @ normalized, of_biases[width:],
            rounded.T @ inner, of_biases[:width])


def _launch_norm_linear(tokens, gamma, beta, epsilon, weight, given, plus, sums, bias):
    """Launch norm_linear_gradients; return dx, LN(x) and dy in the type of the weight."""
    (rows, width), outs = tokens.shape, len(weight)
    dx, normalized = tokens.new_empty(rows, width), weight.new_empty(rows, width)
    rounded = given if given.dtype == weight.dtype else weight.new_empty(rows, outs)
    columns, at_once, outs_at_once = _tile_of(width, outs, weight)
    with torch.cuda.device_of(tokens):
        norm_linear_gradients[(len(sums),)](
            tokens, gamma, beta, weight, given, given if plus is None else plus, dx, normalized,
            rounded, sums, rows, width, outs, tokens.stride(0), given.stride(0), sums.stride(0),
            epsilon, PLUS=plus is not None, ROUND=rounded is not given, BIAS=bias,
            EXACT=weight.dtype == torch.float32, ROWS=at_once, COLUMNS=columns,
            OUTS=outs_at_once, num_warps=4, num_stages=1, enable_fp_fusion=True)
    return dx, normalized, rounded


def _tile_of(width, outs, weight):
    """(channels held at once, tokens, outputs or hidden channels at once) of a program."""
    columns = max(16, triton.next_power_of_2(width))
    return columns, *tile(columns, min(outs, 2048 // columns), weight.dtype)


def _parts(tokens, weight, values):
    """An empty row of so many sums for each program."""
    at_once = _tile_of(tokens.shape[1], len(weight), weight)[1]
    return tokens.new_empty((triton.cdiv(len(tokens), at_once), values), dtype=torch.float32)


def fits(x) -> bool:
    """Return whether a program can hold all channels of a token of x."""
    return x.shape[-1] <= WIDEST
