# SPDX-License-Identifier: Apache-2.0
"""The terms a fusion network is trained with.

Images are B x 1 x H x W in [0, 1]; the fused one is not clamped. Saliency and uncertainty, by a
network that knows ImageNet, are restated from the compiled loss of S4Fusion's authors. The
temperature, and how a gray image becomes three channels, are not known; ours are a parameter, and
copies with ImageNet's mean and deviation. That network, ResNet-50 (He et al. 2016) in
torchvision's layout, never learns here.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    conv2d,
    max_pool2d,
    pad,
    relu,
    softmax,
)

from ...inference.weights import state_dict_mismatches
from .precision import TrainingError

C1, C2 = 0.01 ** 2, 0.03 ** 2
LEVEL = 1 / 255  # a gray level
SOFTNESS = LEVEL / 2  # an intensity closer than this to its target pulls less, in proportion
FLAT_SIGMA = 1.5  # pixels; noise of a camera is not structure
# A pixel; where no smoothed gradient reaches it within FLAT_WINDOW pixels a source is flat.
FLAT_LEVELS = 2.0
FLAT_WINDOW = 5
BLOCK, SURROUND = 4, 11  # pixels of a block; blocks of the square that local contrast is taken in
GAP_PX = 2  # around warm objects, neither of them nor of their surround
EQUAL = 0.5, 0.5
NO_CLASS = 1e-9  # added to every probability


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms; a term with factor 0 is not computed.

    The defaults are the loss of DIFF-MF's ancestors (SwinFusion, MambaDFuse); PRESETS has others.
    """

    intensity: float = 20.0
    gradient: float = 20.0  # magnitude of the gradient
    ssim: float = 10.0
    target: float = 0.0
    warm: float = 0.0  # additional weight of warm objects in `target`
    target_ssim: float = 0.0
    target_edges: float = 0.0
    contrast: float = 0.0  # of warm objects
    share: float = 0.0  # of thermal in the base, per pixel
    distil: float = 0.0
    source_l1: float = 0.0
    source_ssim: float = 0.0
    uncertainty: float = 0.0  # needs a network that knows ImageNet
    temperature: float = 1.0  # of the shares that such a network gives the sources


PRESETS = {
    'swinfusion': LossWeights(),
    # What the shipped weights are trained with: docs/training.md has what each term is worth.
    'target': LossWeights(intensity=0, gradient=0, ssim=0, target=30, warm=3, target_ssim=5,
                          target_edges=10, contrast=20, share=3),
    # The terms of the authors' compiled loss that need no ImageNet weights, at equal factors,
    # which are ours.
    's4fusion': LossWeights(intensity=0, ssim=0, gradient=20, source_l1=20, source_ssim=20),
    # MambaDFuse's factors for medical images: both sources count alike in SSIM, and `source_ssim`
    # is half of 1 - SSIM.
    'medical': LossWeights(intensity=20, gradient=100, ssim=0, source_ssim=100),
}


def fusion_loss(fused, ir, vi_y, weights: LossWeights = LossWeights(), *, batch=None, share=None,
                taught=None, perception=None) -> dict[str, torch.Tensor]:
    """Return the weighted sum and the terms of the loss.

    Args:
        fused, ir, vi_y: B x 1 x H x W; what the network gave and what it got.
        weights: Factors of the terms.
        batch: A data.Batch of tensors, for the terms 'target...' and 'share'.
        share: Logits of the thermal share that the network gave, B x 1 x H x W, for 'share'.
        taught: What a larger network makes of the images, B x 1 x H x W, for 'distil'.
        perception: A Perception, for 'uncertainty' and for the shares that the sources have in
            'source_l1' and 'source_ssim'; without it these are equal.

    Returns:
        Every term whose weight is not 0 by its name, and the weighted sum as 'total'.
    """
    terms = {name: term(fused, ir, vi_y) for name, term in TERMS.items() if getattr(weights, name)}
    if weights.target:
        terms['target'] = distance(fused, batch.target, 1 + weights.warm * batch.warm)
    if weights.target_ssim:
        terms['target_ssim'] = 1 - ssim(batch.target, fused)
    if weights.target_edges:
        terms['target_edges'] = target_edges(fused, batch)
    if weights.contrast:
        terms['contrast'] = lost_contrast(fused, batch)
    if weights.share:
        terms['share'] = binary_cross_entropy_with_logits(share, batch.share)
    if weights.source_l1 or weights.source_ssim:
        shares = EQUAL if perception is None else perception.shares(ir, vi_y)
        terms |= {name: shared_out(term, fused, (ir, vi_y), shares)
                  for name, term in SHARED.items() if getattr(weights, name)}
    if weights.uncertainty:
        terms['uncertainty'] = perception.uncertainty(fused)
    if weights.distil:
        terms['distil'] = distance(fused, taught)
    return {'total': sum(getattr(weights, name) * term for name, term in terms.items()), **terms}


