# SPDX-License-Identifier: Apache-2.0
"""The pictures of both cameras of a recording, the calibrations that belong to them, and the
mounting that its TF messages tell (alignment.from_tf).

Crop, orientation and extra rows are taken off as the node does it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..core.alignment.camera import CalibrationError, CameraModel, Uncalibrated
from ..core.alignment.homography import AlignmentError
from ..core.alignment.rig import Extrinsics
from ..core.frames import RGB, THERMAL, Pair
from ..core.imaging.camera_picture import CameraPicture
from ..core.settings import Settings
from ..io.bags import BagError, BagReader

TOPICS = '/tf_static', '/tf'


class BagCameras:
    """Crops and turns the frames of a recording, and its camera infos with them."""

    def __init__(self, infos: Mapping[str, CameraModel | None], settings: Settings, *,
                 changed: Callable[[str, CameraModel | None], None]):
        """Take what the recording says of its cameras.

        Args:
            infos: the calibrations of the images as recorded, by stream.
            settings: those of the crops and orientations.
            changed: called with the stream and the calibration of its pictures, with the first
                pair and whenever it is another one.
        """
        self._problems: dict[str, str] = {}
        self._infos, self._settings, self._changed = infos, settings, changed
        self._pictures = {stream: CameraPicture(stream) for stream in (RGB, THERMAL)}
        self._known: dict[str, tuple] = {}
        self._cameras: dict[str, CameraModel | None] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the newest pictures of a camera have no calibration, of every camera."""
        return tuple(self._problems.values())

    def camera(self, stream: str) -> CameraModel | None:
        """Return the calibration of the newest picture of a camera, rectified or not, or None."""
        camera = self._cameras.get(stream)
        return camera and (camera.rectified() if self.rectified(stream) else camera)

    def rectified(self, stream: str) -> bool:
        """Return whether the images of a camera are rectified, as the settings say."""
        return getattr(self._settings.alignment, f'{stream}_rectified')

    def pair(self, pair: Pair) -> Pair:
        """Return the pair with the pictures in its frames. Raises FrameError as CameraPicture."""
        frames = {RGB: pair.rgb, THERMAL: pair.thermal}
        for stream, frame in frames.items():
            frames[stream] = self._pictures[stream].of(frame, self._settings)
            self._follow(stream)
        return replace(pair, rgb=frames[RGB], thermal=frames[THERMAL])

    def _follow(self, stream: str) -> None:
        picture = self._pictures[stream]
        if self._known.get(stream) == picture.state[:2]:
            return
        self._known[stream], info = picture.state[:2], self._infos.get(stream)
        self._problems.pop(stream, None)
        try:
            camera = info and picture.camera(info, self._settings)
        except CalibrationError as error:
            self._problems[stream] = f'{stream}/camera_info: {error}'
            camera = None
        self._cameras[stream] = camera
        self._changed(stream, camera)


def info_topic(topic: str) -> str:
    """Return the topic of the camera info beside an image topic, raw or compressed."""
    return f'{topic.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


def recorded_camera(reader: BagReader, topic: str, *,
                    refused: Callable[[str], object]) -> CameraModel | None:
    """Return what the first camera info beside an image topic says, or None.

    Args:
        reader: the open bag.
        topic: that of the images.
        refused: called with a sentence on an info that is not usable.
    """
    topic = info_topic(topic)
    if not reader.has(topic):
        return None
    message = next(reader.messages([topic]))
    try:
        return CameraModel.from_info(reader.deserialize(message.raw, message.msgtype))
    except Uncalibrated:  # no fault: who needs a calibration says that it is missing
        return None
    except (BagError, CalibrationError) as error:  # a message that is cut, too
        refused(f'{topic}: {error}')
        return None


def bag_extrinsics(reader: BagReader, cameras: dict[str, CameraModel | None]) -> Extrinsics | str:
    """Return the mounting x_thermal = R x_rgb + t that a bag tells, or a sentence why it does not.

    Of every pair of frames the first transform counts, static ones before others: cameras are
    mounted rigidly, and the same bag gives the same images.

    Args:
        reader: the open bag.
        cameras: what the camera infos say, by stream; their frame ids are looked up.
    """
    rgb_camera, thermal_camera = cameras[RGB], cameras[THERMAL]
    missing = [f'{stream}/camera_info' for stream in (RGB, THERMAL) if cameras[stream] is None]
    if rgb_camera is None or thermal_camera is None:
        return f'alignment.from_tf needs {" and ".join(missing)}: thermal is resized'
    source, target = rgb_camera.frame_id, thermal_camera.frame_id
    parents = _parents(reader)
    (root, rgb), (other, thermal) = _up(parents, source), _up(parents, target)
    if root != other:
        return (f'the bag has no transform from {source} to {target} on {" and ".join(TOPICS)}: '
                'thermal is resized')
    both = np.linalg.inv(thermal) @ rgb
    try:
        return Extrinsics(tuple(map(tuple, both[:3, :3].tolist())), tuple(both[:3, 3].tolist()))
    except AlignmentError as error:
        return f'the transform from {source} to {target} of the bag is not usable: {error}'


def _parents(reader: BagReader) -> dict[str, tuple[str, np.ndarray]]:
    """Return {frame: (parent, 4 x 4 matrix of points of the frame into the parent's)}."""
    found: dict[str, tuple[str, np.ndarray]] = {}
    for topic in TOPICS:
        if topic not in reader.topics or not reader.topics[topic].count:
            continue
        for message in reader.messages([topic]):
            for item in reader.deserialize(message.raw, message.msgtype).transforms:
                frame = item.child_frame_id.lstrip('/')
                if frame not in found:
                    found[frame] = item.header.frame_id.lstrip('/'), _matrix(item.transform)
    return found


def _matrix(transform) -> np.ndarray:
    q, t = transform.rotation, transform.translation
    mounting = Extrinsics.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = mounting.rotation, mounting.translation_m
    return matrix


def _up(parents: dict[str, tuple[str, np.ndarray]], frame: str) -> tuple[str, np.ndarray]:
    """Return the root above a frame, and the matrix of points of the frame into the root's."""
    matrix, frame = np.eye(4), frame.lstrip('/')
    for _ in range(len(parents)):  # a circle has no root
        if frame not in parents:
            break
        frame, step = parents[frame]
        matrix = step @ matrix
    return frame, matrix
