# SPDX-License-Identifier: Apache-2.0
"""Color trust on tensors, for a device: the arithmetic of core/imaging/color_trust.py, the same color."""

import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..core.imaging.color_trust import NEUTRAL, WINDOW_PX, weights


def trusted_chroma(luma: torch.Tensor, y: torch.Tensor,
                   chroma: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the chroma that suits a fused luminance, as core.color_trust.chroma_map describes it.

    Args:
        luma, y: fused and visible luminance, H x W float32 of whole numbers 0..255.
        chroma: Cr and Cb of the visible image, H x W, of the same kind.

    Returns:
        Cr and Cb, 2 x H x W float32, not rounded.
    """
    height, width = luma.shape
    chroma = torch.stack(chroma)
    half = _halved(torch.cat((torch.stack((luma, y)), chroma)))
    half[1:] = (half[1:] + 0.5).floor()  # images of 8 bit on the host
    fused, y = _mean(half[:2])
    clean = _median(half[2:]) - NEUTRAL
    gain, share = weights(fused, y, *clean)
    factors = torch.cat((gain[None], share * clean))
    factors = interpolate(factors[None], scale_factor=2, mode='bilinear', align_corners=False)
    factors = factors[0, :, :height, :width]
    return factors[0] * (chroma - NEUTRAL) + factors[1:] + NEUTRAL


def _halved(images: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 pixels of N x H x W; an odd last row or column counts twice."""
    height, width = images.shape[-2:]
    images = pad(images[None], (0, width % 2, 0, height % 2), mode='replicate')
    return avg_pool2d(images, 2)[0]


def _mean(images: torch.Tensor) -> torch.Tensor:
    """Average 3 x 3 pixels around each of N x h x w."""
    return avg_pool2d(_bordered(images), WINDOW_PX, stride=1)[0]


def _median(images: torch.Tensor) -> torch.Tensor:
    """Return the median of 3 x 3 pixels, N x h x w.

    With each column of three sorted it is the middle one of: the largest of the lowest, the middle
    one of the middle ones, the smallest of the highest.
    """
    bordered = _bordered(images)[0]
    above, here, below = bordered[:, :-2], bordered[:, 1:-1], bordered[:, 2:]
    small, large = torch.minimum(above, here), torch.maximum(above, here)
    lowest, highest = torch.minimum(small, below), torch.maximum(large, below)
    middle = torch.maximum(small, torch.minimum(large, below))
    return _middle(_across(lowest, torch.maximum), _middle(*_columns(middle)),
                   _across(highest, torch.minimum))


def _middle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _across(images: torch.Tensor, choose) -> torch.Tensor:
    left, center, right = _columns(images)
    return choose(choose(left, center), right)


def _columns(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images[..., :-2], images[..., 1:-1], images[..., 2:]


def _bordered(images: torch.Tensor) -> torch.Tensor:
    return pad(images[None], (1, 1, 1, 1), mode='replicate')
