# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU scans against the portable ones, and two threads against one; in turn in one
process.

One thread: process CPU time, which other work on the machine does not touch. Two threads: wall
time, which means something on a quiet machine alone; the busy cores printed beside it tell.
"""

import argparse
import resource
import statistics
import time

import torch

from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.models.kernels import cpu, portable

ROUNDS = 7
# batch, height, width, channels of SS2D: `light` in training and at 640x480, `base` at 640x480.
IMAGES = ((4, 48, 48, 64), (1, 240, 320, 64), (1, 240, 320, 128))
# batch, channels, states, tokens of the selective scan.
SEQUENCES = ((4, 64, 16, 19_200), (1, 64, 16, 76_800), (1, 64, 1, 307_200))
# batch, tokens, heads, head width, states of SSD in two directions: `light` in training, `light`
# and `base` at 640x480.
MIXERS = ((4, 576, 2, 32, 64), (4, 2304, 2, 32, 64), (1, 76_800, 2, 32, 64),
          (1, 76_800, 4, 32, 64))


def ss2d_inputs(batch: int, height: int, width: int, channels: int,
                states: int = 1) -> list[torch.Tensor]:
    """Random inputs of ss2d with step sizes of a fresh network."""
    rank = -(-channels // 32)
    shapes = [(batch, height, width, channels), (batch, height, width, 4, rank + 2 * states),
              (4, channels, rank), (4, channels), (4, channels, states), (4, channels)]
    u, proj, weight, bias, A, skip = (torch.randn(shape) for shape in shapes)
    return [u, proj, 0.3 * weight, bias - 3, -A.abs() - 0.5, skip]


def scan_inputs(batch: int, channels: int, states: int, tokens: int, *, token_major: bool) -> list:
    """Random inputs of selective_scan in mamba_ssm's shapes, in its storage or token-major."""
    u, delta, B, C = (torch.randn(batch, tokens, n) for n in (channels, channels, states, states))
    u, delta, B, C = ((x if token_major else x.mT.contiguous().mT).mT
                      for x in (u, delta - 4, B, C))
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    return [u, delta, A, B[:, None], C[:, None], torch.randn(channels), torch.randn(channels),
            True]


def ssd_inputs(batch: int, tokens: int, heads: int, width: int, states: int) -> list[torch.Tensor]:
    """Random inputs of ssd."""
    x, B, C = (torch.randn(batch, tokens, *shape)
               for shape in ((heads, width), (states,), (states,)))
    return [x, 0.1 * torch.rand(batch, tokens, heads), -1 - 15 * torch.rand(heads), B, C]


def cases():
    """Yield (name, function of a backend module)."""
    for shape in IMAGES:
        plain = ss2d_inputs(*shape)
        yield f'ss2d {shape}', lambda module, x=plain: module.ss2d(*x)
        learning = [x.requires_grad_() for x in ss2d_inputs(*shape)]
        yield f'ss2d {shape} with backward', lambda module, x=learning: module.ss2d(*x).sum(
            ).backward()
    for shape in SEQUENCES:
        for token_major in (False, True):
            plain = scan_inputs(*shape, token_major=token_major)
            storage = 'token' if token_major else 'channel'
            yield (f'selective_scan {shape} {storage}-major', lambda module,
                   x=plain: module.selective_scan(*x))
    for shape in MIXERS:
        plain = ssd_inputs(*shape)
        yield f'ssd {shape}', lambda module, x=plain: module.ssd(*x, 2)
        if shape[0] > 1:
            learning = [x.requires_grad_() for x in ssd_inputs(*shape)]
            yield f'ssd {shape} with backward', lambda module, x=learning: module.ssd(*x, 2).sum(
                ).backward()


def timed(function, clock) -> float:
    """Milliseconds of one call."""
    start = clock()
    function()
    return 1e3 * (clock() - start)


def against_portable(name: str, call) -> None:
    """Print the medians of both backends on one thread, and their ratio."""
    torch.set_num_threads(1)
    samples = {cpu: [], portable: []}
    for module in [cpu, portable] * (ROUNDS + 1):
        samples[module].append(timed(lambda module=module: call(module), time.process_time))
    compiled_ms, portable_ms = (statistics.median(samples[module][1:])
                                for module in (cpu, portable))
    ratio = portable_ms / compiled_ms
    print(f'{name}: compiled {compiled_ms:.1f} ms, portable {portable_ms:.1f} ms, ratio '
          f'{ratio:.1f}', flush=True)


def two_threads(name: str, call) -> None:
    """Print the medians of the compiled backend on one and two threads, and the page faults of a
    call."""
    samples, cpu_s, faults = {1: [], 2: []}, 0.0, 0
    for threads in [1, 2] * (3 * ROUNDS + 1):
        torch.set_num_threads(threads)
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        samples[threads].append(timed(lambda: call(cpu), time.perf_counter))
        if threads == 2 and len(samples[2]) > 1:
            cpu_s += time.process_time() - start
            faults = max(faults, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    one, two = (statistics.median(samples[threads][1:]) for threads in (1, 2))
    busy = cpu_s * 1e3 / sum(samples[2][1:])
    print(f'{name}: 1 thread {one:.1f} ms, 2 threads {two:.1f} ms, ratio {one / two:.2f}, busy '
          f'cores {busy:.2f}, page faults of a call at most {faults}', flush=True)


def main() -> None:
    """Print both tables."""
    keep_freed_memory()
    torch.manual_seed(0)
    for name, call in cases():
        with torch.inference_mode('backward' not in name):
            against_portable(name, call)
    for name, call in cases():
        if 'backward' not in name:
            with torch.inference_mode():
                two_threads(name, call)


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
