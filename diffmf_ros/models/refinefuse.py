# SPDX-License-Identifier: Apache-2.0
"""RefineFuse: multi-scale refinement fusion.

Song et al., Visual Intelligence 2025, doi 10.1007/s44267-025-00087-w.

Stages, strides, widths and connections follow the authors' framework figure and abstract; the
insides of the modules are this project's design and are marked so in docs/models.md. Modality a is
infrared (or MRI), b the luminance of the visible image (or of PET, SPECT). Features are B x C x H
x W.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from . import SizeRule, fused
from .blocks import SLOPE, Conv2d, LayerNorm, Linear, PixelConv2d, initialize
from .mixing import MAPS, MixingNetwork, start_with_visible

HEAD = 32  # channels of an attention head
REDUCTIONS = {3: 4, 4: 2}  # of keys and values, by scale: both leave one for every 16x16 pixels


@dataclass(frozen=True)
class RefineFuseConfig:
    """Sizes of the network. The deep widths are multiples of HEAD."""

    # channels at full size, 1/2, 1/4 and 1/8
    widths: tuple[int, int, int, int] = (64, 64, 128, 128)
    # the decoder says how the sources are mixed; False: it paints the whole image
    mixing: bool = True


class ConvB(nn.Module):
    """3x3 convolution with mirrored border, and LeakyReLU.

    Without normalization: the absolute intensity is information.
    """

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.backend = 'auto'
        self.conv = Conv2d(channels, out, 3, stride=stride, padding=1, padding_mode='reflect')

    def forward(self, x: torch.Tensor, *, residual: torch.Tensor | None = None,
                dtype: torch.dtype | None = None) -> torch.Tensor:
        return fused.conv(x, self.conv, slope=SLOPE, residual=residual, dtype=dtype,
                          backend=self.backend)


class EncoderStage(nn.Module):
    """Two convolutions, the second with a residual; the first one may halve the size."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = ConvB(channels, out, stride), ConvB(out, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # a first stage on pixels computes in float32
        x = self.first(x, dtype=self.second.conv.weight.dtype)
        return self.second(x, residual=x)


