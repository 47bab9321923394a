# SPDX-License-Identifier: Apache-2.0
"""A network with trained weights on a device, as a function of two images of any size."""

import numpy as np
import torch

from .. import models
from ..core.settings import Settings
from ..models.scan import ScanError, backend_for
from .errors import EngineError, NetworkFailure
from .weights import WeightsError, load_into, load_weights, shipped


class Engine:
    """Fuse (infrared, visible luminance) with the network, preset and weights of settings.

    Raises WeightsError (missing, damaged, untrained or foreign weights) and EngineError (what was
    asked for is not to be had here) at construction.
    """

    def __init__(self, settings: Settings):
        weights = load_weights(settings.weights or shipped(settings.model, settings.preset))
        if (weights.model, weights.preset) != (settings.model, settings.preset):
            raise WeightsError(f'{weights.path} is for {weights.model} {weights.preset}, but {settings.model} '
                               f'{settings.preset} was asked for; set model and preset to match')
        network = models.build(settings.model, settings.preset)
        load_into(network, weights)
        self.device, self._dtype = device_and_precision(settings)
        self._network = prepare(network, device=self.device, scan_backend=settings.scan_backend)
        self._scan = scan_module(self.device, settings.scan_backend).__name__.rpartition('.')[2]
        if settings.threads:
            torch.set_num_threads(settings.threads)

    @property
    def description(self) -> str:
        """Device, precision and scan backend, such as 'cpu float32, scan portable'."""
        return f'{self.device} {str(self._dtype).removeprefix("torch.")}, scan {self._scan}'

    def __call__(self, ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
        """Fuse two H x W float32 images in [0, 1] of any size; returns the same, clamped.

        Raises NetworkFailure when the network raises (out of memory, say) or returns NaN or infinity.
        """
        try:
            fused = run(self._network, ir, vi_y, device=self.device, dtype=self._dtype)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            raise NetworkFailure(f'the network raised {type(error).__name__}: {error}') from error
        if not np.isfinite(fused).all():
            raise NetworkFailure('the network returned values that are not finite')
        return fused.clip(0, 1)


def scan_module(device: str, scan_backend: str):
    """Return the module that scans on device. Raises EngineError for a backend that cannot run there."""
    try:
        return backend_for(torch.zeros(1, device=device), 'ss2d', scan_backend)
    except ScanError as error:
        raise EngineError(f'scan_backend: {error}') from error


def prepare(network: torch.nn.Module, *, device: str, scan_backend: str) -> torch.nn.Module:
    """Return network ready for inference on device. Raises EngineError as scan_module does."""
    scan_module(device, scan_backend)
    for module in network.modules():
        if hasattr(module, 'backend'):
            module.backend = scan_backend
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def run(network, ir: np.ndarray, vi_y: np.ndarray, *, device: str, dtype: torch.dtype) -> np.ndarray:
    """Run network on two H x W float32 images, padded by reflection and cropped again."""
    height, width = ir.shape
    padding = [(0, -side % network.multiple) for side in (height, width)]
    tensors = (torch.from_numpy(np.pad(image, padding, mode='reflect'))[None, None].to(device)
               for image in (ir, vi_y))
    with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        fused = network(*tensors)
    return fused[0, 0, :height, :width].float().cpu().numpy()


def device_and_precision(settings: Settings) -> tuple[str, torch.dtype]:
    """Return the torch device and type that settings ask for. Raises EngineError when not to be had."""
    device = settings.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda' and not torch.cuda.is_available():
        raise EngineError('device cuda was asked for, but torch sees no CUDA device '
                          f'(torch {torch.__version__}); use device auto or cpu')
    precision = settings.precision
    if precision == 'auto':
        precision = 'float16' if device == 'cuda' else 'float32'
    if precision == 'float16' and device == 'cpu':
        raise EngineError('float16 on a CPU is hundreds of times slower than float32; use precision auto, '
                          'float32 or bfloat16')
    return device, getattr(torch, precision)
