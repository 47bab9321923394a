# SPDX-License-Identifier: Apache-2.0
"""S4Fusion: saliency-aware selective state-space fusion.

Ma et al., IEEE TIP 2025, arXiv 2405.20881.

Preset `base` is the authors' network, tensor for tensor, and gives what theirs gives. What this
project changed in `light` is named in docs/models.md. Infrared is x, visible luminance is y;
features are token-major, B x h x w x C.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import conv_transpose2d, linear

from . import SizeRule, fused, scan
from .blocks import (
    SS2D,
    LayerNorm,
    Linear,
    PixelConv2d,
    TokenConv2d,
    VSSBlock,
    initialize,
    linear_weight,
)
from .mixing import MAPS, MixingNetwork, start_with_visible

PATCH, STRIDE = 4, 3  # pixels; patches overlap by one
FOLDED = 12  # channels of the overlapping patches that make the image
EXPAND = 1.5  # width inside the scans, relative to the channels


@dataclass(frozen=True)
class S4FusionConfig:
    """Sizes of the network; the defaults are the authors'."""

    width: int = 48  # channels at the first scale, doubled at the second and again at the third
    depths: tuple[int, int, int] = (1, 2, 1)  # blocks of encoder and decoder at each scale
    states: int = 12
    cross_states: int = 18
    cross_blocks: int = 3
    unused: bool = True  # hold the tensors of the authors' checkpoint that no result depends on
    # the decoder says how the sources are mixed; False: it paints the whole image
    mixing: bool = False


class PatchEmbed(nn.Module):
    """Patch embedding: B x channels x H x W -> B x (H - 1) / 3 x (W - 1) / 3 x C."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = TokenConv2d(channels, width, PATCH, stride=STRIDE)
        self.norm = LayerNorm(width, begins_stream=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(image.permute(0, 2, 3, 1)))


class Merge(nn.Module):
    """Patch merging to half the size: B x h x w x C -> B x h/2 x w/2 x 2C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.backend = 'auto'
        self.norm = LayerNorm(4 * channels, before_layers=True)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = rearrange(x, 'b (h row) (w column) c -> b h w (column row c)', row=2, column=2)
        return fused.norm_linear(cells, self.norm, self.reduction,
                                 backend=self.backend).to(x.dtype)


