# SPDX-License-Identifier: Apache-2.0
"""The training loop: resumable at any iteration, on a CPU or a GPU."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .. import models
from ..folders import pair_files, read_pair
from ..inference.memory import keep_freed_memory
from ..inference.weights import save_weights
from .config import TrainConfig
from .data import CropSampler
from .losses import fusion_loss

LOG_EVERY = 20
COLUMNS = ('iteration', 'total', 'intensity', 'gradient', 'ssim', 'gradient_norm', 'learning_rate', 'seconds')


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Linear warm-up, then half a cosine to zero at the last iteration."""
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    progress = (iteration - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Network, running average of its weights, optimiser, and the iteration they are at."""

    def __init__(self, config: TrainConfig):
        torch.manual_seed(config.seed)
        self.config, self.iteration = config, 0
        self.network = models.build(config.model, config.preset).to(config.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)

    def step(self, ir, vi_y) -> dict[str, float]:
        """Train on one batch of B x 1 x H x W images and return the terms of the loss."""
        rate = learning_rate(self.config, self.iteration)
        for group in self.optimiser.param_groups:
            group['lr'] = rate
        terms = fusion_loss(self.network(ir, vi_y), ir, vi_y, self.config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        terms['total'].backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), self.config.clip, error_if_nonfinite=True)
        self.optimiser.step()
        self._update_average()
        self.iteration += 1
        return {**{k: v.item() for k, v in terms.items()}, 'gradient_norm': norm.item(), 'learning_rate': rate}

    def _update_average(self):
        # A young average would be dominated by the random start: let it move faster at first.
        keep = min(self.config.ema, (1 + self.iteration) / (10 + self.iteration))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)

    def save(self, path: Path) -> None:
        """Write a checkpoint; a crash while writing leaves the previous one."""
        state = {'network': self.network.state_dict(), 'average': self.average,
                 'optimiser': self.optimiser.state_dict(), 'iteration': self.iteration}
        torch.save(state, path.with_suffix('.tmp'))
        path.with_suffix('.tmp').replace(path)

    def restore(self, path: Path) -> None:
        """Continue exactly where save() stopped."""
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        self.network.load_state_dict(state['network'])
        self.optimiser.load_state_dict(state['optimiser'])
        self.average, self.iteration = state['average'], state['iteration']


def train(config: TrainConfig, report: Callable[[int, dict[str, float]], None]) -> Path:
    """Train, resuming from the checkpoint in config.out when there is one; return the weights file.

    report(iteration, terms) is called after every iteration. Raises FolderError and DataError for data
    that cannot be used, and RuntimeError when the gradient is no longer finite.
    """
    keep_freed_memory()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    pairs = [read_pair(*files) for files in pair_files(config.data)]
    sampler = CropSampler(pairs, crop=config.crop, batch=config.batch, seed=config.seed)
    trainer, checkpoint = Trainer(config), out / 'checkpoint.pt'
    if checkpoint.exists():
        trainer.restore(checkpoint)
    log = _Log(out / 'log.csv', trainer.iteration)
    saved = time.monotonic()
    while trainer.iteration < config.iterations:
        batch = (torch.from_numpy(x).to(config.device) for x in sampler.batch(trainer.iteration))
        terms = trainer.step(*batch)
        log.add(trainer.iteration, terms)
        report(trainer.iteration, terms)
        if time.monotonic() - saved > 60 * config.checkpoint_minutes:
            trainer.save(checkpoint)
            saved = time.monotonic()
    trainer.save(checkpoint)
    return export(trainer, out / f'{config.model}_{config.preset}.safetensors')


def export(trainer: Trainer, path: Path) -> Path:
    """Write the averaged weights in half precision."""
    config = trainer.config
    save_weights(path, trainer.average, model=config.model, preset=config.preset, iterations=trainer.iteration,
                 seed=config.seed)
    return path


class _Log:
    """CSV of the mean of every LOG_EVERY iterations; a resumed run drops the lines it will write again."""

    def __init__(self, path: Path, iteration: int):
        rows = list(csv.DictReader(path.open())) if path.exists() else []
        kept = [row for row in rows if int(row['iteration']) <= iteration]
        self._path, self._sums, self._count, self._start = path, {}, 0, time.monotonic()
        with path.open('w', newline='') as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, iteration, terms):
        self._count += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if iteration % LOG_EVERY:
            return
        row = {name: f'{value / self._count:.6g}' for name, value in self._sums.items()}
        row |= {'iteration': iteration, 'seconds': f'{(time.monotonic() - self._start) / self._count:.3f}'}
        with self._path.open('a', newline='') as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        self._sums, self._count, self._start = {}, 0, time.monotonic()
