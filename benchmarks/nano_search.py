# SPDX-License-Identifier: Apache-2.0
"""How the preset `nano` was found: time on one thread, and loss on held-out pairs after a short training.

python benchmarks/nano_search.py TRAIN VAL [ITERATIONS]: both folders hold ir/ and vi/, as for `diffmf train`.
"""

import statistics
import sys
import tempfile
import time

import torch

from diffmf_ros import models
from diffmf_ros.folders import pair_files, read_pair
from diffmf_ros.inference.engine import pad_to, prepare
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.training.config import TrainConfig
from diffmf_ros.training.data import CropSampler
from diffmf_ros.training.loop import Trainer
from diffmf_ros.training.losses import fusion_loss

SMALL = {'depth': 1, 'mlp_ratio': 2.0, 'residual': False}  # the search was before networks corrected the maximum
CANDIDATES = {
    's4 w16 r1': {**SMALL, 'stride': 4, 'width': 16, 'rounds': 1},
    's4 w16 r2': {**SMALL, 'stride': 4, 'width': 16, 'rounds': 2},
    's4 w24 r1': {**SMALL, 'stride': 4, 'width': 24, 'rounds': 1, 'ssd_head': 16, 'ssd_states': 32},
    's4 w32 r1': {**SMALL, 'stride': 4, 'width': 32, 'rounds': 1},
    's8 w32 r2': {**SMALL, 'stride': 8, 'width': 32, 'rounds': 2},
    's8 w48 r1': {**SMALL, 'stride': 8, 'width': 48, 'rounds': 1},
    's8 w64 r1': {**SMALL, 'stride': 8, 'width': 64, 'rounds': 1},
    's2 w8 r1': {**SMALL, 'stride': 2, 'width': 8, 'rounds': 1, 'ssd_head': 16, 'ssd_states': 16},
}
SIZE = (480, 640)
ROUNDS = 7


def cost_ms(build) -> float:
    """CPU time of one 640x480 pair on one thread, in the precision that the node would choose."""
    from diffmf_ros.core.settings import DEFAULTS
    from diffmf_ros.inference.engine import device_and_precision

    device, dtype = device_and_precision(DEFAULTS)
    network = prepare(build(), device=device, dtype=dtype, scan_backend='auto')
    images = torch.rand(2, 1, 1, *SIZE).unbind()
    samples = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            start = time.process_time()
            network(*images)
            samples.append(1e3 * (time.process_time() - start))
    return statistics.median(samples[1:])


def train(name: str, sizes: dict, pairs, iterations: int, **entries) -> Trainer:
    """Train a network of these sizes for a while, under a preset of this name; entries are more of TrainConfig."""
    models.PRESETS['diffmf'][name] = sizes
    config = TrainConfig(data='', out=tempfile.gettempdir(), preset=name, iterations=iterations, batch=4, crop=96,
                         learning_rate=1e-3, warmup=100, ema=0.99, device='cpu', **entries)
    trainer, sampler = Trainer(config), CropSampler(pairs, crop=config.crop, batch=config.batch, seed=config.seed)
    while trainer.iteration < iterations:
        trainer.step(*map(torch.from_numpy, sampler.batch(trainer.iteration)))
    return trainer


@torch.inference_mode()
def held_out_loss(trainer: Trainer, pairs) -> float:
    """Mean training loss of the averaged weights over whole pairs."""
    trainer.network.load_state_dict(trainer.average)
    losses = []
    for pair in pairs:
        images = (torch.from_numpy(x)[None, None].float() / 255 for x in (pair.ir, pair.vi_y))
        ir, vi_y = (pad_to(x, trainer.network.sides) for x in images)
        losses.append(fusion_loss(trainer.network(ir, vi_y), ir, vi_y)['total'].item())
    return statistics.mean(losses)


def main() -> None:
    """Print one line per candidate."""
    train_folder, val_folder, *rest = sys.argv[1:]
    iterations = int(rest[0]) if rest else 800
    keep_freed_memory()
    torch.set_num_threads(1)
    pairs, held_out = ([read_pair(*files) for files in pair_files(folder)] for folder in (train_folder, val_folder))
    for name, sizes in CANDIDATES.items():
        models.PRESETS['diffmf'][name] = sizes
        build = lambda name=name: models.build('diffmf', name)  # noqa: E731
        parameters = sum(p.numel() for p in build().parameters())
        milliseconds, start = cost_ms(build), time.process_time()
        trainer = train(name, sizes, pairs, iterations)
        seconds = (time.process_time() - start) / max(iterations, 1)
        print(f'{name}: {parameters} parameters, {milliseconds:.0f} ms, loss {held_out_loss(trainer, held_out):.3f} '
              f'after {iterations} iterations of {seconds:.3f} s', flush=True)


if __name__ == '__main__':
    main()
