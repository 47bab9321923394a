# SPDX-License-Identifier: Apache-2.0
"""Drives as recordings of two cameras and as folders of image pairs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core.alignment.geometry import Alignment
from ...core.frames import RGB, THERMAL
from ...io.bag_messages import camera_info_message, image_message
from ...io.bags import CAMERA_INFO, IMAGE, BagWriter
from ...io.paths import images_in
from ...io.writing import WriteError, require_output, write_bytes
from .cameras import DriveError
from .drive import PEOPLE, ActorTruth, Drive, DriveSettings, counts

ALIGNMENT_FILE = 'alignment.yaml'
TRUTH_FILE = 'ground_truth.json'


def alignment_of(drive: Drive) -> Alignment:
    """Return the exact alignment of the drive's cameras for the plane at `rig.plane_m`."""
    rgb, thermal = drive.rig.rgb, drive.rig.thermal
    homography = tuple(tuple(float(value) for value in row)
                       for row in drive.rig.rgb_from_thermal())
    return Alignment(homography, (rgb.width, rgb.height), (thermal.width, thermal.height))


@dataclass(frozen=True)
class RecordedDrive:
    """What the folder of a recorded drive says about it; exposures_ns: true time of each RGB
    stamp."""

    settings: DriveSettings
    alignment: Path
    thermal_offset_ms: float
    exposures_ns: dict[int, int]


def recorded_drive(bag: str | Path) -> RecordedDrive | None:
    """Return what a bag of a synthetic drive says about itself; None for other bags.

    Raises:
        DriveError: its ground truth cannot be read or has another layout.
    """
    path = Path(bag) / TRUTH_FILE
    if not path.is_file():
        return None
    try:
        truth = json.loads(path.read_text(encoding='utf-8'))
        exposures_ns = {frame['stamp_ns']: frame['exposure_ns'] for frame in truth['frames'][RGB]}
        return RecordedDrive(DriveSettings(**truth['settings']), path.with_name(ALIGNMENT_FILE),
                             truth['thermal_offset_ms'], exposures_ns)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DriveError(f'expected the ground truth of a rendered drive in {path}, got '
                         f'{error!r}; render the drive '
                         'again, or remove the file to use the bag as any other') from error


def record(drive: Drive, path: str | Path, *, storage: str = 'sqlite3', overwrite: bool = False,
           from_s: float = 0.0) -> Iterator[int]:
    """Write the drive to a bag at path; yields the number of frames written so far, one by one.

    What was exposed before from_s seconds is left out.

    Topics: /rgb/image_raw, /rgb/camera_info, /thermal/image_raw, /thermal/camera_info. The folder
    also gets alignment.yaml and ground_truth.json. Raises BagError when the bag cannot be written;
    nothing is left behind then, nor when the iteration is given up half-way.
    """
    truths: dict[str, list] = {RGB: [], THERMAL: []}
    with BagWriter(path, storage, overwrite=overwrite) as bag:
        for written, timed in enumerate(drive.frames(from_s=from_s), start=1):
            frame, camera = timed.frame, drive.camera(timed.frame.stream)
            about: dict[str, Any] = {'stamp_ns': frame.stamp_ns, 'frame_id': frame.frame_id}
            info = camera_info_message(camera.k, width=camera.width, height=camera.height, **about)
            image = image_message(frame.pixels, frame.encoding, **about)
            bag.write(f'/{frame.stream}/image_raw', IMAGE, image, frame.arrival_ns)
            bag.write(f'/{frame.stream}/camera_info', CAMERA_INFO, info, frame.arrival_ns)
            actors = drive.truth(timed.exposure_ns).actors
            truths[frame.stream].append({'stamp_ns': frame.stamp_ns,
                                         'exposure_ns': timed.exposure_ns,
                                         'actors': [asdict(actor) for actor in actors]})
            yield written
        alignment_of(drive).save(bag.folder / ALIGNMENT_FILE)
        text = json.dumps(ground_truth(drive, truths), separators=(',', ':'))
        (bag.folder / TRUTH_FILE).write_text(text, encoding='utf-8')


def ground_truth(drive: Drive, truths: dict[str, list[dict]]) -> dict:
    """Return the content of ground_truth.json.

    It has the settings, geometry, clocks, and the actors of every frame.

    Boxes lie on the RGB grid, those of thermal frames too. Label images are not stored: a `Drive`
    with the same settings gives them (`Drive.truth(exposure_ns).labels`).
    """
    return {
        'settings': asdict(drive.settings),
        'rgb_from_thermal': drive.rig.rgb_from_thermal().tolist(),
        'plane_m': drive.rig.plane_m,
        'thermal_offset_ms': drive.rig.thermal_offset_ms,
        'air_c': drive.scene.environment.air_c,
        'frames': truths,
    }


