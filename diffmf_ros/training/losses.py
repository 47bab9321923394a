# SPDX-License-Identifier: Apache-2.0
"""The fusion loss that DIFF-MF's ancestors use (SwinFusion, MambaDFuse): intensity, gradient, SSIM."""

from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d

C1, C2 = 0.01 ** 2, 0.03 ** 2


@dataclass(frozen=True)
class LossWeights:
    """Factors of the three terms."""

    intensity: float = 20.0
    gradient: float = 20.0
    ssim: float = 10.0


def sobel_magnitude(image: torch.Tensor) -> torch.Tensor:
    """|Sobel_x| + |Sobel_y| of B x 1 x H x W with zero padding, the same shape."""
    x = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack((x, x.T))[:, None]
    return conv2d(image, kernels, padding=1).abs().sum(1, keepdim=True)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of B x 1 x H x W images in [0, 1]: 11 x 11 Gaussian of sigma 1.5 (Wang et al. 2004)."""
    steps = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    gauss = torch.exp(-steps ** 2 / (2 * 1.5 ** 2))
    gauss = gauss / gauss.sum()

    def blur(x):
        return conv2d(conv2d(x, gauss.view(1, 1, 1, -1)), gauss.view(1, 1, -1, 1))

    mean_a, mean_b, aa, bb, ab = blur(torch.cat((a, b, a * a, b * b, a * b))).chunk(5)
    var_a, var_b, cov = aa - mean_a ** 2, bb - mean_b ** 2, ab - mean_a * mean_b
    value = ((2 * mean_a * mean_b + C1) * (2 * cov + C2)
             / ((mean_a ** 2 + mean_b ** 2 + C1) * (var_a + var_b + C2)))
    return value.mean()


def fusion_loss(fused, ir, vi_y, weights: LossWeights = LossWeights()) -> dict[str, torch.Tensor]:
    """Return the loss ('total') and its terms for B x 1 x H x W images; fused must not be clamped.

    intensity: L1 to the pixel-wise maximum; gradient: L1 of the Sobel magnitude to the pixel-wise
    maximum; ssim: one minus SSIM to both sources, each weighted by its share of the gradient.
    """
    gradient_ir, gradient_vi = sobel_magnitude(ir), sobel_magnitude(vi_y)
    share = gradient_ir.mean() / (gradient_ir.mean() + gradient_vi.mean()).clamp(min=1e-6)
    terms = {
        'intensity': (fused - torch.maximum(ir, vi_y)).abs().mean(),
        'gradient': (sobel_magnitude(fused) - torch.maximum(gradient_ir, gradient_vi)).abs().mean(),
        'ssim': 1 - share * ssim(ir, fused) - (1 - share) * ssim(vi_y, fused),
    }
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return {'total': total, **terms}
