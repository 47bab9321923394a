# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: a contact sheet and a video of RGB, thermal and fused side by side."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from .core.frames import DiffmfError

TITLES = ('RGB', 'thermal', 'fused')
_MARGIN, _BAR = 6, 26
_PAPER, _INK = 24, 235
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


class MediaError(DiffmfError):
    """A picture or a video cannot be written."""


def _panel(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return grey H x W or R G B H x W x 3 uint8 as B, G, R of the given (width, height)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise MediaError(f'expected H x W or H x W x 3 uint8, got {image.dtype} of shape {image.shape}')
    colour = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    shrinks = size[0] < image.shape[1]
    return cv2.resize(colour, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _row(triple: Triple, size: tuple[int, int]) -> np.ndarray:
    gap = np.full((size[1], _MARGIN, 3), _PAPER, np.uint8)
    left, middle, right = (_panel(image, size) for image in triple)
    return np.hstack([gap, left, gap, middle, gap, right, gap])


def _title_bar(size: tuple[int, int]) -> np.ndarray:
    bar = np.full((_BAR, 3 * size[0] + 4 * _MARGIN, 3), _PAPER, np.uint8)
    for column, title in enumerate(TITLES):
        x = _MARGIN + column * (size[0] + _MARGIN) + 4
        cv2.putText(bar, title, (x, _BAR - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (_INK,) * 3, 1, cv2.LINE_AA)
    return bar


def _panel_size(triple: Triple, width: int) -> tuple[int, int]:
    height, full = triple[0].shape[:2]
    return width, round(height * width / full)


def contact_sheet(rows: Sequence[Triple], *, width: int = 400) -> np.ndarray:
    """Return a sheet of (rgb, thermal on the RGB grid, fused), one row a triple, H x W x 3 uint8 B G R.

    Images are uint8, grey H x W or R G B H x W x 3; every panel is `width` pixels wide. Raises MediaError
    when there is no row or an image has another type.
    """
    if not rows:
        raise MediaError('a contact sheet needs at least one fused frame, got none')
    size = _panel_size(rows[0], width)
    parts = [_title_bar(size)]
    for triple in rows:
        parts += [_row(triple, size), np.full((_MARGIN, parts[0].shape[1], 3), _PAPER, np.uint8)]
    return np.vstack(parts)


def write_contact_sheet(path: str | Path, rows: Sequence[Triple], *, width: int = 400) -> None:
    """Write contact_sheet(rows) as a PNG; raises MediaError when the file cannot be written."""
    encoded = cv2.imencode('.png', contact_sheet(rows, width=width))[1]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(encoded.tobytes())
    except OSError as error:
        raise MediaError(f'cannot write {path}: {error}') from error


def write_video(path: str | Path, triples: Iterable[Triple], *, fps: float,
                width: int = 480) -> Iterator[int]:
    """Write an MP4 of the panels side by side; yields the number of frames written so far, one by one.

    Raises MediaError when OpenCV lacks the mp4v encoder or the file cannot be written. The file appears
    under its name only when it is complete.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.stem}.partial.mp4')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f'cannot write {path}: {error}') from error
    writer, written = None, 0
    try:
        for triple in triples:
            size = _panel_size(triple, width)
            picture = np.vstack([_title_bar(size), _row(triple, size)])
            # The encoder wants even sides.
            picture = picture[:picture.shape[0] // 2 * 2, :picture.shape[1] // 2 * 2]
            writer = writer or _open(partial, fps, picture.shape)
            writer.write(picture)
            written += 1
            yield written
        if writer is None:
            raise MediaError('a video needs at least one fused frame, got none')
        writer.release()
        partial.replace(path)
    finally:
        if writer is not None:
            writer.release()
        partial.unlink(missing_ok=True)


def _open(path: Path, fps: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), fps, (shape[1], shape[0]))
    if not writer.isOpened():
        raise MediaError(f'cannot open {path.parent} for an MP4: this OpenCV ({cv2.__version__}) has no mp4v '
                         'encoder, or the folder is not writable; install opencv-python-headless from PyPI')
    return writer