def distance(a, b, weight=1.0):
    """Return the mean of weight times L1, rounded off below SOFTNESS (Charbonnier)."""
    return (weight * (torch.sqrt((a - b) ** 2 + SOFTNESS ** 2) - SOFTNESS)).mean()


def target_edges(fused, batch):
    """Return L1 of Sobel's gradient, as a vector, to the one that the fused image should have.

    Where thermal is flat that is the visible gradient, however faint, where the visible image is
    flat the thermal one, and elsewhere that of the target.
    """
    edges_i, edges_v, edges_target = sobel(
        torch.cat((batch.clean_ir, batch.vi_y, batch.target))).chunk(3)
    flat_i, flat_v = is_flat(torch.cat((batch.clean_ir, batch.clean_y))).chunk(2)
    wanted = torch.where(flat_i, edges_v, torch.where(flat_v, edges_i, edges_target))
    return magnitude(sobel(fused) - wanted).mean()


def lost_contrast(fused, batch):
    """Return by how much warm objects stand out less than in the target, averaged over them.

    The contrast at a warm pixel is mean(warm) - mean(rest) of the 44 x 44 pixels around it. Signs
    do not count: where L1 is torn between bright and dark it settles for gray, which hides people.
    """
    rest = 1 - max_pool2d(batch.warm, 2 * GAP_PX + 1, 1, GAP_PX)
    places = torch.cat((batch.warm, rest))
    images = torch.cat((batch.target, batch.target, fused, fused))
    means = _near(torch.cat((places, images * places.repeat(2, 1, 1, 1)))).chunk(6)
    warm, around, *of_target = (mean.detach() for mean in means[:4])  # nothing to learn there
    counts = avg_pool2d(batch.warm, BLOCK) * (around > 0.02)
    floors = warm.clamp(min=1e-4), around.clamp(min=1e-4)
    wanted, found = (inside / floors[0] - outside / floors[1]
                     for inside, outside in (of_target, means[4:]))
    lost = relu(wanted.abs() - found.abs())
    return (counts * lost).sum() / (counts.sum() + 0.01 * counts.numel())


