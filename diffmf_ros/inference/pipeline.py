# SPDX-License-Identifier: Apache-2.0
"""Pair -> FusionResult: the network, or what there is without it.

No clock but for timings and the watchdog.
"""

import numpy as np

from ..core.alignment.geometry import Aligner
from ..core.frames import RGB, THERMAL, Frame, FusionResult, Issue, Mode, Pair
from ..core.imaging.temporal_filter import TemporalFilter
from ..core.imaging.veil import show_through
from ..core.settings import Settings
from .fault_tolerance import ALONE, Live, Offline, StandIn
from .host_path import StageClock, align
from .image_checks import ImageChecks, Verdict
from .loading import Loaded, blank_job, load, warm_up
from .memory import bound_kernel_caches, give_back_memory, keep_freed_memory, memory_in_use
from .network import Image, LibraryMissing, PreparedPair
from .prepare import Preparation, image_of


class FusionPipeline:
    """Fuses pairs, or passes on single frames, as settings say.

    Without a watchdog (offline) everything runs in the calling thread and every pair is given to
    the network: the same frames always give the same pixels. With it (live) the network runs in a
    thread of its own for which nobody waits too long, and it rests and steps down when it fails:
    see guard.Live.

    fuse, pass_through and align belong to one thread; update, load and swap may run in others
    meanwhile. Without torch a torch network cannot run; the pipeline then fuses classically and
    every result says so. Raises DiffmfError at construction when weights, alignment or device are
    not usable.
    """

    def __init__(self, settings: Settings, *, watchdog: bool = False):
        keep_freed_memory()
        bound_kernel_caches()
        self._settings = settings
        self._inputs = Preparation(settings)
        self._checks = ImageChecks()
        self._temporal_filter = TemporalFilter()
        self._stand_in = StandIn(self._inputs)
        self._guard_of = Live if watchdog else Offline
        self._latest: PreparedPair | None = None
        self._standing: tuple[str, ...] = ()
        try:
            self._loaded = load(settings, guard_of=self._guard_of)
        except LibraryMissing as error:
            self._loaded = Loaded(None, f'classical, because {error.needs}')
            self._standing = (f'{error}: fusing classically',)

    @property
    def aligner(self) -> Aligner:
        """What brings the two images onto one grid.

        Its setters may be called from any one thread.
        """
        return self._inputs.aligner

    @property
    def description(self) -> str:
        """What fuses, such as 'diffmf light' or 'classical'."""
        return self._loaded.description

    @property
    def device(self) -> str:
        """Device, precision and backend of the network, such as 'cpu float32, scan cpu'."""
        return self._loaded.device

    @property
    def problems(self) -> tuple[str, ...]:
        """What fails, or has failed until it recovers, although images come out.

        A sentence each, for an operator.

        Those of the alignment are in aligner.problems.
        """
        guard = self._loaded.guard
        return *(guard.problems if guard else ()), *filter(None, (self._stand_in.problem,))

    @property
    def largest_scale(self) -> float:
        """The working size that the network is trusted with at present.

        Below 1 after it has failed.
        """
        guard = self._loaded.guard
        return guard.largest_scale if guard else 1.0

    def fuse(self, pair: Pair, *, scale: float | None = None) -> FusionResult:
        """Fuse one pair on the grid of the camera that alignment.output_grid names, under that
        frame's header.

        scale is the working size of the network; None: that of the settings. When one camera is
        blind (see ImageChecks) the image of the other one is passed on, in its mode. Where only
        that camera sees, its image passes unchanged. A failure of the network gives the classical
        result, one of that too the image of that camera; warnings say so. Raises FrameError when a
        frame is not usable, with the reason too_large for one over max_pixels.
        """
        settings, stage = self._settings, StageClock()
        with stage('align'):
            job = self._latest = self._inputs.job(pair, settings)
            verdict = self._checks.before(job, settings)
        image, mode, warnings, issues = self._fuse_or_pass(job, verdict, scale or settings.scale,
                                                           stage)
        base = pair.rgb if job.mapping.grid == RGB else pair.thermal
        if mode in (Mode.FUSED, Mode.CLASSICAL):
            with stage('color'):
                image = self._temporal_filter(
                    image[0], stamp_ns=base.stamp_ns,
                    keep=settings.output.temporal_filter), image[1]
        said = *self._standing, *warnings, *(issue.text for issue in issues)
        return FusionResult(base.stamp_ns, base.frame_id, *image, mode, said, stage.timings_ms,
                            grid=job.mapping.grid, issues=issues)

    def pass_through(self, frame: Frame) -> FusionResult:
        """Return the image of one camera alone, on the output grid, under the frame's stamp.

        See Preparation.alone.

        Raises FrameError when the frame is not usable.
        """
        stage = StageClock()
        with stage('align'):
            alone = self._inputs.alone(frame, self._settings)
        return FusionResult(frame.stamp_ns, alone.frame_id, *alone.image, ALONE[frame.stream], (),
                            stage.timings_ms, grid=alone.grid)

    def align(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return thermal on the output grid, H x W uint8 white-hot, and the bool mask of what both
        cameras see."""
        job = self._inputs.job(pair, self._settings)
        return align(job.pair, levels=job.levels, mapping=job.mapping)

    def temperature(self, work: Pair | Frame) -> np.ndarray | None:
        """Return temperatures on the grid of the image of work, H x W float32.

        See Preparation.temperature.
        """
        return self._inputs.temperature(work, self._settings)

    def update(self, settings: Settings) -> None:
        """Use other settings from the next pair on; those of the network itself stay, see load().

        Raises AlignmentError, and then changes nothing.
        """
        if settings.alignment != self._settings.alignment:
            self.aligner.configure(settings.alignment)
        self._settings = settings

    def load(self, settings: Settings) -> Loaded:
        """Prepare the network that settings name beside the one in use, and warm it up.

        For swap(). Slow.

        Raises DiffmfError when it cannot be used here, or fails on the sizes in use.
        """
        return load(settings, guard_of=self._guard_of,
                    example=self._latest or self._blank(settings.warm_up))

    def swap(self, loaded: Loaded) -> None:
        """Use what load() returned from the next pair on.

        The network before goes with the last pair that it has.
        """
        self._loaded, self._standing = loaded, ()

    def warm_up(self, size: tuple[int, int] | None = None) -> None:
        """Fuse blank pairs with an RGB image of this (width, height).

        None: that of the settings, if they name one.

        A network that fails here is treated as one that fails on a pair.
        """
        job = self._blank(size or self._settings.warm_up)
        if self._loaded.guard and job:
            warm_up(self._loaded.guard, job, self._settings)

    def memory(self) -> dict[str, int]:
        """Return the bytes in use: rss of the process, and cuda where a network runs there."""
        return memory_in_use()

    def close(self) -> None:
        """Free the network; the pipeline is not to be used again.

        Does not wait for one that hangs.
        """
        self._loaded.close()
        self._loaded, self._latest = Loaded(None, 'closed'), None
        give_back_memory()

    def _fuse_or_pass(self, job: PreparedPair, verdict: Verdict, scale: float, stage: StageClock
                      ) -> tuple[Image, Mode, tuple[str, ...], tuple[Issue, ...]]:
        """Return image, mode, warnings and issues.

        Fused, or the image of the one camera that sees.
        """
        if verdict.survivor:
            with stage('color'):
                return image_of(job, verdict.survivor), ALONE[verdict.survivor], (), verdict.issues
        image, mode, warnings = self._fuse(job, self._settings, scale, stage)
        if mode not in (Mode.FUSED, Mode.CLASSICAL):
            return image, mode, warnings, verdict.issues
        with stage('color'):
            if verdict.veil is not None:
                thermal = image_of(job, THERMAL)[0]
                image = show_through(image[0], thermal, verdict.veil), image[1]
            return image, mode, warnings, self._checks.after(image, verdict, color=job.color)

    def _fuse(self, job: PreparedPair, settings: Settings, scale: float,
              stage: StageClock) -> tuple[Image, Mode, tuple[str, ...]]:
        """Return the image of a job, how it was made, and what is to be said about it."""
        if (guard := self._loaded.guard) is None:
            return self._stand_in(job, settings, stage)
        attempt = guard.fuse(job, scale=scale, timeout_s=settings.health.compute_timeout_s)
        if attempt.image is None:
            image, mode, warnings = self._stand_in(job, settings, stage)
            return image, mode, (*(f'{warning}; this pair was fused classically'
                                   for warning in attempt.warnings),
                                 *warnings)
        self._stand_in.problem = ''  # nobody needs it now
        stage.add(attempt.timings_ms)
        return attempt.image, Mode.FUSED, attempt.warnings

    def _blank(self, size: tuple[int, int] | None) -> PreparedPair | None:
        return size and blank_job(size, mapping=self.aligner.mapping,
                                  color=self._settings.output.color)
