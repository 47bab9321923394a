# SPDX-License-Identifier: Apache-2.0
"""Random crops of registered pairs, degraded, with the target of each; batches of them, made in
threads while a GPU works on those before."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, fields

import cv2
import numpy as np
import torch

from ...core.frames import DiffmfError
from ...io.folders import LumaPair
from ..batch.spreading import cores
from .degradations import (
    Degradations,
    degraded_thermal,
    degraded_visible,
    with_dark_coats,
    with_noise,
)
from .target import denoised, fused_target
from .warm_objects import WarmScene, thermal_ground, warmth

USUAL = Degradations()
SCALES = 0.5, 1.25  # of the image that a crop is cut from: people of other sizes
MOST_THREADS = 8


class DataError(DiffmfError):
    """Training data that cannot be used as asked."""


@dataclass(frozen=True)
class Batch:
    """Images of one iteration, all B x 1 x S x S float32 in [0, 1].

    Attributes:
        ir, vi_y: What the network gets.
        clean_ir, clean_y: The same without noise.
        target: What the network is to make of them, with visible noise where its base is visible.
        warm: 1 on warm objects.
        share: Thermal share of the base in the target, 0 to 1.
    """

    ir: np.ndarray = field(repr=False)
    vi_y: np.ndarray = field(repr=False)
    clean_ir: np.ndarray = field(repr=False)
    clean_y: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    warm: np.ndarray = field(repr=False)
    share: np.ndarray = field(repr=False)

    def mapped(self, function) -> 'Batch':
        """Return a Batch of function(array) of every array, such as their tensors on a device."""
        return Batch(*(function(getattr(self, f.name)) for f in fields(self)))

    def copy_(self, other: 'Batch') -> None:
        """Copy the tensors of another batch into those of this one."""
        for f in fields(self):
            getattr(self, f.name).copy_(getattr(other, f.name), non_blocking=True)


class CropSampler:
    """Random square crops at random scales, half of them mirrored left to right.

    A pure function of (seed, iteration), which makes an interrupted training resume exactly: there
    is no sampler state to save. Images are not turned: people stand and skies are above.
    """

    def __init__(self, pairs: list[LumaPair], *, crop: int, batch: int, seed: int,
                 degradations: Degradations = USUAL):
        usable = [p for p in pairs if min(p.ir.shape) >= crop]
        if not usable:
            raise DataError(f'every image is smaller than the crop of {crop} pixels; choose a '
                            f'smaller '
                            'crop')
        self._pairs, self._crop, self._batch, self._seed = usable, crop, batch, seed
        self._degradations = degradations
        self._clean: dict[int, np.ndarray] = {}  # denoised visible luminance, H x W uint8

    def with_degradations(self, degradations: Degradations) -> 'CropSampler':
        """Return a sampler with other degradations; both share the clean images."""
        other = copy(self)
        other._degradations = degradations
        return other

    def batch(self, iteration: int) -> Batch:
        """Return the images of an iteration."""
        random = np.random.default_rng((self._seed, iteration))
        chosen = random.integers(len(self._pairs), size=self._batch)
        crops = [self._crop_of(int(index), random) for index in chosen]
        return Batch(*(np.stack(images)[:, None] for images in zip(*crops)))

    def _crop_of(self, index, random):
        ir, y = self._image(index)
        low = max(SCALES[0], self._crop / min(ir.shape))
        scaled = random.random() < 0.7
        scale = random.uniform(low, max(low, SCALES[1])) if scaled else max(low, 1.0)
        side = min(round(self._crop / scale), *ir.shape)
        top, left = (random.integers(length - side + 1) for length in ir.shape)
        window = slice(top, top + side), slice(left, left + side)
        whole = degraded_thermal(ir, random, self._degradations)
        scene = WarmScene.of(whole, scale=self._crop / side)
        method = cv2.INTER_AREA if side > self._crop else cv2.INTER_LINEAR
        ir, y = (cv2.resize(image[window], (self._crop,) * 2, interpolation=method)
                 for image in (whole, y))
        warm = warmth(ir, thermal_ground(ir, scene), scene)
        y = with_dark_coats(y, warm, random, self._degradations)
        y = degraded_visible(y, random, self._degradations)
        target = fused_target(ir, y, scene)
        noisy_y, noisy_ir = with_noise(y, ir, random, self._degradations)
        # Visible noise stays where the base is visible. Asked to take it away, a network takes
        # fine texture along.
        wanted = np.clip(target.image + (1 - target.share) * (noisy_y - y), 0, 1)
        images = noisy_ir, noisy_y, ir, y, wanted, target.warm, target.share
        mirrored = random.random() < 0.5
        return [np.ascontiguousarray(image[:, ::-1]) for image in images] if mirrored else images

    def _image(self, index):
        """Thermal and visible luminance without its noise, H x W float32."""
        pair = self._pairs[index]
        if index not in self._clean:
            y = denoised(np.float32(1 / 255) * pair.vi_y)
            self._clean[index] = np.rint(255 * y).astype(np.uint8)
        return tuple(np.float32(1 / 255) * image for image in (pair.ir, self._clean[index]))


def threads_for(processes: int) -> int:
    """Return how many threads make batches in each of the processes that share these CPUs."""
    return max(1, min(MOST_THREADS, cores() // processes - 1))


def batches_on(device: torch.device, sampler: CropSampler, *, first: int, end: int,
               processes: int = 1) -> Generator[Batch, None, None]:
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