Boxes = dict[str, list[tuple[int, int, int, int]]]


def boxes_of(actors: tuple[ActorTruth, ...]) -> Boxes:
    """Sort the people of one instant into those that count and those that are to be ignored.

    Args:
        actors: the truth of one instant.

    Returns:
        {'people': boxes, 'ignore': boxes}, each box (left, top, right, bottom) in RGB pixels.
    """
    boxes: Boxes = {'people': [], 'ignore': []}
    for actor in actors:
        if actor.kind in PEOPLE:
            boxes['people' if counts(actor) else 'ignore'].append(actor.box_px)
    return boxes


def instants(drive: Drive, count: int) -> list[tuple[int, int]]:
    """Return `count` evenly spaced (RGB index, thermal index) whose exposures are simultaneous.

    Raises:
        DriveError: count is below 1, or the drive has fewer simultaneous exposures.
    """
    rgb_hz, thermal_hz = (drive.camera(stream).rate_hz for stream in (RGB, THERMAL))
    both_hz = int(np.gcd(rgb_hz, thermal_hz))
    rgb_step, thermal_step = rgb_hz // both_hz, thermal_hz // both_hz
    available = min((drive.count(RGB) - 1) // rgb_step,
                    (drive.count(THERMAL) - 1) // thermal_step) + 1
    if not 1 <= count <= available:
        raise DriveError(f'expected 1 to {available} pairs of a drive of '
                         f'{drive.settings.seconds:g} s, got {count}; '
                         'a longer drive has more')
    return [(k * rgb_step, k * thermal_step)
            for k in (i * available // count for i in range(count))]


def aligned_pair(drive: Drive, rgb_index: int,
                 thermal_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one pair: RGB H x W x 3 uint8, and thermal H x W on its grid, warped by the true
    alignment."""
    rgb = drive.frame(RGB, rgb_index).frame
    thermal = drive.frame(THERMAL, thermal_index).frame
    warped, _ = alignment_of(drive).warp(thermal.pixels, rgb_size=rgb.size)
    return rgb.pixels, warped


def require_pairs_output(drives: Sequence[Drive], out: Path, *, count: int,
                         overwrite: bool) -> None:
    """Raise an error, before long work begins, unless write_pairs() may fill out/SCENE.

    Args:
        drives: one for each scene.
        out: the folder of all; boxes.json in it tells of every pair, so it has no others.
        count: number of pairs of each.
        overwrite: whether files of these names may be replaced.

    Raises:
        DriveError: count does not fit a drive.
        WriteError: a file cannot be written, or exists and overwrite is False; or there are other
            pictures.
    """
    own = {out / drive.settings.scene / stream / f'{_name(drive, index)}.png'
           for drive in drives for index, _ in instants(drive, count) for stream in ('vi', 'ir')}
    there = {path for stream in ('vi', 'ir') for folder in out.glob(f'*/{stream}')
             if folder.is_dir() for path in images_in(folder)}
    if others := sorted(there - own):
        raise WriteError(f'{out} has {len(others)} other images, such as {others[0]}, which are '
                         'not mixed with new ones: choose another folder')
    for path in sorted(own):
        require_output(path, overwrite=overwrite)


def write_pairs(drive: Drive, folder: Path, *, count: int) -> Iterator[tuple[str, Boxes]]:
    """Write folder/vi/NAME.png and folder/ir/NAME.png for `count` instants of a drive.

    Args:
        drive: the drive; with thermal at 30 Hz every RGB frame has a thermal frame of the same
            instant.
        folder: made when it is missing.
        count: number of pairs, evenly spaced over the drive.

    Yields:
        (NAME, boxes), one pair at a time; NAME is scene, seed and RGB index.

    Raises:
        DriveError: count does not fit the drive.
        WriteError: a file cannot be written.
    """
    for rgb_index, thermal_index in instants(drive, count):
        name = _name(drive, rgb_index)
        rgb, thermal = aligned_pair(drive, rgb_index, thermal_index)
        _write(folder / 'vi' / f'{name}.png', rgb[:, :, ::-1])
        _write(folder / 'ir' / f'{name}.png', thermal)
        yield name, boxes_of(drive.truth(drive.rig.rgb.exposure_ns(rgb_index)).actors)


def _name(drive: Drive, rgb_index: int) -> str:
    return f'{drive.settings.scene}_{drive.settings.seed}_{rgb_index:04d}'


def _write(path: Path, pixels: np.ndarray) -> None:
    write_bytes(path, cv2.imencode('.png', pixels)[1].tobytes())
