# SPDX-License-Identifier: Apache-2.0
"""Gated mixing: the last step of a network, from four maps to the fused luminance.

A network gives a weight of each camera for every pixel, and the cameras' own values are mixed
by these at full resolution; it does not paint pixels. Each source is split into a base (an 8x8
mean) and detail (the rest), so that, say, the brightness of a warm object can come from thermal
while the lettering on it comes from the visible image. docs/models.md has the figure.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from . import SizeRule, fused

MAPS = 4  # that a network gives to mix()
BASE = 8, 4  # pixels of a mean, and between two: base and detail part there
BLOCK = 8  # pixels; surround and ground are made of the means of such blocks
SURROUND = 8, 2  # blocks of a mean, and between two: 64x64 pixels around every 16th
GROUND = 17  # blocks: side of the square of the opening
CLOSED = -2.0  # logit of a gate that starts nearly closed: 12 %
LARGEST_GAIN = 2.0  # of detail


class MixingNetwork(nn.Module):
    """A network whose result is mixed from its sources, or painted if `mixing` is False.

    A subclass has `sides` and `maps(ir, vi_y)`.
    """

    sides: SizeRule

    mixing = True
    backend = 'auto'  # of fused.seen and fused.mix, which on a GPU stand for seen() and mix()

    def forward(self, ir: torch.Tensor, vi_y: torch.Tensor, *,
                with_share: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Fuse infrared and visible luminance.

        Args:
            ir, vi_y: B x 1 x H x W in [0, 1], with sides that fit `sides`.
            with_share: Return the thermal share of the base too, for training.

        Returns:
            Fused luminance, B x 1 x H x W, linear (clamp it); with_share: and the share's logits.
        """
        self.sides.require(ir, vi_y)
        maps = self.maps(ir, vi_y)
        image = fused.mix(ir, vi_y, maps, backend=self.backend) if self.mixing else maps
        return (image, maps[:, :1]) if with_share else image

    def maps(self, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """Return the maps for mix(), or the image of a network that paints.

        Args:
            ir, vi_y: B x 1 x H x W in [0, 1], with sides that fit `sides`.

        Returns:
            B x 4 x H x W for mix(), or without `mixing` B x 1 x H x W.
        """
        raise NotImplementedError


def mix(ir: torch.Tensor, vi_y: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Mix infrared and visible luminance as the maps say.

    Args:
        ir, vi_y: B x 1 x H x W in [0, 1].
        maps: B x 4 x H x W, any values: logits of the thermal share of the base and of the gains
            of visible and of thermal detail (0 to 2 each), and what is added, in units of 1. The
            gain of visible detail is at least its share of the base.

    Returns:
        B x 1 x H x W in the type of ir, not clamped. It is vi_y for a share of 0, gains of 1 and 0
        and nothing added.
    """
    share, visible, thermal, added = maps.to(ir.dtype).split(1, dim=1)
    share = torch.sigmoid(share)
    # Visible detail stays where the base is visible: a network takes fine texture for noise. The
    # bound teaches the share nothing, or it would rise to let noise be taken away.
    visible = torch.maximum(LARGEST_GAIN * torch.sigmoid(visible), 1 - share.detach())
    thermal = LARGEST_GAIN * torch.sigmoid(thermal)
    image = torch.addcmul(added, visible, vi_y).addcmul(thermal, ir)
    return image.addcmul(1 - share - visible, base(vi_y)).addcmul(share - thermal, base(ir))


def base(image: torch.Tensor) -> torch.Tensor:
    """Return the base of an image: its 8x8 mean around every fourth pixel, bilinear in between.

    Args:
        image: B x 1 x H x W.

    Returns:
        Like image.
    """
    return _means_between(_means(image, *BASE), image, BASE[1])


def seen(ir: torch.Tensor, vi_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs of a network's first layers.

    The first channel is the value, with about zero mean and unit deviation. The second one is the
    difference from the surround: for thermal from its ground(), for the visible image from the
    mean of 64x64 pixels.

    Args:
        ir, vi_y: B x 1 x H x W in [0, 1].

    Returns:
        Two B x 2 x H x W, of thermal and of the visible image.
    """
    surround = _means_between(_means(_blocks(vi_y), *SURROUND), vi_y, SURROUND[1] * BLOCK)
    return (torch.cat((4 * ir - 2, 8 * (ir - ground(ir))), dim=1),
            torch.cat((4 * vi_y - 2, 4 * (vi_y - surround)), dim=1))


def ground(ir: torch.Tensor) -> torch.Tensor:
    """Return thermal without objects warmer than their surround and narrower than 136 pixels.

    This is a morphological opening by a square of 17 x 17 means of 8x8 pixels.

    Args:
        ir: B x 1 x H x W in [0, 1].

    Returns:
        Like ir.
    """
    return _means_between(_largest(-_largest(-_blocks(ir))), ir, BLOCK)


def _largest(means: torch.Tensor) -> torch.Tensor:
    """Return the largest of 17 x 17 means around each."""
    rows = max_pool2d(means, (1, GROUND), 1, (0, GROUND // 2))
    return max_pool2d(rows, (GROUND, 1), 1, (GROUND // 2, 0))


def _blocks(image: torch.Tensor) -> torch.Tensor:
    """Return means of blocks of 8x8 pixels; at the border of the pixels inside."""
    return avg_pool2d(image, BLOCK, BLOCK, ceil_mode=True, count_include_pad=False)


def _means(image: torch.Tensor, window: int, step: int) -> torch.Tensor:
    """Return means of window x window around every step-th place.

    At the border they are means of the part inside.
    """
    return avg_pool2d(image, window, step, padding=(window - step) // 2, ceil_mode=True,
                      count_include_pad=False)


def _means_between(means: torch.Tensor, image: torch.Tensor, step: int) -> torch.Tensor:
    """Return means that stand step pixels apart at every pixel of image, bilinear."""
    smooth = interpolate(means, scale_factor=step, mode='bilinear', align_corners=False)
    return smooth[..., :image.shape[2], :image.shape[3]]


def start_with_visible(layer: nn.Module) -> None:
    """Set the bias of the layer that makes the maps so that the visible image results.

    The maps of an untrained network vary around these: 12 % of thermal, visible detail once.

    Args:
        layer: Last convolution of a network, with four outputs; changed in place.
    """
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    with torch.no_grad():
        layer.weight[MAPS - 1] *= 0.02  # what is added has the size of pixels, not of logits
        layer.bias.copy_(torch.tensor([CLOSED, 0.0, CLOSED, 0.0]))
