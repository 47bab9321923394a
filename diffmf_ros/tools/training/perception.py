# SPDX-License-Identifier: Apache-2.0
"""What a network that knows ImageNet sees in a source or a fused image: S4Fusion's saliency and
uncertainty.

Restated from the compiled loss of S4Fusion's authors. The temperature, and how a gray image
becomes three channels, are not known; ours are a parameter, and copies with ImageNet's mean and
deviation.
"""

from functools import lru_cache

import torch
from torch import nn
from torch.nn.functional import softmax

from .losses import magnitude, sobel
from .resnet50 import MEAN, STD

NO_CLASS = 1e-9  # added to every probability


class Perception:
    """Shares of the sources and uncertainty of the result. network: as ResNet50, frozen."""

    def __init__(self, network: nn.Module, *, temperature: float):
        self._network, self._temperature = network, temperature

    @torch.no_grad()
    def shares(self, ir: torch.Tensor, vi_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much each source counts, by the edges in its features: two B, their sum is 1."""
        saliency = torch.stack([self._saliency(image) for image in (ir, vi_y)])
        of_ir, of_vi = softmax(saliency / self._temperature, dim=0)
        return of_ir, of_vi

    def uncertainty(self, fused: torch.Tensor) -> torch.Tensor:
        """Mean entropy, in nats, of the classes that the network sees in B x 1 x H x W."""
        _, logits = self._network(_as_rgb(fused))
        p = softmax(logits, dim=1) + NO_CLASS
        return -(p * p.log()).sum(1).mean()

    def _saliency(self, image):
        stages, _ = self._network(_as_rgb(image))
        return torch.stack([_edges(stage).square().mean((1, 2, 3)) for stage in stages]).mean(0)


def _as_rgb(gray):
    mean, std = _statistics(gray.dtype, gray.device)
    return (gray - mean) / std


@lru_cache
def _statistics(dtype, device):
    """Return mean and deviation, 3 x 1 x 1; made once, as a CUDA graph can copy nothing there."""
    return tuple(torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)
                 for values in (MEAN, STD))


def _edges(features):
    """|x| + |y| of Sobel's gradient of every channel: B x C x H x W -> the same."""
    return magnitude(sobel(features.flatten(0, 1)[:, None])).view_as(features)