class DualAttention(nn.Module):
    """Shallow interaction (SFIM): exchange of features through channel and spatial gates.

    Two B x C x H x W give one. The exchange is that of CMX's feature rectification.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(Linear(4 * channels, channels), nn.ReLU(),
                                     Linear(channels, 2 * channels),
                                     nn.Sigmoid())
        self.spatial = nn.Sequential(Conv2d(2 * channels, channels, 1), nn.ReLU(),
                                     Conv2d(channels, 2, 1),
                                     nn.Sigmoid())
        self.merge = ConvB(2 * channels, channels)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        both = torch.cat((a, b), dim=1)
        pooled = torch.cat((both.mean((2, 3)), both.amax((2, 3))), dim=1)
        channel_a, channel_b = self.channel(pooled)[:, :, None, None].chunk(2, dim=1)
        spatial_a, spatial_b = self.spatial(both).chunk(2, dim=1)
        return self.merge(torch.cat((a + 0.5 * (channel_b + spatial_b) * b,
                                     b + 0.5 * (channel_a + spatial_a) * a),
                                    dim=1))


class CrossAttention(nn.Module):
    """Cross-attention of one modality to the whole image of the other.

    B x N x C tokens and a B x C x H x W map -> B x N x C.

    Keys and values are a depth-wise convolution of the map with kernel and stride `reduction`. No
    parameter depends on the size of the image.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.reduce = Conv2d(channels, channels, reduction, stride=reduction, groups=channels)
        self.query = Linear(channels, channels)
        self.key_value = Linear(channels, 2 * channels)
        self.out = Linear(channels, channels)

    def forward(self, tokens: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        keys, values = self.key_value(as_tokens(self.reduce(other))).chunk(2, dim=-1)
        query, keys, values = map(self._by_head, (self.query(tokens), keys, values))
        asked = scaled_dot_product_attention(query, keys, values)
        return self.out(asked.transpose(1, 2).flatten(2))

    def _by_head(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)


class GlobalInteraction(nn.Module):
    """Deep interaction (PSIM): cross-attention both ways, feed-forward layers, then one map.

    Two B x C x H x W give one.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.norm_a, self.norm_b = LayerNorm(channels), LayerNorm(channels)
        self.ask_b, self.ask_a = CrossAttention(channels,
                                                reduction), CrossAttention(channels, reduction)
        self.feed_a, self.feed_b = FeedForward(channels), FeedForward(channels)
        self.merge = ConvB(2 * channels, channels)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        size = a.shape[2:]
        a, b = as_tokens(a), as_tokens(b)
        normed_a, normed_b = self.norm_a(a), self.norm_b(b)
        a = self.feed_a(a + self.ask_b(normed_a, as_map(normed_b, size)))
        b = self.feed_b(b + self.ask_a(normed_b, as_map(normed_a, size)))
        return self.merge(as_map(torch.cat((a, b), dim=-1), size))


class FeedForward(nn.Module):
    """Feed-forward layer x + MLP(LN(x)) of B x N x C tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backend = 'auto'
        self.norm = LayerNorm(channels)
        self.widen, self.narrow = Linear(channels, 2 * channels), Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused.mlp(x, self.norm, self.widen, self.narrow, backend=self.backend)


class Injection(nn.Module):
    """Injection (FIM) of the deep map into the shallow one: scale, shift, merge.

    Two B x C x H x W give one. It is PSFusion's semantic injection without its instance
    normalization.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backend = 'auto'
        self.read = Conv2d(channels, channels, 3, padding=1)
        self.gain = Conv2d(channels, channels, 3, padding=1)
        self.shift = Conv2d(channels, channels, 3, padding=1)
        self.merge = ConvB(2 * channels, channels)

    def start_neutral(self) -> None:
        """Zero the shift, so that training starts with the shallow map alone."""
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)  # type: ignore[arg-type]

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        read = fused.conv(deep, self.read, backend=self.backend).relu()
        gain, shift = (fused.conv(read, layer, backend=self.backend)
                       for layer in (self.gain, self.shift))
        shallow = shallow * (1 + gain.sigmoid()) + shift
        return self.merge(torch.cat((shallow, deep), dim=1))


class RefineFuse(MixingNetwork):
    """Fuse infrared and visible luminance: net(ir, vi_y) -> fused_y, all B x 1 x H x W.

    Inputs lie in [0, 1]; the output is linear, clamp it. H and W must fit `sides`.
    """

    sides = SizeRule(16)  # 8 for the strides, 16 so that the reductions divide

    def __init__(self, config: RefineFuseConfig = RefineFuseConfig()) -> None:
        super().__init__()
        w1, w2, w3, w4 = config.widths

        def encoder() -> nn.ModuleList:
            return nn.ModuleList(EncoderStage(*sizes)
                                 for sizes in ((2, w1, 1), (w1, w2, 2), (w2, w3, 2), (w3, w4, 2)))

        self.encoder_a, self.encoder_b = encoder(), encoder()
        self.fusion = nn.ModuleList([DualAttention(w1), DualAttention(w2),
                                     GlobalInteraction(w3, REDUCTIONS[3]),
                                     GlobalInteraction(w4, REDUCTIONS[4])])
        self.decode_4 = ConvB(w4, w3)
        self.decode_3 = nn.Sequential(ConvB(2 * w3, w3), ConvB(w3, w2))
        self.inject = Injection(w2)
        self.decode_2 = nn.Sequential(ConvB(w2, w1), ConvB(w1, w1))
        self.decode_1 = nn.Sequential(ConvB(2 * w1, w1), ConvB(w1, w1 // 2),
                                      PixelConv2d(w1 // 2, MAPS if config.mixing else 1, 3,
                                                  padding=1))
        self.apply(initialize)
        self.inject.start_neutral()
        self.mixing = config.mixing
        if self.mixing:
            start_with_visible(self.decode_1[-1])

    def maps(self, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """See MixingNetwork."""
        (a, b), levels = fused.seen(ir, vi_y, backend=self.backend), []
        for encode_a, encode_b, fuse in zip(self.encoder_a, self.encoder_b, self.fusion):
            a, b = encode_a(a), encode_b(b)
            levels.append(fuse(a, b))
        x = torch.cat((twice(self.decode_4(levels[3])), levels[2]), dim=1)
        x = self.inject(twice(self.decode_3(x)), levels[1])
        x = torch.cat((twice(self.decode_2(x)), levels[0]), dim=1)
        return self.decode_1(x)


def as_tokens(image_map: torch.Tensor) -> torch.Tensor:
    """Return the tokens of a map.

    Args:
        image_map: B x C x H x W.

    Returns:
        B x HW x C.
    """
    return image_map.flatten(2).mT


def as_map(tokens: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return the map of tokens, channels-last in memory.

    Args:
        tokens: B x HW x C.
        size: (H, W).

    Returns:
        B x C x H x W.
    """
    return tokens.mT.unflatten(2, size)


def twice(x: torch.Tensor) -> torch.Tensor:
    """Up-sample by two, bilinearly.

    Args:
        x: B x C x H x W.

    Returns:
        B x C x 2H x 2W.
    """
    return interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)


def network(**sizes: Any) -> RefineFuse:
    """Return RefineFuse.

    Args:
        **sizes: the fields of RefineFuseConfig.

    Returns:
        The network with fresh weights.
    """
    return RefineFuse(RefineFuseConfig(**sizes))
