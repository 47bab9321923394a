# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs <-> the types of the core. Headers pass unchanged: stamp and frame id."""

import importlib
import sys
from array import array
from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ..core.alignment.camera import CameraModel
from ..core.frames import DiffmfError, Frame, FrameError, FusionResult
from ..core.imaging import compressed
from ..core.imaging.encodings import decode_message

NS_PER_S = 1_000_000_000


class MessageTypeError(DiffmfError):
    """The Python package of a message type is not installed."""


def message_class(name: str) -> type:
    """Return the class of a type name such as 'sensor_msgs/msg/Image'.

    Raises MessageTypeError when its package cannot be imported or has no such message.
    """
    package, _, rest = name.partition('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), rest.rpartition('/')[2])
    except (ImportError, AttributeError) as error:
        raise MessageTypeError(f'message type {name} is not available here ({error}); '
                               f'install its package or leave out its topics') from error


def stamp_ns(stamp: Time) -> int:
    """Nanoseconds of a stamp."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def make_header(stamp_ns: int, frame_id: str) -> Header:
    """Return the header with this stamp in ns and this frame id."""
    sec, nanosec = divmod(stamp_ns, NS_PER_S)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


def to_frame(message: Image, stream: str, *, arrival_ns: int) -> Frame:
    """Return the frame of an image message; its pixels are a view of message.data where possible.

    Encodings that this package does not know are left to cv_bridge, where it is installed. Raises
    FrameError for data that does not fit the description: see decode_message.
    """
    try:
        pixels, encoding = decode_message(message)
    except FrameError as error:
        if error.reason != 'unknown_encoding':
            raise
        pixels, encoding = _by_cv_bridge(message, error), 'bgr8'
    return Frame(stream, stamp_ns(message.header.stamp), message.header.frame_id, pixels, encoding,
                 arrival_ns=arrival_ns)


def _by_cv_bridge(message: Image, unknown: FrameError) -> np.ndarray:
    """Return the pixels as H x W x 3 bgr8.

    Raises unknown without cv_bridge, FrameError when it cannot either.
    """
    try:
        from cv_bridge import CvBridge
    # not installed, or built for another numpy: that ends in AttributeError or ImportError
    except Exception:
        raise unknown from None
    try:
        return CvBridge().imgmsg_to_cv2(message, 'bgr8')
    except Exception as error:  # its own, OpenCV's, or one of a broken build
        raise FrameError(f'{unknown}; cv_bridge cannot convert it either: {error}',
                         reason=unknown.reason) from error


def compressed_to_frame(message: CompressedImage, stream: str, *, arrival_ns: int) -> Frame:
    """Return the frame of a compressed image message (JPEG, PNG of 8 or 16 bits).

    Raises FrameError for data that cannot be decoded: see core.imaging.compressed.decode.
    """
    pixels, encoding = compressed.decode(message.data, message.format)
    return Frame(stream, stamp_ns(message.header.stamp), message.header.frame_id, pixels, encoding,
                 arrival_ns=arrival_ns)


def make_image(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Return the image message of pixels (H x W [x C], any dtype in native byte order)."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1],
                    encoding=encoding, is_bigendian=int(sys.byteorder == 'big'),
                    step=pixels.strides[0])
    message.data = _octets(pixels.view(np.uint8))
    return message


def result_image(result: FusionResult) -> Image:
    """Return the image message of a fusion result, under the header of its base image."""
    return make_image(result.pixels, result.encoding,
                      make_header(result.stamp_ns, result.frame_id))


def compressed_result(result: FusionResult, *, quality: int) -> CompressedImage:
    """Return a fusion result as a JPEG message of this quality, 1 to 100, under the header of its
    base image."""
    message = CompressedImage(header=make_header(result.stamp_ns, result.frame_id),
                              format=compressed.jpeg_format(result.encoding))
    message.data = _octets(compressed.encode(result.pixels, result.encoding, quality=quality))
    return message


def _octets(buffer) -> array:
    """The one quick way into a message on every distribution.

    bytes, memoryview and ndarray are checked or converted value by value: 30 to 90 ms for a
    640x480 color image.
    """
    data = array('B')
    data.frombytes(buffer)
    return data


def make_camera_info(header: Header, *, size: tuple[int, int],
                     camera: CameraModel | None = None) -> CameraInfo:
    """Return the calibration of camera for an image of this (width, height).

    Without one K is all zero.
    """
    info = CameraInfo(header=header, width=size[0], height=size[1])
    if camera is not None:
        info.distortion_model, info.d = camera.distortion_model, list(camera.d)
        info.k, info.r, info.p = (np.array(matrix).ravel()
                                  for matrix in (camera.k, camera.r, camera.p))
    return info


def key_values(values: Mapping[str, str]) -> list[KeyValue]:
    """Return values as the key values of a status."""
    return [KeyValue(key=key, value=value) for key, value in values.items()]
