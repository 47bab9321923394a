# SPDX-License-Identifier: Apache-2.0
"""The compiled SS2D against the portable one, in turn in one process: forward, and forward with backward."""

import statistics
import time

import torch

from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.models.kernels import cpu, portable

# batch, height, width, channels: feature maps of `light` in training and at 640x480, and of `base` at 640x480.
SHAPES = ((4, 48, 48, 64), (1, 240, 320, 64), (1, 240, 320, 128))
ROUNDS = 7


def inputs(batch: int, height: int, width: int, channels: int, states: int = 1) -> list[torch.Tensor]:
    """Random inputs of ss2d with step sizes of a fresh network."""
    rank = -(-channels // 32)
    shapes = [(batch, height, width, channels), (batch, height, width, 4, rank + 2 * states), (4, channels, rank),
              (4, channels), (4, channels, states), (4, channels)]
    u, proj, weight, bias, A, skip = (torch.randn(shape) for shape in shapes)
    return [u, proj, 0.3 * weight, bias - 3, -A.abs() - 0.5, skip]


def timed(function) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print medians and ratios for every shape and number of threads."""
    keep_freed_memory()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for shape in SHAPES:
            plain = inputs(*shape)
            learning = [x.requires_grad_() for x in inputs(*shape)]
            cases = {'forward': lambda module: module.ss2d(*plain),  # noqa: B023 (called in this iteration)
                     'with backward': lambda module: module.ss2d(*learning).sum().backward()}  # noqa: B023
            for name, call in cases.items():
                samples = {cpu: [], portable: []}
                for module in [cpu, portable] * (ROUNDS + 1):
                    samples[module].append(timed(lambda: call(module)))  # noqa: B023
                compiled, torch_ms = (statistics.median(samples[module][1:]) for module in (cpu, portable))
                print(f'{threads} threads, {shape}, {name}: compiled {compiled:.1f} ms, portable {torch_ms:.1f} ms, '
                      f'ratio {torch_ms / compiled:.1f}', flush=True)


if __name__ == '__main__':
    main()
