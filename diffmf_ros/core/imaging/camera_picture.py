# SPDX-License-Identifier: Apache-2.0
"""From the images of one camera as it sends them to the pictures that are fused, and its calibration likewise."""

from dataclasses import replace

from ..alignment.camera import CameraModel
from ..alignment.warp import Size
from ..frames import RGB, Frame
from ..settings import Settings
from .bit_depth import BitDepth
from .extra_rows import SENSORS, ExtraRows
from .false_color import GRAY, UNKNOWN, FalseColor
from .upright import cropped, turned, turned_camera


class CameraPicture:
    """What is done to every frame of one camera.

    Crop, orientation, 8 bits for RGB, gray for thermal.

    `sent` is the (width, height) of the newest frame as the camera sent it, None before the first.
    """

    def __init__(self, stream: str) -> None:
        self.sent: Size | None = None
        self._stream = stream
        self._depth, self._extra_rows, self._false_color = BitDepth(), ExtraRows(), FalseColor()

    def of(self, frame: Frame, settings: Settings) -> Frame:
        """Return the picture in a frame; frame itself when there is nothing to do, or it has been done.

        Raises:
            FrameError: not_8_bit, false_color, crop_outside.
        """
        if not frame.trimmed:
            self.sent = frame.size
            frame = self._upright(frame, settings)
        return self._depth.to_8_bit(frame) if self._stream == RGB else self._false_color.to_gray(
            frame)

    def camera(self, camera: CameraModel, settings: Settings) -> CameraModel:
        """Return the calibration of the pictures, given that of the images as sent.

        One that has the size of the picture in them is taken for that of the picture.

        Raises:
            CalibrationError: the crop lies outside of the image, or the lens model cannot be
                turned.
        """
        crop = settings.input.crop_of(self._stream) or self._without_extra_lines(
            camera.size, settings)
        if crop and (camera.size == self.sent or camera.size != crop[2:]):
            if self.sent and settings.input.crop_of(self._stream):
                camera = camera.scaled_to(self.sent)
            camera = camera.cropped(*crop)
        return turned_camera(camera, settings.input.orientation_of(self._stream))

    @property
    def geometry(self) -> tuple:
        """What the calibration depends on beside the settings.

        Another value: ask camera() again.
        """
        return self.sent, self._extra_rows.cut

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done to the images that nobody has asked for: sentences for the log."""
        notes = []
        if any(self._extra_rows.cut):
            sides = ('at the top', 'at the bottom', 'at the left', 'at the right')
            said = ', '.join(f'{count} {side}' for count,
                             side in zip(self._extra_rows.cut, sides) if count)
            notes.append(f'{self._stream}: rows and columns of {self.sent[0]}x{self.sent[1]} that are no picture are '  # type: ignore[index]
                         f'cut off: {said} (thermal.extra_rows_top, extra_rows_bottom, '
                         f'input.thermal_crop)')
        if (palette := self._false_color.palette) != GRAY:
            how = ('a palette that is not known here, and read by their luminance: choose '
                   'white-hot in the camera' if palette == UNKNOWN
                   else f'the palette {palette}, which is undone')
            notes.append(f'{self._stream}: its images are colored by {how}')
        return tuple(notes)

    def _upright(self, frame: Frame, settings: Settings) -> Frame:
        crop = settings.input.crop_of(self._stream)
        if crop:
            pixels = cropped(frame.pixels, crop)
        elif self._stream == RGB:
            pixels = frame.pixels
        else:
            pixels = self._extra_rows.without(frame, settings.thermal).pixels
        pixels = turned(pixels, settings.input.orientation_of(self._stream))
        return frame if pixels is frame.pixels else replace(frame, pixels=pixels, trimmed=True)

    def _without_extra_lines(self, size: Size,
                             settings: Settings) -> tuple[int, int, int, int] | None:
        """The picture (left, top, width, height) in a calibrated image of this size.

        None: all of it.
        """
        top, bottom, left, right = self._extra_rows.cut
        inner = size[0] - left - right, size[1] - top - bottom
        if not any(self._extra_rows.cut) or inner not in SENSORS and settings.thermal.extra_rows_top < 0:
            return None
        return left, top, *inner
