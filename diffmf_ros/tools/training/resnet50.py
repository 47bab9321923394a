# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 (He et al. 2016) in torchvision's layout, for losses that look at features.

It never learns here.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

from ...inference.weights import state_dict_mismatches
from .precision import TrainingError

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
                            f'{str(error).partition(chr(10))[0]})') from error
    with torch.device('meta'):
        network = ResNet50()
    problems = state_dict_mismatches(network.state_dict(), state)
    if problems:
        more = f' and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
        raise TrainingError(f"perception: {path} is not torchvision's ResNet-50: "
                            f"{'; '.join(problems[:SHOWN])}{more}")
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
