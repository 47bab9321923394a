# SPDX-License-Identifier: Apache-2.0
"""Triton's operations with gradients, for training. Imported only where triton is.

The forward pass is that of inference; what the backward pass needs are the inputs alone. What has
no kernels for its gradients takes the plain form.
"""

from typing import Any

import torch
from torch import nn

from ..blocks import LayerNorm, TokenConv2d
from . import plain, triton_conv, triton_rows, triton_small, triton_steps
from .triton_conv import depthwise_backward
from .triton_conv import launch as convolve
from .triton_mixing import mix_backward, run_mix
from .triton_rows_backward import fits, mlp_backward, norm_linear_backward
from .triton_scan import image_options, run_scan, scan_image, sequences
from .triton_scan_backward import differentiate
from .triton_small import directions_added


class _Ss2d(torch.autograd.Function):
    """`scan.ss2d`."""

    @staticmethod
    def forward(ctx: Any, u, proj, dt_weight, dt_bias, A, skip):
        """Scan, and keep the states at the ends of the chunks."""
        inputs = u.contiguous(), proj.contiguous(), dt_weight, dt_bias, A, skip
        y, ends = scan_image(*inputs)
        ctx.save_for_backward(ends, *inputs)
        return y

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradients of all inputs."""
        ends, u, proj, *parameters = ctx.saved_tensors
        du, _, dproj, dweight, dbias, dskip, dA = differentiate(
            dy.contiguous(), ends, u, proj, proj, proj, *parameters, **image_options(u, proj))
        return (directions_added(du, u), dproj.view_as(proj).to(proj.dtype), dweight, dbias, dA,
                dskip)


class _TritonScan(torch.autograd.Function):
    """`scan.selective_scan`."""

    @staticmethod
    def forward(ctx: Any, u, delta, A, B, C, D, delta_bias, delta_softplus):
        """Scan, and keep the states at the ends of the chunks."""
        arguments, options = sequences(u, delta, A, B, C, D, delta_bias)
        y, ends = run_scan(*arguments, **options, softplus=delta_softplus)
        ctx.save_for_backward(ends, u, delta, A, B, C, D, delta_bias)
        ctx.softplus = delta_softplus
        return y.mT

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradients of all inputs."""
        ends, u, delta, A, B, C, D, delta_bias = ctx.saved_tensors
        arguments, options = sequences(u, delta, A, B, C, D, delta_bias)
        du, ddelta, drecords, _, dbias, dskip, dA = differentiate(
            dy.mT.contiguous(), ends, *arguments, **options, softplus=ctx.softplus)
        dB, dC = drecords.permute(0, 2, 3, 1).chunk(2, dim=2)
        du, ddelta = (x.flatten(2).mT for x in (du, ddelta))
        return (du.to(u.dtype), ddelta.to(delta.dtype), dA.flatten(0, 1), dB.to(B.dtype),
                dC.to(C.dtype), None if D is None else dskip.flatten(),
                None if delta_bias is None else dbias.flatten(), None)


class _Rates(torch.autograd.Function):
    """-exp(logs)."""

    @staticmethod
    def forward(ctx: Any, logs):
        """Run the kernel."""
        rates = triton_small.rates(logs)
        ctx.save_for_backward(rates)
        return rates

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradient of logs."""
        rates, = ctx.saved_tensors
        return dy * rates


class _Conv(torch.autograd.Function):
    """leaky_relu(conv2d(x)) of B x C x H x W, 3x3 with zeros around; slope None: without it."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, stride, slope, dtype):
        """Run the fused kernel."""
        y = triton_conv.conv(x, weight, bias, stride, False,
                             triton_conv.NO_SLOPE if slope is None else slope, None, dtype)
        y = y.permute(0, 3, 1, 2)
        ctx.save_for_backward(x, weight, None if slope is None else y)
        ctx.settings = bias is not None, stride, slope
        return y

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradients of x, weight and bias."""
        (x, weight, y), (bias, stride, slope) = ctx.saved_tensors, ctx.settings
        if slope is not None:  # the sign of the result is that of what LeakyReLU took
            dy = torch.ops.aten.leaky_relu_backward(dy, y, slope, True)
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            dy.to(weight.dtype), x.to(weight.dtype), weight, [len(weight)], [stride] * 2, [1, 1],
            [1, 1], False, [0, 0], 1, [ctx.needs_input_grad[0], True, bias])
        return None if dx is None else dx.to(x.dtype), dweight, dbias, None, None, None


class _NormLinear(torch.autograd.Function):
    """residual + layer(LN(x))."""

    @staticmethod
    def forward(ctx: Any, x, gamma, beta, epsilon, weight, bias, residual):
        """Run the fused kernel."""
        ctx.save_for_backward(x, gamma, beta, weight)
        ctx.epsilon, ctx.bias, ctx.residual = epsilon, bias is not None, residual is not None
        return triton_rows.norm_linear(x, triton_rows.LAYER_NORM, gamma, beta, epsilon, None,
                                       False, weight, bias, None, residual, None, None, 0.0)

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradients of all inputs; that of the residual is dy."""
        x, gamma, beta, weight = ctx.saved_tensors
        dx, dgamma, dbeta, dweight, dbias = norm_linear_backward(
            x, gamma, beta, ctx.epsilon, weight, dy, bias=ctx.bias)
        return dx, dgamma, dbeta, None, dweight, dbias, dy if ctx.residual else None


