# SPDX-License-Identifier: Apache-2.0
"""Where the fused images of a recording go, by the name of the output: a bag, a video, PNG files.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..core.alignment.camera import CameraModel
from ..core.frames import FusionResult
from ..io.bag_messages import image_message, model_message
from ..io.bag_recovery import require_bag_output
from ..io.bags import CAMERA_INFO, IMAGE, BagWriter
from ..io.images import write_image
from ..io.media import FilmWriter, bgr
from ..io.paths import PICTURES, require_folder_name, require_outside
from ..io.writing import WriteError, is_input, require_ending, require_output

FUSED_TOPIC, FUSED_INFO_TOPIC = '/fused/image', '/fused/camera_info'
STAMP = '{}'  # in a name: the stamp of the image in nanoseconds
LONGEST_HOLD_S = 10.0  # in a video, of a picture that no other one follows


class BagOutput:
    """Writes images and their camera infos to a bag."""

    def __init__(self, writer: BagWriter):
        self._writer = writer

    def __enter__(self) -> 'BagOutput':
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, result: FusionResult, camera: CameraModel | None, recorded_ns: int) -> None:
        """Append an image; camera describes it (None: uncalibrated)."""
        image = image_message(result.pixels, result.encoding, stamp_ns=result.stamp_ns,
                              frame_id=result.frame_id)
        info = model_message(camera, size=result.pixels.shape[1::-1], stamp_ns=result.stamp_ns,
                             frame_id=result.frame_id)
        self._writer.write(FUSED_TOPIC, IMAGE, image, recorded_ns)
        self._writer.write(FUSED_INFO_TOPIC, CAMERA_INFO, info, recorded_ns)


class FilmOutput:
    """Writes an MP4 in which every picture stands as long as it did in the recording."""

    def __init__(self, path: Path, *, rate_hz: float, overwrite: bool):
        self._film = FilmWriter(path, fps=rate_hz, overwrite=overwrite)
        self._rate_hz, self._due = rate_hz, 0.0
        self._last: tuple[np.ndarray, int] | None = None  # a picture and its stamp_ns

    def __enter__(self) -> 'FilmOutput':
        self._film.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._film.__exit__(*error)

    def write(self, result: FusionResult, camera: CameraModel | None, recorded_ns: int) -> None:
        """Append an image; before it the last one is held as long as the stamps ask for."""
        if self._last is not None:
            picture, stamp_ns = self._last
            self._due += min((result.stamp_ns - stamp_ns) / 1e9, LONGEST_HOLD_S) * self._rate_hz
            while self._film.written < round(self._due):
                self._film.write(picture)
        self._last = bgr(result), result.stamp_ns
        self._film.write(self._last[0])


class PictureOutput:
    """Writes PNG files whose names have the stamp."""

    def __init__(self, pattern: Path, *, overwrite: bool):
        self._pattern, self._overwrite = pattern, overwrite
        self._written: set[Path] = set()

    def __enter__(self) -> 'PictureOutput':
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Say what an interrupted or failed run leaves, or which images of another run stay.

        The images of a stream go on from the ones before, so all of them are made again.
        """
        folder = self._pattern.parent
        if kind is not None and self._written:
            print(f'{folder} has {len(self._written)} images of a run that did not end; '
                  'the same command with --overwrite makes all of them again', file=sys.stderr)
        if kind is None and (others := sorted(_pictures(self._pattern) - self._written)):
            print(f'note: {folder} has {len(others)} other images, such as {others[0]}, which '
                  'stay', file=sys.stderr)

    def write(self, result: FusionResult, camera: CameraModel | None, recorded_ns: int) -> None:
        """Write an image. Raises WriteError."""
        path = self._pattern.with_name(self._pattern.name.replace(STAMP, str(result.stamp_ns)))
        write_image(path, result.pixels, result.encoding, overwrite=self._overwrite)
        self._written.add(path)


def _pictures(pattern: Path) -> set[Path]:
    """Return the files that are there under the names of a pattern."""
    return set(pattern.parent.glob(pattern.name.replace(STAMP, '*')))


def require_free(out: Path, *, overwrite: bool, inputs: Iterable) -> None:
    """Raise BagError, PathError or WriteError, before long work begins, unless out may be written.
    """
    inputs = tuple(inputs)
    if out.suffix.lower() != '.mp4' and not is_input(out, inputs):
        require_outside(out, [Path(one) for one in inputs if one is not None])
    if STAMP in out.name:
        require_ending(out, PICTURES, what='an image')
        there = sorted(_pictures(out))
        if there and not overwrite:
            raise WriteError(f'{there[0]} exists already; --overwrite replaces such files')
        require_output(there[0] if there else out, overwrite=overwrite, inputs=inputs)
    elif out.suffix.lower() == '.mp4':
        require_output(out, overwrite=overwrite, inputs=inputs)
    else:
        require_folder_name(out, of='a bag', instead=(
            'NAME for the bag, NAME/{}.png for files by stamp, or NAME.mp4 for a video'))
        require_bag_output(out, overwrite=overwrite, inputs=inputs)


def output(out: Path, *, rate_hz: float, overwrite: bool,
           inputs: Iterable = ()) -> BagOutput | FilmOutput | PictureOutput:
    """Return a context manager that writes to out.

    Args:
        out: NAME.mp4 for a video, a name with {} such as frames/{}.png for files by stamp, else
            the folder of a bag.
        rate_hz: of the pictures of a video.
        overwrite: whether what exists may be replaced.
        inputs: files and folders that are read.
    """
    if STAMP in out.name:
        return PictureOutput(out, overwrite=overwrite)
    if out.suffix.lower() == '.mp4':
        return FilmOutput(out, rate_hz=rate_hz, overwrite=overwrite)
    return BagOutput(BagWriter(out, overwrite=overwrite, inputs=inputs))
