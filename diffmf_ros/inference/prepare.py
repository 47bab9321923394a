# SPDX-License-Identifier: Apache-2.0
"""One pair on the CPU: prepared with all that decides how it is fused, fused, and finished.

Upright pictures, dead rows, gray range, mapping; a network or classical fusion; color at the end.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np

from ..core.alignment.auto_trim import AutoTrim
from ..core.alignment.geometry import Aligner, Mapping
from ..core.checks.sight_monitor import FINE, Thumbnails, reduced, thumbnails
from ..core.frames import RGB, THERMAL, Frame, FrameError, Pair
from ..core.imaging.camera_picture import CameraPicture
from ..core.imaging.color import (
    COLORS_WITH_LUMA,
    paint,
    require_8_bit,
    rgb_image,
    split_luma,
    thermal_image,
)
from ..core.imaging.missing_detail import SHORT_SIDE
from ..core.imaging.thermal import GainControl, Levels, on_grid, temperatures, to_gray
from ..core.imaging.warm_contrast import LEAST_SIDE_PX, WarmView
from ..core.settings import AlignmentSettings, Settings
from . import NetworkFailure
from .working_size import Fuse, fuse_scaled

# An image and its encoding.
Image = tuple[np.ndarray, str]
Painter = Callable[[], Image]  # colors what was fused, when the network may be at the next pair
# Returns what the function that it gets returns, from a thread with a time-out for example.
Call = Callable[[Callable[[], Any]], Any]


class StageTimer:
    """Milliseconds of wall time by stage, each since the end of the stage before."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._since_s = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage; one that comes again is added up."""
        now_s = time.perf_counter()
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + 1e3 * (now_s - self._since_s)
        self._since_s = now_s

    def resume(self) -> None:
        """Begin the next stage now: others had the time since the last one."""
        self._since_s = time.perf_counter()

    def add(self, timings_ms: dict[str, float]) -> None:
        """Add stages that were measured elsewhere since the end of the stage before."""
        for stage, spent_ms in timings_ms.items():
            self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent_ms
        self._since_s = time.perf_counter()


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """A pair with its gray range, its mapping and a snapshot of the settings: what is fused.

    Images on the grid are computed when they are first asked for, and kept: a backend, the checks
    and a publisher share them. unrepaired is the thermal frame before dead rows were replaced.
    """

    pair: Pair
    levels: Levels
    mapping: Mapping
    settings: Settings
    unrepaired: Frame | None = None
    coarse: Thumbnails | None = field(default=None, repr=False)
    timer: StageTimer = field(default_factory=StageTimer, repr=False)

    @cached_property
    def thermal(self) -> np.ndarray:
        """Thermal on the grid, H x W uint8 white-hot; 0 where it does not see."""
        frame = self.pair.thermal
        return self.mapping.thermal(to_gray(frame.pixels, frame.encoding, self.levels))

    @cached_property
    def rgb(self) -> np.ndarray:
        """RGB on the grid, H x W [x C] uint8 as its frame; 0 where it does not see."""
        return self.mapping.rgb(self.pair.rgb.pixels)

    @property
    def seen(self) -> np.ndarray:
        """What both cameras see, H x W bool."""
        return self.mapping.seen

    @cached_property
    def luma(self) -> tuple[np.ndarray, np.ndarray]:
        """Luminance and chroma of RGB on the grid, as split_luma gives them."""
        return split_luma(self.rgb, self.pair.rgb.encoding)

    @property
    def own(self) -> np.ndarray:
        """Gray image of the camera whose grid it is, H x W uint8."""
        return self.luma[0] if self.mapping.grid == RGB else self.thermal

    @cached_property
    def sources(self) -> tuple[np.ndarray, np.ndarray]:
        """Thermal and luminance to fuse, H x W uint8.

        Where only the camera of the grid sees, both are its own: a black surround would be an
        edge that no camera saw.
        """
        ir = self.thermal
        self.timer.lap('align')
        y = self.luma[0]
        if self.mapping.everywhere:
            return ir, y
        return (ir, _choose(self.seen, y, ir)) if self.mapping.grid != RGB else (
            _choose(self.seen, ir, y), y)

    @cached_property
    def warm_view(self) -> WarmView | None:
        """Warm objects and fine detail of both cameras, found before there is a fused image.

        None where nobody asks for it, or where the images are too small.
        """
        output = self.settings.output
        if not output.warm_contrast or output.color not in COLORS_WITH_LUMA or min(
                self.mapping.seen.shape) < LEAST_SIDE_PX:
            return None
        small = thumbnails(self.pair, self.levels, self.mapping, FINE)
        return WarmView.of(small.thermal_on_grid, small.luma_on_grid, small.seen,
                           fine=(reduced(self.thermal, SHORT_SIDE),
                                 reduced(self.luma[0], SHORT_SIDE)))

    def kind(self, scale: float) -> tuple[Any, ...]:
        """Return what decides which operations it needs, and so how long it takes."""
        rgb, thermal = self.pair.rgb, self.pair.thermal
        return (rgb.pixels.shape, rgb.encoding, thermal.pixels.shape, thermal.encoding,
                self.mapping.grid, self.settings.output.color, scale)

    def image_of(self, stream: str) -> Image:
        """Return one camera's image on the grid; black where that camera does not see."""
        color, encoding = self.settings.output.color, self.pair.rgb.encoding
        if stream == RGB:
            return rgb_image(self.rgb, encoding, color)
        return thermal_image(self.thermal, color, rgb_encoding=encoding)

    def temperature(self) -> np.ndarray:
        """Return temperatures on the grid, H x W float32 in degrees Celsius; NaN: none.

        Raises:
            FrameError: reason not_radiometric, see core.imaging.thermal.temperatures.
        """
        celsius = temperatures(self.unrepaired or self.pair.thermal, self.settings.thermal)
        return on_grid(celsius, self.mapping)