def _near(image):
    """Means of the squares of SURROUND blocks around each block: B x 1 x H / 4 x W / 4."""
    return avg_pool2d(avg_pool2d(image, BLOCK), SURROUND, 1, SURROUND // 2)


def is_flat(image):
    """Return where B x 1 x H x W has no gradient within 5x5 pixels: bool of that shape.

    As in the measures detail and thermal_detail, but never within three pixels of the border,
    where Sobel's zero padding is a gradient.
    """
    edges = sobel(_blur(pad(image, (4,) * 4, mode='replicate'), 9, FLAT_SIGMA))
    steep = torch.linalg.vector_norm(edges, dim=1, keepdim=True) / (8 * LEVEL)
    return max_pool2d(steep, FLAT_WINDOW, 1, FLAT_WINDOW // 2) < FLAT_LEVELS


def intensity(fused, ir, vi_y):
    """Distance to the pixel-wise maximum."""
    return distance(fused, torch.maximum(ir, vi_y))


def gradient(fused, ir, vi_y):
    """L1 of the magnitude of Sobel's gradient to the larger one of the sources (SwinFusion)."""
    return (magnitude(sobel(fused)) - torch.maximum(magnitude(sobel(ir)),
                                                    magnitude(sobel(vi_y)))).abs().mean()


def structure(fused, ir, vi_y):
    """One minus SSIM to both sources, each weighted by its share of the gradient in the batch
    (SwinFusion)."""
    strength_i, strength_v = (magnitude(sobel(x)).mean() for x in (ir, vi_y))
    share = strength_i / (strength_i + strength_v).clamp(min=1e-6)
    return 1 - share * ssim(ir, fused) - (1 - share) * ssim(vi_y, fused)


TERMS = {'intensity': intensity, 'gradient': gradient, 'ssim': structure}


def shared_out(term, fused, sources, shares):
    """Sum over the sources of term(source, fused), one value an image, times their share of each
    image; its mean."""
    return sum((share * term(source, fused)).mean() for share, source in zip(shares, sources))


SHARED = {'source_l1': lambda source, fused: (source - fused).abs().mean((1, 2, 3)),
          'source_ssim': lambda source, fused: (1 - ssim(source, fused, by_image=True)) / 2}


def sobel(image: torch.Tensor) -> torch.Tensor:
    """Sobel's gradient of B x 1 x H x W with zero padding: B x 2 x H x W, along x and y."""
    return conv2d(image, _sobel_filters(image.dtype, image.device), padding=1)


@lru_cache
def _sobel_filters(dtype, device):
    """2 x 1 x 3 x 3; made once, because it is copied from the host, for which a GPU waits."""
    x = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=dtype, device=device)
    return torch.stack((x, x.T))[:, None]


def magnitude(vectors: torch.Tensor) -> torch.Tensor:
    """|x| + |y| of B x 2 x H x W: B x 1 x H x W."""
    return vectors.abs().sum(1, keepdim=True)


def ssim(a: torch.Tensor, b: torch.Tensor, *, by_image: bool = False) -> torch.Tensor:
    """Mean SSIM of B x 1 x H x W images in [0, 1], or B means: 11 x 11 Gaussian of sigma 1.5 (Wang
    et al. 2004)."""
    c1, both = _constants(a.dtype, a.device)
    # Constants go into what is blurred, and each line is one kernel of a GPU.
    squares = torch.addcmul(torch.addcmul(both, a, a), b, b)
    products = torch.addcmul(both, a, b, value=2)
    mean_a, mean_b, squares, products = _blur(torch.cat((a, b, squares, products)), 11,
                                              1.5).chunk(4)
    mean_a = mean_a if a.requires_grad else mean_a.detach()
    luminance = torch.addcmul(c1, mean_a, mean_b, value=2)
    power = torch.addcmul(torch.addcmul(c1, mean_a, mean_a), mean_b, mean_b)
    value = luminance * (products - luminance) / (power * (squares - power))
    return value.mean((1, 2, 3)) if by_image else value.mean()


@lru_cache
def _constants(dtype, device):
    """C1 and C1 + C2 as tensors of one value; made once."""
    return tuple(torch.tensor([C1, C1 + C2], dtype=dtype, device=device))


def _blur(x, window, sigma):
    """Gaussian of window x window; only the windows that lie inside."""
    gauss = _gaussian(window, sigma, x.dtype, x.device)
    return conv2d(conv2d(x, gauss.view(1, 1, 1, -1)), gauss.view(1, 1, -1, 1))


@lru_cache
def _gaussian(window, sigma, dtype, device):
    """A Gaussian of so many steps whose sum is 1; made once."""
    steps = torch.arange(window, dtype=dtype, device=device) - window // 2
    gauss = torch.exp(-steps ** 2 / (2 * sigma ** 2))
    return gauss / gauss.sum()


class Perception:
    """Shares of the sources and uncertainty of the result. network: as ResNet50, frozen."""

    def __init__(self, network: nn.Module, *, temperature: float):
        self._network, self._temperature = network, temperature

    @torch.no_grad()
    def shares(self, ir: torch.Tensor, vi_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how much each source counts, by the edges in its features: two B, their sum 1."""
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


STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
WIDENING = 4
CLASSES = 1000
SHOWN = 5  # of the tensors that do not fit
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = WIDENING * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out)) if channels != out else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """B x 3 x H x W, normalized -> the outputs of the four stages, and the logits of ImageNet's
    classes."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3,
                                         bias=False), nn.BatchNorm2d(64)
        channels = 64
        for number, (width, count, stride) in enumerate(STAGES, start=1):
            blocks = [Bottleneck(channels, width, stride)]
            channels = WIDENING * width
            blocks += [Bottleneck(channels, width, 1) for _ in range(count - 1)]
            self.add_module(f'layer{number}', nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x):
        x = max_pool2d(relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        stages = []
        for number in range(1, len(STAGES) + 1):
            x = getattr(self, f'layer{number}')(x)
            stages.append(x)
        return stages, self.fc(x.mean((2, 3)))


def load_resnet50(path: str | Path) -> ResNet50:
    """Return the network with the weights of a file: safetensors, or a state dict of torch.save.

    Raises TrainingError for a file that is neither, and for tensors that do not fit, listing them.
    """
    path = Path(path)
    try:
        state = safetensors.torch.load_file(path) if path.suffix == '.safetensors' else torch.load(
            path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises anything for a file that is not its own
        raise TrainingError(f'perception: {path} is neither safetensors nor a state dict of '
                            f'tensors alone ({type(error).__name__}: '
                            f'{str(error).partition(chr(10))[0]}): save the state_dict of '
                            "torchvision's ResNet-50 as safetensors") from error
    with torch.device('meta'):
        network = ResNet50()
    problems = state_dict_mismatches(network.state_dict(), state)
    if problems:
        more = f' and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
        raise TrainingError(f"perception: {path} is not torchvision's ResNet-50: "
                            f"{'; '.join(problems[:SHOWN])}{more}; save the state_dict of "
                            'that network as safetensors')
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
