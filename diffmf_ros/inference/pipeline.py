# SPDX-License-Identifier: Apache-2.0
"""The way of a pair: prepare, fuse, finish. Pair -> FusionResult.

No clock but for timings and time-outs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..core.alignment.geometry import Aligner
from ..core.checks.image_checks import ImageChecks, Verdict
from ..core.checks.sight_monitor import reduced
from ..core.frames import RGB, THERMAL, Frame, FrameError, FusionResult, Issue, Mode, Pair
from ..core.imaging.color import split_luma
from ..core.imaging.missing_detail import SHORT_SIDE
from ..core.imaging.stream_filters import TemporalFilter, show_through
from ..core.imaging.warm_contrast import WarmContrast, WarmView, lifted
from ..core.settings import Settings
from .fault_tolerance import ALONE, ClassicalFallback, DirectRunner, FaultTolerantRunner, Fused
from .memory import bound_kernel_caches, give_back_memory, keep_freed_memory, memory_in_use
from .network import LibraryMissing, LoadedNetwork, blank_pair, load, warm_up
from .prepare import Image, Preparation, PreparedPair, SingleCameraImage, StageTimer
from .working_size import ScaleController, TrustedScale

FUSED = Mode.FUSED, Mode.CLASSICAL


@dataclass(frozen=True)
class BegunPair:
    """A pair that has been through the network: what FusionPipeline.finish needs of it.

    alone: there is no network that could work on the next pair meanwhile.
    """

    prepared: PreparedPair
    verdict: Verdict
    fused: Fused
    alone: bool


class FusionPipeline:
    """Fuses pairs, or passes on single frames, as settings say.

    Without a watchdog (offline) everything runs in the calling thread and every pair is given to
    the network: the same frames always give the same pixels. With it (live) the network runs in a
    thread of its own for which nobody waits too long, and it backs off and shrinks when it fails:
    see FaultTolerantRunner.

    `scale` decides the working size. fuse, begin, finish and pass_through belong to one thread;
    update, load and swap may run in others meanwhile. Without torch a torch network cannot run;
    the pipeline then fuses classically and every result says so. Raises DiffmfError at
    construction when weights, alignment or device are not usable.
    """

    def __init__(self, settings: Settings, *, watchdog: bool = False):
        keep_freed_memory()
        bound_kernel_caches()
        self._settings = settings
        self._preparation = Preparation(settings)
        self._checks = ImageChecks()
        self._temporal_filter = TemporalFilter()
        self._warm_contrast = WarmContrast()
        self._fallback = ClassicalFallback()
        self._runner_of = FaultTolerantRunner if watchdog else DirectRunner
        self.scale = ScaleController(settings)
        self._latest: PreparedPair | None = None
        self._standing: tuple[str, ...] = ()
        try:
            self._use(load(settings, runner_of=self._runner_of))
        except LibraryMissing as error:
            self._loaded = LoadedNetwork(None, f'classical ({error.needs})')
            self._standing = (f'{error}: fusing classically',)

    @property
    def aligner(self) -> Aligner:
        """What brings the two images onto one grid.

        Its setters may be called from any one thread.
        """
        return self._preparation.aligner

    @property
    def received(self) -> dict[str, Frame]:
        """The newest frame of each camera, for their sizes and frame ids; any one thread sets it.
        """
        return self._preparation.received

    @property
    def description(self) -> str:
        """What fuses, such as 'diffmf light' or 'classical'."""
        return self._loaded.description

    @property
    def device(self) -> str:
        """Device, precision and backend of the network, such as 'cpu float32, scan cpu'."""
        return self._loaded.device

    @property
    def missing(self) -> tuple[str, ...]:
        """Sentences for the log: libraries that the network lacks, and what to install."""
        return self._standing

    @property
    def issues(self) -> tuple[Issue, ...]:
        """What fails, or has failed until it recovers, although images come out.

        Those of the alignment are in aligner.issues.
        """
        runner = self._loaded.runner
        return *(runner.issues if runner else ()), *self._fallback.issues

    def fuse(self, pair: Pair) -> FusionResult:
        """Fuse one pair on the grid of the camera that alignment.output_grid names, under that
        frame's header.

        When one camera is blind (see ImageChecks) the image of the other one is passed on, in its
        mode. Where only the camera of the grid sees, its image passes unchanged. A failure of the
        network gives the classical result, one of that too the image of that camera; warnings say
        so, and what the alignment lacks.

        Args:
            pair: Frames as they came.

        Raises:
            FrameError: a frame is not usable; reason too_large for one over max_pixels.
        """
        result = self.finish(self.begin(pair))
        lacks = tuple(issue.text for issue in self.aligner.issues)
        return replace(result, warnings=(*result.warnings, *lacks)) if lacks else result

    def begin(self, pair: Pair, *, meanwhile: Callable[[], None] | None = None) -> BegunPair:
        """Do the first part of fuse: up to where the network is free for the next pair.

        Args:
            pair: As for fuse.
            meanwhile: Is called while the network works, in the calling thread: to finish the pair
                before. Not called where no network works, or without a watchdog. Must not raise.

        Raises:
            FrameError: As fuse.
        """
        prepared = self._latest = self._preparation.pair(pair, self._settings)
        verdict = self._checks.before(prepared.pair, prepared.levels, prepared.mapping,
                                      prepared.settings, prepared.coarse)
        prepared.timer.lap('align')
        return BegunPair(prepared, verdict, self._fuse(prepared, verdict, meanwhile),
                         self._loaded.runner is None)

    def pass_through(self, frame: Frame) -> FusionResult:
        """Return the image of one camera alone, on the output grid, under the frame's stamp.

        See Preparation.alone.

        Raises FrameError when the frame is not usable.
        """
        timer = StageTimer()
        alone = self._preparation.alone(frame, self._settings)
        timer.lap('align')
        issues = _own_grid(alone, self._settings.alignment.output_grid)
        return FusionResult(frame.stamp_ns, alone.frame_id, *alone.image, ALONE[frame.stream],
                            tuple(issue.text for issue in issues), timer.timings_ms, alone.grid,
                            issues, temperature=alone.temperature)

    def align(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return thermal on the output grid, H x W uint8 white-hot, and the bool mask of what both
        cameras see."""
        prepared = self._preparation.pair(pair, self._settings)
        return prepared.thermal, prepared.seen

    @property
    def settings(self) -> Settings:
        """What pairs are fused by."""
        return self._settings

    def update(self, settings: Settings) -> None:
        """Use other settings from the next pair on; those of the network itself stay, see load().

        Raises AlignmentError, and then changes nothing.
        """
        if settings.alignment != self._settings.alignment:
            self.aligner.configure(settings.alignment)
        if not settings.output.temporal_filter:
            self._temporal_filter = TemporalFilter()
        before, self._settings = self._settings, settings
        if (settings.model, settings.scale, settings.adaptive_scale) != (
                before.model, before.scale, before.adaptive_scale):
            self.scale.configure(settings)

    def load(self, settings: Settings) -> LoadedNetwork:
        """Prepare the network that settings name beside the one in use, and warm it up.

        For swap(). Slow.

        Raises DiffmfError when it cannot be used here, or fails on the sizes in use.
        """
        latest = self._latest  # which another thread may be fusing
        example = replace(latest, timer=StageTimer()) if latest else self._blank(settings.warm_up)
        return load(settings, runner_of=self._runner_of, example=example)

    def swap(self, loaded: LoadedNetwork) -> None:
        """Use what load() returned from the next pair on.

        The network before goes with the last pair that it has.
        """
        self._standing = ()
        self._use(loaded)

    def warm_up(self, size: tuple[int, int] | None = None) -> None:
        """Fuse blank pairs with an RGB image of this (width, height).

        None: that of the settings, if they name one.

        A network that fails here is treated as one that fails on a pair.
        """
        pair = self._blank(size or self._settings.warm_up)
        if self._loaded.runner and pair:
            warm_up(self._loaded.runner, pair, self._settings)

    def memory(self) -> dict[str, int]:
        """Return the bytes in use: rss of the process, and cuda where a network runs there."""
        return memory_in_use()

    def close(self) -> None:
        """Free the network; the pipeline is not to be used again.

        Does not wait for one that hangs.
        """
        self._loaded.close()
        self._loaded, self._latest = LoadedNetwork(None, 'closed'), None
        give_back_memory()

    def _use(self, loaded: LoadedNetwork) -> None:
        self._loaded = loaded
        self.scale.trusted = loaded.runner.trusted if loaded.runner else TrustedScale()

    def _fuse(self, prepared: PreparedPair, verdict: Verdict,
              meanwhile: Callable[[], None] | None) -> Fused:
        """Fuse a pair, or take the image of the one camera that sees."""
        if verdict.survivor:
            return Fused(partial(prepared.image_of, verdict.survivor), ALONE[verdict.survivor])
        if (runner := self._loaded.runner) is None:
            return self._fallback.fuse(prepared)
        asked = self.scale.asked
        run = runner.fuse(prepared, scale=min(asked, self.scale.trusted.largest),
                          timeout_s=prepared.settings.health.compute_timeout_s,
                          meanwhile=meanwhile)
        if run.image is not None:
            self._fallback.issues = ()  # nobody needs it now
            return run if run.scale == asked else replace(run, warnings=(
                f'working size {run.scale:g} instead of {asked:g}, because the network failed',))
        prepared.timer.lap('network')
        instead = self._fallback.fuse(prepared)
        return replace(instead, warnings=(*(f'{warning}; this pair was fused classically'
                                            for warning in run.warnings), *instead.warnings))

    def finish(self, begun: BegunPair) -> FusionResult:
        """Do the second part of fuse: color, check and filter the image of a begun pair.

        Pairs are finished once, in the order in which they were begun. At most one more may have
        been begun meanwhile. Raises FrameError when a frame is not usable.
        """
        prepared, verdict, fused = begun.prepared, begun.verdict, begun.fused
        if not begun.alone:
            prepared.timer.resume()
        base = prepared.pair.rgb if prepared.mapping.grid == RGB else prepared.pair.thermal
        try:
            pixels, encoding = fused.image()  # type: ignore[misc]
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is the image of the grid's camera
            fused, (pixels, encoding) = _uncolored(prepared, fused, error)
        issues, output = verdict.issues, prepared.settings.output
        if fused.mode in FUSED:
            if verdict.veil is not None:
                pixels = show_through(pixels, prepared.image_of(THERMAL)[0], verdict.veil)
            if (view := prepared.warm_view) is not None:
                # Without averages over time each image depends on its pair alone.
                pixels = self._with_contrast((pixels, encoding), view, stamp_ns=(
                    base.stamp_ns if output.temporal_filter else 0))
            issues = self._checks.after((pixels, encoding), verdict,
                                        color=output.color)
            if output.temporal_filter:
                pixels = self._temporal_filter(pixels, stamp_ns=base.stamp_ns,
                                               keep=output.temporal_filter)
        prepared.timer.lap('color')
        said = *self._standing, *fused.warnings, *(issue.text for issue in issues)
        return FusionResult(base.stamp_ns, output.frame_id or base.frame_id, pixels, encoding,
                            fused.mode, said, prepared.timer.timings_ms,
                            grid=prepared.mapping.grid, issues=issues, scale=fused.scale,
                            trim_px=prepared.mapping.moved_px, images=prepared,
                            temperature=prepared.temperature)

    def _with_contrast(self, image: Image, view: WarmView, *, stamp_ns: int) -> np.ndarray:
        """Return the pixels of a fused image with the contrast that its warm objects lacked."""
        pixels, encoding = image
        luma = split_luma(reduced(pixels, SHORT_SIDE), encoding)[0]
        return lifted(pixels, self._warm_contrast(luma, view, stamp_ns=stamp_ns))

    def _blank(self, size: tuple[int, int] | None) -> PreparedPair | None:
        return size and blank_pair(size, mapping=partial(self.aligner.mapping, live=False),
                                   settings=self._settings)


def _uncolored(prepared: PreparedPair, fused: Fused, error: Exception) -> tuple[Fused, Image]:
    """Return what to say of a pair whose image could not be colored, and its camera's image."""
    grid = prepared.mapping.grid
    warning = (f'the color of the fused image raised {type(error).__name__}: {error}; the {grid} '
               'image was passed on')
    alone = Fused(None, ALONE[grid], (*fused.warnings, warning), fused.scale)
    return alone, prepared.image_of(grid)


def _own_grid(alone: SingleCameraImage, asked: str) -> tuple[Issue, ...]:
    """Return what is amiss with an image of one camera whose grid is not the one asked for."""
    own = alone.frame
    if alone.grid == asked:
        return ()
    return (Issue('own_grid', (
        f'size and frame id of {asked}, whose grid the images are to have, are not both known: '
        f'{own.stream} goes out on its own grid, {own.size[0]}x{own.size[1]} in '
        f'{own.frame_id or "no frame"}, until they are (the size: by a frame, '
        f'{asked}/camera_info or alignment.file; the frame id: by one that is not empty there, '
        'or output.frame_id)'), own.stream),)