def finished(prepared: PreparedPair, luma: np.ndarray) -> Image:
    """Return the image of a fused luminance, H x W uint8: the surround as it was, color joined."""
    everywhere = prepared.mapping.everywhere
    if not everywhere:
        luma = _choose(prepared.seen, luma, prepared.own)
    return paint(luma, prepared.luma[1], encoding=prepared.pair.rgb.encoding,
                 color=prepared.settings.output.color, seen=None if everywhere else prepared.seen)


@dataclass(frozen=True, eq=False)
class SingleCameraImage:
    """One camera's image as it is passed on, its grid, frame id and frame.

    mapping is what brought it there; None: it stayed on its own grid.
    """

    image: Image
    grid: str
    frame_id: str
    frame: Frame
    mapping: Mapping | None
    settings: Settings

    def temperature(self) -> np.ndarray | None:
        """Return temperatures as PreparedPair does; None for an RGB image."""
        if self.frame.stream != THERMAL:
            return None
        celsius = temperatures(self.frame, self.settings.thermal)
        return celsius if self.mapping is None else on_grid(celsius, self.mapping)


class Preparation:
    """What is known of the two cameras and their frames.

    For one thread at a time; the setters of the aligner may be called from another one.
    """

    def __init__(self, settings: Settings):
        """Raises AlignmentError as Aligner does."""
        self.aligner = Aligner(settings.alignment)
        self._auto_trim = AutoTrim()
        self._mapping: Mapping | None = None  # of the newest pair, before it was moved
        self._gain = GainControl(settings.thermal)
        self._pictures = {stream: CameraPicture(stream) for stream in (RGB, THERMAL)}
        self._newest: dict[str, Frame] = {}
        # Also what is not used, such as a camera that sends the same image again and again.
        self.received: dict[str, Frame] = {}

    def pair(self, pair: Pair, settings: Settings) -> PreparedPair:
        """Return a pair, ready to be fused. Raises FrameError when a frame is not usable."""
        timer = StageTimer()
        rgb, unrepaired = (frame if frame.upright else self._upright(frame, settings)
                           for frame in (pair.rgb, pair.thermal))
        self._newest = {RGB: rgb, THERMAL: unrepaired}
        self._gain.settings = settings.thermal
        thermal = self._gain.repaired(unrepaired)
        upright, levels = replace(pair, rgb=rgb, thermal=thermal), self._gain.levels(thermal)
        mapping = self.aligner.mapping(rgb_size=rgb.pixels.shape[1::-1],
                                       thermal_size=thermal.pixels.shape[1::-1])
        coarse, trimmed = None, mapping
        if mapping is not self._mapping and not settings.alignment.depth_from_range:
            self._auto_trim = AutoTrim()  # of another calibration, or of images of another size
        self._mapping = mapping
        if _trims(settings.alignment):
            coarse = thumbnails(upright, levels, mapping)
            time_ns = rgb.stamp_ns or rgb.arrival_ns
            trimmed = self._auto_trim.follow(
                mapping, coarse.thermal_on_grid, coarse.luma_on_grid, coarse.seen,
                stamp_ns=time_ns if settings.output.temporal_filter else 0)
        return PreparedPair(upright, levels, trimmed, settings, unrepaired,
                            coarse.remapped(trimmed) if coarse and trimmed is not mapping
                            else coarse, timer)

    def alone(self, frame: Frame, settings: Settings) -> SingleCameraImage:
        """Return one camera's image on the output grid, black outside its own view.

        Args:
            frame: of either camera.
            settings: what it is prepared by.

        Returns:
            The image on its own grid where size or frame id of the output grid are not known:
            from frames, a camera info, or alignment.file and output.frame_id.

        Raises:
            FrameError: the frame is not usable.
        """
        self._newest[frame.stream] = frame = self._upright(frame, settings)
        grid = settings.alignment.output_grid
        if grid not in self._newest and grid in self.received:
            with suppress(FrameError):
                self._newest[grid] = self._upright(self.received[grid], settings)
        owner = self._newest.get(grid) or self.aligner.camera(grid)
        size = owner.size if owner else self.aligner.measured_size(grid)
        frame_id = settings.output.frame_id or (owner.frame_id if owner else '')
        if grid == frame.stream or not size or not frame_id:
            frame_id = frame_id if owner is frame else frame.frame_id
            image = self.image(frame, settings)
            return SingleCameraImage(image, frame.stream, frame_id, frame, None, settings)
        mapping = self.aligner.mapping(**{  # type: ignore[arg-type]
            f'{grid}_size': size, f'{frame.stream}_size': frame.size})
        if _trims(settings.alignment):
            mapping = self._auto_trim.applied(mapping)
        image = self.image(frame, settings, mapping)
        return SingleCameraImage(image, mapping.grid, frame_id, frame, mapping, settings)

    def image(self, frame: Frame, settings: Settings, mapping: Mapping | None = None) -> Image:
        """Return one camera's image, on the grid of mapping or its own."""
        color = settings.output.color
        if frame.stream == RGB:
            require_8_bit(frame.encoding)
            pixels = frame.pixels if mapping is None else mapping.rgb(frame.pixels)
            return rgb_image(pixels, frame.encoding, color)
        self._gain.settings = settings.thermal
        frame, rgb = self._gain.repaired(frame), self._newest.get(RGB)
        gray = to_gray(frame.pixels, frame.encoding, self._gain.levels(frame))
        return thermal_image(gray if mapping is None else mapping.thermal(gray), color,
                              rgb_encoding='rgb8' if rgb is None else rgb.encoding)

    def _upright(self, frame: Frame, settings: Settings) -> Frame:
        """Return what is fused of a frame. Raises FrameError as CameraPicture does."""
        return self._pictures[frame.stream].of(frame, settings)


