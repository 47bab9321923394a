# SPDX-License-Identifier: Apache-2.0
"""The only types that cross the layers: a Frame, a Pair of them, and what fusing it gave."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np

RGB = 'rgb'
THERMAL = 'thermal'


class DiffmfError(Exception):
    """Something a user can act on: what was expected, what came, what to do."""


class FrameError(DiffmfError):
    """A single bad frame: it is refused and counted, the next one is handled as usual.

    reason is the short snake_case name under which it is counted, such as 'short_buffer'.
    """

    def __init__(self, message: str, *, reason: str = 'bad_frame'):
        super().__init__(message)
        self.reason = reason


class Mode(str, Enum):
    """How an output image was made."""

    FUSED = 'FUSED'
    CLASSICAL = 'CLASSICAL'
    RGB_ONLY = 'RGB_ONLY'
    THERMAL_ONLY = 'THERMAL_ONLY'


@dataclass(frozen=True)
class Frame:
    """One decoded image of one camera.

    pixels is an array of shape H x W (mono8: uint8, mono16: uint16 native order, 32FC1: float32)
    or H x W x 3|4 uint8 (rgb8, bgr8, rgba8, bgra8) or uint16 (rgb16 ...), in the channel order
    that `encoding` names. It may be a read-only or strided view of the message that it came from.
    upright: CameraPicture has handled it.
    """

    stream: str
    stamp_ns: int
    frame_id: str
    pixels: np.ndarray = field(repr=False)
    encoding: str
    arrival_ns: int = 0
    upright: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class Pair:
    """An RGB and a thermal frame that belong together; offset_ns is thermal minus RGB, corrected.

    held: the thermal frame was paired before, or is older than a partner may be: see
    sync.hold_last_ms.
    """

    rgb: Frame
    thermal: Frame
    offset_ns: int
    held: bool = False


class Level(str, Enum):
    """How bad an issue is, in the words of /diagnostics."""

    WARN = 'WARN'
    ERROR = 'ERROR'


@dataclass(frozen=True)
class Issue:
    """Something amiss, from where it is found to /diagnostics.

    docs/reliability.md lists the codes.

    code is its short snake_case name, such as thermal_flat; text a sentence that stays the same
    while it lasts; stream the camera that it is about, empty for the fused image. blind: that
    camera shows nothing. level is ERROR where a part of the fusion does not work.
    """

    code: str
    text: str
    stream: str = ''
    blind: bool = False
    level: Level = Level.WARN


class PairOnGrid(Protocol):
    """The two images of a pair on one grid; each is computed when it is first asked for."""

    @property
    def thermal(self) -> np.ndarray:
        """Thermal, H x W uint8 white-hot; 0 where it does not see."""

    @property
    def rgb(self) -> np.ndarray:
        """RGB, H x W [x C] uint8 in the encoding of its frame; 0 where it does not see."""

    @property
    def seen(self) -> np.ndarray:
        """What both cameras see, H x W bool."""


def no_temperature() -> None:
    """Return None: an image without thermal has no temperatures."""


@dataclass(frozen=True, eq=False)
class FusionResult:
    """An image on the grid of one camera (`grid`: RGB or THERMAL), with that camera's frame id.

    Where output.frame_id is set, that is the frame id.

    Attributes:
        grid: the setting alignment.output_grid, unless nothing tells that camera's size and frame.
        stamp_ns: that of the frame on the grid, or of the only frame there was.
        pixels: H x W x 3 uint8 in the order that `encoding` names, or H x W for mono8.
        encoding: rgb8, bgr8 or mono8.
        timings_ms: wall time in milliseconds of each stage (decode, align, network, color, ...).
        issues: what the images of the pair show that is amiss; their texts are among the warnings.
        scale: the working size that the network is used with, 1 for the full one.
        trim_px: by how many pixels to the right and down thermal was moved onto the edges of RGB
            (alignment.auto_trim).
        images: both cameras on the grid; None for one camera alone.
        temperature: gives those of the scene on the grid, H x W float32 in degrees Celsius, NaN
            where there is none, or None without thermal; raises FrameError (not_radiometric).
    """

    stamp_ns: int
    frame_id: str
    pixels: np.ndarray = field(repr=False)
    encoding: str
    mode: Mode
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    grid: str = RGB
    issues: tuple[Issue, ...] = ()
    scale: float = 1.0
    trim_px: tuple[int, int] = (0, 0)
    images: PairOnGrid | None = field(default=None, repr=False, compare=False)
    temperature: Callable[[], np.ndarray | None] = field(default=no_temperature, repr=False,
                                                         compare=False)
