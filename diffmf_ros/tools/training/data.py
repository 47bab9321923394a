# SPDX-License-Identifier: Apache-2.0
"""Random crops of registered pairs, degraded, with the target of each; batches of them, made in
processes while a GPU works on those before.

Degradations are what cameras and weather do to a clean pair: their functions take and return H x W
float32 in [0, 1] and draw from `random`. What changes the scene (veil, darkness, saturation,
another thermal range) also changes the target; noise of thermal does not, and that of the visible
image is added to the target where its base is visible.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import copy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...core.frames import DiffmfError
from ...io.folders import LumaPair
from ..batch.spreading import cores, end_with_parent, interrupts_blocked
from .target import denoised, fused_target
from .warm_objects import LEVEL, WarmScene, thermal_ground, warmth

if TYPE_CHECKING:
    import torch  # which processes that make batches do without


@dataclass(frozen=True)
class Degradations:
    """How often each degradation occurs, 0 to 1; 0 switches it off."""

    veil: float = 0.2  # smoke or fog over a part of the visible image
    dark: float = 0.12  # visible image with 3 to 40 % of its light
    glare: float = 0.08  # lamps and sun that saturate the visible image around them
    blind: float = 0.04  # visible image all black or all white
    dark_coats: float = 0.12  # warm objects dark before a bright visible ground: snow, sand, haze
    visible_noise: float = 0.35
    gray_thermal: float = 0.35  # thermal ground lifted to middle gray, as gain control leaves it
    black_hot: float = 0.03
    flat_thermal: float = 0.06  # thermal without any structure, at any level: shutter, lens cap
    thermal_noise: float = 0.4
    shift: float = 0.25  # thermal displaced by up to 4 pixels


def degraded_visible(y: np.ndarray, random: np.random.Generator,
                     chances: Degradations) -> np.ndarray:
    """Return visible luminance as smoke, darkness, glare or a blind camera leave it."""
    if random.random() < chances.dark:
        y = y ** random.uniform(1.0, 1.5) * random.uniform(0.03, 0.4)
    if random.random() < chances.veil:
        y = veiled(y, random)
    if random.random() < chances.glare:
        y = with_glare(y, random)
    if random.random() < chances.blind:
        y = np.full_like(y, random.choice((0.0, 0.02, 0.98, 1.0)))
    return np.clip(y, 0, 1).astype(np.float32)


def with_dark_coats(y: np.ndarray, warm: np.ndarray, random: np.random.Generator,
                    chances: Degradations) -> np.ndarray:
    """Return y with a brighter ground and what is warm (0 to 1) dark before it."""
    if random.random() >= chances.dark_coats:
        return y
    low = random.uniform(0.2, 0.6)
    return (low + (1 - low) * y) * (1 - random.uniform(0.5, 0.95) * warm)


def degraded_thermal(ir: np.ndarray, random: np.random.Generator,
                     chances: Degradations) -> np.ndarray:
    """Return thermal under another gain control, shifted, inverted, or flat."""
    if random.random() < chances.shift:
        dx, dy = random.uniform(-4, 4, 2)
        ir = cv2.warpAffine(ir, np.array([[1, 0, dx], [0, 1, dy]], np.float32), ir.shape[::-1],
                            borderMode=cv2.BORDER_REPLICATE)
    if random.random() < chances.gray_thermal:
        low = random.uniform(0.1, 0.5)
        ir = low + (random.uniform(0.85, 1.0) - low) * ir ** random.uniform(0.7, 1.3)
    if random.random() < chances.black_hot:
        ir = 1 - ir
    if random.random() < chances.flat_thermal:
        ir = np.full_like(ir, random.random())
    return np.clip(ir, 0, 1).astype(np.float32)


def with_noise(y: np.ndarray, ir: np.ndarray, random: np.random.Generator,
               chances: Degradations) -> tuple[np.ndarray, np.ndarray]:
    """Return both images with the noise of their sensors: grain in y, grain and rows in ir."""
    if random.random() < chances.visible_noise:
        grain = _field(y.shape, random, random.uniform(0.0, 0.8))
        y = y + random.uniform(1, 12) * LEVEL * grain * np.sqrt(0.3 + y)
    if random.random() < chances.thermal_noise:
        rows = random.standard_normal((ir.shape[0], 1)) * random.uniform(0, 1.5)
        strength = random.uniform(0.5, 4)
        ir = ir + LEVEL * (strength * _field(ir.shape, random, random.uniform(0.0, 0.8)) + rows)
    return tuple(np.clip(image, 0, 1).astype(np.float32) for image in (y, ir))


def veiled(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return y behind smoke or fog of uneven density: y t + a (1 - t) (Koschmieder)."""
    density = _field(y.shape, random, random.uniform(0.12, 0.4) * min(y.shape))
    coverage = random.uniform(-1.0, 1.5)
    opacity = np.clip(0.5 + 0.6 * (density + coverage), 0, random.uniform(0.7, 1.0))
    airlight = random.uniform(0.3, 0.95) + 0.04 * _field(y.shape, random, 0.1 * min(y.shape))
    return y * (1 - opacity) + airlight * opacity


