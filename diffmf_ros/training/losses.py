# SPDX-License-Identifier: Apache-2.0
"""The terms a fusion network is trained with. Images are B x 1 x H x W in [0, 1]; the fused one is not clamped."""

from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d, pad

C1, C2 = 0.01 ** 2, 0.03 ** 2
LEVEL = 1 / 255  # a grey level
SOFTNESS = LEVEL / 2  # an intensity closer than this to its target pulls less, in proportion
THERMAL_NOISE_SIGMA = 1.5  # pixels
FLAT = 8 * 2 * LEVEL  # Sobel's gradient of a slope of two levels a pixel
VIF_WINDOWS = (17, 9, 5, 3)
VIF_SMALLEST_SIDE = 41  # below it the coarsest scale of VIF has no pixel left
VIF_NOISE = 2 * LEVEL ** 2  # variance; that of the metric
VIF_FLAT = 1e-2 * LEVEL ** 2  # a variance far below this says nothing; keeps the gradient finite


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms; a term with factor 0 is not computed.

    The defaults are the loss of DIFF-MF's ancestors (SwinFusion, MambaDFuse); PRESETS has others.
    """

    intensity: float = 20.0
    gradient: float = 20.0  # magnitude of the gradient
    edges: float = 0.0  # gradient with its direction
    ssim: float = 10.0
    scd: float = 0.0
    vif: float = 0.0
    distil: float = 0.0
    detail: float = 0.0  # additional weight of `edges` where thermal is flat
    edge_gain: float = 1.0  # contrast that `edges` asks for, relative to the sources
    source_l1: float = 0.0
    source_ssim: float = 0.0
    uncertainty: float = 0.0  # needs a network that knows ImageNet
    temperature: float = 1.0  # of the shares that such a network gives the sources


PRESETS = {
    'ancestors': LossWeights(),
    # What the shipped weights are trained with: docs/training.md has the measurements that chose it.
    'correction': LossWeights(intensity=60, gradient=0, edges=20, detail=1, edge_gain=1.12, ssim=10, scd=2, vif=2),
    # The terms of the authors' compiled loss that need no ImageNet weights, at equal factors, which are ours.
    's4fusion': LossWeights(intensity=0, ssim=0, gradient=20, source_l1=20, source_ssim=20),
    # MambaDFuse's factors for medical images: both sources count alike in SSIM, and `source_ssim` is half of 1 - SSIM.
    'medical': LossWeights(intensity=20, gradient=100, ssim=0, source_ssim=100),
}
EQUAL = 0.5, 0.5


def fusion_loss(fused, ir, vi_y, weights: LossWeights = LossWeights(), *, taught=None,
                perception=None) -> dict[str, torch.Tensor]:
    """Return the weighted sum ('total') and every term whose weight is not 0, for B x 1 x H x W images.

    taught is what a teacher makes of the images, for the term 'distil'. perception, a Perception, gives the shares
    that the sources have in 'source_l1' and 'source_ssim', which are equal without one, and the term 'uncertainty'.
    """
    terms = {name: term(fused, ir, vi_y, weights) for name, term in TERMS.items() if getattr(weights, name)}
    if weights.source_l1 or weights.source_ssim:
        shares = EQUAL if perception is None else perception.shares(ir, vi_y)
        terms |= {name: shared_out(term, fused, (ir, vi_y), shares)
                  for name, term in SHARED.items() if getattr(weights, name)}
    if weights.uncertainty:
        terms['uncertainty'] = perception.uncertainty(fused)
    if weights.distil:
        terms['distil'] = distance(fused, taught)
    return {'total': sum(getattr(weights, name) * term for name, term in terms.items()), **terms}


def distance(a, b):
    """L1, rounded off below SOFTNESS (Charbonnier)."""
    return (torch.sqrt((a - b) ** 2 + SOFTNESS ** 2) - SOFTNESS).mean()


def intensity(fused, ir, vi_y, weights):
    """Distance to the pixel-wise maximum."""
    return distance(fused, torch.maximum(ir, vi_y))


def gradient(fused, ir, vi_y, weights):
    """L1 of the magnitude of Sobel's gradient to the larger one of the sources (SwinFusion)."""
    return (magnitude(sobel(fused)) - torch.maximum(magnitude(sobel(ir)), magnitude(sobel(vi_y)))).abs().mean()


def edges(fused, ir, vi_y, weights):
    """L1 of Sobel's gradient, as a vector, to that of the source where it is stronger, times edge_gain.

    Against `gradient` it tells a bright edge from a dark one, which magnitudes cannot. Where thermal, without
    its noise, is flat, the visible gradient is the one to keep, however faint, and counts 1 + detail times.
    """
    edges_i, edges_v = sobel(ir), sobel(vi_y)
    smooth = sobel(_blur(pad(ir, (4,) * 4, mode='replicate'), 9, THERMAL_NOISE_SIGMA))
    steepness = torch.linalg.vector_norm(smooth, dim=1, keepdim=True) / FLAT
    thermal = (magnitude(smooth) > magnitude(edges_v)) & (steepness > 1)
    kept = weights.edge_gain * torch.where(thermal, edges_i, edges_v)
    flatness = (2 - steepness).clamp(0, 1)  # fades out between FLAT and twice that
    return ((1 + weights.detail * flatness) * magnitude(sobel(fused) - kept)).mean()


