# SPDX-License-Identifier: Apache-2.0
"""Half precision against float32 on real pairs: share of the 8-bit pixels within one gray level.

    python benchmarks/precision.py FOLDER ... [--preset P] [--model M] [--float16] [--pairs N]

Each FOLDER holds ir/ and vi/, as for `diffmf train`. Half precision is that of this machine. With
--float16 it is that of a GPU, simulated on a CPU in float32: the weights and the results of the
layers are rounded to float16, and so is the residual stream.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.inference.engine import Engine
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.io.folders import pair_files, read_pair
from diffmf_ros.models import diffmf, s4fusion
from diffmf_ros.models.blocks import SS2D, Conv2d, LayerNorm, Linear, VSSBlock, cast_layers

STREAM = (SS2D, VSSBlock, diffmf.Stem, diffmf.DifferenceGuidedRound, diffmf.ChannelExchange,
          diffmf.Down, s4fusion.PatchEmbed, s4fusion.Merge, s4fusion.Expand,
          s4fusion.CrossModalFusion)


def rounded(values):
    """Tensors, or a tuple of them, rounded to float16 and still float32."""
    if isinstance(values, torch.Tensor):
        return values.half().to(values.dtype)
    return tuple(map(rounded, values))


def simulate_float16(network: nn.Module) -> None:
    """Let a float32 network round what cast_layers would have in float16."""
    half_network = cast_layers(copy.deepcopy(network), torch.float16)
    types = {name: parameter.dtype for name, parameter in half_network.named_parameters()}
    for name, parameter in network.named_parameters():
        if types[name] == torch.float16:
            parameter.data = rounded(parameter.data)
    for name, module in network.named_modules():
        half = types.get(f'{name}.weight') == torch.float16
        if half and isinstance(module, (Conv2d, Linear)):
            module.register_forward_pre_hook(lambda _, inputs: rounded(inputs))
        if half or isinstance(module, STREAM) or (isinstance(module, LayerNorm)
                                                  and module.before_layers):
            module.register_forward_hook(lambda _, inputs, results: rounded(results))


def levels(engine: Engine, pair) -> np.ndarray:
    """The fused luminance of a pair in gray levels."""
    images = (image.astype(np.float32) / 255 for image in (pair.ir, pair.vi_y))
    return np.rint(255 * engine(*images))


def main() -> None:
    """Print the share of the pixels within one level, of the worst pair and of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, nargs='+')
    parser.add_argument('--preset', default=DEFAULTS.preset)
    parser.add_argument('--model', default=DEFAULTS.model)
    parser.add_argument('--float16', action='store_true', help='that of a GPU, simulated')
    parser.add_argument('--pairs', type=int, help='of each folder, at most')
    options = parser.parse_args()
    keep_freed_memory()
    settings = replace(DEFAULTS, preset=options.preset, model=options.model)
    half, full = (Engine(replace(settings, precision=precision)) for precision in
                  ('float32' if options.float16 else 'auto', 'float32'))
    if options.float16:
        simulate_float16(half.network)
    shares, largest = [], 0
    for folder in options.folder:
        for files in list(pair_files(folder))[:options.pairs]:
            pair = read_pair(*files)
            difference = np.abs(levels(half, pair) - levels(full, pair))
            shares.append((difference <= 1).mean())
            largest = max(largest, int(difference.max()))
    print(f'{"float16, simulated" if options.float16 else half.description} against '
          f'{full.description}, {len(shares)} pairs: within one level {np.mean(shares):.4%} of '
          f'the pixels, {min(shares):.4%} in the worst pair; largest difference {largest}')


if __name__ == '__main__':
    main()
