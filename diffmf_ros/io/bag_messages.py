# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag, without ROS: sensor_msgs made from arrays, and images decoded to frames."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from ..core.alignment.camera import CameraModel, nested
from ..core.frames import RGB, THERMAL, Frame, FrameError
from ..core.imaging import compressed
from ..core.imaging.encodings import decode_message
from .bags import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    BagError,
    BagReader,
    Message,
    image_topic,
    type_store,
)

_LAYOUTS = {
    'mono8': (np.uint8, 1), 'mono16': (np.uint16, 1), '32FC1': (np.float32, 1),
    'rgb16': (np.uint16, 3), 'bgr16': (np.uint16, 3), 'rgb8': (np.uint8, 3), 'bgr8': (np.uint8, 3),
    'rgba8': (np.uint8, 4), 'bgra8': (np.uint8, 4),
}


@cache
def _types() -> dict[str, Any]:
    return type_store().types


def _header(stamp_ns: int, frame_id: str) -> Any:
    stamp = _types()['builtin_interfaces/msg/Time'](sec=stamp_ns // 10**9,
                                                    nanosec=stamp_ns % 10**9)
    return _types()['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)


def image_message(pixels: np.ndarray, encoding: str, *, stamp_ns: int, frame_id: str) -> Any:
    """Return a sensor_msgs/Image of an H x W or H x W x C array in the layout of `encoding`.

    Raises BagError for an unknown encoding and for an array of another type or shape.
    """
    if encoding not in _LAYOUTS:
        raise BagError(f'encoding must be one of {", ".join(_LAYOUTS)}; got {encoding!r}')
    dtype, channels = _LAYOUTS[encoding]
    fits = pixels.ndim == 2 if channels == 1 else pixels.ndim == 3 and pixels.shape[2] == channels
    if pixels.dtype.newbyteorder('=') != dtype or not fits:
        raise BagError(f'{encoding} needs {channels} channel(s) of {np.dtype(dtype)}, '
                       f'got {pixels.dtype} of shape {pixels.shape}')
    height, width = pixels.shape[:2]
    little_endian = pixels.astype(pixels.dtype.newbyteorder('<'), copy=False)
    data = np.frombuffer(np.ascontiguousarray(little_endian).tobytes(), np.uint8)
    return _types()[IMAGE](
        header=_header(stamp_ns, frame_id), height=height, width=width, encoding=encoding,
        is_bigendian=0,
        step=width * channels * pixels.dtype.itemsize, data=data)


def camera_info_message(k: np.ndarray | None, *, width: int, height: int, stamp_ns: int,
                        frame_id: str) -> Any:
    """Return a sensor_msgs/CameraInfo of a distortion-free camera (REP-104).

    k is the 3 x 3 intrinsic matrix in pixels, or None for an uncalibrated camera: see
    model_message.
    """
    camera = None if k is None else CameraModel((width, height), nested(k), (0.0,) * 5)
    return model_message(camera, size=(width, height), stamp_ns=stamp_ns, frame_id=frame_id)


def model_message(camera: CameraModel | None, *, size: tuple[int, int], stamp_ns: int,
                  frame_id: str) -> Any:
    """Return the sensor_msgs/CameraInfo of a camera for an image of (width, height).

    None: K, R and P are zero and the distortion model is empty, which CameraInfo defines as
    "uncalibrated".
    """
    region = _types()['sensor_msgs/msg/RegionOfInterest'](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    k, r, p = (camera.k, camera.r, camera.p) if camera else (np.zeros(9), np.zeros(9),
                                                             np.zeros(12))
    return _types()[CAMERA_INFO](
        header=_header(stamp_ns, frame_id), height=size[1], width=size[0],
        distortion_model='' if camera is None else camera.distortion_model,
        d=np.array(() if camera is None else camera.d, np.float64),
        k=np.ravel(k), r=np.ravel(r), p=np.ravel(p),  # type: ignore[arg-type]
        binning_x=0, binning_y=0, roi=region)


def frames(reader: BagReader, rgb_topic: str, thermal_topic: str, *,
           refused: Callable[[str, FrameError], None] | None = None) -> Iterator[Frame]:
    """Yield the decoded frames of both cameras, raw or compressed, in recording order.

    stamp_ns is the header stamp, arrival_ns the recording time. A topic that the bag has in its
    compressed form alone is read from there. A frame that does not decode goes to refused(stream,
    error) and the next one follows; without `refused` its FrameError is raised. Raises BagError
    for a topic that is missing or carries no images.
    """
    if rgb_topic == thermal_topic:
        raise BagError(f'{rgb_topic} is given twice: expected the topics of two cameras')
    streams = {image_topic(reader, rgb_topic): RGB, image_topic(reader, thermal_topic): THERMAL}
    reader.require(*streams)
    for name in streams:
        if reader.topics[name].msgtype not in (IMAGE, COMPRESSED):
            raise BagError(f'{name} must carry {IMAGE} or {COMPRESSED}, it carries '
                           f'{reader.topics[name].msgtype}')
    for recorded in reader.messages(tuple(streams)):
        try:
            message, pixels, encoding = _decoded(reader, recorded)
        except FrameError as error:
            if refused is None:
                raise
            refused(streams[recorded.topic], error)
            continue
        yield Frame(streams[recorded.topic], stamp_of(message), message.header.frame_id, pixels,
                    encoding, arrival_ns=recorded.stamp_ns)


def _decoded(reader: BagReader, recorded: Message) -> tuple[Any, Any, str]:
    """Return message, pixels and encoding.

    Raises FrameError for one bad message, BagError for a bag of such.
    """
    message = reader.require_readable(recorded)
    if recorded.msgtype == COMPRESSED:
        return message, *compressed.decode(message.data, message.format)
    return message, *decode_message(message)


def stamp_of(message: Any) -> int:
    """Return the header stamp of a message object in nanoseconds."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
