# SPDX-License-Identifier: Apache-2.0
"""Building blocks shared by the networks. Features are token-major: B x H x W x C."""

import math

import torch
from torch import nn
from torch.nn.functional import layer_norm, rms_norm, softplus

from . import fused, scan
from .kernels import cpu

SLOPE = 0.2  # of LeakyReLU in every network
DELTA_MIN, DELTA_MAX, DELTA_FLOOR = 1e-3, 1e-1, 1e-4


class Conv2d(nn.Conv2d):
    """nn.Conv2d that computes in the type of its weight."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class PixelConv2d(Conv2d):
    """A convolution whose result becomes pixels or mixing maps: always float32."""


class TokenConv2d(Conv2d):
    """A convolution from B x H x W x C to B x H' x W' x C'; no copy, the storage is channels-last."""

    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Linear(nn.Linear):
    """nn.Linear that computes in the type of its weight."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm over channels, computed in float32 or better.

    The result has the type of the input; with `before_layers`, that of the layers behind it.
    """

    def __init__(self, channels: int, *, before_layers: bool = False):
        super().__init__(channels)
        self.before_layers, self.dtype = before_layers, None
        self.backend = 'auto'

    def forward(self, x):
        return fused.layer_norm(x, self, backend=self.backend)

    def in_torch(self, x):
        """The normalization without fused kernels of a GPU."""
        dtype = self.dtype or x.dtype
        y = cpu.layer_norm(x, self.weight, self.bias, self.eps, dtype)
        if y is None:
            y = layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.to(dtype)


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm over channels in the type of its input."""

    def forward(self, x):
        return rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def compute_in(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Let the convolutions and linear layers of network compute in dtype, in place, and return it.

    What half precision would harm stays float32: the features of either modality at full size, which every
    block adds to, and their normalisations, the states and rates of the scans, and the convolutions that
    read pixels (one or two channels) or make them (PixelConv2d). Features behind a convolution or linear
    layer are in dtype.
    """
    for module in network.modules():
        of_pixels = isinstance(module, PixelConv2d) or isinstance(module, Conv2d) and module.in_channels <= 2
        if isinstance(module, (Conv2d, Linear)) and not of_pixels:
            module.to(dtype)
        elif isinstance(module, SS2D):
            for name in module.LAYERS:
                weight = getattr(module, name)
                setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad))
        elif isinstance(module, LayerNorm) and module.before_layers:
            module.dtype = dtype
    return network


def depthwise(channels: int, *, bias: bool = False) -> TokenConv2d:
    """3x3, one filter per channel."""
    return TokenConv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


def inverse_softplus_of_steps(*shape: int) -> torch.Tensor:
    """Biases whose softplus is log-uniform in [1e-3, 1e-1]: the step sizes of a fresh scan (Mamba)."""
    steps = torch.exp(torch.empty(*shape).uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX)))
    steps = steps.clamp(min=DELTA_FLOOR)
    return steps + torch.log(-torch.expm1(-steps))


