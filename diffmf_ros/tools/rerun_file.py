# SPDX-License-Identifier: Apache-2.0
"""A recording for Rerun's viewer: both cameras, the fused image, offset and what was amiss."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rerun

from ..core.frames import FusionResult, Pair
from ..core.imaging import compressed
from ..core.imaging.color import to_rgb8
from ..core.imaging.thermal import GainControl, to_gray
from ..core.settings import ThermalSettings
from ..io.writing import WriteError, replacing

JPEG_QUALITY = 85
TIMELINE = 'stamp'
PROBE_BYTES = 4096


class RerunRecording:
    """Logs pairs and what they were fused to, on a timeline of the stamps."""

    def __init__(self, stream: rerun.RecordingStream, thermal: ThermalSettings):
        self._stream, self._gain = stream, GainControl(thermal)

    def __call__(self, pair: Pair, result: FusionResult) -> None:
        """Log one pair and its fused image."""
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(result.stamp_ns, 'ns'))
        gray = to_gray(pair.thermal.pixels, pair.thermal.encoding, self._gain.levels(pair.thermal))
        self._log('rgb', to_rgb8(pair.rgb.pixels, pair.rgb.encoding), 'rgb8')
        self._log('thermal', gray, 'mono8')
        self._log('fused', to_rgb8(result.pixels, result.encoding), 'rgb8')
        self._stream.log('offset_ms', rerun.Scalars(pair.offset_ns / 1e6))
        self._stream.log('mode', rerun.TextLog(result.mode.value))
        for sentence in (*result.warnings, *(issue.text for issue in result.issues)):
            self._stream.log('warnings', rerun.TextLog(sentence, level='WARN'))

    def _log(self, name: str, pixels: np.ndarray, encoding: str) -> None:
        jpeg = compressed.encode(pixels, encoding, quality=JPEG_QUALITY)
        self._stream.log(name, rerun.EncodedImage(contents=jpeg, media_type='image/jpeg'))


@contextmanager
def rerun_recording(path: Path, thermal: ThermalSettings, *,
                    overwrite: bool) -> Iterator[RerunRecording]:
    """Yield a recording that is written to path (.rrd) when the block ends without an error.

    Raises:
        WriteError: It cannot be written.
    """
    stream = rerun.RecordingStream('diffmf_ros')
    with replacing(path, overwrite=overwrite) as partial:
        stream.save(partial)
        try:
            yield RerunRecording(stream, thermal)
            _flush(stream, partial)
        finally:
            stream.disconnect()  # writes the last bytes, and raises nothing
        _require_room(partial)


def _flush(stream: rerun.RecordingStream, path: Path) -> None:
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
