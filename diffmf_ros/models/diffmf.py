# SPDX-License-Identifier: Apache-2.0
"""DIFF-MF: difference-driven channel-spatial state-space fusion (Sun et al., arXiv 2601.05538).

The structure follows the authors' block diagram and abstract; the insides that neither shows are
this project's design and are marked so in docs/models.md. Infrared is i, visible luminance is v.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import interpolate

from . import SizeRule, fused, scan
from .blocks import (
    SLOPE,
    Conv2d,
    LayerNorm,
    Linear,
    PixelConv2d,
    SSDMixer,
    TokenConv2d,
    VSSBlock,
    depthwise,
    initialize,
)
from .mixing import MAPS, MixingNetwork, start_with_visible


@dataclass(frozen=True)
class DiffMFConfig:
    """Sizes of the network. The sides of an input must fit `DiffMF.sides`."""

    width: int = 64  # feature channels
    stride: int = 2  # of the stem
    rounds: int = 2  # repetitions of the difference-driven extraction
    depth: int = 2  # VSS blocks in a box
    mlp_ratio: float = 4.0
    states: int = 1  # of the selective scans
    gate: bool = False
    ssd_states: int = 64
    ssd_head: int = 32
    ssd_directions: int = 2
    levels: int = 3  # of the spatial exchange
    # Switched off for ablations only.
    guidance: bool = True  # by the difference of the shared features
    exchange: bool = True  # of B and C between the modalities
    scans: tuple[str, ...] = ('stacked', 'column', 'row')  # of the spatial exchange
    # the decoder says how the sources are mixed; False: it paints the whole image
    mixing: bool = True


class Stem(nn.Module):
    """First layers: B x 2 x H x W -> B x H/s x W/s x C."""

    begins_stream = True
    dtype: torch.dtype | None = None  # of the residual stream; None: that of the pixels

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.backend = 'auto'
        self.conv1 = TokenConv2d(2, width // 2, 3, padding=1)
        self.conv2 = TokenConv2d(width // 2, width, 3, padding=1, stride=stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = fused.conv(image.permute(0, 2, 3, 1), self.conv1, slope=SLOPE, backend=self.backend)
        return fused.conv(x, self.conv2, slope=SLOPE, dtype=self.dtype or image.dtype,
                          backend=self.backend)


class DifferenceGuidedRound(nn.Module):
    """Difference-driven extraction: features amplified where those of both modalities differ."""

    def __init__(self, config: DiffMFConfig) -> None:
        super().__init__()
        width = config.width
        vss: dict[str, Any] = {
            'mlp_ratio': config.mlp_ratio, 'states': config.states, 'gate': config.gate}

        def boxes() -> nn.Sequential:
            return nn.Sequential(*(VSSBlock(width, **vss) for _ in range(config.depth)))

        self.backend = 'auto'
        self.own_i, self.own_v = boxes(), boxes()
        self.guided = config.guidance
        if not self.guided:
            return
        self.shared = nn.Sequential(TokenConv2d(width, width, 3, padding=1), boxes())
        self.guide = nn.Sequential(depthwise(width, bias=True), Linear(width, width))

    def start_neutral(self) -> None:
        """Zero the guidance, so that training starts with the same gain for both."""
        if self.guided:
            nn.init.zeros_(self.guide[1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.guide[1].bias)  # type: ignore[arg-type]

    def forward(self, i: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.guided:
            return self.own_i(i), self.own_v(v)
        first, boxes = self.shared
        dtype: Any = first.weight.dtype
        both = fused.pair(i, v, 'batch', dtype=dtype, backend=self.backend)
        shared_i, shared_v = boxes(fused.conv(both, first, backend=self.backend)).chunk(2)
        convolve, project = self.guide
        difference = fused.depthwise(shared_i, convolve, minus=shared_v, backend=self.backend)
        return fused.guide(difference, project, self.own_i(i), self.own_v(v), backend=self.backend)


class ChannelExchange(nn.Module):
    """Each modality is scanned with the other's B and C, and added with a joint channel weight."""

    def __init__(self, config: DiffMFConfig) -> None:
        super().__init__()
        width = config.width
        mixer = {'states': config.ssd_states, 'head': config.ssd_head,
                 'directions': config.ssd_directions}
        self.exchange = config.exchange
        self.mixer_i, self.mixer_v = SSDMixer(width, **mixer), SSDMixer(width, **mixer)
        self.weigh = nn.Sequential(
            Linear(2 * width, width // 2), nn.ReLU(), Linear(width // 2, 2 * width), nn.Sigmoid())

    def forward(self, i: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_i, delta_i, z_i, B_i, C_i = self.mixer_i.project(i)
        x_v, delta_v, z_v, B_v, C_v = self.mixer_v.project(v)
        if self.exchange:
            B_i, C_i, B_v, C_v = B_v, C_v, B_i, C_i
        weights = self.weigh(torch.cat((i, v), dim=-1).mean((1, 2), keepdim=True))
        weight_i, weight_v = weights.chunk(2, dim=-1)
        y_i, y_v = scan.ssd_of_two(self.mixer_i.sequence(x_i, delta_i, B_i, C_i),
                                   self.mixer_v.sequence(x_v, delta_v, B_v, C_v),
                                   directions=self.mixer_i.directions,
                                   backend=self.mixer_i.backend)
        return (self.mixer_i.finish(y_i, x_i, z_i, scale=weight_i, residual=i),
                self.mixer_v.finish(y_v, x_v, z_v, scale=weight_v, residual=v))


def separate_columns(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split a map of interleaved columns.

    Args:
        x: B x H x 2W x C, the columns of two maps in turn.

    Returns:
        Both maps, B x H x W x C.
    """
    return rearrange(x, 'b h (w m) c -> m b h w c', m=2).unbind()


class SpatialExchange(nn.Module):
    """Cross-modal scans of one level: stacked channels, interleaved columns, side by side."""

    MAPS = {'stacked': 1, 'column': 2, 'row': 2}  # that each scan returns
    # Of these, the scans of the configuration.
    stacked: VSSBlock
    column: VSSBlock
    row: VSSBlock

    def __init__(self, config: DiffMFConfig) -> None:
        super().__init__()
        width = config.width
        self.backend = 'auto'
        self.scans = config.scans
        for name in sorted(self.scans):
            self.add_module(name, VSSBlock(
                width, mlp_ratio=config.mlp_ratio, states=config.states, gate=config.gate))
        if 'stacked' in self.scans:
            self.stack = Linear(2 * width, width)
        self.merge = Linear(sum(self.MAPS[scan] for scan in self.scans) * width, width)

    def forward(self, i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        maps = [x for scan in self.scans for x in getattr(self, f'_{scan}')(i, v)]
        return fused.concat_linear(maps, self.merge, backend=self.backend)

    def _stacked(self, i: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
        return [self.stacked(fused.concat_linear((i, v), self.stack, backend=self.backend))]

    def _column(self, i: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return separate_columns(self.column(fused.pair(i, v, 'columns', backend=self.backend)))

    def _row(self, i: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scanned = self.row(fused.pair(i, v, 'row', backend=self.backend))
        return rearrange(scanned, 'b h (m w) c -> m b h w c', m=2).unbind()


class Down(nn.Sequential):
    """Down-sampling by two: B x H x W x C -> B x H/2 x W/2 x C."""

    def __init__(self, width: int) -> None:
        super().__init__(TokenConv2d(width, width, 3, stride=2, padding=1), LayerNorm(width))
        self.backend = 'auto'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolve, normalize = self
        return normalize(fused.conv(x, convolve, backend=self.backend))


class Decoder(nn.Module):
    """Decoder of the exchanged features to maps for mixing, or to the image itself.

    B x h x w x (levels C), and both sources -> B x 4 x H x W maps, or B x 1 x H x W.

    The sources join the up-sampled features, so that the edges of the maps are those of the
    pixels.
    """

    def __init__(self, config: DiffMFConfig) -> None:
        super().__init__()
        width, half = config.width, config.width // 2
        self.backend = 'auto'
        self.up = nn.Sequential(
            Conv2d(config.levels * width, width, 3, padding=1), nn.LeakyReLU(SLOPE),
            Conv2d(width, half * config.stride ** 2, 3, padding=1), nn.PixelShuffle(config.stride),
            nn.LeakyReLU(SLOPE))
        self.full = nn.Sequential(
            Conv2d(half + 4, half // 2, 3, padding=1), nn.LeakyReLU(SLOPE),
            PixelConv2d(half // 2, MAPS if config.mixing else 1, 3, padding=1))

    def forward(self, x: torch.Tensor, sources: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        first, _, second, shuffle, _ = self.up
        third, _, last = self.full
        x = fused.conv(x.permute(0, 3, 1, 2), first, slope=SLOPE, backend=self.backend)
        x = shuffle(fused.conv(x, second, slope=SLOPE, backend=self.backend))
        x = torch.cat((x, *(source.to(x.dtype) for source in sources)), dim=1)
        x = fused.conv(x, third, slope=SLOPE, backend=self.backend)
        return fused.conv(x, last, backend=self.backend)


class DiffMF(MixingNetwork):
    """Fuse infrared and visible luminance: net(ir, vi_y) -> fused_y, all B x 1 x H x W.

    Inputs lie in [0, 1]; the output is linear, clamp it. H and W must fit `sides`.
    """

    def __init__(self, config: DiffMFConfig = DiffMFConfig()) -> None:
        super().__init__()
        self.sides = SizeRule(config.stride * 2 ** (config.levels - 1))
        self.stem_i = Stem(config.width, config.stride)
        self.stem_v = Stem(config.width, config.stride)
        self.rounds = nn.ModuleList(DifferenceGuidedRound(config) for _ in range(config.rounds))
        self.channel = ChannelExchange(config)
        self.down_i, self.down_v = (
            nn.ModuleList(Down(config.width) for _ in range(config.levels - 1)) for _ in range(2))
        self.spatial = nn.ModuleList(SpatialExchange(config) for _ in range(config.levels))
        self.decoder = Decoder(config)
        self.apply(initialize)
        for extraction in self.rounds:
            extraction.start_neutral()  # type: ignore[operator]
        self.mixing = config.mixing
        if self.mixing:
            start_with_visible(self.decoder.full[-1])

    def maps(self, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """See MixingNetwork."""
        sources = fused.seen(ir, vi_y, backend=self.backend)
        i, v = self.stem_i(sources[0]), self.stem_v(sources[1])
        for extraction in self.rounds:
            i, v = extraction(i, v)
        i, v = self.channel(i, v)
        exchanged = [self.spatial[0](i, v)]
        for level, down_i, down_v in zip(self.spatial[1:], self.down_i, self.down_v):
            i, v = down_i(i), down_v(v)
            exchanged.append(level(i, v))
        return self.decoder(_merge(exchanged), sources)


def network(**sizes: Any) -> DiffMF:
    """Return DIFF-MF.

    Args:
        **sizes: the fields of DiffMFConfig.

    Returns:
        The network with fresh weights.
    """
    return DiffMF(DiffMFConfig(**sizes))


def _merge(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Merge levels, from fine to coarse, at the fine size: up-sample, concatenate, repeat."""
    merged = levels[-1]
    for finer in reversed(levels[:-1]):
        up = interpolate(merged.permute(0, 3, 1, 2), scale_factor=2, mode='bilinear',
                         align_corners=False)
        merged = torch.cat((up.permute(0, 2, 3, 1), finer), dim=-1)
    return merged
