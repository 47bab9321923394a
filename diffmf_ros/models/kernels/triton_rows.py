# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of linear layers with what stands before and behind them.

Imported only where triton is.

`norm_linear` normalizes a token, gates it, multiplies it with a matrix and adds it to the residual
stream; `mlp` does both layers of a block; `norm_linear_mlp` does one after the other. A program
takes some tokens with all their channels, so that a token is read once and written once. Sums,
normalization and activations are float32, the factors of a product have the type of the weight, as
in the plain form.
"""

import os

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(os.environ.get('TRITON_INTERPRET') == '1')
WIDEST = 128  # channels that a program holds at once; wider tokens are read again
NO_NORM, LAYER_NORM, RMS_NORM = 0, 1, 2
NO_GATE, GATE_FIRST, GATE_LAST = 0, 1, 2  # before or behind the normalization


@triton.jit
def silu(x):
    """x * sigmoid(x)."""
    return x / (1 + tl.exp2(x * -LOG2E))


@triton.jit
def gelu(x):
    """x times the normal distribution function, exact."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def multiply(a, b, EXACT: tl.constexpr):
    """The matrix product in float32; factors in float32 are not shortened to TF32."""
    if INTERPRETED:  # whose products take the bits of a bfloat16 for a whole number
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='ieee' if EXACT else 'tf32')


