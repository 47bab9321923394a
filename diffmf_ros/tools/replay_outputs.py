# SPDX-License-Identifier: Apache-2.0
"""Where the fused images of a recording go, by the name of the output: a bag, a video, PNG files.

Beside it, a recording for Rerun's viewer: both cameras, the fused image, offset, what was amiss.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..core.alignment.camera import CameraModel
from ..core.frames import FusionResult, Pair
from ..core.imaging import compressed
from ..core.imaging.color import to_rgb8
from ..core.imaging.thermal import GainControl, to_gray
from ..core.settings import ThermalSettings
from ..io.bag_messages import image_message, model_message
from ..io.bag_recovery import require_bag_output
from ..io.bags import CAMERA_INFO, IMAGE, BagWriter
from ..io.images import write_image
from ..io.media import FilmWriter, bgr
from ..io.paths import PICTURES, PathError, require_folder_name, require_outside
from ..io.writing import WriteError, is_input, replacing, require_ending, require_output

FUSED_TOPIC, FUSED_INFO_TOPIC = '/fused/image', '/fused/camera_info'
STAMP = '{}'  # in a name: the stamp of the image in nanoseconds
LONGEST_HOLD_S = 10.0  # in a video, of a picture that no other one follows
JPEG_QUALITY, TIMELINE, PROBE_BYTES = 85, 'stamp', 4096  # of a recording for Rerun


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
    """Return the files that are there under names of a pattern, with numbers in place of {}."""
    before, after = map(re.escape, pattern.name.split(STAMP))
    name = re.compile(f'{before}-?[0-9]+{after}')
    there = pattern.parent.iterdir() if pattern.parent.is_dir() else ()
    return {path for path in there if name.fullmatch(path.name)}


def _require_pattern(pattern: Path, *, overwrite: bool, inputs: Iterable) -> None:
    """Raise PathError or WriteError unless the images of a stream can be written by pattern."""
    if pattern.name.count(STAMP) > 1:
        first, *more = pattern.name.split(STAMP)
        raise PathError(f'{pattern} has {STAMP} {len(more)} times, expected once, for the stamp: '
                        f'write {pattern.with_name(first + STAMP + "".join(more))}')
    require_ending(pattern, PICTURES, what='an image')
    there = sorted(_pictures(pattern))
    if there and not overwrite:
        raise WriteError(f'{there[0]} is there already, with a name as those of this command: '
                         'write to another folder, or add --overwrite, which replaces images of '
                         'the same stamps and leaves the others')
    require_output(there[0] if there else pattern, overwrite=overwrite, inputs=inputs)


def require_free(out: Path, *, overwrite: bool, inputs: Iterable) -> None:
    """Raise BagError, PathError or WriteError, before long work begins, unless out may be written.
    """
    inputs = tuple(inputs)
    if out.suffix.lower() != '.mp4' and not is_input(out, inputs):
        require_outside(out, [Path(one) for one in inputs if one is not None])
    if STAMP in out.name:
        _require_pattern(out, overwrite=overwrite, inputs=inputs)
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


class RerunRecording:
    """Logs pairs and what they were fused to, on a timeline of the stamps."""

    def __init__(self, rerun: Any, stream: Any, thermal: ThermalSettings):
        self._rerun, self._stream, self._gain = rerun, stream, GainControl(thermal)

    def __call__(self, pair: Pair, result: FusionResult) -> None:
        """Log one pair and its fused image."""
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(result.stamp_ns, 'ns'))
        gray = to_gray(pair.thermal.pixels, pair.thermal.encoding, self._gain.levels(pair.thermal))
        self._log('rgb', to_rgb8(pair.rgb.pixels, pair.rgb.encoding), 'rgb8')
        self._log('thermal', gray, 'mono8')
        self._log('fused', to_rgb8(result.pixels, result.encoding), 'rgb8')
        self._stream.log('offset_ms', self._rerun.Scalars(pair.offset_ns / 1e6))
        self._stream.log('mode', self._rerun.TextLog(result.mode.value))
        for sentence in (*result.warnings, *(issue.text for issue in result.issues)):
            self._stream.log('warnings', self._rerun.TextLog(sentence, level='WARN'))

    def _log(self, name: str, pixels: np.ndarray, encoding: str) -> None:
        jpeg = compressed.encode(pixels, encoding, quality=JPEG_QUALITY)
        self._stream.log(name, self._rerun.EncodedImage(contents=jpeg, media_type='image/jpeg'))


@contextmanager
def rerun_recording(path: Path, thermal: ThermalSettings, *,
                    overwrite: bool) -> Iterator[RerunRecording]:
    """Yield a recording that is written to path (.rrd) when the block ends without an error.

    Raises:
        ImportError: Rerun is not installed.
        WriteError: It cannot be written.
    """
    os.environ.setdefault('RUST_LOG', 'off')  # Rerun's own messages: ours say the same
    import rerun

    stream = rerun.RecordingStream('diffmf_ros')
    with replacing(path, overwrite=overwrite) as partial:
        stream.save(partial)
        try:
            yield RerunRecording(rerun, stream, thermal)
            _flush(stream, partial)
        finally:
            stream.disconnect()  # writes the last bytes, and raises nothing
        _require_room(partial)


def _flush(stream: Any, path: Path) -> None:
    """Wait until what was logged is in the file. Raises OSError or WriteError."""
    try:
        stream.flush()
    except RuntimeError as error:  # Rerun's thread that writes has ended, and does not say why
        _require_room(path)
        raise WriteError(f'{path} cannot be written: {error}') from error


def _require_room(path: Path) -> None:
    """Raise OSError where a file cannot grow, so that its last bytes may be missing.

    A device or a pipe has no size to try.
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    try:
        with path.open('ab') as file:
            file.write(bytes(PROBE_BYTES))
    finally:
        os.truncate(path, size)
