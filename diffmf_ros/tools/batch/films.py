# SPDX-License-Identifier: Apache-2.0
"""Two videos, one of each camera, as pairs of frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ...core.file_kinds import JPEG, PNG, explained, utf8_name, what_is
from ...core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ...io.media import hush
from ...io.paths import FILM_SUFFIXES

# Stamps begin here: 0 means a picture by itself, and a film is a stream.
_FIRST_NS = 10**9


class FilmError(DiffmfError):
    """A video cannot be read."""


@dataclass
class Films:
    """Two videos; rate_hz and count are the declared frame rate and length of the RGB one.

    problems, notes: after pairs(), a sentence for a video that is damaged, and for one that is
    longer than the other.
    """

    rgb: Path
    thermal: Path
    rate_hz: float
    count: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def pairs(self) -> Iterator[Pair]:
        """Yield every RGB frame with the last thermal frame until then, until one video ends."""
        with _opened(self.rgb) as rgb, _opened(self.thermal) as thermal:
            slower = _rate(thermal, self.thermal) / self.rate_hz
            number, taken = 0, 0
            heat: np.ndarray | None = None
            while (picture := _next(rgb)) is not None:
                wanted = int(number * slower + 1e-6) + 1
                while taken < wanted and (newer := _next(thermal)) is not None:
                    heat, taken = newer, taken + 1
                if taken < wanted or heat is None:
                    break
                stamp_ns = _FIRST_NS + round(number * 1e9 / self.rate_hz)
                yield Pair(
                    Frame(RGB, stamp_ns, '', picture, 'bgr8'),
                    _thermal(heat, stamp_ns),
                    offset_ns=0,
                )
                number += 1
            self._judge(self.rgb, number, _declared(rgb), ended=picture is None)
            self._judge(self.thermal, taken, _declared(thermal), ended=picture is not None)

    def _judge(self, path: Path, used: int, declared: int, *, ended: bool) -> None:
        """Say what of a video was not used."""
        if declared - used > 1:  # some formats only estimate how many there are
            said = self.problems if ended else self.notes
            said.append(
                f'{path}: {used} of its {declared} frames '
                + (
                    'can be read: it is cut or damaged'
                    if ended
                    else 'were used: the other video is shorter'
                )
            )


def opened(rgb: Path, thermal: Path) -> Films:
    """Return two videos as Films. Raises FilmError for one that cannot be read."""
    with _opened(rgb) as film, _opened(thermal) as other:
        _rate(other, thermal)
        return Films(rgb, thermal, _rate(film, rgb), _declared(film))


def is_film(path: Path) -> bool:
    """Return whether the name of a file is that of a video."""
    return path.suffix.lower() in FILM_SUFFIXES and not path.is_dir()


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.exists():
        raise FilmError(f'{path} does not exist')
    if what_is(path) in (PNG, JPEG):  # which FFmpeg takes for a video of one frame
        raise FilmError(explained(f'{path} is no video', path))
    hush()
    try:
        with utf8_name(path) as name:
            film = cv2.VideoCapture(name)
    except OSError as error:  # no room for a link to a name that is not UTF-8
        raise FilmError(f'{path} cannot be read as a video: {error.strerror}') from error
    try:
        if not film.isOpened():
            raise FilmError(explained(f'{path} cannot be read as a video', path))
        yield film
    finally:
        film.release()


def _rate(film: cv2.VideoCapture, path: Path) -> float:
    rate_hz = film.get(cv2.CAP_PROP_FPS)
    if not 0 < rate_hz < 10_000:
        raise FilmError(f'{path} does not say how many frames a second it has')
    return rate_hz


def _declared(film: cv2.VideoCapture) -> int:
    return int(film.get(cv2.CAP_PROP_FRAME_COUNT))


def _next(film: cv2.VideoCapture) -> np.ndarray | None:
    there, pixels = film.read()
    return pixels if there else None


def _thermal(pixels: np.ndarray, stamp_ns: int) -> Frame:
    """Return a frame of a video, gray where its three channels are equal."""
    gray = not (pixels[..., 1:] != pixels[..., :1]).any()
    return Frame(
        THERMAL,
        stamp_ns,
        '',
        np.ascontiguousarray(pixels[..., 0]) if gray else pixels,
        'mono8' if gray else 'bgr8',
    )
