# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: a contact sheet and a video of RGB, thermal and fused side by side."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.file_kinds import utf8_name
from ..core.frames import DiffmfError, FusionResult
from .writing import replacing, write_bytes

TITLES = ('RGB', 'thermal', 'fused')
_MARGIN, _BAR = 6, 26
_PAPER, _INK = 24, 235
# Around what is seen and what is not, B G R: green and orange.
_MARK_COLORS = {True: (90, 205, 90), False: (40, 140, 255)}
_MARK_MARGIN_PX = 4
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
Mark = tuple[tuple[int, int, int, int], bool]


@dataclass(frozen=True)
class Row:
    """RGB, thermal on the RGB grid, and fused, side by side.

    images: uint8, gray H x W or R G B H x W x 3.
    captions: a text above each.
    marks: for each image, boxes (left, top, right, bottom) in its pixels and whether what is in it
    is seen.
    """

    images: Triple
    captions: tuple[str, str, str] = TITLES
    marks: tuple[Sequence[Mark], Sequence[Mark], Sequence[Mark]] = ((), (), ())


class MediaError(DiffmfError):
    """A picture or a video cannot be written."""


def _panel(image: np.ndarray, size: tuple[int, int], marks: Sequence[Mark]) -> np.ndarray:
    """Return an image as B, G, R of the given (width, height), with its marks.

    The image is gray H x W or R, G, B H x W x 3 uint8.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise MediaError(f'expected H x W or H x W x 3 uint8, got {image.dtype} of shape '
                         f'{image.shape}')
    color = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    scale = size[0] / image.shape[1]
    panel = cv2.resize(color, size, interpolation=cv2.INTER_AREA if scale < 1
                       else cv2.INTER_LINEAR)
    for (left, top, right, bottom), seen in marks:
        corners = (round(scale * left) - _MARK_MARGIN_PX, round(scale * top) - _MARK_MARGIN_PX,
                   round(scale * (right - 1)) + _MARK_MARGIN_PX,
                   round(scale * (bottom - 1)) + _MARK_MARGIN_PX)
        cv2.rectangle(panel, corners[:2], corners[2:], _MARK_COLORS[seen], 1)
    return panel


def _strip(row: Row, size: tuple[int, int]) -> np.ndarray:
    gap = np.full((size[1], _MARGIN, 3), _PAPER, np.uint8)
    left, middle, right = (_panel(*item)
                           for item in zip(row.images, [size] * 3, row.marks, strict=True))
    return np.hstack([gap, left, gap, middle, gap, right, gap])


def _caption_bar(captions: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    bar = np.full((_BAR, 3 * size[0] + 4 * _MARGIN, 3), _PAPER, np.uint8)
    for column, text in enumerate(captions):
        x = _MARGIN + column * (size[0] + _MARGIN) + 4
        cv2.putText(bar, text, (x, _BAR - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (_INK,) * 3, 1,
                    cv2.LINE_AA)
    return bar


def _panel_size(row: Row, width: int) -> tuple[int, int]:
    height, full = row.images[0].shape[:2]
    return width, round(height * width / full)


def contact_sheet(rows: Sequence[Row], *, width: int = 400) -> np.ndarray:
    """Return a sheet of rows of pictures, H x W x 3 uint8 B G R.

    Every panel is `width` pixels wide; a row whose captions are those of the row above has none.
    Raises MediaError when there is no row or an image has another type.
    """
    if not rows:
        raise MediaError('a contact sheet needs at least one fused frame, got none')
    parts, captions = [], None
    for row in rows:
        size = _panel_size(row, width)
        if row.captions != captions:
            parts.append(_caption_bar(row.captions, size))
            captions = row.captions
        parts += [_strip(row, size),
                  np.full((_MARGIN, 3 * width + 4 * _MARGIN, 3), _PAPER, np.uint8)]
    return np.vstack(parts)


def write_contact_sheet(path: str | Path, rows: Sequence[Row], *, width: int = 400) -> None:
    """Write contact_sheet(rows) as a PNG; raises WriteError when the file cannot be written."""
    write_bytes(path, cv2.imencode('.png', contact_sheet(rows, width=width))[1].tobytes())


def write_video(path: str | Path, frames: Iterable[Sequence[Row]], *, fps: float,
                width: int = 480) -> Iterator[int]:
    """Write an MP4 whose frames are sheets of one or more rows.

    Yields the number of frames written so far, one by one.

    The file appears under its name only when it is complete.

    Raises:
        MediaError: OpenCV lacks the mp4v encoder, there is no frame, or not all of them were
            stored.
        WriteError: the file cannot be written.
    """
    yield from _stored(path, (contact_sheet(rows, width=width) for rows in frames), fps=fps,
                       overwrite=True)


def write_film(path: str | Path, results: Iterable[FusionResult], *, fps: float,
               overwrite: bool = False) -> Iterator[int]:
    """Write fused images as an MP4; yields the number of frames written so far, one by one.

    A side of an odd number of pixels loses one. Raises MediaError and WriteError as write_video
    does, MediaError also for images of different sizes, and WriteError for a file that exists
    unless overwrite is True.
    """
    yield from _stored(path, map(bgr, results), fps=fps, overwrite=overwrite)


def hush() -> None:
    """Keep OpenCV and FFmpeg from printing about videos: the messages are ours."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    with suppress(AttributeError):  # an OpenCV without it
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def bgr(result: FusionResult) -> np.ndarray:
    """Return the pixels of a fused image as H x W x 3 uint8 B G R."""
    code = {'rgb8': cv2.COLOR_RGB2BGR, 'mono8': cv2.COLOR_GRAY2BGR}.get(result.encoding)
    return result.pixels if code is None else cv2.cvtColor(result.pixels, code)


