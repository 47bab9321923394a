# SPDX-License-Identifier: Apache-2.0
"""Building blocks shared by the networks. Features are token-major: B x H x W x C."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, rms_norm, softplus

from . import fused, scan
from .kernels import cpu

FiveTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

SLOPE = 0.2  # of LeakyReLU in every network
DELTA_MIN, DELTA_MAX, DELTA_FLOOR = 1e-3, 1e-1, 1e-4


class Conv2d(nn.Conv2d):
    """nn.Conv2d that computes in the type of its weight.

    On a CPU the result does not depend on the number of threads: a 1x1 convolution, which oneDNN
    rounds by where the threads divide the image, is a matrix product there.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.weight.dtype)
        by_pixel = self.weight.shape[2:] == (1, 1) and self.stride == (1, 1) and self.groups == 1
        if x.device.type != 'cpu' or not by_pixel:
            return super().forward(x)
        return linear(x.movedim(1, -1), self.weight[:, :, 0, 0], self.bias).movedim(-1, 1)


class PixelConv2d(Conv2d):
    """A convolution whose result becomes pixels or mixing maps: always float32."""


class TokenConv2d(Conv2d):
    """A convolution from B x H x W x C to B x H' x W' x C'.

    No copy, the storage is channels-last.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Linear(nn.Linear):
    """nn.Linear that computes in the type of its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype))


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm over channels, computed in float32 or better.

    The result has the type of the input; with `before_layers`, that of the layers behind it, and
    with `begins_stream` that of the residual stream (see `cast_layers`).
    """

    def __init__(self, channels: int, *, before_layers: bool = False,
                 begins_stream: bool = False) -> None:
        super().__init__(channels)
        self.before_layers, self.begins_stream = before_layers, begins_stream
        self.dtype: torch.dtype | None = None
        self.backend = 'auto'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused.layer_norm(x, self, backend=self.backend)

    def in_torch(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize without the fused kernels of a GPU.

        Args:
            x: B x ... x C.

        Returns:
            The same shape.
        """
        dtype = self.dtype or x.dtype
        y = cpu.layer_norm(x, self.weight, self.bias, self.eps, dtype)
        if y is None:
            y = layer_norm(x, self.normalized_shape, self.weight.to(x.dtype),
                           self.bias.to(x.dtype), self.eps)
        return y.to(dtype)


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm over channels in the type of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def cast_layers(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the convolutions and linear layers of a network, in place.

    Parts that half precision would harm stay float32: the inside of normalizations; the states and
    rates of the scans; and the convolutions that read pixels (one or two channels) or make them
    (PixelConv2d). The residual stream, which every block adds to, is float16 beside layers in
    float16, and float32 beside those in bfloat16, which has 8 bits.

    Args:
        network: Network of this package.
        dtype: Type of those layers and of the features behind them.

    Returns:
        The network.
    """
    for module in network.modules():
        reads_pixels = isinstance(module, Conv2d) and module.in_channels <= 2
        of_pixels = isinstance(module, PixelConv2d) or reads_pixels
        if isinstance(module, (Conv2d, Linear)) and not of_pixels:
            module.to(dtype)
        elif isinstance(module, SS2D):
            for name in module.LAYERS:
                weight = getattr(module, name)
                setattr(module, name, nn.Parameter(weight.detach().to(dtype),
                                                   requires_grad=weight.requires_grad))
        elif isinstance(module, LayerNorm) and module.before_layers:
            module.dtype = dtype
        elif getattr(module, 'begins_stream', False) and dtype == torch.float16:
            module.dtype = dtype  # type: ignore[assignment]
    return network


def depthwise(channels: int, *, bias: bool = False) -> TokenConv2d:
    """Return a 3x3 convolution with one filter per channel.

    Args:
        channels: of input and output.
        bias: whether it adds one.

    Returns:
        The layer, for tokens B x H x W x C.
    """
    return TokenConv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


def inverse_softplus_of_steps(*shape: int) -> torch.Tensor:
    """Return biases whose softplus, the step size of a fresh scan, is log-uniform (Mamba).

    Args:
        shape: Of the result.

    Returns:
        Tensor of that shape; its softplus lies in [1e-3, 1e-1].
    """
    steps = torch.exp(torch.empty(*shape).uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX)))
    steps = steps.clamp(min=DELTA_FLOOR)
    return steps + torch.log(-torch.expm1(-steps))


def linear_weight(*shape: int) -> nn.Parameter:
    """Return the weight of a linear layer, initialized as torch's own.

    Args:
        shape: Of the result; the last dimension is the number of inputs.

    Returns:
        A parameter of that shape.
    """
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def initialize(module: nn.Module) -> None:
    """Initialize a convolution or linear layer so that features keep their size (He et al. 2015).

    The usual normal distribution of 0.02 is made for wide layers: behind those of 16 or 32
    channels it left maps that hardly varied, and training did not find the warm objects.

    Args:
        module: Any module, as `Module.apply` passes them; other kinds stay as they are.
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

    Without a gate this is VMamba's later variant (one state per channel); with `gate` the first
    one. Parameters have VMamba's names and shapes. The four directions are raster, column-major,
    and the reverses of both.
    """

    # parameters that are the weights of linear layers
    LAYERS: tuple[str, ...] = ('x_proj_weight',)

    def __init__(self, channels: int, *, states: int = 1, gate: bool = False, expand: float = 2,
                 conv_bias: bool = False) -> None:
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

    def forward(self, x: torch.Tensor, *, norm: nn.Module | None = None,
                residual: torch.Tensor | None = None,
                mlp: tuple[nn.Module, ...] = ()) -> torch.Tensor:
        """Return residual + SS2D(norm(x)), B x H x W x C; without norm and residual SS2D(x).

        mlp: What `fused.mlp` takes beside x, to be computed of the result; or nothing. Only
            beside residual.
        """
        x, z = self.in_branch(x, norm)
        u, records = self.project_dt_b_c(x, self.x_proj_weight)
        y = scan.ss2d(u, records, *self.ssm_parameters, backend=self.backend)
        if not mlp or residual is None:
            return self.out_branch(y, z, residual)
        mlp_norm, widen, narrow = mlp
        return fused.norm_linear_mlp(y, self.out_norm, self.out_proj, gate=z, residual=residual,
                                     mlp_norm=mlp_norm, widen=widen, narrow=narrow,
                                     backend=self.backend)

    def in_branch(self, x: torch.Tensor,
                 norm: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Project the input of the scan and its gate.

        Args:
            x: B x H x W x C.
            norm: Normalization before the projection, or None.

        Returns:
            Input of the convolution, and the gate or None, both B x H x W x inner.
        """
        x = fused.norm_linear(x, norm, self.in_proj, backend=self.backend)
        return x.split(self.inner, dim=-1) if self.gated else (x, None)

    def project_dt_b_c(self, x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Convolve the features, and project step size, B and C of every token and direction.

        Args:
            x: B x H x W x inner.
            weights: One or two projections, 4 x (rank + 2 states) x inner, each for its share of
                the batch in turn.

        Returns:
            The sequence to scan, like x, and for each of weights the low-rank step size, B and C
            of its share: B' x H x W x 4 x (rank + 2 states).
        """
        return fused.depthwise_records(x, self.conv2d, *weights, backend=self.backend)

    @property
    def ssm_parameters(self) -> tuple[torch.Tensor, ...]:
        """Parameters of the scan: dt_weight, dt_bias, A and skip as `scan.ss2d` takes them."""
        by_direction = 4, self.inner
        return (self.dt_projs_weight, self.dt_projs_bias,
                fused.rates(self.A_logs, backend=self.backend).unflatten(0, by_direction),
                self.Ds.unflatten(0, by_direction))

    def out_branch(self, y: torch.Tensor, z: torch.Tensor | None,
                   residual: torch.Tensor | None = None) -> torch.Tensor:
        """Normalize, gate and project the scanned sequence.

        Args:
            y: Scanned sequence, B x H x W x inner.
            z: Gate like y, or None.
            residual: B x H x W x C, added to the result; or None.

        Returns:
            B x H x W x C.
        """
        return fused.norm_linear(y, self.out_norm, self.out_proj, gate=z, residual=residual,
                                 backend=self.backend)


class VSSBlock(nn.Module):
    """Visual state-space block: x + SS2D(LN(x)), then x + MLP(LN(x)) unless mlp_ratio is 0.

    Further options are those of SS2D.
    """

    def __init__(self, channels: int, *, mlp_ratio: float = 0, **ss2d: Any) -> None:
        super().__init__()
        hidden = int(mlp_ratio * channels)
        self.ln_1 = LayerNorm(channels, before_layers=True)
        self.self_attention = SS2D(channels, **ss2d)
        self.ln_2 = LayerNorm(channels, before_layers=True) if hidden else None
        self.mlp = nn.Sequential(
            Linear(channels, hidden), nn.GELU(), Linear(hidden, channels)) if hidden else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mlp = () if self.mlp is None or self.ln_2 is None else (self.ln_2, self.mlp[0],
                                                                self.mlp[2])
        return self.self_attention(x, norm=self.ln_1, residual=x, mlp=mlp)


class SSDMixer(nn.Module):
    """One modality's half of a Mamba-2 mixer.

    `project` makes x, delta, z, B and C; `sequence` is what is scanned, with the B and C it is
    given, possibly the other modality's; `finish` makes features of the result.
    """

    def __init__(self, channels: int, *, states: int, head: int, directions: int) -> None:
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

    def project(self, feature: torch.Tensor) -> FiveTensors:
        """Project the features of this modality.

        Args:
            feature: B x H x W x C.

        Returns:
            x, delta (positive step size), z (gate), B and C, each B x H x W x its width.
        """
        projected = fused.norm_linear(feature, self.norm, self.in_proj, backend=self.backend)
        z, mixed, delta = projected.split(self.widths, dim=-1)
        convolved = fused.depthwise(mixed, self.conv, silu=True, backend=self.backend)
        x, B, C = convolved.split(self.parts, dim=-1)
        return x, softplus(delta + self.dt_bias), z, B, C  # delta is float32, as the bias is

    def sequence(self, x: torch.Tensor, delta: torch.Tensor, B: torch.Tensor,
                 C: torch.Tensor) -> FiveTensors:
        """Return what is scanned in raster order, x, delta, A, B and C, as `scan.ssd` takes it.

        Args:
            x, delta: As `project` returns them.
            B, C: As `project` returns them, of this modality or the other one.
        """
        x, delta, B, C = (t.flatten(1, 2) for t in (x.unflatten(-1, self.heads), delta, B, C))
        return x, delta, fused.rates(self.A_log, backend=self.backend), B, C

    def finish(self, y: torch.Tensor, x: torch.Tensor, z: torch.Tensor, *,
               scale: torch.Tensor | None = None,
               residual: torch.Tensor | None = None) -> torch.Tensor:
        """Normalize, gate and project the scanned sequence.

        Args:
            y: What `scan.ssd` returned, B x L x heads x head.
            x, z: As `project` returned them.
            scale: B x 1 x 1 x C, multiplied with the result; or None for 1.
            residual: B x H x W x C, added then; or None for 0.

        Returns:
            B x H x W x C.
        """
        y = y.flatten(2).view_as(x)
        return fused.norm_linear(y, self.out_norm, self.out_proj, gate=z, gate_first=True,
                                 scale=scale, residual=residual,
                                 skip=(x, self.skip, self.directions),
                                 backend=self.backend)