def _trims(alignment: AlignmentSettings) -> bool:
    """Tell whether alignment.auto_trim has an effect: not beside a trim set by hand."""
    return alignment.auto_trim and not alignment.trim_x_px and not alignment.trim_y_px


def _choose(mask: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """np.where for uint8 images, at a tenth of its time."""
    return cv2.copyTo(inside, mask.view(np.uint8), outside.copy())


# The CUDA backend multiplies by the same number: ties of rounding then fall alike.
UNIT = np.float32(1 / 255)


class CpuBackend:
    """Fuses pairs with fuse(ir, y), which takes and returns H x W float32 in [0, 1].

    For one thread at a time: the two float images that fuse gets are kept for the next pair.
    """

    problems: tuple[str, ...] = ()  # as CudaBackend has

    def __init__(self, fuse: Fuse):
        self._fuse = fuse
        self._inputs = np.empty((2, 0, 0), np.float32)

    def fuse(self, prepared: PreparedPair, *, scale: float,
             call: Call | None = None) -> Painter:
        """Fuse a pair on the grid of its mapping.

        Where only the camera of the grid sees, its image passes unchanged: RGB, or gray thermal.

        Args:
            prepared: The pair.
            scale: Working size of the network, as a share of the grid's.
            call: Runs the network: it gets a function and returns what that returns. None: the
                calling thread does.

        Returns:
            What gives the image its color and returns it as core.imaging.color.paint does; the
            next pair may be in work by then. Nothing keeps or changes the pixels.

        Raises:
            FrameError: a frame is not usable.
            NetworkFailure: the network returned another size; and what call raises.
        """
        ir, y = prepared.sources
        prepared.timer.lap('color')
        if self._inputs.shape[1:] != y.shape:
            self._inputs = np.empty((2, *y.shape), np.float32)
        for image, out in zip((ir, y), self._inputs):
            np.multiply(image, UNIT, out=out, dtype=np.float32)
        work = partial(self._run, self._inputs[0], self._inputs[1], scale)
        fused = call(work) if call else work()
        prepared.timer.lap('network')
        return partial(finished, prepared, cv2.convertScaleAbs(fused, alpha=255))

    def _run(self, ir: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
        fused = self._fuse(ir, y) if scale == 1 else fuse_scaled(self._fuse, ir, y, scale=scale)
        if fused.shape != y.shape:
            raise NetworkFailure(f'the network returned an image of {fused.shape[1]}x'
                                 f'{fused.shape[0]}, expected {y.shape[1]}x{y.shape[0]}')
        return fused
