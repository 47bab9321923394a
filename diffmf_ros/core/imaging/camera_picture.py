# SPDX-License-Identifier: Apache-2.0
"""Preparation of one camera's frames: crop, turn, 8 bit, gray; its calibration likewise."""

from dataclasses import replace

import cv2
import numpy as np

from ..alignment.camera import CameraModel
from ..alignment.warp import Size
from ..frames import RGB, Frame, FrameError
from ..settings import InputSettings, Settings, ThermalSettings
from .encodings import BitDepth
from .false_color import GRAY, UNKNOWN, FalseColor
from .gray_range import foreign_rows

# (width, height) of the usual sensors: FLIR Lepton, Boson, Tau, Hadron; Seek; InfiRay and DJI.
SENSORS = ((80, 60), (160, 120), (320, 240), (320, 256), (640, 480), (640, 512), (336, 256),
           (206, 156), (256, 192), (384, 288))
# Telemetry takes 1 (Boson) to 4 rows (Tau), reference pixels 2 columns (Seek).
MOST_ROWS = 4


class ExtraRows:
    """Cuts the rows and columns that are no picture off the frames of one thermal camera.

    `cut` has the counts at top, bottom, left and right that were cut off last. Once found they
    stay, as long as the size of the frames does: the picture must not jump.
    """

    def __init__(self) -> None:
        self.cut = (0, 0, 0, 0)
        self._known: tuple | None = None

    def without(self, frame: Frame, settings: ThermalSettings) -> Frame:
        """Cut off rows and columns that are no image.

        Args:
            frame: the next thermal frame of the stream.
            settings: those of the group thermal.

        Returns:
            frame itself when it has none.
        """
        asked = settings.extra_rows_top, settings.extra_rows_bottom
        height, width = frame.pixels.shape[:2]
        if (width, height, asked) != self._known:
            self._known = width, height, asked
            self.cut = self._found(frame) if min(asked) < 0 else (*asked, 0, 0)
            if sum(self.cut[:2]) >= height:
                self.cut = (0, 0, 0, 0)
        if not any(self.cut):
            return frame
        top, bottom, left, right = self.cut
        return replace(frame, pixels=frame.pixels[top:height - bottom, left:width - right])

    def _found(self, frame: Frame) -> tuple[int, int, int, int]:
        """Return the counts on all sides, by usual sensor sizes and by the values."""
        if frame.pixels.ndim != 2 or frame.pixels.dtype == np.uint8 or frame.size in SENSORS:
            return 0, 0, 0, 0
        extra = [(frame.size[0] - width, frame.size[1] - height) for width, height in SENSORS]
        extra = [lines for lines in extra if min(lines) >= 0 and max(lines) <= MOST_ROWS]
        if not extra:
            return 0, 0, 0, 0
        columns, rows = min(extra, key=sum)
        return *_beside(frame.pixels, rows), *_beside(frame.pixels.T, columns)


def _beside(pixels: np.ndarray, count: int) -> tuple[int, int]:
    """Return (count, 0) for reference rows at the top, (0, count) at the bottom."""
    first, last = foreign_rows(pixels) if count else (0, 0)
    return (count, 0) if first > last else (0, count)


Crop = tuple[int, int, int, int]
_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


