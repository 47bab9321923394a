# SPDX-License-Identifier: Apache-2.0
"""A network with trained weights on a device, as a function of two images of any size."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import models
from ..core.settings import Settings
from ..models import SizeRule
from ..models.blocks import cast_layers
from ..models.scan import Backend, ScanError
from . import EngineError, NetworkFailure
from .selfcheck import choose_backends, uses_of
from .weights import load_into, load_weights
from .weights_header import weights_for

# Processor flags of a native bfloat16 product; without one it is many times slower than float32.
BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16'}


class Engine:
    """Fuse (infrared, visible luminance) with the network, preset and weights of settings.

    problems: one sentence for each scan backend that gave wrong values here and is not used, and
    for what a GPU runs slowly for want of one. Raises
    WeightsError (missing, damaged, untrained or foreign weights) and EngineError (what was asked
    for is not to be had here) at construction.
    """

    def __init__(self, settings: Settings):
        weights = load_weights(weights_for(settings))
        use_threads(settings.threads)
        require_own_threads()
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            network = models.build(settings.model, settings.network_preset)
        load_into(network, weights)
        self.device, self.dtype = device_and_precision(settings)
        self.network = prepare(network, device=self.device, dtype=self.dtype)
        try:
            choice = choose_backends(device=self.device, dtype=self.dtype,
                                     wanted=settings.scan_backend,
                                     uses=uses_of(self.network))
        except ScanError as error:
            raise EngineError(f'scan_backend: {error}') from error
        use_backend(self.network, choice.backends)
        self.problems, self._scan = choice.problems, choice.name
        if self.device == 'cuda':
            torch.backends.cudnn.benchmark = True  # sizes repeat

    @property
    def description(self) -> str:
        """Device, precision and scan backend, such as 'cpu bfloat16, scan cpu'."""
        return f'{self.device} {str(self.dtype).removeprefix("torch.")}, scan {self._scan}'

    def __call__(self, ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
        """Fuse two H x W float32 images in [0, 1] of any size; returns the same, clamped.

        Raises NetworkFailure when the network raises RuntimeError (out of memory, say), or returns
        NaN, infinity or another shape, and EngineError as require_own_threads does.
        """
        require_own_threads()
        try:
            tensors = (torch.from_numpy(image)[None, None].to(self.device) for image in (ir, vi_y))
            fused = self.fuse_tensors(*tensors)[0, 0].cpu().numpy()
        # out of memory, or an image too large for the scan
        except (RuntimeError, ScanError) as error:
            raise NetworkFailure(f'the network raised {type(error).__name__}: {error}') from error
        if not np.isfinite(fused).all():
            raise NetworkFailure('the network returned values that are not finite')
        return fused

    @torch.inference_mode()
    def fuse_tensors(self, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """Fuse B x 1 x H x W float32 tensors in [0, 1] on the device, of any size.

        Returns the same, clamped.

        Values that are not finite come back as NaN. Waits for nothing, so that it can be captured.
        Raises NetworkFailure when the network returns another shape.
        """
        return fuse_padded(self.network, ir, vi_y)


def fuse_padded(network: Any, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
    """Return what network makes of two B x 1 x H x W images of any size, clamped.

    See Engine.fuse_tensors.
    """
    height, width = ir.shape[2:]
    padded = [pad_to(image, network.sides) for image in (ir, vi_y)]
    fused = network(*padded)
    if fused.shape != padded[0].shape:
        raise NetworkFailure(f'the network returned the shape {tuple(fused.shape)}, expected '
                             f'{tuple(padded[0].shape)}')
    inside = (..., *network.sides.crop(height, width))
    fused = fused[inside].float()
    return torch.add(fused, fused, alpha=0).clamp(0, 1)  # 0 times infinity is NaN


def use_threads(count: int) -> None:
    """Let threads that begin to compute from now on use so many cores; 0: as many as torch would
    by itself.

    A thread that has computed before keeps its number, so a network that runs elsewhere is not
    disturbed.
    """
    by_itself = _threads_by_itself()  # the first time nothing was set yet
    wanted = count or by_itself
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def require_own_threads() -> None:
    """Raise EngineError where a network would wait for ever for the threads of another process.

    A fork does not carry over the threads of OpenMP, which torch starts in its first computation.
    """
    if torch.get_num_threads() == 1:
        return
    if _threads_of and os.getpid() not in _threads_of:
        raise EngineError(
            'this process was forked from one that has loaded a network, and the threads of torch '
            'are not here: start processes by multiprocessing.get_context("spawn"), fork before a '
            'network is loaded, or use threads=1')
    _threads_of.add(os.getpid())


_threads_of: set[int] = set()


@lru_cache(maxsize=1)
def _threads_by_itself() -> int:
    return torch.get_num_threads()


def pad_to(images: torch.Tensor, sides: SizeRule) -> torch.Tensor:
    """Reflect B x C x H x W at its edges up to sides that fit; any size from 1x1."""
    for axis in (2, 3):
        side = images.shape[axis]
        before, behind = sides.padding(side)
        if before or behind:
            # the edge itself is not repeated, unless it is all there is
            period = max(1, 2 * (side - 1))
            steps = torch.arange(-before, side + behind, device=images.device) % period
            images = images.index_select(axis, torch.minimum(steps, period - steps))
    return images


def use_backend(network: torch.nn.Module, backend: Backend) -> None:
    """Let network run its scans, and what is fused around them, by a backend, or by one for each
    operation."""
    for module in network.modules():
        if hasattr(module, 'backend'):
            module.backend = backend  # type: ignore[assignment]


def prepare(network: torch.nn.Module, *, device: str, dtype: torch.dtype,
            scan_backend: Backend = 'auto') -> torch.nn.Module:
    """Return network, whose own type is float32, ready for inference in dtype on device."""
    use_backend(network, scan_backend)
    network = network.to(device, torch.float32,  # type: ignore[call-overload]
                         memory_format=torch.channels_last)
    return cast_layers(network, dtype).eval().requires_grad_(False)


def device_and_precision(settings: Settings) -> tuple[str, torch.dtype]:
    """Return the torch device and type that settings ask for.

    Raises EngineError when not to be had.
    """
    device = settings.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda' and not torch.cuda.is_available():
        raise EngineError('device cuda was asked for, but torch sees no CUDA device '
                          f'(torch {torch.__version__}); use device auto or cpu')
    precision = settings.precision
    if precision == 'auto':
        precision = 'float16' if device == 'cuda' else 'bfloat16' if multiplies_bfloat16(
            ) else 'float32'
    if precision == 'float16' and device == 'cpu':
        raise EngineError('float16 on a CPU is hundreds of times slower than float32; use '
                          'precision auto, float32 or bfloat16')
    return device, getattr(torch, precision)


def multiplies_bfloat16(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Return whether the processor multiplies bfloat16 natively, by the flags of Linux."""
    if not cpuinfo.exists():
        return False
    lines = (line.partition(':') for line in cpuinfo.read_text().splitlines())
    return any(name.strip() == 'flags' and BFLOAT16_FLAGS & set(flags.split()) for name, _,
               flags in lines)
