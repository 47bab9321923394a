# SPDX-License-Identifier: Apache-2.0
"""Folders of image pairs, vi/ and ir/ files with equal stems.

Found, read, and written as a rosbag2.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.frames import RGB, THERMAL, DiffmfError
from .bag_messages import camera_info_message, image_message
from .bags import CAMERA_INFO, IMAGE, START_NS, BagWriter
from .images import ImageFileError, gray_of, prepared, read_frame, read_luma
from .paths import IMAGE_SUFFIXES, images_in, require_different

_FRAME_IDS = {RGB: 'rgb_camera_optical_frame', THERMAL: 'thermal_camera_optical_frame'}


class FolderError(DiffmfError):
    """A folder of image pairs is incomplete or cannot be read."""


@dataclass(frozen=True)
class LumaPair:
    """Infrared and visible luminance of one scene, both H x W uint8."""

    name: str
    ir: np.ndarray = field(repr=False)
    vi_y: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class TimedPair:
    """Two image files that were exposed at the same time, time_ns after the start."""

    visible: Path
    infrared: Path
    time_ns: int


def pair_files(root: str | Path) -> list[tuple[Path, Path]]:
    """Return (visible, infrared) of every folder at or below root that holds vi/ and ir/, sorted.

    Raises FolderError when there is no such folder, and as read_folder does for one that is
    incomplete.
    """
    folders = sorted({path.parent for name in ('vi', 'ir') for path in Path(root).rglob(name)
                      if path.is_dir()})
    if not folders:
        raise FolderError(f'no pairs at or below {root}: expected folders vi and ir with files of '
                          'equal names; `diffmf sample-pairs FOLDER` renders some to try')
    return [pair for folder in folders for pair in _matched(folder)]


def read_pair(visible: Path, infrared: Path) -> LumaPair:
    """Read a registered pair as 8-bit luminance; other thermal passes the gain control.

    Raises FolderError naming what does not fit.
    """
    y, ir = (_read(read_luma, path, stream=stream) for path,
             stream in ((visible, RGB), (infrared, THERMAL)))
    if ir.shape != y.shape:
        raise FolderError(f'{infrared} is {ir.shape} and {visible} is {y.shape} (height, width): '
                          f'a registered '
                          'pair has one size')
    return LumaPair(infrared.stem, ir, y)


def read_folder(folder: str | Path, *, rate_hz: float | None = None) -> list[TimedPair]:
    """Return the pairs of a folder in natural order of their names: 2 comes before 10.

    Times come from rate_hz when it is given, else from `timestamps_ns`, else from `fps` in the
    folder's sequence.json. Raises FolderError for a missing folder, frames without a partner, two
    files of one stem, or times that are missing, do not rise, or do not fit the frames.
    """
    pairs = sorted(_matched(Path(folder)), key=lambda pair: natural(pair[0].stem))
    times = _times(Path(folder), len(pairs), rate_hz)
    return [TimedPair(*pair, time) for pair, time in zip(pairs, times, strict=True)]


def natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names as people count.

    That is frame_2 before frame_10, and frame_02 beside frame_2.
    """
    parts = re.split(r'([0-9]+)', name)  # every second one is a number
    return [*((int(part), '') if index % 2 else (-1, part) for index, part in enumerate(parts)),
            (-1, name)]


def _matched(folder: Path) -> list[tuple[Path, Path]]:
    require_different(folder / 'vi', folder / 'ir')
    visible, infrared = _stems(folder / 'vi'), _stems(folder / 'ir')
    for there, other, name in ((visible, infrared, 'ir'), (infrared, visible, 'vi')):
        alone = sorted(set(there) - set(other))
        if alone:
            shown = ', '.join(alone[:5]) + (' ...' if len(alone) > 5 else '')
            raise FolderError(f'{len(alone)} frames have no partner in {folder / name}: {shown}')
    for stem in sorted(visible):
        require_different(visible[stem], infrared[stem])
    return [(visible[stem], infrared[stem]) for stem in sorted(visible)]


