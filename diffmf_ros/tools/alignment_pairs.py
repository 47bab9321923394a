# SPDX-License-Identifier: Apache-2.0
"""Pairs of images to align cameras with, of two files, two folders or a bag.

It also draws a picture of the result.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ..core.alignment.alignment_file import load_alignment
from ..core.alignment.camera import CalibrationError, CameraModel
from ..core.alignment.homography import Alignment, AlignmentError
from ..core.alignment.rig import Rig
from ..core.frames import RGB, THERMAL, DiffmfError, Frame, FrameError, Pair
from ..core.imaging.camera_picture import CameraPicture
from ..core.imaging.color import overlay, split_luma, to_rgb8
from ..core.imaging.false_color import FalseColor
from ..core.imaging.thermal import STRETCHED, levels_of, to_gray
from ..core.registration.registration import RegistrationError
from ..core.registration.time_offset import Cameras, Clip, TimeOffset, estimate_offset
from ..core.settings import Settings, SyncSettings, ThermalSettings
from ..io.bag_messages import frames
from ..io.bags import BagReader
from ..io.images import naming, read_files
from ..io.paths import require_different
from .bag_cameras import BagCameras, recorded_camera
from .evaluation.eval_files import matched

# The time offset is measured in so much of a bag, in images of this width.
CLIP_S, CLIP_WIDTH, LEAST_FRAMES = 30.0, 640, 20


class AlignmentPairsError(DiffmfError):
    """There are no pairs of images to align cameras with."""


def pictures(pairs: Iterable[Pair], settings: Settings) -> list[Pair]:
    """Return the pairs as the node fuses them: cropped, turned, without telemetry.

    Raises FrameError as CameraPicture does.
    """
    cameras = BagCameras({}, settings, changed=lambda stream, camera: None)
    return [cameras.pair(pair) for pair in pairs]


def file_pairs(rgb: Path, thermal: Path, settings: Settings, *, most: int) -> list[Pair]:
    """Return the pair of two image files, or at most `most` pairs of two folders, files of equal
    stems, spread evenly, as pictures() does.

    Raises AlignmentPairsError for a file beside a folder and for stems that only one folder has,
    ImageFileError for a file that cannot be read or used.
    """
    if rgb.is_dir() != thermal.is_dir():
        raise AlignmentPairsError(f'expected two image files or two folders; one of {rgb} and '
                                  f'{thermal} is a folder')
    require_different(rgb, thermal)
    files = [(rgb, thermal)]
    if rgb.is_dir():
        found, problems = matched({'visible': rgb, 'thermal': thermal})
        if problems:
            raise AlignmentPairsError('images without a single partner: ' + '; '.join(
                f'{problem.name}: {problem.reason}' for problem in problems[:3])
                + (f', and {len(problems) - 3} more' if len(problems) > 3 else ''))
        files = [(paths['visible'], paths['thermal']) for paths in found.values()]
    pairs = []
    for visible, infrared in spread(files, most):
        with naming(visible, infrared):
            pairs += pictures([read_files(visible, infrared)], settings)
            grays(pairs[-1])  # what cannot be aligned is refused here, where its name is known
    return pairs


def bag_pairs(path: Path, sync: SyncSettings, *, topics: tuple[str, str],
              most: int) -> tuple[list[Pair], list[str]]:
    """Return at most `most` pairs of a bag, spread evenly, and what was left out and why.

    Raises BagError, or AlignmentPairsError, which says why, for no pair.
    """
    from .replay import ReplayCounts, pairs_of

    counts = ReplayCounts()
    with BagReader(path) as reader:
        pairs = spread(pairs_of(reader, sync, rgb_topic=topics[0], thermal_topic=topics[1],
                                counts=counts), most)
    left_out = [f'left out: {line}' for line in counts.lines()]
    if not pairs:
        raise AlignmentPairsError(f'no frames of {" and ".join(topics)} in {path} belong '
                                  f'together; {"; ".join(left_out)}; is --thermal-offset-ms '
                                  'right?')
    return pairs, left_out if counts.refused else []


def bag_clips(path: Path, settings: Settings, *,
              topics: tuple[str, str]) -> tuple[Clip, Clip, Cameras | None]:
    """Return the gray frames of both cameras in the middle CLIP_S of a bag, not too wide, and the
    calibrations of these images, if the bag has both.

    Frames that cannot be used are left out. Raises BagError.
    """
    clips: dict[str, list[tuple[float, np.ndarray]]] = {RGB: [], THERMAL: []}
    prepared = {stream: CameraPicture(stream) for stream in clips}
    with BagReader(path) as reader:
        infos = {stream: recorded_camera(reader, topic, refused=lambda said: None)
                 for stream, topic in zip(clips, topics, strict=True)}
        spare_ns = max(0, reader.duration_ns - round(CLIP_S * 1e9))
        first_ns = reader.start_ns + spare_ns // 2
        for frame in frames(reader, *topics, refused=lambda stream, error: None):
            if not 0 <= frame.arrival_ns - first_ns <= CLIP_S * 1e9 or not frame.stamp_ns:
                continue
            try:
                gray = _gray(prepared[frame.stream].of(frame, settings))
            except FrameError:
                continue
            clips[frame.stream].append(((frame.stamp_ns - reader.start_ns) / 1e9, gray))
    cameras = [_calibration(stream, info, prepared[stream], clips[stream], settings)
               for stream, info in infos.items()]
    rgb, thermal = (sorted(clip, key=lambda item: item[0]) for clip in clips.values())
    of_rgb, of_thermal = cameras
    return rgb, thermal, (of_rgb, of_thermal) if of_rgb and of_thermal else None


def _calibration(stream: str, info: CameraModel | None, picture: CameraPicture, clip: Clip,
                 settings: Settings) -> CameraModel | None:
    """The calibration of the images of a clip; None where there is none that fits."""
    if info is None or not clip:
        return None
    try:
        camera = picture.camera(info, settings)
        if getattr(settings.alignment, f'{stream}_rectified'):
            camera = camera.rectified()
        camera = camera.scaled_to(clip[0][1].shape[1::-1])
        camera.rays(np.zeros((1, 2)))
    except CalibrationError:
        return None
    return camera


def time_offset(path: Path, settings: Settings, alignment: Alignment, *,
                topics: tuple[str, str]) -> TimeOffset:
    """Return the time offset between the cameras of a bag; that of settings is where it starts.

    Raises BagError, or RegistrationError, which says why the bag does not tell.
    """
    rgb, thermal, cameras = bag_clips(path, settings, topics=topics)
    if min(len(rgb), len(thermal)) < LEAST_FRAMES:
        raise RegistrationError(f'no time offset: {len(rgb)} RGB and {len(thermal)} thermal '
                                f'frames with stamps came, {LEAST_FRAMES} of each are needed')
    start_ms = settings.sync.thermal_offset_ms - settings.sync.rgb_offset_ms
    return estimate_offset(rgb, thermal, alignment, start_ms=start_ms, cameras=cameras)


def _gray(frame: Frame) -> np.ndarray:
    """The luminance of a frame, thermal of 16 bit as it came, not wider than CLIP_WIDTH."""
    gray = frame.pixels if frame.encoding in STRETCHED else split_luma(
        FalseColor().to_gray(frame).pixels if frame.stream == THERMAL else frame.pixels,
        'mono8' if frame.stream == THERMAL else frame.encoding)[0]
    width, height = frame.size
    if width > CLIP_WIDTH:
        size = CLIP_WIDTH, max(1, round(height * CLIP_WIDTH / width))
        return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return np.array(gray)


def spread(items: Iterable, most: int) -> list:
    """Return at most `most` of the items at even distances, without holding more than four times
    as many at once."""
    kept, step = [], 1
    for index, item in enumerate(items):
        if index % step == 0:
            kept.append(item)
        if len(kept) > 4 * most:
            kept, step = kept[::2], 2 * step
    if len(kept) <= most:
        return kept
    return [kept[round(place)] for place in np.linspace(0, len(kept) - 1, most)]


def grays(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return (RGB luminance, thermal), each H x W, thermal of 16 bit as it came.

    Raises FrameError: not_8_bit, and false_color as FalseColor does.
    """
    thermal = FalseColor().to_gray(pair.thermal)
    raw = thermal.encoding in STRETCHED
    return split_luma(pair.rgb.pixels, pair.rgb.encoding)[0], (
        thermal.pixels if raw else split_luma(thermal.pixels, thermal.encoding)[0])


