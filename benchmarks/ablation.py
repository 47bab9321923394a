# SPDX-License-Identifier: Apache-2.0
"""Ablation: trains preset `nano` equally long without each idea and scores it on other pairs.

python benchmarks/ablation.py TRAIN VAL [ITERATIONS] [--only NAME,...]
    [--boxes FILE.json] [--detector FILE.onnx]: folders with ir/ and vi/, as for `diffmf train`.
Prints the rows of the table in docs/training.md, one as soon as it is done.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import unet
from quality_detector import look_at

from diffmf_ros import models
from diffmf_ros.inference.engine import pad_to, prepare
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.io.folders import pair_files, read_pair
from diffmf_ros.tools.evaluation.detection_scores import Boxes, read_boxes
from diffmf_ros.tools.evaluation.detector import Detector
from diffmf_ros.tools.evaluation.metrics import ImageScores, haze, saturation
from diffmf_ros.tools.evaluation.perception import detail, thermal_detail
from diffmf_ros.tools.evaluation.scoring import HEADLINE, Fuse, cells, colored, fused_pairs, means
from diffmf_ros.tools.evaluation.targets import summary, targets
from diffmf_ros.tools.training.config import TrainConfig
from diffmf_ros.tools.training.data import CropSampler, Degradations
from diffmf_ros.tools.training.loop import Trainer
from diffmf_ros.tools.training.losses import PRESETS

SIZE = 480, 640
ROUNDS = 5
UNET_WIDTHS = 16, 20, 24, 28, 32, 40, 48, 56, 64
CONVOLUTIONS = 'convolutions instead of state space'
NO_DEGRADATION = {entry.name: 0.0 for entry in fields(Degradations)}


@dataclass(frozen=True)
class Variant:
    """Changes of a row: sizes of the network, weights of the loss, chances of degradations."""

    sizes: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)
    degradations: dict = field(default_factory=dict)


VARIANTS = {
    'everything': Variant(),
    'no target_ssim': Variant(loss={'target_ssim': 0.0}),
    'no contrast': Variant(loss={'contrast': 0.0}),
    'no target_edges': Variant(loss={'target_edges': 0.0}),
    'no share': Variant(loss={'share': 0.0}),
    'warm objects count once': Variant(loss={'warm': 0.0}),
    **{f'no {name}': Variant(degradations={name: 0.0})
       for name in ('veil', 'dark', 'glare', 'dark_coats', 'visible_noise', 'gray_thermal',
                    'shift')},
    'no degradation': Variant(degradations=NO_DEGRADATION),
    'paints the whole image': Variant(sizes={'mixing': False}, loss={'share': 0.0}),
    'no difference guidance': Variant(sizes={'guidance': False}),
    'own B and C': Variant(sizes={'exchange': False}),
    'stacked scan alone': Variant(sizes={'scans': ('stacked',)}),
    'one level': Variant(sizes={'levels': 1}),
    CONVOLUTIONS: Variant(),
}


def cost_ms(network: torch.nn.Module) -> float:
    """Return the CPU time of a 640x480 pair on one thread, in float32: the median of some."""
    network = prepare(network, device='cpu', dtype=torch.float32, scan_backend='auto')
    images = torch.rand(2, 1, 1, *SIZE).unbind()
    samples = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            start = time.process_time()
            network(*images)
            samples.append(1e3 * (time.process_time() - start))
    return statistics.median(samples[1:])  # the first one warms up


def register_unet(limit_ms: float) -> None:
    """Make `unet` a network of the package, its preset `nano` the widest one that is in time."""
    sys.modules[f'{models.__name__}.unet'] = unet  # where models.build looks for it
    width = UNET_WIDTHS[0]
    for wider in UNET_WIDTHS:
        if cost_ms(unet.network(width=wider)) > limit_ms:
            break
        width = wider
    models.PRESETS['unet'] = {'nano': {'width': width}}


def train(variant: Variant, sampler: CropSampler, iterations: int, *,
          model: str) -> torch.nn.Module:
    """Return a variant of the preset `nano` of a model, trained, with its averaged weights."""
    loss = replace(PRESETS['target'], **variant.loss)
    usual = models.PRESETS[model]['nano']
    models.PRESETS[model]['nano'] = usual | variant.sizes
    try:
        trainer = Trainer(TrainConfig(
            data='', out=tempfile.gettempdir(), model=model, preset='nano', iterations=iterations,
            batch=2, crop=160, learning_rate=2e-3, warmup=min(100, iterations // 4), ema=0.99,
            seed=1, device='cpu', loss=loss))
    finally:
        models.PRESETS[model]['nano'] = usual
    sampler = sampler.with_degradations(replace(Degradations(), **variant.degradations))
    while trainer.iteration < iterations:
        trainer.step(sampler.batch(trainer.iteration).mapped(torch.from_numpy))
    trainer.network.load_state_dict(trainer.average)
    return trainer.network.eval()


def fuse_with(network: torch.nn.Module) -> Fuse:
    """Return (ir, vi_y) -> fused, H x W float32 in [0, 1]."""
    @torch.inference_mode()
    def fuse(ir, vi_y):
        images = (pad_to(torch.from_numpy(image)[None, None], network.sides)
                  for image in (ir, vi_y))
        fused = network(*images)[(0, 0, *network.sides.crop(*ir.shape))]
        return fused.clamp(0, 1).numpy()
    return fuse


def headline(fuse: Fuse, val: Path, boxes: Boxes | None) -> dict[str, float]:
    """Return the measures of HEADLINE over all pairs below val."""
    rows = []
    for dataset, _, (pair, visible, fused) in fused_pairs({'': fuse}, val):
        images = tuple(map(np.float64, (pair.ir, pair.vi_y, fused)))
        truth = boxes.of(dataset, pair.name) if boxes else None
        known = {'boxes': truth.people, 'ignore': truth.ignore} if truth else {}
        found = targets(*images, **known)
        rows.append(ImageScores({
            'detail': detail(*images), 'thermal_detail': thermal_detail(*images),
            'haze': haze(*images),
            'saturation': (saturation(visible, colored(fused, visible))
                           if visible.ndim == 3 else math.nan),
            **summary(found)}, found))
    return means(rows)


def row(name: str, network: torch.nn.Module, cost: float, arguments: argparse.Namespace) -> str:
    """Score a network and return its row of the table."""
    fuse, boxes = fuse_with(network), arguments.boxes and read_boxes(arguments.boxes)
    parameters = sum(p.numel() for p in network.parameters())
    values = cells(headline(fuse, arguments.val, boxes), HEADLINE)
    if arguments.detector:
        detector = Detector(arguments.detector, threads=1)
        found = look_at({name: fuse}, arguments.val, detector, boxes or Boxes({}))
        values += cells(found['all'][name], ('AP40',))
    return f'| {name} | {parameters:,} | {cost:.0f} | {" | ".join(values)} |'


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('train', type=Path)
    parser.add_argument('val', type=Path)
    parser.add_argument('iterations', type=int, nargs='?', default=400)
    parser.add_argument('--only', help='names of variants, separated by commas')
    parser.add_argument('--boxes', type=Path, help='JSON with the boxes of people in the pairs')
    parser.add_argument('--detector', type=Path, help='a detector as an ONNX file')
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(',') if arguments.only else list(VARIANTS)
    if unknown := [name for name in arguments.only if name not in VARIANTS]:
        parser.error(f'unknown variants {", ".join(unknown)}; known: {", ".join(VARIANTS)}')
    return arguments


def main() -> None:
    """Train and score every variant."""
    arguments = parsed()
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pairs = [read_pair(*files) for files in pair_files(arguments.train)]
    sampler = CropSampler(pairs, crop=160, batch=2, seed=1)
    if CONVOLUTIONS in arguments.only:
        register_unet(cost_ms(models.build('diffmf', 'nano')))
    columns = ['variant', 'parameters', 'ms', *HEADLINE, *['AP40'] * bool(arguments.detector)]
    print(f'| {" | ".join(columns)} |\n{"|---" * len(columns)}|', flush=True)
    for name in arguments.only:
        model = 'unet' if name == CONVOLUTIONS else 'diffmf'
        network = train(VARIANTS[name], sampler, arguments.iterations, model=model)
        print(row(name, network, cost_ms(network), arguments), flush=True)


if __name__ == '__main__':
    main()
