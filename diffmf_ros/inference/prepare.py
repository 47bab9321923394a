# SPDX-License-Identifier: Apache-2.0
"""From frames to what can be fused or passed on: dead rows, levels, the mapping of the live sizes.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.alignment.geometry import Aligner, Mapping
from ..core.frames import RGB, THERMAL, Frame, Pair, refuse_too_large
from ..core.imaging.camera_picture import CameraPicture
from ..core.imaging.color import CHROMA, output_encoding, paint, require_8_bit, split_luma
from ..core.imaging.temperature import on_grid, temperatures
from ..core.imaging.thermal import GainControl, Levels, to_gray
from ..core.settings import Settings
from .network import Image, PreparedPair


def rgb_image(frame: Frame, *, mapping: Mapping | None, color: str) -> tuple[np.ndarray, str]:
    """Return (pixels, encoding) of an RGB frame.

    Its own colors, or the color policy over its luminance.

    mapping brings it onto another grid, where it is black outside its view; None: it stays on its
    own. The pixels may be those of the frame. Raises FrameError (not_8_bit).
    """
    require_8_bit(frame.encoding)
    pixels = frame.pixels if mapping is None else mapping.rgb_on_grid(frame.pixels)
    if color not in CHROMA:
        return paint(split_luma(pixels, frame.encoding)[0], None, encoding=frame.encoding,
                     color=color)
    if frame.encoding == 'mono8':
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB), 'rgb8'
    return np.ascontiguousarray(pixels[..., :3]), output_encoding(frame.encoding)


def thermal_image(frame: Frame, *, levels: Levels, mapping: Mapping | None, color: str,
                  rgb_encoding: str) -> tuple[np.ndarray, str]:
    """Return (pixels, encoding) of a thermal frame, white-hot.

    Gray in the channels of rgb_encoding, or a palette.

    mapping brings it onto another grid, where it is black outside its view; None: it stays on its
    own.
    """
    gray = to_gray(frame.pixels, frame.encoding, levels)
    if mapping is not None:
        gray = mapping.thermal_on_grid(gray)
    _, neutral = split_luma(gray, 'mono8')
    return paint(gray, neutral, encoding=rgb_encoding, color=color)


@dataclass(frozen=True)
class Alone:
    """One camera's image as it is passed on, and the grid and frame id that it has."""

    image: Image
    grid: str
    frame_id: str


def image_of(job: PreparedPair, stream: str) -> Image:
    """Return one camera's image of a pair on the output grid.

    Black where that camera does not see.
    """
    pair, mapping = job.pair, job.mapping
    if stream == RGB:
        return rgb_image(pair.rgb, mapping=None if mapping.grid == RGB else mapping,
                         color=job.color)
    return thermal_image(pair.thermal, levels=job.levels,
                         mapping=None if mapping.grid == THERMAL else mapping,
                         color=job.color, rgb_encoding=pair.rgb.encoding)


class Preparation:
    """What is known of the two cameras and their frames.

    For one thread at a time, but for the aligner.
    """

    def __init__(self, settings: Settings):
        """Raises AlignmentError as Aligner does."""
        self.aligner = Aligner(settings.alignment)
        self._gain = GainControl(settings.thermal)
        self._pictures = {stream: CameraPicture(stream) for stream in (RGB, THERMAL)}
        self._newest: dict[str, Frame] = {}

    def job(self, pair: Pair, settings: Settings) -> PreparedPair:
        """Return a pair, ready to be fused. Raises FrameError when a frame is not usable."""
        rgb, thermal = self._picture(pair.rgb, settings), self._picture(pair.thermal, settings)
        if rgb is not pair.rgb or thermal is not pair.thermal:
            pair = replace(pair, rgb=rgb, thermal=thermal)
        self._note(pair.rgb, settings)
        self._note(pair.thermal, settings)
        self._gain.settings = settings.thermal
        thermal = self._gain.repaired(pair.thermal)
        mapping = self.aligner.mapping(rgb_size=pair.rgb.size, thermal_size=thermal.size)
        pair = pair if thermal is pair.thermal else replace(pair, thermal=thermal)
        return PreparedPair(pair, self._gain.levels(thermal), mapping, settings.output.color)

    def alone(self, frame: Frame, settings: Settings) -> Alone:
        """Return one camera's image on the output grid.

        On the grid of the other camera it has that one's frame id and is black outside its own
        view; if the other one was never seen, and has no calibration that says what it will look
        like, it stays on its own grid. Raises FrameError when the frame is not usable.
        """
        frame = self._picture(frame, settings)
        self._note(frame, settings)
        grid = settings.alignment.output_grid
        owner = self._newest.get(grid) or self.aligner.camera(grid)
        if grid == frame.stream or owner is None or not owner.frame_id:
            return Alone(self.image(frame, settings), frame.stream, frame.frame_id)
        sizes = {f'{grid}_size': owner.size, f'{frame.stream}_size': frame.size}
        mapping = self.aligner.mapping(**sizes)
        return Alone(self.image(frame, settings, mapping), mapping.grid, owner.frame_id)

    def image(self, frame: Frame, settings: Settings, mapping: Mapping | None = None) -> Image:
        """Return one camera's image, on the grid of mapping or its own."""
        color = settings.output.color
        if frame.stream == RGB:
            return rgb_image(frame, mapping=mapping, color=color)
        self._gain.settings = settings.thermal
        frame, rgb = self._gain.repaired(frame), self._newest.get(RGB)
        return thermal_image(frame, levels=self._gain.levels(frame), mapping=mapping, color=color,
                             rgb_encoding='rgb8' if rgb is None else rgb.encoding)

    def temperature(self, work: Pair | Frame, settings: Settings) -> np.ndarray | None:
        """Return temperatures on the grid that the image of work has, H x W float32 in degrees
        Celsius; NaN: none.

        None for an RGB image alone. Raises FrameError as core.imaging.temperature.temperatures
        does.
        """
        thermal = work.thermal if isinstance(work, Pair) else work
        if thermal.stream != THERMAL:
            return None
        thermal = self._picture(thermal, settings)
        rgb = work.rgb if isinstance(work, Pair) else self._newest.get(RGB) or self.aligner.camera(
            RGB)
        celsius = temperatures(thermal, settings.thermal)
        if rgb is None:
            return celsius
        return on_grid(celsius, self.aligner.mapping(rgb_size=rgb.size, thermal_size=thermal.size))

    def _picture(self, frame: Frame, settings: Settings) -> Frame:
        """Return what is fused of a frame. Raises FrameError as CameraPicture does."""
        return self._pictures[frame.stream].of(frame, settings)

    def _note(self, frame: Frame, settings: Settings) -> None:
        """Remember what the camera looks like. Raises FrameError (too_large)."""
        refuse_too_large(frame, settings.max_pixels)
        self._newest[frame.stream] = frame
