# SPDX-License-Identifier: Apache-2.0
"""Write aligned RGB and thermal pictures of a synthetic drive, and the boxes of its people, for evaluation."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...core.frames import RGB, THERMAL
from ...io.writing import require_output, write_bytes
from .cameras import DriveError
from .drive import ActorTruth, Drive
from .people import MIN_HEIGHT_PX, PEOPLE, counts
from .record import alignment_of

Boxes = dict[str, list[tuple[int, int, int, int]]]


def boxes_of(actors: tuple[ActorTruth, ...], *, min_height_px: int = MIN_HEIGHT_PX) -> Boxes:
    """Sort the people of one instant into those that count and those that are to be ignored.

    Args:
        actors: the truth of one instant.
        min_height_px: height in RGB pixels from which a person counts.

    Returns:
        {'people': boxes, 'ignore': boxes}, each box (left, top, right, bottom) in RGB pixels.
    """
    boxes: Boxes = {'people': [], 'ignore': []}
    for actor in actors:
        if actor.kind in PEOPLE:
            judged = counts(actor, min_height_px=min_height_px)
            boxes['people' if judged else 'ignore'].append(actor.box_px)
    return boxes


def instants(drive: Drive, count: int) -> list[tuple[int, int]]:
    """Return `count` evenly spaced (RGB index, thermal index) whose exposures are simultaneous.

    Raises:
        DriveError: count is below 1, or the drive has fewer simultaneous exposures.
    """
    rgb_hz, thermal_hz = (drive.camera(stream).rate_hz for stream in (RGB, THERMAL))
    both_hz = int(np.gcd(rgb_hz, thermal_hz))
    rgb_step, thermal_step = rgb_hz // both_hz, thermal_hz // both_hz
    available = min((drive.count(RGB) - 1) // rgb_step, (drive.count(THERMAL) - 1) // thermal_step) + 1
    if not 1 <= count <= available:
        raise DriveError(f'expected 1 to {available} pairs of a drive of {drive.settings.seconds:g} s, got {count}; '
                         'a longer drive has more')
    return [(k * rgb_step, k * thermal_step) for k in (i * available // count for i in range(count))]


def aligned_pair(drive: Drive, rgb_index: int, thermal_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one pair: RGB H x W x 3 uint8, and thermal H x W on its grid, warped by the true alignment."""
    rgb = drive.frame(RGB, rgb_index).frame
    thermal = drive.frame(THERMAL, thermal_index).frame
    warped, _ = alignment_of(drive).warp(thermal.pixels, rgb_size=rgb.size)
    return rgb.pixels, warped


def write_pairs(drive: Drive, folder: str | Path, *, count: int,
                overwrite: bool = False) -> Iterator[tuple[str, Boxes]]:
    """Write folder/vi/NAME.png and folder/ir/NAME.png for `count` instants of a drive.

    Args:
        drive: the drive; with thermal at 30 Hz every RGB frame has a thermal frame of the same instant.
        folder: made when it is missing.
        count: number of pairs, evenly spaced over the drive.
        overwrite: whether files of these names may be replaced.

    Yields:
        (NAME, boxes), one pair at a time; NAME is scene, seed and RGB index.

    Raises:
        DriveError: count does not fit the drive.
        WriteError: a file cannot be written, or exists and overwrite is False.
    """
    folder = Path(folder)
    chosen = instants(drive, count)
    for rgb_index, _ in chosen:
        for stream in ('vi', 'ir'):
            require_output(folder / stream / f'{_name(drive, rgb_index)}.png', overwrite=overwrite)
    for rgb_index, thermal_index in chosen:
        name = _name(drive, rgb_index)
        rgb, thermal = aligned_pair(drive, rgb_index, thermal_index)
        _write(folder / 'vi' / f'{name}.png', rgb[:, :, ::-1])
        _write(folder / 'ir' / f'{name}.png', thermal)
        yield name, boxes_of(drive.truth(drive.rig.rgb.exposure_ns(rgb_index)).actors)


def _name(drive: Drive, rgb_index: int) -> str:
    return f'{drive.settings.scene}_{drive.settings.seed}_{rgb_index:04d}'


def _write(path: Path, pixels: np.ndarray) -> None:
    write_bytes(path, cv2.imencode('.png', pixels)[1].tobytes())