def cropped(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """Return the view of an image that a crop names.

    Args:
        pixels: H x W [x C].
        crop: left, top, width and height in pixels.

    Returns:
        The view.

    Raises:
        FrameError: reason crop_outside, when the crop reaches beyond the image.
    """
    (left, top, width, height), (rows, columns) = crop, pixels.shape[:2]
    if left + width > columns or top + height > rows:
        raise FrameError(f'expected an image that holds the crop {width}x{height}+{left}+{top}, '
                         f'got {columns}x{rows}', reason='crop_outside')
    return pixels[top:top + height, left:left + width]


def turned(pixels: np.ndarray, orientation: str) -> np.ndarray:
    """Turn an image.

    Args:
        pixels: H x W [x C].
        orientation: one of core.settings.ORIENTATIONS.

    Returns:
        The turned image; pixels itself for as_sent.
    """
    mirrored, quarters = _steps(orientation)
    if mirrored:
        pixels = cv2.flip(np.ascontiguousarray(pixels), 1)
    return cv2.rotate(np.ascontiguousarray(pixels), _TURNS[quarters]) if quarters else pixels


def turned_camera(camera: CameraModel, orientation: str) -> CameraModel:
    """Return the model of the image that turned() makes of a camera's image.

    Args:
        camera: the model of the image as sent.
        orientation: one of core.settings.ORIENTATIONS.

    Returns:
        The model of the turned image.

    Raises:
        CalibrationError: the sensor is tilted.
    """
    mirrored, quarters = _steps(orientation)
    if mirrored:
        camera = camera.mirrored()
    for _ in range(quarters):
        camera = camera.rotated_right()
    return camera


def _steps(orientation: str) -> tuple[bool, int]:
    """Return whether the picture is mirrored, and by how many quarters it is turned clockwise."""
    name, _, degrees = orientation.partition('_')
    return name == 'mirrored', int(degrees) // 90 if degrees.isdigit() else 0


def _too_large(frame: Frame, max_pixels: int) -> FrameError:
    width, height = frame.size
    return FrameError(f'expected at most {max_pixels} pixels (max_pixels), got a {frame.stream} '
                      f'image of {width}x{height} = {width * height}; let the camera bin or crop, '
                      f'or raise max_pixels (--max-pixels of diffmf fuse and replay) if time and '
                      'memory allow; scale makes the network smaller, not the image',
                      reason='too_large')


class CameraPicture:
    """What is done to every frame of one camera.

    Crop, orientation, 8 bits for RGB, gray for thermal.

    `sent` is the (width, height) of the newest frame as the camera sent it, None before the first.
    `state` is what is done to the newest picture: sent, the counts that were cut off, the palette.
    Of another one the calibration (by the first two) and the notes may be other ones.
    """

    def __init__(self, stream: str) -> None:
        self.sent: Size | None = None
        self.state: tuple = (None, (0, 0, 0, 0), GRAY)
        self._stream = stream
        self._asked: InputSettings | None = None
        self._depth, self._extra_rows, self._false_color = BitDepth(), ExtraRows(), FalseColor()

    def of(self, frame: Frame, settings: Settings) -> Frame:
        """Return the picture in a frame.

        Args:
            frame: the next frame of the stream, as sent.
            settings: all settings.

        Returns:
            The picture; frame itself where nothing is to be done.

        Raises:
            FrameError: reason not_8_bit, false_color, crop_outside or too_large.
        """
        if frame.upright:
            return frame
        height, width = frame.pixels.shape[:2]
        self.sent = width, height
        if settings.input is not self._asked:
            self._asked = settings.input
            self._crop = settings.input.crop_of(self._stream)
            self._orientation = settings.input.orientation_of(self._stream)
        if self._crop:
            pixels = cropped(frame.pixels, self._crop)
        elif self._stream == RGB:
            pixels = frame.pixels
        else:
            pixels = self._extra_rows.without(frame, settings.thermal).pixels
        if self._orientation != 'as_sent':
            pixels = turned(pixels, self._orientation)
        if pixels is not frame.pixels:
            frame = replace(frame, pixels=pixels, upright=True)
        if self._stream == RGB:
            frame = self._depth.to_8_bit(frame)
        elif frame.pixels.ndim == 3 or self._false_color.palette != GRAY:
            frame = self._false_color.to_gray(frame)
        height, width = frame.pixels.shape[:2]
        if height * width > settings.max_pixels:
            raise _too_large(frame, settings.max_pixels)
        self.state = self.sent, self._extra_rows.cut, self._false_color.palette
        return frame

    def camera(self, camera: CameraModel, settings: Settings) -> CameraModel:
        """Return the calibration of the pictures, given that of the images as sent.

        Args:
            camera: the calibration; one that has the size of the picture is taken for that of the
                picture.
            settings: all settings.

        Returns:
            The model of the pictures.

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
    def notes(self) -> tuple[str, ...]:
        """Sentences for the log: what is done to images unasked, what may be wrong with them."""
        notes = []
        if half := self._half():
            notes.append(f'{self._stream}: images of {half[0]}x{2 * half[1]} '
                         'look like two in one, the picture above and raw data below: choose one '
                         f'with input.{self._stream}_crop, such as {half[0]}x{half[1]}+0+0')
        if any(self._extra_rows.cut):
            sides = ('at the top', 'at the bottom', 'at the left', 'at the right')
            said = ', '.join(f'{count} {side}' for count,
                             side in zip(self._extra_rows.cut, sides) if count)
            width, height = self.sent  # type: ignore[misc]
            notes.append(f'{self._stream}: rows and columns of {width}x{height} that are no '
                         f'picture are cut off: {said} (thermal.extra_rows_top, '
                         f'extra_rows_bottom, input.thermal_crop)')
        if (palette := self._false_color.palette) != GRAY:
            how = ('a palette that is not known here, and read by their luminance: choose '
                   'white-hot in the camera; or are the two inputs swapped?' if palette == UNKNOWN
                   else f'the palette {palette}, which is undone')
            notes.append(f'{self._stream}: its images are colored by {how}')
        return tuple(notes)

    def _half(self) -> Size | None:
        """Return the size of a usual sensor that the images hold twice, one above the other."""
        if self._stream == RGB or self.sent is None or self._crop or any(self._extra_rows.cut):
            return None
        half = self.sent[0], self.sent[1] // 2
        return half if half in SENSORS and not self.sent[1] % 2 else None

    def _without_extra_lines(self, size: Size,
                             settings: Settings) -> tuple[int, int, int, int] | None:
        """The picture (left, top, width, height) in a calibrated image of this size.

        None: all of it.
        """
        top, bottom, left, right = self._extra_rows.cut
        inner = size[0] - left - right, size[1] - top - bottom
        by_itself = settings.thermal.extra_rows_top < 0
        if not any(self._extra_rows.cut) or inner not in SENSORS and by_itself:
            return None
        return left, top, *inner
