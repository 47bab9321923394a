# SPDX-License-Identifier: Apache-2.0
"""What each idea is worth: the preset `nano`, trained equally long without it, scored on held-out pairs.

python benchmarks/ablation.py TRAIN VAL [ITERATIONS] [--only NAME,...]: folders with ir/ and vi/, as for `diffmf train`.
Prints the rows of the table in docs/training.md, one as soon as it is done.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from nano_search import train

from diffmf_ros import models
from diffmf_ros.evaluation.scoring import by_set, means, score_pairs
from diffmf_ros.folders import pair_files, read_pair
from diffmf_ros.inference.engine import pad_to
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.training.config import load_config
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


def fuse_with(network):
    """Return (ir, vi_y) -> fused, H x W float32 in [0, 1]."""
    @torch.inference_mode()
    def fuse(ir, vi_y):
        height, width = ir.shape
        images = (pad_to(torch.from_numpy(image)[None, None], network.sides) for image in (ir, vi_y))
        return network(*images)[0, 0, :height, :width].clamp(0, 1).numpy()
    return fuse


def row(name: str, network, val: Path) -> str:
    """Score a network on val and return a row of the table for each data set."""
    scored = by_set(score_pairs({name: fuse_with(network)}, val))
    parameters = sum(p.numel() for p in network.parameters())
    return '\n'.join(f'| {name} | {parameters:,} | {dataset} | '
                     + ' | '.join(f'{means(scored[dataset][name])[metric]:.3f}' for metric in SHOWN) + ' |'
                     for dataset in ('MSRS', 'all') if dataset in scored)


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
        sizes = models.PRESETS['diffmf']['nano'] | STRUCTURE.get(name, {})
        trainer = train(name, sizes, pairs, arguments.iterations, seed=1, loss=variants[name])
        network = trainer.network.eval()
        network.load_state_dict(trainer.average)
        print(row(name, network, arguments.val), flush=True)
        if name == 'everything':
            network.train()  # the correction as it is, without what removes its noise
            print(row('small corrections kept', network, arguments.val), flush=True)


if __name__ == '__main__':
    main()