def linear_weight(*shape: int) -> nn.Parameter:
    """The weight of a linear layer with torch's own initialisation, as a parameter of any number of dimensions."""
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def initialise(module: nn.Module) -> None:
    """Set convolutions and linear layers so that features keep their size (He et al. 2015).

    The ancestors' normal distribution of 0.02 is made for wide layers: behind those of 16 or 32
    channels it left maps that hardly varied, and training did not find the warm objects.
    For `Module.apply`.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features ** -0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class SS2D(nn.Module):
    """Four-direction selective scan of an image (VMamba): B x H x W x C -> the same.

    Without a gate this is VMamba's later variant (one state per channel); with `gate` the first one. Parameters have
    VMamba's names and shapes; those of the four directions are: raster, column-major, and the reverses of both.
    """

    LAYERS = ('x_proj_weight',)  # parameters that are the weights of linear layers

    def __init__(self, channels: int, *, states: int = 1, gate: bool = False, expand: float = 2,
                 conv_bias: bool = False):
        super().__init__()
        inner, rank = int(expand * channels), math.ceil(channels / 16)
        self.backend = 'auto'
        self.inner, self.rank, self.states, self.gated = inner, rank, states, gate
        self.in_proj = Linear(channels, inner * (2 if gate else 1), bias=False)
        self.conv2d = depthwise(inner, bias=conv_bias)
        self.x_proj_weight = linear_weight(4, rank + 2 * states, inner)
        self.dt_projs_weight = linear_weight(4, inner, rank)
        self.dt_projs_bias = nn.Parameter(inverse_softplus_of_steps(4, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(4 * inner, 1))
        self.Ds = nn.Parameter(torch.ones(4 * inner))
        self.out_norm = LayerNorm(inner)
        self.out_proj = Linear(inner, channels, bias=False)

    def forward(self, x, *, norm=None, residual=None):
        """Return residual + SS2D(norm(x)), B x H x W x C; without norm and residual SS2D(x)."""
        x, z = self.features(x, norm)
        u, records = self.records(x, self.x_proj_weight)
        y = scan.ss2d(u, records, *self.dynamics, backend=self.backend)
        return self.result(y, z, residual)

    def features(self, x, norm=None):
        """B x H x W x C -> what is convolved, and the gate or None, both B x H x W x inner."""
        x = fused.norm_linear(x, norm, self.in_proj, backend=self.backend)
        return x.split(self.inner, dim=-1) if self.gated else (x, None)

    def records(self, x, *weights):
        """What is scanned, and low-rank step size, B and C of every token and direction.

        B x H x W x inner -> the same and, for each of weights and its share of B in turn,
        B x H x W x 4 x (rank + 2 states).
        """
        return fused.depthwise_records(x, self.conv2d, *weights, backend=self.backend)

    @property
    def dynamics(self):
        """dt_weight, dt_bias, A and skip as `scan.ss2d` takes them."""
        by_direction = 4, self.inner
        return (self.dt_projs_weight, self.dt_projs_bias, fused.rates(self.A_logs).unflatten(0, by_direction),
                self.Ds.unflatten(0, by_direction))

    def result(self, y, z, residual=None):
        """What was scanned, normalised, gated, projected and added to residual: B x H x W x C."""
        return fused.norm_linear(y, self.out_norm, self.out_proj, gate=z, residual=residual,
                                 backend=self.backend)


class VSSBlock(nn.Module):
    """Visual state-space block: x + SS2D(LN(x)), then x + MLP(LN(x)) unless mlp_ratio is 0; ss2d goes to SS2D."""

    def __init__(self, channels: int, *, mlp_ratio: float = 0, **ss2d):
        super().__init__()
        hidden = int(mlp_ratio * channels)
        self.ln_1 = LayerNorm(channels, before_layers=True)
        self.self_attention = SS2D(channels, **ss2d)
        self.ln_2 = LayerNorm(channels, before_layers=True) if hidden else None
        self.mlp = nn.Sequential(
            Linear(channels, hidden), nn.GELU(), Linear(hidden, channels)) if hidden else None

    def forward(self, x):
        x = self.self_attention(x, norm=self.ln_1, residual=x)
        if self.mlp is None:
            return x
        return fused.mlp(x, self.ln_2, self.mlp[0], self.mlp[2], backend=self.self_attention.backend)


class SSDMixer(nn.Module):
    """One modality's half of a Mamba-2 mixer: project what it gives away, then scan with what it got.

    `project` returns (x, delta, z, B, C); `mix` takes them back, B and C possibly of another modality.
    """

    def __init__(self, channels: int, *, states: int, head: int, directions: int):
        super().__init__()
        inner = 2 * channels
        heads = inner // head
        self.backend = 'auto'
        self.heads, self.directions = (heads, head), directions
        self.widths = [inner, inner + 2 * states, heads]
        self.parts = [inner, states, states]
        self.norm = LayerNorm(channels, before_layers=True)
        self.in_proj = Linear(channels, sum(self.widths), bias=False)
        self.conv = depthwise(inner + 2 * states, bias=True)
        self.dt_bias = nn.Parameter(inverse_softplus_of_steps(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(heads))
        self.out_norm = RMSNorm(inner, eps=1e-5)
        self.out_proj = Linear(inner, channels, bias=False)

    def project(self, feature):
        """B x H x W x C -> x, delta, z, B, C, each B x H x W x its width; delta is positive."""
        projected = fused.norm_linear(feature, self.norm, self.in_proj, backend=self.backend)
        z, mixed, delta = projected.split(self.widths, dim=-1)
        convolved = fused.depthwise(mixed, self.conv, silu=True, backend=self.backend)
        x, B, C = convolved.split(self.parts, dim=-1)
        return x, softplus(delta + self.dt_bias), z, B, C  # delta is float32, as the bias is

    def mix(self, x, delta, z, B, C, *, scale=None, residual=None):
        """Scan x in raster order, with two directions also backwards, and project to B x H x W x C.

        Returns residual + scale * that, where they are given; scale: B x 1 x 1 x C.
        """
        x_, delta_, B_, C_ = (t.flatten(1, 2) for t in (x.unflatten(-1, self.heads), delta, B, C))
        y = scan.ssd(x_, delta_, fused.rates(self.A_log), B_, C_, directions=self.directions, backend=self.backend)
        y = y.flatten(2).view_as(x)
        return fused.norm_linear(y, self.out_norm, self.out_proj, gate=z, gate_first=True, scale=scale,
                                 residual=residual, skip=(x, self.skip, self.directions), backend=self.backend)