def rough_alignment(path: Path, pair: Pair, *, plane_depth_m: float) -> Alignment:
    """Return the homography of an alignment file.

    For two calibrated cameras it is that of a plane at this distance.

    Raises:
        AlignmentError: the file is not usable, or does not describe both cameras and their
            mounting.
        CalibrationError: it is not for images of these sizes.
    """
    source = load_alignment(path)
    if isinstance(source, Alignment):
        return source
    if source.rgb is None or source.thermal is None or source.extrinsics is None:
        raise AlignmentError(f'{path}: expected both cameras and how they are mounted')
    sizes = {'rgb_size': pair.rgb.size, 'thermal_size': pair.thermal.size}
    rig = Rig(source.rgb.scaled_to(pair.rgb.size), source.thermal.scaled_to(pair.thermal.size),
              source.extrinsics)
    width, height = pair.thermal.size
    corners = np.array([(x, y) for x in (0.25 * width, 0.75 * width)
                        for y in (0.25 * height, 0.75 * height)])
    seen = rig.to_rgb(corners, plane_depth_m)
    if not np.isfinite(seen).all():
        raise AlignmentError(f'{path}: the cameras look in different directions')
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), seen.astype(np.float32))
    return Alignment(tuple(tuple(map(float, row)) for row in matrix), **sizes)


def picture(pair: Pair, alignment: Alignment) -> np.ndarray:
    """Return the RGB image, H x W x 3 rgb8, with the edges of aligned thermal."""
    levels = levels_of(pair.thermal.pixels, pair.thermal.encoding, ThermalSettings())
    thermal, seen = alignment.warp(to_gray(pair.thermal.pixels, pair.thermal.encoding, levels),
                                   rgb_size=pair.rgb.size)
    return overlay(to_rgb8(pair.rgb.pixels, pair.rgb.encoding), thermal, seen)
