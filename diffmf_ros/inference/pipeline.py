# SPDX-License-Identifier: Apache-2.0
"""Pair -> FusionResult: luminance and gain control, alignment, fusion, colour. No clock but for timings."""

import time
from contextlib import contextmanager

import numpy as np

from ..core import classical
from ..core.color import join_luma, output_encoding, split_luma
from ..core.frames import FusionResult, Mode, Pair
from ..core.geometry import Alignment
from ..core.settings import Settings
from ..core.thermal import to_gray
from .memory import keep_freed_memory
from .scaled import fuse_scaled


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
    """Fuses pairs as settings say. Stateless between pairs: the same pair gives the same pixels.

    Without torch a network cannot run; the pipeline then fuses classically and every result says so.
    Raises DiffmfError at construction when weights, alignment or device are not usable.
    """

    def __init__(self, settings: Settings):
        keep_freed_memory()
        self._settings = settings
        self._alignment = Alignment.load(settings.alignment) if settings.alignment else Alignment.resize()
        self._network, self._standing_warnings = None, ()
        self.description, self.device = 'classical', 'cpu'
        if settings.model != 'classical':
            self._load_network()

    def _load_network(self):
        wanted = f'{self._settings.model} {self._settings.preset}'
        try:
            from .engine import Engine
            self._network = Engine(self._settings)
        except ImportError as error:
            self.description = f'classical, because {wanted} needs torch'
            self._standing_warnings = (f'{wanted} needs torch and einops, which cannot be imported ({error}): '
                                       'fusing classically; pip install "diffmf_ros[torch]"',)
            return
        self.description, self.device = wanted, self._network.description

    def fuse(self, pair: Pair) -> FusionResult:
        """Fuse one pair on the grid of its RGB frame.

        Where thermal does not see, the RGB image passes unchanged. A failure of the network gives the
        classical result with a warning. Raises FrameError when a frame is not usable.
        """
        stage = StageClock()
        with stage('colour'):
            y, chroma = split_luma(pair.rgb.pixels, pair.rgb.encoding)
        with stage('align'):
            ir, seen = self.align(pair)
            everywhere = seen.all()
            if not everywhere:
                ir = np.where(seen, ir, y)  # a black surround would be an edge that no camera saw
        with stage('network'):
            fused, mode, warnings = self._fuse_luma(*(np.float32(1 / 255) * image for image in (ir, y)))
        with stage('colour'):
            luma = np.rint(fused * 255).astype(np.uint8)
            pixels = join_luma(luma if everywhere else np.where(seen, luma, y), chroma, pair.rgb.encoding)
        return FusionResult(pair.rgb.stamp_ns, pair.rgb.frame_id, pixels, output_encoding(pair.rgb.encoding),
                            mode, self._standing_warnings + warnings, stage.timings_ms)

    def align(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return thermal on the RGB grid, H x W uint8 white-hot, and the bool mask of what it sees."""
        gray = to_gray(pair.thermal.pixels, pair.thermal.encoding, self._settings.thermal)
        return self._alignment.warp(gray, rgb_size=pair.rgb.size)

    def _fuse_luma(self, ir, y) -> tuple[np.ndarray, Mode, tuple[str, ...]]:
        if self._network is None:
            return classical.fuse(ir, y), Mode.CLASSICAL, ()
        from .engine import NetworkFailure
        try:
            return fuse_scaled(self._network, ir, y, scale=self._settings.scale), Mode.FUSED, ()
        except NetworkFailure as error:
            return classical.fuse(ir, y), Mode.CLASSICAL, (f'{error}; this pair was fused classically',)