def structure(fused, ir, vi_y, weights):
    """One minus SSIM to both sources, each weighted by its share of the gradient in the batch (SwinFusion)."""
    strength_i, strength_v = (magnitude(sobel(x)).mean() for x in (ir, vi_y))
    share = strength_i / (strength_i + strength_v).clamp(min=1e-6)
    return 1 - share * ssim(ir, fused) - (1 - share) * ssim(vi_y, fused)


def complement(fused, ir, vi_y, weights):
    """Two minus SCD of the crop: fused less one source should look like the other (Aslantas and Bendes 2015)."""
    return 2 - correlation(fused - vi_y, ir) - correlation(fused - ir, vi_y)


def information(fused, ir, vi_y, weights):
    """Two minus the visual information fidelity to both sources (Sheikh and Bovik 2006)."""
    return 2 - vif(ir, fused) - vif(vi_y, fused)


TERMS = {'intensity': intensity, 'gradient': gradient, 'edges': edges, 'ssim': structure, 'scd': complement,
         'vif': information}


def shared_out(term, fused, sources, shares):
    """Sum over the sources of term(source, fused), one value an image, times their share of each image; its mean."""
    return sum((share * term(source, fused)).mean() for share, source in zip(shares, sources))


SHARED = {'source_l1': lambda source, fused: (source - fused).abs().mean((1, 2, 3)),
          'source_ssim': lambda source, fused: (1 - ssim(source, fused, by_image=True)) / 2}


def sobel(image: torch.Tensor) -> torch.Tensor:
    """Sobel's gradient of B x 1 x H x W with zero padding: B x 2 x H x W, along x and y."""
    x = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return conv2d(image, torch.stack((x, x.T))[:, None], padding=1)


def magnitude(vectors: torch.Tensor) -> torch.Tensor:
    """|x| + |y| of B x 2 x H x W: B x 1 x H x W."""
    return vectors.abs().sum(1, keepdim=True)


def ssim(a: torch.Tensor, b: torch.Tensor, *, by_image: bool = False) -> torch.Tensor:
    """Mean SSIM of B x 1 x H x W images in [0, 1], or B means: 11 x 11 Gaussian of sigma 1.5 (Wang et al. 2004)."""
    mean_a, mean_b, var_a, var_b, cov = _moments(a, b, window=11, sigma=1.5)
    value = ((2 * mean_a * mean_b + C1) * (2 * cov + C2)
             / ((mean_a ** 2 + mean_b ** 2 + C1) * (var_a + var_b + C2)))
    return value.mean((1, 2, 3)) if by_image else value.mean()


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of B x 1 x H x W images, averaged over B; less for what varies by under two levels."""
    a, b = (x - x.mean((1, 2, 3), keepdim=True) for x in (a, b))
    var_a, var_b = ((x * x).mean((1, 2, 3)) + (2 * LEVEL) ** 2 for x in (a, b))
    return ((a * b).mean((1, 2, 3)) / torch.sqrt(var_a * var_b)).mean()


def vif(source: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
    """Visual information fidelity in the pixel domain of B x 1 x H x W images, over the batch as one image.

    The formula of evaluation/metrics.py, with variances below VIF_FLAT faded out instead of cut off.
    """
    kept = carried = 0.0
    for window in VIF_WINDOWS:
        if window < VIF_WINDOWS[0]:
            source, fused = (_blur(x, window, window / 5)[:, :, ::2, ::2] for x in (source, fused))
        _, _, var_s, var_f, cov = _moments(source, fused, window=window, sigma=window / 5)
        var_s, var_f = var_s.clamp(min=0), var_f.clamp(min=0)
        gain = (cov / (var_s + VIF_FLAT)).clamp(min=0)
        unexplained = (var_f - gain * cov).clamp(min=0)
        kept = kept + torch.log1p(gain ** 2 * var_s / (unexplained + VIF_NOISE)).sum()
        carried = carried + torch.log1p(var_s / VIF_NOISE).sum()
    return kept / carried.clamp(min=1e-6)


def _moments(a, b, *, window, sigma):
    """Local means, variances and covariance; only the windows that lie inside."""
    mean_a, mean_b, aa, bb, ab = _blur(torch.cat((a, b, a * a, b * b, a * b)), window, sigma).chunk(5)
    return mean_a, mean_b, aa - mean_a ** 2, bb - mean_b ** 2, ab - mean_a * mean_b


def _blur(x, window, sigma):
    """Gaussian of window x window; only the windows that lie inside."""
    steps = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    gauss = torch.exp(-steps ** 2 / (2 * sigma ** 2))
    gauss = gauss / gauss.sum()
    return conv2d(conv2d(x, gauss.view(1, 1, 1, -1)), gauss.view(1, 1, -1, 1))
