# SPDX-License-Identifier: Apache-2.0
"""Write a synthetic drive as a rosbag2, with its alignment and its ground truth in the bag folder."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ...core.alignment.geometry import Alignment
from ...core.frames import RGB, THERMAL
from ...io.bag_messages import camera_info_message, image_message
from ...io.bags import CAMERA_INFO, IMAGE, BagWriter
from .cameras import DriveError
from .drive import Drive, DriveSettings

ALIGNMENT_FILE = 'alignment.yaml'
TRUTH_FILE = 'ground_truth.json'


def alignment_of(drive: Drive) -> Alignment:
    """Return the exact alignment of the drive's cameras for the plane at `rig.plane_m`."""
    rgb, thermal = drive.rig.rgb, drive.rig.thermal
    homography = tuple(tuple(float(value) for value in row) for row in drive.rig.rgb_from_thermal())
    return Alignment(homography, (rgb.width, rgb.height), (thermal.width, thermal.height))


@dataclass(frozen=True)
class RecordedDrive:
    """What the folder of a recorded drive says about it; exposures_ns: true time of each RGB stamp."""

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
        raise DriveError(f'expected the ground truth of a rendered drive in {path}, got {error!r}; render the drive '
                         'again, or remove the file to use the bag as any other') from error


def record(drive: Drive, path: str | Path, *, storage: str = 'sqlite3', overwrite: bool = False,
           from_s: float = 0.0) -> Iterator[int]:
    """Write the drive to a bag at path; yields the number of frames written so far, one by one.

    What was exposed before from_s seconds is left out.

    Topics: /rgb/image_raw, /rgb/camera_info, /thermal/image_raw, /thermal/camera_info. The folder also
    gets alignment.yaml and ground_truth.json. Raises BagError when the bag cannot be written; nothing is
    left behind then, nor when the iteration is given up half-way.
    """
    truths = {RGB: [], THERMAL: []}
    with BagWriter(path, storage, overwrite=overwrite) as bag:
        for written, timed in enumerate(drive.frames(from_s=from_s), start=1):
            frame, camera = timed.frame, drive.camera(timed.frame.stream)
            about = {'stamp_ns': frame.stamp_ns, 'frame_id': frame.frame_id}
            info = camera_info_message(camera.k, width=camera.width, height=camera.height, **about)
            image = image_message(frame.pixels, frame.encoding, **about)
            bag.write(f'/{frame.stream}/image_raw', IMAGE, image, frame.arrival_ns)
            bag.write(f'/{frame.stream}/camera_info', CAMERA_INFO, info, frame.arrival_ns)
            actors = drive.truth(timed.exposure_ns).actors
            truths[frame.stream].append({'stamp_ns': frame.stamp_ns, 'exposure_ns': timed.exposure_ns,
                                         'actors': [asdict(actor) for actor in actors]})
            yield written
        alignment_of(drive).save(bag.folder / ALIGNMENT_FILE)
        text = json.dumps(ground_truth(drive, truths), separators=(',', ':'))
        (bag.folder / TRUTH_FILE).write_text(text, encoding='utf-8')


def ground_truth(drive: Drive, truths: dict[str, list[dict]]) -> dict:
    """Return the content of ground_truth.json: settings, geometry, clocks, and the actors of every frame.

    Boxes lie on the RGB grid, those of thermal frames too. Label images are not stored: a `Drive` with
    the same settings gives them (`Drive.truth(exposure_ns).labels`).
    """
    return {
        'settings': asdict(drive.settings),
        'rgb_from_thermal': drive.rig.rgb_from_thermal().tolist(),
        'plane_m': drive.rig.plane_m,
        'thermal_offset_ms': drive.rig.thermal_offset_ms,
        'air_c': drive.scene.environment.air_c,
        'frames': truths,
    }