class _Mlp(torch.autograd.Function):
    """x + narrow(gelu(widen(LN(x))))."""

    @staticmethod
    def forward(ctx: Any, x, gamma, beta, epsilon, widen, widen_bias, narrow, narrow_bias):
        """Run the fused kernel."""
        ctx.save_for_backward(x, gamma, beta, widen, widen_bias, narrow)
        ctx.epsilon = epsilon
        return triton_rows.mlp(x, gamma, beta, epsilon, widen, widen_bias, narrow, narrow_bias)

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradients of all inputs."""
        x, gamma, beta, *layers = ctx.saved_tensors
        dx, dgamma, dbeta, *of_layers = mlp_backward(x, gamma, beta, ctx.epsilon, *layers, dy)
        return dx, dgamma, dbeta, None, *of_layers


class _Depthwise(torch.autograd.Function):
    """Depth-wise convolution of x or of x - other, with SiLU and records where asked for."""

    @staticmethod
    def forward(ctx: Any, x, other, weight, bias, with_silu, matrix):
        """Run the fused kernel."""
        matrices = [] if matrix is None else [matrix]
        y, records = convolve(x, other, weight, bias, matrices, with_silu)
        ctx.save_for_backward(x, other, weight, bias, matrix, None if matrix is None else y)
        ctx.silu = with_silu
        return y if matrix is None else (y, records)

    @staticmethod
    def backward(ctx: Any, dy, drecords=None):
        """Return the gradients of all inputs."""
        x, other, weight, bias, matrix, y = ctx.saved_tensors
        dx, dweight, dbias = depthwise_backward(x, other, weight, bias, dy, silu=ctx.silu,
                                                matrix=matrix, drecords=drecords)
        dmatrix = None
        if matrix is not None:
            dmatrix = (drecords.flatten(0, 2).flatten(1).T @ y.flatten(0, 2)).view_as(matrix)
        return dx, None if other is None else -dx, dweight, dbias, None, dmatrix


class _Mix(torch.autograd.Function):
    """`mixing.mix` with gradients for the maps."""

    @staticmethod
    def forward(ctx: Any, ir, vi_y, maps):
        """Run the fused kernels, and keep the means of the sources."""
        ir, vi_y = ir.contiguous(), vi_y.contiguous()
        fused, *means = run_mix(ir, vi_y, maps)
        ctx.save_for_backward(ir, vi_y, maps, *means)
        return fused

    @staticmethod
    def backward(ctx: Any, dy):
        """Return the gradient of the maps."""
        return None, None, mix_backward(*ctx.saved_tensors, dy)


def ss2d(*inputs: torch.Tensor) -> torch.Tensor:
    """Compute `scan.ss2d` with gradients."""
    return _Ss2d.apply(*inputs)


def selective_scan(*inputs: Any) -> torch.Tensor:
    """Compute `scan.selective_scan` with gradients."""
    return _TritonScan.apply(*inputs)


def norm_linear(x, norm, layer, gate, gate_first, scale, residual, skip=None):
    """Compute `fused.norm_linear` with gradients; in kernels only a layer norm and a residual."""
    others = gate, scale, skip
    if not isinstance(norm, LayerNorm) or any(t is not None for t in others) or not fits(x):
        return plain.norm_linear(x, norm, layer, gate, gate_first, scale, residual, skip)
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, layer.weight, layer.bias,
                             residual)


def mlp(x, norm, widen, narrow):
    """Compute `fused.mlp` with gradients."""
    if not fits(x):
        return plain.mlp(x, norm, widen, narrow)
    return _Mlp.apply(x, norm.weight, norm.bias, norm.eps, widen.weight, widen.bias,
                      narrow.weight, narrow.bias)


def depthwise(x, other, conv: nn.Module, with_silu):
    """Compute `fused.depthwise` with gradients."""
    return _Depthwise.apply(x, other, conv.weight, conv.bias, with_silu, None)


def depthwise_records(x, conv: nn.Module, *weights):
    """Compute `fused.depthwise_records` with gradients; in kernels only of one projection."""
    if len(weights) > 1:
        return plain.depthwise_records(x, conv, *weights)
    return _Depthwise.apply(x, None, conv.weight, conv.bias, True, *weights)


def seen(ir, vi_y):
    """Compute `fused.seen`; in kernels where the images need no gradient."""
    return (plain if ir.requires_grad or vi_y.requires_grad else triton_steps).seen(ir, vi_y)


def mix(ir, vi_y, maps):
    """Compute `fused.mix`; in kernels where the images need no gradient."""
    if ir.requires_grad or vi_y.requires_grad:
        return plain.mix(ir, vi_y, maps)
    return _Mix.apply(ir, vi_y, maps)


def conv(x, layer, slope, residual, dtype):
    """Compute `fused.conv` with gradients; in kernels 3x3 with zeros around and no residual."""
    shape = layer.kernel_size, layer.padding, layer.dilation, layer.groups, layer.padding_mode
    if shape != ((3, 3), (1, 1), (1, 1), 1, 'zeros') or residual is not None:
        return plain.conv(x, layer, slope, residual, dtype)
    tokens = isinstance(layer, TokenConv2d)
    y = _Conv.apply(x.permute(0, 3, 1, 2) if tokens else x, layer.weight, layer.bias,
                    layer.stride[0], slope, dtype or layer.weight.dtype)
    return y.permute(0, 2, 3, 1) if tokens else y


def rates(logs):
    """Compute `fused.rates` with gradients."""
    return _Rates.apply(logs)
