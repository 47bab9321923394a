# SPDX-License-Identifier: Apache-2.0
"""A U-Net of plain convolutions in place of DIFF-MF's state-space parts, for the ablation.

It sees what DIFF-MF sees, works at the stride of `nano` and ends in the same decoder and the same
mixing, so that what differs is what lies between.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import interpolate

from diffmf_ros.models import SizeRule
from diffmf_ros.models.blocks import SLOPE, Conv2d, initialize
from diffmf_ros.models.diffmf import Decoder, DiffMFConfig
from diffmf_ros.models.mixing import MixingNetwork, seen, start_with_visible

DECODER = DiffMFConfig(width=16, stride=4, levels=1)  # that of nano, fed with one level


@dataclass(frozen=True)
class UNetConfig:
    """Channels at 1/4 of the size; they double at 1/8 and again at 1/16."""

    width: int = 32


def convolutions(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """Return two 3x3 convolutions with LeakyReLU; the first one has the stride."""
    return nn.Sequential(
        Conv2d(channels, out, 3, padding=1, stride=stride), nn.LeakyReLU(SLOPE),
        Conv2d(out, out, 3, padding=1), nn.LeakyReLU(SLOPE))


class UNet(MixingNetwork):
    """Fuse infrared and visible luminance: net(ir, vi_y) -> fused_y, all B x 1 x H x W."""

    sides = SizeRule(16)

    def __init__(self, config: UNetConfig = UNetConfig()):
        super().__init__()
        width = config.width
        self.stem = nn.Sequential(
            Conv2d(4, DECODER.width // 2, 3, padding=1), nn.LeakyReLU(SLOPE),
            Conv2d(DECODER.width // 2, width, 3, padding=1, stride=DECODER.stride),
            nn.LeakyReLU(SLOPE))
        self.fine = convolutions(width, width)
        self.middle = convolutions(width, 2 * width, stride=2)
        self.coarse = convolutions(2 * width, 4 * width, stride=2)
        self.join_middle = convolutions(6 * width, 2 * width)
        self.join_fine = convolutions(3 * width, DECODER.width)
        self.decoder = Decoder(DECODER)
        self.apply(initialize)
        start_with_visible(self.decoder.full[-1])

    def maps(self, ir, vi_y):
        """See MixingNetwork."""
        sources = seen(ir, vi_y)
        fine = self.fine(self.stem(torch.cat(sources, dim=1)))
        middle = self.middle(fine)
        x = self.join_middle(torch.cat((twice(self.coarse(middle)), middle), dim=1))
        x = self.join_fine(torch.cat((twice(x), fine), dim=1))
        return self.decoder(x.permute(0, 2, 3, 1), sources)


def twice(x):
    """B x C x H x W at twice the size, bilinear."""
    return interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)


def network(**sizes) -> UNet:
    """Return the U-Net with sizes as in UNetConfig."""
    return UNet(UNetConfig(**sizes))