def _stems(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FolderError(f'expected the folders vi and ir with frames of equal names; {folder} '
                          f'is missing')
    files: dict[str, Path] = {}
    for path in images_in(folder):
        if path.stem in files:
            raise FolderError(f'{path.name} and {files[path.stem].name} in {folder} share one '
                              f'stem')
        files[path.stem] = path
    if not files:
        raise FolderError(f'{folder} holds no {", ".join(IMAGE_SUFFIXES)} file')
    return files


def _times(folder: Path, count: int, rate_hz: float | None) -> list[int]:
    if rate_hz is not None:
        if not 0 < rate_hz <= 1000:
            raise FolderError(f'the rate must lie above 0 and at most at 1000 Hz, got {rate_hz}')
        return [round(k * 1e9 / rate_hz) for k in range(count)]
    path = folder / 'sequence.json'
    if not path.is_file():
        raise FolderError(f'{path} is missing, so say how many frames a second there are: --rate')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        stamps, fps = content.get('timestamps_ns'), content.get('fps')
        if stamps is None and fps is not None:
            return _times(folder, count, float(fps))
        times = [int(stamp) for stamp in stamps]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FolderError(f'expected timestamps_ns (a list) or fps in {path}: {error}') from error
    if len(times) != count:
        raise FolderError(f'{path} has {len(times)} timestamps_ns for {count} frames')
    if any(later <= earlier for earlier,
           later in zip(times, times[1:], strict=False)) or times[0] < 0:
        raise FolderError(f'timestamps_ns in {path} must rise and must not be negative')
    return times


def _read(reader: Callable, path: Path, *, stream: str) -> Any:
    """Return reader(path, stream=stream); its errors become those of the folder."""
    try:
        return reader(path, stream=stream)
    except ImageFileError as error:
        raise FolderError(str(error)) from error


def _images(pair: TimedPair) -> dict[str, tuple[np.ndarray, str]]:
    """Return pixels and encoding of both cameras, as the files have them.

    A palette of thermal stays, for the node to undo; gray in three channels becomes one, and a
    visible image of one channel with 8 bits three.
    """
    return {stream: _read(_image, path, stream=stream)
            for stream, path in ((RGB, pair.visible), (THERMAL, pair.infrared))}


def _image(path: Path, *, stream: str) -> tuple[np.ndarray, str]:
    frame = read_frame(path, stream=stream)
    picture = prepared(frame, path)  # refuses what no camera sends
    if stream == RGB and frame.encoding == 'mono8':
        return cv2.cvtColor(frame.pixels, cv2.COLOR_GRAY2BGR), 'bgr8'
    if stream == THERMAL and picture.encoding == 'bgr8':
        return gray_of(picture, path), 'mono8'
    return frame.pixels, frame.encoding


def write_bag(pairs: list[TimedPair], path: str | Path, *, storage: str = 'sqlite3',
              overwrite: bool = False, inputs: Iterable = ()) -> Iterator[int]:
    """Write the pairs to a bag at path; yields the number of pairs written so far, one by one.

    Topics: /rgb/image_raw and /thermal/image_raw, with the encodings of the files, and their
    camera_info, marked as uncalibrated. Raises FolderError for a file that is no image,
    BagError when the bag cannot be written, or path is one of inputs; nothing is left behind then.
    """
    with BagWriter(path, storage, overwrite=overwrite, inputs=inputs) as bag:
        for written, pair in enumerate(pairs, start=1):
            stamp_ns = START_NS + pair.time_ns
            for stream, (pixels, encoding) in _images(pair).items():
                about: dict[str, Any] = {'stamp_ns': stamp_ns, 'frame_id': _FRAME_IDS[stream]}
                height, width = pixels.shape[:2]
                bag.write(f'/{stream}/image_raw', IMAGE, image_message(pixels, encoding, **about),
                          stamp_ns)
                info = camera_info_message(None, width=width, height=height, **about)
                bag.write(f'/{stream}/camera_info', CAMERA_INFO, info, stamp_ns)
            yield written
