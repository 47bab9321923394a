# SPDX-License-Identifier: Apache-2.0
"""Pair -> FusionResult: which engine, on which path, and what happens when it fails. No clock but for timings."""

import time
from contextlib import contextmanager

import numpy as np

from ..core import classical
from ..core.frames import RGB, Frame, FrameError, FusionResult, Mode, Pair
from ..core.geometry import Aligner
from ..core.settings import Settings
from ..core.thermal import levels_of
from .errors import NetworkFailure
from .host_path import HostPath, align
from .memory import keep_freed_memory


class StageClock:
    """Milliseconds of wall time by stage; a stage may be entered more than once."""

    def __init__(self):
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str):
        start = time.perf_counter()
        yield
        spent_ms = 1e3 * (time.perf_counter() - start)
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent_ms


class FusionPipeline:
    """Fuses pairs as settings say, for one thread at a time. The same pair always gives the same pixels.

    A torch network on a GPU fuses on the device path, others on the host path. Without torch a torch
    network cannot run; the pipeline then fuses classically and every result says so. Raises DiffmfError
    at construction when weights, alignment or device are not usable.
    """

    def __init__(self, settings: Settings):
        keep_freed_memory()
        self._settings = settings
        self.aligner = Aligner(settings.alignment)
        self._classical = HostPath(classical.fuse)
        self._engine, self._path, self._standing_warnings = None, None, ()
        self.description, self.device = 'classical', 'cpu'
        if settings.model != 'classical':
            self._load_network()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be although pairs are fused: one sentence each, for an operator."""
        network = () if self._path is None else (*self._engine.problems, *self._path.problems)
        return (*network, *self.aligner.problems)

    def fuse(self, pair: Pair, *, scale: float | None = None) -> FusionResult:
        """Fuse one pair on the grid of the camera that alignment.output_grid names, under that frame's header.

        scale is the working size of the network; None: that of the settings. Where thermal does not see,
        the RGB image passes unchanged. A failure of the network gives the classical result with a
        warning. Raises FrameError when a frame is not usable, with the reason too_large for one over
        max_pixels.
        """
        for frame in (pair.rgb, pair.thermal):
            self._refuse_too_large(frame)
        stage = StageClock()
        (pixels, encoding), mode, warnings = self._fuse(pair, self._settings.scale if scale is None else scale, stage)
        grid = self._settings.alignment.output_grid
        base = pair.rgb if grid == RGB else pair.thermal
        return FusionResult(base.stamp_ns, base.frame_id, pixels, encoding, mode, self._standing_warnings + warnings,
                            stage.timings_ms, grid=grid)

    def align(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return thermal on the RGB grid, H x W uint8 white-hot, and the bool mask of what it sees."""
        return align(pair, **self._images(pair))

    def _load_network(self):
        wanted = f'{self._settings.model} {self._settings.preset}'
        try:
            self._engine = _engine(self._settings)
        except ImportError as error:
            self.description = f'classical, because {wanted} needs torch'
            self._standing_warnings = (f'{wanted} needs torch and einops, which cannot be imported ({error}): '
                                       'fusing classically; pip install "diffmf_ros[torch]"',)
            return
        self.description, self.device = wanted, self._engine.description
        if self._settings.engine == 'torch' and self._engine.device == 'cuda':  # onnxruntime takes host arrays
            from .device_path import DevicePath
            self._path = DevicePath(self._engine)
        else:
            self._path = HostPath(self._engine)

    def _images(self, pair: Pair) -> dict:
        """What every path has to know about the images."""
        return {'levels': levels_of(pair.thermal.pixels, pair.thermal.encoding, self._settings.thermal),
                'mapping': self.aligner.mapping(rgb_size=pair.rgb.size, thermal_size=pair.thermal.size)}

    def _refuse_too_large(self, frame: Frame) -> None:
        width, height = frame.size
        if width * height > self._settings.max_pixels:
            raise FrameError(f'expected at most {self._settings.max_pixels} pixels (max_pixels), got a {frame.stream} '
                             f'image of {width}x{height} = {width * height}; let the camera bin or crop, or raise '
                             'max_pixels if time and memory allow', reason='too_large')

    def _fuse(self, pair: Pair, scale: float, stage: StageClock):
        about = {**self._images(pair), 'colour': self._settings.output.colour, 'stage': stage}
        warnings = ()
        if self._path is not None:
            try:
                return self._path(pair, scale=scale, **about), Mode.FUSED, warnings
            except NetworkFailure as error:
                warnings = (f'{error}; this pair was fused classically',)
        return self._classical(pair, scale=1.0, **about), Mode.CLASSICAL, warnings


def _engine(settings: Settings):
    """Return the engine that settings name. Raises ImportError for torch's without torch, DiffmfError as it does."""
    if settings.engine == 'onnx':
        from .onnx_engine import OnnxEngine
        return OnnxEngine(settings)
    from .engine import Engine
    return Engine(settings)