class Expand(nn.Module):
    """Patch expansion to twice the size: B x h x w x C -> B x 2h x 2w x C/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = Linear(channels, 2 * channels, bias=False)
        self.norm = LayerNorm(channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.expand(x).to(x.dtype)
        return self.norm(rearrange(cells, 'b h w (row column c) -> b (h row) (w column) c', row=2,
                                   column=2))


class Stage(nn.Module):
    """VSS blocks without MLP, behind an up-sampling or before a down-sampling or with neither."""

    def __init__(self, channels: int, depth: int, *, upsample: nn.Module | None = None,
                 downsample: nn.Module | None = None, **ss2d: Any) -> None:
        super().__init__()
        self.upsample, self.downsample = upsample, downsample
        self.blocks = nn.ModuleList(VSSBlock(channels, **ss2d) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.upsample is None else self.upsample(x)
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class CrossModalSS2D(SS2D):
    """Cross-modal spatial awareness block (CMSA): one scan through the tokens of both modalities.

    Two B x h x w x C give two of the same shape. Input projection, convolution, step sizes,
    decays, normalization and output projection are shared; B, C and the low-rank step size are
    projected for each modality by itself. A mark made of both is added to the scanned sequence.
    """

    LAYERS = 'x_proj_weight', 'y_proj_weight', 'mark_proj'

    def __init__(self, channels: int, **ss2d: Any) -> None:
        super().__init__(channels, **ss2d)
        self.y_proj_weight = linear_weight(*self.x_proj_weight.shape)
        self.mark_proj = linear_weight(self.inner, 2 * self.inner)

    def forward(  # type: ignore[override]
            self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, gates = self.in_branch(torch.cat((x, y)))
        features, *records = self.project_dt_b_c(features, self.x_proj_weight, self.y_proj_weight)
        u_x, u_y = features.chunk(2)
        mark = linear(torch.cat((u_x, u_y), dim=-1).to(self.mark_proj.dtype), self.mark_proj)
        scanned = scan.interleaved_ss2d((u_x + mark, u_y + mark), records, *self.ssm_parameters,
                                        backend=self.backend)
        return self.out_branch(torch.cat(tuple(scanned)), gates).chunk(2)


class CrossModalFusion(nn.Module):
    """CMSA blocks with residuals, then the sum of both modalities: two B x h x w x C -> one."""

    def __init__(self, channels: int, depth: int, **ss2d: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossModalSS2D(channels, **ss2d) for _ in range(depth))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            added_x, added_y = layer(x, y)
            x, y = x + added_x, y + added_y
        return x + y


class OverlappingPatches(nn.Module):
    """Overlapping 4x4 patches, three pixels apart, summed: B x h x w x C -> B x 12 x H x W."""

    def __init__(self, channels: int, *, unused: bool) -> None:
        super().__init__()
        # Not blocks.Linear: what becomes pixels is never in half precision.
        self.expand = nn.Linear(channels, FOLDED * PATCH ** 2, bias=False)
        self.norm = LayerNorm(FOLDED).requires_grad_(False) if unused else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The linear layer and the sum over its patches in one: ten times as fast as with torch's
        # fold.
        kernels = self.expand.weight.mT.unflatten(1, (FOLDED, PATCH, PATCH))
        return conv_transpose2d(x.permute(0, 3, 1, 2).to(kernels.dtype), kernels, stride=STRIDE)


class S4Fusion(MixingNetwork):
    """Fuse infrared and visible luminance: net(ir, vi_y) -> fused_y, all B x 1 x H x W.

    Inputs lie in [0, 1]; the output is linear, clamp it. H and W must fit `sides`: 13, 25, 37 ...
    """

    sides = SizeRule(12, 1, centered=True)

    def __init__(self, config: S4FusionConfig = S4FusionConfig()) -> None:
        super().__init__()
        widths = [config.width, 2 * config.width, 4 * config.width]
        scan_options: dict[str, Any] = {'gate': True, 'conv_bias': True, 'expand': EXPAND}

        def stage(scale: int, **sampling: nn.Module) -> Stage:
            return Stage(widths[scale], config.depths[scale], states=config.states, **scan_options,
                         **sampling)

        def encoder() -> nn.ModuleList:
            return nn.ModuleList([stage(0, downsample=Merge(widths[0])),
                                  stage(1, downsample=Merge(widths[1])),
                                  stage(2)])

        self.patch_embed_x, self.patch_embed_y = (PatchEmbed(2 if config.mixing else 1,
                                                             config.width) for _ in range(2))
        self.layers_x, self.layers_y = encoder(), encoder()
        fused = {scale: CrossModalFusion(widths[scale], config.cross_blocks,
                                         states=config.cross_states,
                                         **scan_options)
                 for scale in range(0 if config.unused else 1, 3)}
        self.fusion_layers = nn.ModuleDict({str(scale): fusion for scale, fusion in fused.items()})
        if config.unused:  # the authors compute it and never use it
            fused[0].requires_grad_(False)
        self.layers_up = nn.ModuleList([stage(2), stage(1, upsample=Expand(widths[2])),
                                        stage(0, upsample=Expand(widths[1]))])
        self.final_up = OverlappingPatches(config.width, unused=config.unused)
        self.final_conv = PixelConv2d(FOLDED, MAPS if config.mixing else 1, 1)
        self.apply(initialize)
        self.mixing = config.mixing
        if self.mixing:
            start_with_visible(self.final_conv)

    def maps(self, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """See MixingNetwork."""
        images = fused.seen(ir, vi_y, backend=self.backend) if self.mixing else (ir, vi_y)
        x, y = self.patch_embed_x(images[0]), self.patch_embed_y(images[1])
        x, y = self.layers_x[0](x), self.layers_y[0](y)
        finer = x, y
        x, y = self.layers_x[1](x), self.layers_y[1](y)
        coarser = x, y
        decoded = self.layers_up[0](self.layers_x[2](x) + self.layers_y[2](y))
        decoded = self.layers_up[1](decoded + self.fusion_layers['2'](*coarser))
        decoded = self.layers_up[2](decoded + self.fusion_layers['1'](*finer))
        return self.final_conv(self.final_up(decoded))


def network(**sizes: Any) -> S4Fusion:
    """Return S4Fusion.

    Args:
        **sizes: the fields of S4FusionConfig.

    Returns:
        The network with fresh weights.
    """
    return S4Fusion(S4FusionConfig(**sizes))
