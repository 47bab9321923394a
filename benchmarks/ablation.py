# SPDX-License-Identifier: Apache-2.0
"""What each idea is worth: the preset `nano`, trained equally long without it, scored on held-out pairs.

python benchmarks/ablation.py TRAIN VAL [ITERATIONS] [--only NAME,...]: folders with ir/ and vi/, as for `diffmf train`.
Prints the rows of the table in docs/training.md, one as soon as it is done.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from diffmf_ros import models
from diffmf_ros.evaluation.scoring import means, score_pairs
from diffmf_ros.folders import pair_files, read_pair
from diffmf_ros.inference.engine import pad_to
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.training.config import TrainConfig, load_config
from diffmf_ros.training.data import CropSampler
from diffmf_ros.training.loop import Trainer
from diffmf_ros.training.losses import LossWeights

RECIPE = Path(__file__).parent.parent / 'config' / 'train' / 'diffmf_light.yaml'
STRUCTURE = {
    'everything': {},
    'no difference guidance': {'guidance': False},
    'own B and C': {'exchange': False},
    'stacked scan alone': {'scans': ('stacked',)},
    'column scan alone': {'scans': ('column',)},
    'row scan alone': {'scans': ('row',)},
    'one level': {'levels': 1},
    'paints the whole image': {'residual': False},
}
LOSS = {
    "the ancestors' loss": LossWeights(),
    'magnitudes for edges': {'edges': 0.0, 'gradient': 20.0},
    'no detail weight': {'detail': 0.0},
    'no SCD': {'scd': 0.0},
    'no VIF': {'vif': 0.0},
}
SHOWN = ('EN', 'SD', 'SF', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2', 'salience', 'detail')


def train(name: str, pairs, iterations: int, loss: LossWeights) -> Trainer:
    """Train one variant from the same seed, on the same crops."""
    preset = f'nano, {name}'
    models.PRESETS['diffmf'][preset] = models.PRESETS['diffmf']['nano'] | STRUCTURE.get(name, {})
    config = TrainConfig(data='', out=tempfile.gettempdir(), preset=preset, iterations=iterations, batch=4, crop=96,
                         learning_rate=1e-3, warmup=100, ema=0.99, seed=1, device='cpu', loss=loss)
    trainer, sampler = Trainer(config), CropSampler(pairs, crop=config.crop, batch=config.batch, seed=config.seed)
    while trainer.iteration < iterations:
        trainer.step(*map(torch.from_numpy, sampler.batch(trainer.iteration)))
    trainer.network.load_state_dict(trainer.average)
    trainer.network.eval()
    return trainer


def fuse_with(network):
    """Return (ir, vi_y) -> fused, H x W float32 in [0, 1]."""
    @torch.inference_mode()
    def fuse(ir, vi_y):
        height, width = ir.shape
        images = (pad_to(torch.from_numpy(image)[None, None], network.multiple) for image in (ir, vi_y))
        return network(*images)[0, 0, :height, :width].clamp(0, 1).numpy()
    return fuse


def row(name: str, network, val: Path) -> str:
    """Score a network on val and return a row of the table for each data set."""
    scores = defaultdict(list)
    for dataset, _, values in score_pairs({name: fuse_with(network)}, val):
        scores[dataset].append(values)
        scores['all'].append(values)
    parameters = sum(p.numel() for p in network.parameters())
    return '\n'.join(f'| {name} | {parameters:,} | {dataset} | '
                     + ' | '.join(f'{means(scores[dataset])[metric]:.3f}' for metric in SHOWN) + ' |'
                     for dataset in ('MSRS', 'all') if scores[dataset])


def main() -> None:
    """Train and score every variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('train', type=Path)
    parser.add_argument('val', type=Path)
    parser.add_argument('iterations', type=int, nargs='?', default=600)
    parser.add_argument('--only', help='names, separated by commas')
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    pairs = [read_pair(*files) for files in pair_files(arguments.train)]
    recipe = load_config(RECIPE).loss
    variants = dict.fromkeys(STRUCTURE, recipe) | {
        name: change if isinstance(change, LossWeights) else replace(recipe, **change) for name, change in LOSS.items()}
    chosen = arguments.only.split(',') if arguments.only else list(variants)
    columns = ('variant', 'parameters', 'pairs', *SHOWN)
    print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|', flush=True)
    for name in chosen:
        network = train(name, pairs, arguments.iterations, variants[name]).network
        print(row(name, network, arguments.val), flush=True)
        if name == 'everything':
            network.train()  # the correction as it is, without what removes its noise
            print(row('small corrections kept', network, arguments.val), flush=True)


if __name__ == '__main__':
    main()