def with_glare(y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return y with one to three lights that saturate it and bloom."""
    height, width = y.shape
    rows, columns = np.mgrid[:height, :width]
    for _ in range(random.integers(1, 4)):
        row, column = random.uniform(0, height), random.uniform(0, width)
        radius = random.uniform(0.02, 0.3) * min(height, width)
        distance = np.hypot(rows - row, columns - column) / radius
        y = y + random.uniform(0.8, 3.0) / (1 + distance ** 2)
    return np.clip(y, 0, 1)


def _field(shape, random, sigma_px):
    """Gaussian noise of unit variance with structures of this size."""
    if sigma_px < 0.3:
        return random.standard_normal(shape).astype(np.float32)
    factor = max(1, int(sigma_px / 3))  # coarse fields are drawn small
    size = tuple(-(-side // factor) + 1 for side in shape)
    small = random.standard_normal(size).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / factor)
    field = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (field - field.mean()) / max(float(field.std()), 1e-6)


USUAL = Degradations()
SCALES = 0.5, 1.25  # of the image that a crop is cut from: people of other sizes
# A batch of 12 crops of 128x128 takes some 165 ms of a core, and a large GPU wants 60 a second.
MOST_MAKERS = 16


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
            self._clean[index] = _without_noise(pair.vi_y)
        return tuple(np.float32(1 / 255) * image for image in (pair.ir, self._clean[index]))


def _without_noise(y: np.ndarray) -> np.ndarray:
    return np.rint(255 * denoised(np.float32(1 / 255) * y)).astype(np.uint8)


class _SharedMemory:
    """The images of a sampler and some batches, seen by all processes that are given this when
    they begin."""

    def __init__(self, sampler: CropSampler, slots: int):
        """Copy the images. slots: batches that are kept at a time."""
        self._shapes = [pair.ir.shape for pair in sampler._pairs]
        self._empty = copy(sampler)
        self._empty._pairs, self._empty._clean = [], {}
        side = sampler._crop
        self._slots = slots, len(fields(Batch)), sampler._batch, 1, side, side
        allocate = multiprocessing.get_context('spawn').RawArray
        self._images: Any = allocate('B', sum(2 * pair.ir.size for pair in sampler._pairs))
        self._batches: Any = allocate('f', int(np.prod(self._slots)))
        for (ir, y), pair in zip(self.images, sampler._pairs):
            ir[...], y[...] = pair.ir, pair.vi_y

    @property
    def images(self) -> list[np.ndarray]:
        """Thermal and visible image of each pair, 2 x H x W uint8."""
        ends = np.cumsum([2 * int(np.prod(shape)) for shape in self._shapes])[:-1]
        parts = np.split(np.frombuffer(self._images, np.uint8), ends)
        return [part.reshape(2, *shape) for part, shape in zip(parts, self._shapes)]

    def batch(self, slot: int) -> Batch:
        """Return the batch of a slot, which changes when another one is made there."""
        return Batch(*np.frombuffer(self._batches, np.float32).reshape(self._slots)[slot])

    def sampler(self) -> CropSampler:
        """Return the sampler, whose visible images are taken to be without noise by now."""
        made = copy(self._empty)
        made._pairs = [LumaPair('', *images) for images in self.images]
        made._clean = {i: pair.vi_y for i, pair in enumerate(made._pairs)}
        return made


class _Maker:
    """What a process that makes batches knows."""

    memory: _SharedMemory
    sampler: CropSampler

    @classmethod
    def begin(cls, memory: _SharedMemory) -> None:
        end_with_parent()
        cv2.setNumThreads(1)
        cls.memory, cls.sampler = memory, memory.sampler()

    @classmethod
    def clean(cls, index: int) -> None:
        y = cls.memory.images[index][1]
        y[...] = _without_noise(y)

    @classmethod
    def make(cls, iteration: int, slot: int) -> None:
        made, place = cls.sampler.batch(iteration), cls.memory.batch(slot)
        for each in fields(Batch):
            getattr(place, each.name)[...] = getattr(made, each.name)


def makers_for(processes: int) -> int:
    """Return how many processes make batches for each of those that share these CPUs."""
    return max(1, min(MOST_MAKERS, cores() // processes - 1))


def batches_on(device: 'torch.device', sampler: CropSampler, *, first: int, end: int,
               processes: int = 1) -> Generator[Batch, None, None]:
    """Yield the batches of the iterations from first to before end, as tensors on a device.

    A batch is that of its iteration, whoever makes it. On a CPU, which trains with all its cores,
    each is made when it is asked for; for a GPU in processes, ahead, and in memory that it can
    read while it works.

    Args:
        device: Where the tensors are.
        sampler: Makes the batches.
        first, end: Iterations.
        processes: Number of those that train together.

    Raises:
        DataError: A process that makes batches has ended.
    """
    import torch

    if device.type == 'cpu':
        for iteration in range(first, end):
            yield sampler.batch(iteration).mapped(torch.from_numpy)
        return
    for batch in in_processes(sampler, first=first, end=end, makers=makers_for(processes)):
        pinned = batch.mapped(lambda array: torch.from_numpy(array).pin_memory())
        yield pinned.mapped(lambda tensor: tensor.to(device, non_blocking=True))


def in_processes(sampler: CropSampler, *, first: int, end: int, makers: int) -> Iterator[Batch]:
    """Yield the batches of the iterations from first to before end in their order.

    Each process is at most two batches ahead. The arrays of a batch change when the next one is
    asked for. Closing the iterator waits for what is being made.

    Args:
        sampler: Makes the batches; the processes share its images.
        first, end: Iterations.
        makers: Number of processes.

    Raises:
        DataError: A process has ended.
    """
    slots = 2 * makers + 1  # one is with who asked
    memory = _SharedMemory(sampler, slots)
    # Of a fresh interpreter, as in batch.spreading: this one has the threads of CUDA.
    pool = ProcessPoolExecutor(makers, mp_context=multiprocessing.get_context('spawn'),
                               initializer=_Maker.begin, initargs=(memory,))
    coming: deque[Any] = deque()

    def submit(work: Callable, *arguments: int) -> Future:
        with interrupts_blocked():  # any may start a process, which inherits that
            return pool.submit(work, *arguments)

    try:
        for each in [submit(_Maker.clean, i) for i in range(len(memory.images))]:
            each.result()
        for iteration in range(first, end + slots - 1):
            if iteration < end:
                coming.append(submit(_Maker.make, iteration, iteration % slots))
            if (ready := iteration - slots + 1) >= first:
                coming.popleft().result()
                yield memory.batch(ready % slots)
    except BrokenProcessPool as error:
        raise DataError(f'one of {makers} processes that make batches has ended, perhaps for want '
                        'of memory; run the same command again, it goes on') from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
