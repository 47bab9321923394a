# SPDX-License-Identifier: Apache-2.0
"""The extrinsics of the two cameras from the TF messages of a bag, for alignment.from_tf."""

import numpy as np

from ..core.alignment.camera import CameraModel
from ..core.alignment.homography import AlignmentError
from ..core.alignment.rig import Extrinsics
from ..core.frames import RGB, THERMAL
from ..io.bags import BagReader

TOPICS = '/tf_static', '/tf'


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