@triton.jit
def _tile(x, gate, row, column, rows, width, x_row, gate_row, GATED: tl.constexpr, skip, factor,
          skip_row, head, gain, SKIP: tl.constexpr):
    """ROWS x COLUMNS values of tokens in float32, plus gain * factor * skip if SKIP, where each
    factor
    is that of head channels, times silu(gate) if GATED; zero outside.
    """
    inside = (row < rows)[:, None] & (column < width)[None, :]
    values = tl.load(x + row[:, None] * x_row + column[None, :], mask=inside, other=0.0)
    values = values.to(tl.float32)
    if SKIP:
        more = tl.load(skip + row[:, None] * skip_row + column[None, :], mask=inside, other=0.0)
        by = tl.load(factor + column // head, mask=column < width, other=0.0).to(tl.float32)
        values += more.to(tl.float32) * (gain * by)[None, :]
    if GATED:
        by = tl.load(gate + row[:, None] * gate_row + column[None, :], mask=inside, other=0.0)
        values *= silu(by.to(tl.float32))
    return values


@triton.jit
def _moments(x, gate, row, rows, width, x_row, gate_row, epsilon, NORM: tl.constexpr,
             GATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, skip, factor, skip_row,
             head, gain, SKIP: tl.constexpr):
    """(mean, 1 / deviation) of tokens; the mean is zero for RMS_NORM."""
    mean, square = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if NORM == 1:
        for start in range(0, width, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            mean += tl.sum(_tile(x, gate, row, column, rows, width, x_row, gate_row, GATE == 1,
                                 skip, factor, skip_row, head, gain, SKIP), 1)
        mean /= width
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        values = _tile(x, gate, row, column, rows, width, x_row, gate_row, GATE == 1, skip, factor,
                       skip_row, head, gain, SKIP)
        values = tl.where((column < width)[None, :], values - mean[:, None], 0.0)
        square += tl.sum(values * values, 1)
    return mean, tl.rsqrt(square / width + epsilon)


@triton.jit
def _prepared(values, gate, gamma, beta, mean, scale, row, column, rows, width, gate_row,
              NORM: tl.constexpr, GATE: tl.constexpr):
    """A tile of values normalized and, with GATE_LAST, gated."""
    if NORM != 0:
        weight = tl.load(gamma + column, mask=column < width, other=0.0).to(tl.float32)
        values = (values - mean[:, None]) * scale[:, None] * weight[None, :]
        if NORM == 1:
            shift = tl.load(beta + column, mask=column < width, other=0.0).to(tl.float32)
            values += shift[None, :]
    if GATE == 2:
        inside = (row < rows)[:, None] & (column < width)[None, :]
        by = tl.load(gate + row[:, None] * gate_row + column[None, :], mask=inside, other=0.0)
        values *= silu(by.to(tl.float32))
    return values


@triton.jit
def _block(weight, out, column, outs, width):
    """COLUMNS x OUTS of the transposed weight outs x width, zero outside."""
    inside = (column < width)[:, None] & (out < outs)[None, :]
    return tl.load(weight + out[None, :] * width + column[:, None], mask=inside, other=0.0)


@triton.jit
def _finished(sums, bias, scale, residual, row, out, rows, outs, per_image, residual_row,
              BIAS: tl.constexpr, SCALE: tl.constexpr, RESIDUAL: tl.constexpr):
    """The sums plus bias, times a scale for each image and channel, plus the residual."""
    inside = (row < rows)[:, None] & (out < outs)[None, :]
    if BIAS:
        sums += tl.load(bias + out, mask=out < outs, other=0.0).to(tl.float32)[None, :]
    if SCALE:
        at = scale + (row // per_image)[:, None] * outs + out[None, :]
        sums *= tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        at = residual + row[:, None] * residual_row + out[None, :]
        sums += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return sums


@triton.jit(do_not_specialize=['rows', 'per_image'])
def norm_linear_rows(x, skip, factor, gate, gamma, beta, weight, bias, scale, residual, y, rows,
                     per_image, width, outs, head, gain, x_row, skip_row, gate_row, residual_row,
                     epsilon, SKIP: tl.constexpr, NORM: tl.constexpr, GATE: tl.constexpr,
                     BIAS: tl.constexpr, SCALE: tl.constexpr, RESIDUAL: tl.constexpr,
                     EXACT: tl.constexpr, ONCE: tl.constexpr,
                     ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUTS: tl.constexpr):
    """The output y: rows x outs of x: rows x width; ONCE: COLUMNS hold a whole token."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = row.to(tl.int64)
    column = tl.arange(0, COLUMNS)
    kind: tl.constexpr = weight.dtype.element_ty
    mean, deviation = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if ONCE:
        values = _tile(x, gate, row, column, rows, width, x_row, gate_row, GATE == 1, skip, factor,
                       skip_row, head, gain, SKIP)
        if NORM == 1:
            mean = tl.sum(values, 1) / width
        if NORM != 0:
            around = tl.where((column < width)[None, :], values - mean[:, None], 0.0)
            deviation = tl.rsqrt(tl.sum(around * around, 1) / width + epsilon)
        values = _prepared(values, gate, gamma, beta, mean, deviation, row, column, rows, width,
                           gate_row, NORM, GATE)
        values = values.to(kind)
        for start in range(0, outs, OUTS):
            out = start + tl.arange(0, OUTS)
            sums = multiply(values, _block(weight, out, column, outs, width), EXACT)
            sums = _finished(sums, bias, scale, residual, row, out, rows, outs, per_image,
                             residual_row, BIAS, SCALE, RESIDUAL)
            inside = (row < rows)[:, None] & (out < outs)[None, :]
            tl.store(y + row[:, None] * outs + out[None, :], sums.to(y.dtype.element_ty),
                     mask=inside)
    else:
        if NORM != 0:
            mean, deviation = _moments(x, gate, row, rows, width, x_row, gate_row, epsilon, NORM,
                                       GATE, ROWS, COLUMNS, skip, factor, skip_row, head, gain,
                                       SKIP)
        for start in range(0, outs, OUTS):
            out = start + tl.arange(0, OUTS)
            sums = tl.zeros([ROWS, OUTS], tl.float32)
            for first in range(0, width, COLUMNS):
                at = first + column
                values = _tile(x, gate, row, at, rows, width, x_row, gate_row, GATE == 1, skip,
                               factor, skip_row, head, gain, SKIP)
                values = _prepared(values, gate, gamma, beta, mean, deviation, row, at, rows,
                                   width, gate_row, NORM, GATE)
                sums += multiply(values.to(kind), _block(weight, out, at, outs, width), EXACT)
            sums = _finished(sums, bias, scale, residual, row, out, rows, outs, per_image,
                             residual_row, BIAS, SCALE, RESIDUAL)
            inside = (row < rows)[:, None] & (out < outs)[None, :]
            tl.store(y + row[:, None] * outs + out[None, :], sums.to(y.dtype.element_ty),
                     mask=inside)


@triton.jit
def _with_mlp(x, gamma, beta, widen, widen_bias, narrow, narrow_bias, column, width, hidden,
              epsilon, EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
              HIDDEN: tl.constexpr):
    """x + MLP(LN(x)) of whole tokens, ROWS x COLUMNS in float32, with GELU over hidden channels.
    """
    kind: tl.constexpr = widen.dtype.element_ty
    mean = tl.sum(x, 1) / width
    around = tl.where((column < width)[None, :], x - mean[:, None], 0.0)
    deviation = tl.rsqrt(tl.sum(around * around, 1) / width + epsilon)
    values = _prepared(x, x, gamma, beta, mean, deviation, column, column, width, width, 0, 1, 0)
    values = values.to(kind)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, hidden, HIDDEN):
        unit = start + tl.arange(0, HIDDEN)
        inner = multiply(values, _block(widen, unit, column, hidden, width), EXACT)
        inner += tl.load(widen_bias + unit, mask=unit < hidden, other=0.0).to(tl.float32)[None, :]
        back = _block(narrow, column, unit, width, hidden)
        sums += multiply(gelu(inner).to(kind), back, EXACT)
    sums += tl.load(narrow_bias + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    return x + sums


@triton.jit(do_not_specialize=['rows'])
def mlp_rows(x, gamma, beta, widen, widen_bias, narrow, narrow_bias, y, rows, width, hidden, x_row,
             epsilon, EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
             HIDDEN: tl.constexpr):
    """The output y = x + MLP(LN(x)) of x: rows x width."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = row.to(tl.int64)
    column = tl.arange(0, COLUMNS)
    values = _tile(x, x, row, column, rows, width, x_row, x_row, False, x, x, x_row, 1, 0.0, False)
    values = _with_mlp(values, gamma, beta, widen, widen_bias, narrow, narrow_bias, column, width,
                       hidden, epsilon, EXACT, ROWS, COLUMNS, HIDDEN)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(y + row[:, None] * width + column[None, :], values.to(y.dtype.element_ty),
             mask=inside)


@triton.jit(do_not_specialize=['rows'])
def norm_linear_mlp_rows(x, gate, gamma, beta, weight, residual, mlp_gamma, mlp_beta, widen,
                         widen_bias, narrow, narrow_bias, y, rows, width, outs, hidden, x_row,
                         gate_row, residual_row, epsilon, mlp_epsilon, GATE: tl.constexpr,
                         EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                         OUTS: tl.constexpr, HIDDEN: tl.constexpr):
    """The output y = z + MLP(LN(z)) of z = residual + LN(x) weight: rows x outs."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = row.to(tl.int64)
    column, out = tl.arange(0, COLUMNS), tl.arange(0, OUTS)
    values = _tile(x, x, row, column, rows, width, x_row, x_row, False, x, x, x_row, 1, 0.0, False)
    mean = tl.sum(values, 1) / width
    around = tl.where((column < width)[None, :], values - mean[:, None], 0.0)
    deviation = tl.rsqrt(tl.sum(around * around, 1) / width + epsilon)
    values = _prepared(values, gate, gamma, beta, mean, deviation, row, column, rows, width,
                       gate_row, 1, GATE)
    sums = multiply(values.to(weight.dtype.element_ty), _block(weight, out, column, outs, width),
                    EXACT)
    sums = _finished(sums, weight, weight, residual, row, out, rows, outs, 1, residual_row, False,
                     False, True)
    # As the residual stream would be stored between the two.
    sums = sums.to(y.dtype.element_ty).to(tl.float32)
    sums = _with_mlp(sums, mlp_gamma, mlp_beta, widen, widen_bias, narrow, narrow_bias, out, outs,
                     hidden, mlp_epsilon, EXACT, ROWS, OUTS, HIDDEN)
    inside = (row < rows)[:, None] & (out < outs)[None, :]
    tl.store(y + row[:, None] * outs + out[None, :], sums.to(y.dtype.element_ty), mask=inside)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """x as tokens x channels, without a copy where the tokens have one step and contiguous
    channels."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def tile(columns: int, outs: int, kind: torch.dtype) -> tuple[int, int]:
    """(tokens, outputs at a time) of a program that holds so many channels of each token.

    Products in float32 take no tensor cores, and more registers.
    """
    exact = kind == torch.float32
    tokens = 16 if exact else 64 if columns <= 64 else 32
    return tokens, min(32 if exact else 64, max(16, triton.next_power_of_2(outs)))


@torch.library.custom_op('diffmf_ros::norm_linear', mutates_args=())
def norm_linear(x: torch.Tensor, norm: int, gamma: torch.Tensor | None, beta: torch.Tensor | None,
                epsilon: float, gate: torch.Tensor | None, gate_first: bool, weight: torch.Tensor,
                bias: torch.Tensor | None, scale: torch.Tensor | None,
                residual: torch.Tensor | None, skip: torch.Tensor | None,
                factor: torch.Tensor | None,
                gain: float) -> torch.Tensor:
    """As `plain.norm_linear` with its modules' parameters, without gradients.

    norm: NO_NORM, LAYER_NORM or RMS_NORM, with weight gamma and, of a layer norm, bias beta; to x
    is added gain * factor * skip, where factor has one value for every head of channels.
    """
    y = _like(x, weight, residual)
    tokens, weight = rows_of(x), weight.contiguous()
    (rows, width), outs = tokens.shape, len(weight)
    gates, residuals, skips = (tokens if t is None else rows_of(t) for t in (gate, residual, skip))
    scales = weight if scale is None else scale.expand(len(x), *scale.shape[1:]).contiguous()
    columns = min(WIDEST, max(16, triton.next_power_of_2(width)))
    at_once, outs_at_once = tile(columns, outs, weight.dtype)
    with torch.cuda.device_of(x):
        norm_linear_rows[(triton.cdiv(rows, at_once),)](
            tokens, skips, *_or(weight, factor), gates, *_or(weight, gamma, beta), weight,
            *_or(weight, bias), scales, residuals, y, rows, max(1, rows // len(x)), width, outs,
            1 if factor is None else width // len(factor), gain, tokens.stride(0), skips.stride(0),
            gates.stride(0), residuals.stride(0), epsilon, SKIP=skip is not None, NORM=norm,
            GATE=NO_GATE if gate is None else GATE_FIRST if gate_first else GATE_LAST,
            BIAS=bias is not None, SCALE=scale is not None, RESIDUAL=residual is not None,
            EXACT=weight.dtype == torch.float32, ONCE=width <= columns, ROWS=at_once,
            COLUMNS=columns, OUTS=outs_at_once, num_warps=4,
            num_stages=2, enable_fp_fusion=True)
    return y


def _or(other, *tensors):
    """The tensors, contiguous, with another in place of None: a kernel does not read it."""
    return [other if t is None else t.contiguous() for t in tensors]


def _like(x, weight, residual):
    """An empty result: like x with as many channels as weight has rows, in the type of the sum."""
    kind = weight.dtype if residual is None else torch.promote_types(weight.dtype, residual.dtype)
    return x.new_empty((*x.shape[:-1], len(weight)), dtype=kind)


@norm_linear.register_fake
def _(x, norm, gamma, beta, epsilon, gate, gate_first, weight, bias, scale, residual, skip, factor,
      gain):
    return _like(x, weight, residual)


@torch.library.custom_op('diffmf_ros::mlp', mutates_args=())
def mlp(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, epsilon: float,
        widen: torch.Tensor, widen_bias: torch.Tensor, narrow: torch.Tensor,
        narrow_bias: torch.Tensor) -> torch.Tensor:
    """As `plain.mlp` with its modules' parameters, without gradients; at most WIDEST channels."""
    y, tokens = _like(x, narrow, x), rows_of(x)
    (rows, width), hidden = tokens.shape, len(widen)
    columns = max(16, triton.next_power_of_2(width))
    at_once, hidden_at_once = tile(columns, min(hidden, 2048 // columns), widen.dtype)
    parameters = (p.contiguous() for p in (gamma, beta, widen, widen_bias, narrow, narrow_bias))
    with torch.cuda.device_of(x):
        mlp_rows[(triton.cdiv(rows, at_once),)](
            tokens, *parameters, y, rows, width, hidden, tokens.stride(0), epsilon,
            EXACT=widen.dtype == torch.float32, ROWS=at_once, COLUMNS=columns,
            HIDDEN=hidden_at_once, num_warps=4,
            num_stages=2, enable_fp_fusion=True)
    return y


@mlp.register_fake
def _(x, gamma, beta, epsilon, widen, widen_bias, narrow, narrow_bias):
    return _like(x, narrow, x)


@torch.library.custom_op('diffmf_ros::norm_linear_mlp', mutates_args=())
def norm_linear_mlp(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, epsilon: float,
                    gate: torch.Tensor | None, weight: torch.Tensor, residual: torch.Tensor,
                    mlp_gamma: torch.Tensor, mlp_beta: torch.Tensor, mlp_epsilon: float,
                    widen: torch.Tensor, widen_bias: torch.Tensor, narrow: torch.Tensor,
                    narrow_bias: torch.Tensor) -> torch.Tensor:
    """As `plain.norm_linear_mlp` with its modules' parameters, without gradients.

    At most WIDEST channels of x and half as many of the result.
    """
    y, tokens, residuals = _like(x, weight, residual), rows_of(x), rows_of(residual)
    gates = tokens if gate is None else rows_of(gate)
    (rows, width), outs, hidden = tokens.shape, len(weight), len(widen)
    columns, all_outs = (max(16, triton.next_power_of_2(n)) for n in (width, outs))
    exact = weight.dtype == torch.float32
    parameters = (p.contiguous() for p in (mlp_gamma, mlp_beta, widen, widen_bias, narrow,
                                           narrow_bias))
    at_once, hidden_at_once = tile(all_outs, min(hidden, 2048 // all_outs), weight.dtype)
    with torch.cuda.device_of(x):
        norm_linear_mlp_rows[(triton.cdiv(rows, at_once),)](
            tokens, gates, gamma.contiguous(), beta.contiguous(), weight.contiguous(), residuals,
            *parameters, y, rows, width, outs, hidden, tokens.stride(0), gates.stride(0),
            residuals.stride(0), epsilon, mlp_epsilon,
            GATE=NO_GATE if gate is None else GATE_LAST, EXACT=exact, ROWS=at_once,
            COLUMNS=columns, OUTS=all_outs, HIDDEN=hidden_at_once,
            num_warps=8 if columns > 64 else 4, num_stages=2, enable_fp_fusion=True)
    return y


@norm_linear_mlp.register_fake
def _(x, gamma, beta, epsilon, gate, weight, residual, *of_mlp):
    return _like(x, weight, residual)