class FilmWriter:
    """Writes an MP4 (a context manager), which appears under its name only when it is complete.

    `written` is the number of frames so far. Leaving the block raises MediaError when OpenCV lacks
    the encoder, there is no frame, or not all were stored, and WriteError as replacing() does.
    """

    def __init__(self, path: str | Path, *, fps: float, overwrite: bool = False):
        self.written = 0
        self._fps, self._replacing = fps, replacing(path, overwrite=overwrite)
        self._film: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> 'FilmWriter':
        with ExitStack() as stack:
            self._partial = stack.enter_context(self._replacing)
            self._name = stack.enter_context(utf8_name(self._partial))
            self._opened = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Append H x W x 3 uint8 B G R; an odd side loses a pixel. Raises MediaError."""
        # The encoder wants even sides, and leaves out a picture of another size without a word.
        picture = picture[:picture.shape[0] // 2 * 2, :picture.shape[1] // 2 * 2]
        if self._film is None:
            self._shape, self._film = picture.shape, _open(self._name, self._fps, picture.shape)
        if picture.shape != self._shape:
            was, now = (f'{shape[1]}x{shape[0]}' for shape in (self._shape, picture.shape))
            raise MediaError(f'the pictures of a video have one size; got {was} and then {now}')
        _require_room(self._partial.parent)
        self._film.write(picture)
        self.written += 1

    def __exit__(self, *error: Any) -> None:
        if self._film is not None:
            self._film.release()
        try:
            if error[0] is None and self._film is None:
                raise MediaError('a video needs at least one fused frame, got none')
            if error[0] is None:
                _require_frames(self._name, self.written, self._partial.parent)
        except MediaError as wrong:
            error = type(wrong), wrong, wrong.__traceback__
            raise
        finally:
            self._opened.__exit__(*error)


def _stored(path: str | Path, pictures: Iterable[np.ndarray], *, fps: float,
            overwrite: bool) -> Iterator[int]:
    with FilmWriter(path, fps=fps, overwrite=overwrite) as film:
        for picture in pictures:
            film.write(picture)
            yield film.written


def _require_room(folder: Path) -> None:
    """Raise OSError when the disk is full, of which OpenCV reports nothing."""
    disk = os.statvfs(folder)
    if disk.f_blocks and not (disk.f_bavail if os.geteuid() else disk.f_bfree):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _require_frames(name: str, count: int, folder: Path) -> None:
    """Raise MediaError unless a video has all frames: OpenCV reports no quota and no limit."""
    film = cv2.VideoCapture(name)
    stored = int(film.get(cv2.CAP_PROP_FRAME_COUNT)) if film.isOpened() else 0
    film.release()
    if stored != count:
        raise MediaError(f'only {stored} of {count} frames of the video could be stored in '
                         f'{folder}; is the disk full?')


def _open(name: str, fps: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    hush()
    writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*'mp4v'), fps, (shape[1], shape[0]))
    if not writer.isOpened():
        Path(name).write_bytes(bytes(4096))  # raises what OpenCV does not tell, as of a full disk
        raise MediaError(f'cannot make an MP4: this OpenCV ({cv2.__version__}) has no mp4v '
                         'encoder; install opencv-python-headless from PyPI')
    return writer
