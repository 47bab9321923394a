# SPDX-License-Identifier: Apache-2.0
"""Batches of a training, made in threads while a GPU works on those before."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import torch

from ..batch.spreading import cores
from .data import Batch, CropSampler

MOST_THREADS = 8


def threads_for(processes: int) -> int:
    """Return how many threads make batches in each of the processes that share these CPUs."""
    return max(1, min(MOST_THREADS, cores() // processes - 1))


def batches_on(device: torch.device, sampler: CropSampler, *, first: int, end: int,
               processes: int = 1) -> Iterator[Batch]:
    """Yield the batches of the iterations from first to before end, as tensors on a device.

    A batch is that of its iteration, whoever makes it. On a CPU, which trains with all its cores,
    each is made when it is asked for; for a GPU in threads, ahead, in memory that it can read
    while it works. Then OpenCV works in one thread a call for the rest of the process.

    Args:
        device: Where the tensors are.
        sampler: Makes the batches.
        first, end: Iterations.
        processes: Number of those that train together.
    """
    if device.type == 'cpu':
        for iteration in range(first, end):
            yield sampler.batch(iteration).mapped(torch.from_numpy)
        return
    cv2.setNumThreads(1)  # the batches are made side by side already
    for batch in in_threads(sampler, first=first, end=end, threads=threads_for(processes)):
        pinned = batch.mapped(lambda array: torch.from_numpy(array).pin_memory())
        yield pinned.mapped(lambda tensor: tensor.to(device, non_blocking=True))


def in_threads(sampler: CropSampler, *, first: int, end: int, threads: int) -> Iterator[Batch]:
    """Yield the batches of the iterations from first to before end in their order.

    Each thread is at most one batch ahead. Closing the iterator waits for what is being made.
    """
    with ThreadPoolExecutor(threads, 'batches') as pool:
        coming = deque(pool.submit(sampler.batch, i)
                       for i in range(first, min(end, first + threads)))
        for iteration in range(first, end):
            batch = coming.popleft().result()
            if iteration + threads < end:
                coming.append(pool.submit(sampler.batch, iteration + threads))
            yield batch
