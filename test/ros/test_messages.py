# SPDX-License-Identifier: Apache-2.0
"""Messages to frames and back: nothing of the header or the pixels may change on the way."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.frames import RGB, THERMAL, FrameError, FusionResult, Mode
from diffmf_ros.ros import messages

STAMP_NS = 1_700_000_000_123_456_789


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, 10**9, STAMP_NS])
def test_stamp_survives_header(stamp_ns):
    """A stamp survives the way through a header."""
    header = messages.make_header(stamp_ns, 'camera')

    assert messages.stamp_ns(header.stamp) == stamp_ns
    assert 0 <= header.stamp.nanosec < 10**9
    assert header.frame_id == 'camera'


@pytest.mark.parametrize('encoding, dtype, channels', [
    ('mono8', np.uint8, 1), ('mono16', np.uint16, 1), ('32FC1', np.float32, 1),
    ('bgr8', np.uint8, 3),
    ('rgba8', np.uint8, 4)])
def test_image_survives_frame(encoding, dtype, channels):
    """An image survives the way to a frame."""
    shape = (5, 7) if channels == 1 else (5, 7, channels)
    pixels = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)

    image = messages.make_image(pixels, encoding, messages.make_header(STAMP_NS, 'lwir'))
    frame = messages.to_frame(image, THERMAL, arrival_ns=42)

    assert (image.height, image.width, image.step) == (5, 7, 7 * channels * pixels.itemsize)
    assert np.array_equal(frame.pixels, pixels) and frame.pixels.dtype == dtype
    assert (frame.stream, frame.stamp_ns, frame.frame_id) == (THERMAL, STAMP_NS, 'lwir')
    assert (frame.encoding, frame.arrival_ns) == (encoding, 42)


def test_frame_is_message_view():
    """A frame is a view of its message."""
    image = messages.make_image(np.zeros((4, 4), np.uint8), 'mono8', messages.make_header(0, ''))

    frame = messages.to_frame(image, THERMAL, arrival_ns=0)
    image.data[5] = 200

    assert frame.pixels[1, 1] == 200


def test_strided_image_sent_without_gaps():
    """A strided image is sent without its gaps."""
    wide = np.arange(4 * 10, dtype=np.uint8).reshape(4, 10)

    image = messages.make_image(wide[:, 2:8], 'mono8', messages.make_header(0, ''))

    assert image.step == 6
    assert bytes(image.data) == wide[:, 2:8].tobytes()


def test_wrong_message_size_is_refused():
    """A message that lies about its size is refused."""
    image = messages.make_image(np.zeros((4, 4), np.uint8), 'mono8', messages.make_header(0, ''))
    image.height = 5

    with pytest.raises(FrameError, match='short buffer') as caught:
        messages.to_frame(image, THERMAL, arrival_ns=0)

    assert caught.value.reason == 'short_buffer'


def test_result_has_base_header():
    """A result becomes an image under the header of its base."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    result = FusionResult(STAMP_NS, 'rgb_optical', pixels, 'rgb8', Mode.FUSED)

    image = messages.result_image(result)

    assert isinstance(image, Image)
    assert (messages.stamp_ns(image.header.stamp),
            image.header.frame_id) == (STAMP_NS, 'rgb_optical')
    assert (image.encoding, image.width, image.height, image.step) == ('rgb8', 8, 6, 24)
    assert bytes(image.data) == pixels.tobytes()


def test_a_compressed_image_becomes_a_frame():
    counts = np.random.default_rng(0).integers(6000, 9000, (5, 7)).astype(np.uint16)
    message = CompressedImage(header=messages.make_header(STAMP_NS, 'lwir'),
                              format='16UC1; png compressed ')
    message.data.frombytes(cv2.imencode('.png', counts)[1].tobytes())

    frame = messages.compressed_to_frame(message, THERMAL, arrival_ns=42)

    assert np.array_equal(frame.pixels, counts)
    assert (frame.stream, frame.stamp_ns, frame.frame_id) == (THERMAL, STAMP_NS, 'lwir')
    assert (frame.encoding, frame.arrival_ns) == ('mono16', 42)


def test_empty_compressed_message_is_refused():
    """A compressed message without data is refused."""
    with pytest.raises(FrameError, match='no data') as caught:
        messages.compressed_to_frame(CompressedImage(format='jpeg'), THERMAL, arrival_ns=0)

    assert caught.value.reason == 'empty_data'


@pytest.mark.parametrize('encoding, format', [
    ('rgb8', 'rgb8; jpeg compressed bgr8'), ('bgr8', 'bgr8; jpeg compressed bgr8'),
    ('mono8', 'mono8; jpeg compressed ')])
def test_compressed_result_has_base_header(encoding, format):
    """A compressed result is the picture under the header of its base."""
    pixels = np.full((48, 64, 3), (200, 60, 40),
                     np.uint8) if encoding != 'mono8' else np.full((48, 64), 77, np.uint8)
    result = FusionResult(STAMP_NS, 'rgb_optical', pixels, encoding, Mode.FUSED)

    message = messages.compressed_result(result, quality=95)
    frame = messages.compressed_to_frame(message, RGB, arrival_ns=0)

    assert (frame.stamp_ns, frame.frame_id, message.format) == (STAMP_NS, 'rgb_optical', format)
    # frames of compressed color are bgr8
    expected = pixels[..., ::-1] if encoding == 'rgb8' else pixels
    assert np.abs(frame.pixels.astype(int) - expected).max() <= 3


def test_calibration_round_trip():
    """A calibration comes back as it was."""
    k, p = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0], [400.0, 0.0, 320.0, 0.0, 0.0,
                                                                   400.0, 240.0, 0.0]
    calibration = CameraInfo(width=640, height=480, distortion_model='plumb_bob',
                             d=[0.1, 0.0, 0.0, 0.0, 0.0], k=k,
                             r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                             p=[*p, 0.0, 0.0, 1.0, 0.0])

    info = messages.make_camera_info(messages.make_header(STAMP_NS, 'new'), size=(640, 480),
                                     camera=CameraModel.from_info(calibration))

    assert (messages.stamp_ns(info.header.stamp), info.header.frame_id) == (STAMP_NS, 'new')
    info.header = calibration.header
    assert info == calibration


def test_missing_calibration_says_uncalibrated():
    """Without calibration the camera info says uncalibrated."""
    info = messages.make_camera_info(messages.make_header(STAMP_NS, 'rgb'), size=(640, 480))

    assert (info.width, info.height) == (640, 480)
    assert not info.k.any() and not info.p.any() and info.distortion_model == ''


def test_message_classes_are_found_by_name():
    assert messages.message_class('sensor_msgs/msg/Image') is Image
    for name in ('no_such_msgs/msg/Image', 'sensor_msgs/msg/NoSuchMessage'):
        with pytest.raises(messages.MessageTypeError, match=name):
            messages.message_class(name)


class Bridge:
    """What is used of cv_bridge.CvBridge, for one encoding."""

    def imgmsg_to_cv2(self, message, encoding):
        if message.encoding != 'nv24':
            raise TypeError(f'Unrecognized image encoding [{message.encoding}]')
        return np.full((message.height, message.width, 3), 7, np.uint8)


def unknown_image(encoding):
    return Image(height=2, width=3, encoding=encoding, step=18, data=bytes(36))


def test_unknown_encoding_uses_cv_bridge(monkeypatch):
    """An unknown encoding is left to cv_bridge."""
    monkeypatch.setitem(sys.modules, 'cv_bridge', SimpleNamespace(CvBridge=Bridge))

    frame = messages.to_frame(unknown_image('nv24'), RGB, arrival_ns=1)
    assert frame.encoding == 'bgr8' and (frame.pixels == 7).all()

    with pytest.raises(FrameError,
                       match='cv_bridge cannot convert it either: Unrecognized') as refused:
        messages.to_frame(unknown_image('yuv9'), RGB, arrival_ns=1)
    assert refused.value.reason == 'unknown_encoding'


def test_unknown_encoding_without_cv_bridge(monkeypatch):
    """Without cv_bridge an unknown encoding is refused."""
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)

    with pytest.raises(FrameError, match="unknown encoding 'nv24'; known: mono8"):
        messages.to_frame(unknown_image('nv24'), RGB, arrival_ns=1)
