# SPDX-License-Identifier: Apache-2.0
"""An unchanged object detector on one or several image topics, side by side.

    python examples/detector_node.py --ros-args -p detector:=yolox_nano.onnx
    python examples/detector_node.py --ros-args -p detector:=yolox_nano.onnx \
        -p "topics:=[rgb/image_raw, thermal/image_raw, fused/image]"

For every image topic T it publishes

    T/detections          vision_msgs/Detection2DArray if installed, else JSON (std_msgs/String)
    T/detections/picture  sensor_msgs/Image, bgr8: the image with its boxes, for who subscribes

under the header of the image, and once a second `counts` (std_msgs/String, JSON): how many objects
of the wanted class each topic shows. With several topics `side_by_side` is a picture of all.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from diffmf_ros.core.frames import THERMAL, DiffmfError, Frame, FrameError
from diffmf_ros.core.imaging.color import to_rgb8
from diffmf_ros.core.imaging.thermal import GainControl, to_gray
from diffmf_ros.core.parameter_spec import OF_ROS, meant
from diffmf_ros.core.ros_names import require_topic_name
from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.ros import process, qos
from diffmf_ros.ros.messages import make_image, stamp_ns, to_frame
from diffmf_ros.tools.evaluation.detection_scores import drawn
from diffmf_ros.tools.evaluation.detector import Detections, Detector, class_number, read_classes

try:
    from vision_msgs import msg as vision
except ImportError:  # not part of a bare ROS installation
    vision = None

PARAMETERS = {  # name: default
    'detector': '',  # the ONNX file
    'topics': ['fused/image'],
    'layout': 'auto',  # yolox, yolov5, yolov8, nanodet: see `diffmf eval --help`
    'classes': '',  # names: a file with one a line, or a list with commas
    'wanted': 'person',  # the class that is counted: its name or number
    'least_score': 0.3,
    'threads': 0,  # of onnxruntime; 0: one per core
}
PERIOD_S = 1.0
MOST_THREADS = 256
PICTURE = '/detections/picture'  # the longest of the topics beside one of images
TILE_HEIGHT_PX = 360
CAPTION_PX = 24


class DetectorNode(Node):
    """Runs the detector on the newest image of every topic.

    Raises DiffmfError for parameters that cannot be used.
    """

    def __init__(self, **arguments):
        super().__init__('detector_node', **arguments)
        values = {name: self._given(name, default) for name, default in PARAMETERS.items()}
        for name in set(self._parameter_overrides) - set(PARAMETERS):
            if not name.startswith(OF_ROS):
                raise DiffmfError(f'unknown parameter {name}{meant(name, PARAMETERS)}')
        if not values['detector']:
            raise DiffmfError('give a detector as an ONNX file: -p detector:=FILE.onnx')
        self._names = read_classes(values['classes']) if values['classes'] else None
        self._wanted = class_number(values['wanted'], self._names)
        self._least_score = values['least_score']
        if not 0 <= self._least_score <= 1:
            raise DiffmfError(f'least_score must be from 0 to 1, got {self._least_score:g}')
        if not 0 <= values['threads'] <= MOST_THREADS:
            raise DiffmfError(f'threads must be from 0 to {MOST_THREADS}, got {values["threads"]}')
        given: dict[str, str] = {}  # the first of several names of one topic
        for topic in values['topics']:
            require_topic_name(topic)
            require_topic_name(f'{topic}{PICTURE}')
            given.setdefault(self.resolve_topic_name(topic), topic)
        self._detector = Detector(
            values['detector'], layout=values['layout'], threads=values['threads'],
            classes=len(self._names) if self._names else None)
        self._streams = [self._make_stream(topic) for topic in given.values()]
        best = qos.profile('reliable', depth=1)
        self._counts = self.create_publisher(String, 'counts', best)
        self._side_by_side = self.create_publisher(Image, 'side_by_side', best)
        self.create_timer(PERIOD_S, self._report)
        self.get_logger().info(
            f'{values["detector"]} ({self._detector.layout.name}) on '
            f'{", ".join(given.values())}; boxes as '
            f'{"vision_msgs" if vision else "JSON: vision_msgs is not installed"}')

    def _given(self, name: str, default):
        """Return a parameter, a single topic as a list of one. Raises DiffmfError."""
        value = self.declare_parameter(
            name, default, ParameterDescriptor(dynamic_typing=True)).value
        if isinstance(default, list) and isinstance(value, str):
            return [value]
        if isinstance(default, float) and type(value) is int:
            return float(value)
        if type(value) is not type(default) or value == []:
            raise DiffmfError(f'{name} must be of the type of {default!r}, got {value!r}')
        return value

    def _make_stream(self, topic: str) -> 'Stream':
        best = qos.profile('reliable', depth=1)
        stream = Stream(
            topic,
            boxes=self.create_publisher(
                vision.Detection2DArray if vision else String, f'{topic}/detections', best),
            picture=self.create_publisher(Image, f'{topic}{PICTURE}', best))
        stream.subscription = qos.MatchingSubscription(
            self, Image, topic, partial(self._look, stream), reliability='auto', depth=1,
            on_incompatible=lambda topic, policy: self.get_logger().warning(
                f'{topic}: a publisher offers incompatible {policy}'))
        return stream

    def _look(self, stream: 'Stream', message: Image) -> None:
        """Find objects in an image and publish them. An image that cannot be read is counted."""
        try:
            frame = to_frame(message, THERMAL, arrival_ns=self.get_clock().now().nanoseconds)
            picture = as_bgr(frame, stream.gain)
        except FrameError as error:
            stream.refused += 1
            self.get_logger().warning(f'{stream.topic}: {error}', throttle_duration_sec=5.0)
            return
        start_s = time.perf_counter()
        found = self._detector(picture, least_score=self._least_score)
        stream.count(int(np.sum(found.classes == self._wanted)), time.perf_counter() - start_s)
        if vision:
            stream.boxes.publish(as_vision(found, message.header, self._names, vision))
        else:
            stream.boxes.publish(String(data=json.dumps(as_dict(found, message, self._names))))
        self._draw(stream, message.header, picture, found)

    def _draw(self, stream, header: Header, picture: np.ndarray, found: Detections) -> None:
        together = len(self._streams) > 1 and self._side_by_side.get_subscription_count()
        if not (together or stream.picture.get_subscription_count()):
            return
        stream.drawn = drawn(picture, found, None, wanted=self._wanted)
        stream.picture.publish(make_image(stream.drawn, 'bgr8', header))
        if together and stream is self._streams[-1]:
            self._side_by_side.publish(make_image(tiles(self._streams), 'bgr8', header))

    def _report(self) -> None:
        for stream in self._streams:
            stream.subscription.refresh()
        totals = {stream.topic: stream.totals() for stream in self._streams}
        self._counts.publish(String(data=json.dumps(totals)))
        if any(one['images'] for one in totals.values()):
            self.get_logger().info(', '.join(
                f'{topic} {one["last"]} (mean {one["mean"]:.2f})'
                for topic, one in totals.items()))


@dataclass
class Stream:
    """What belongs to one image topic; last: objects of the wanted class in its newest image."""

    topic: str
    boxes: object
    picture: object
    subscription: object = None
    gain: GainControl = field(default_factory=lambda: GainControl(DEFAULTS.thermal))
    images: int = 0
    refused: int = 0
    last: int = 0
    found: int = 0
    busy_s: float = 0.0
    drawn: np.ndarray | None = None

    def count(self, wanted: int, busy_s: float) -> None:
        """Add an image in which so many wanted objects were found, in this time."""
        self.images, self.last, self.found = self.images + 1, wanted, self.found + wanted
        self.busy_s += busy_s

    def totals(self) -> dict:
        """Return the counts, their mean per image, and the detector's mean time in ms."""
        images = max(1, self.images)
        return {
            'images': self.images, 'refused': self.refused,
            'last': self.last, 'found': self.found,
            'mean': self.found / images, 'detector_ms': 1e3 * self.busy_s / images}


def as_bgr(frame: Frame, gain: GainControl) -> np.ndarray:
    """Return an image as the detector takes it: H x W x 3 BGR, or H x W gray for thermal.

    Raises FrameError for pixels of other kinds.
    """
    if frame.encoding in ('mono16', '32FC1'):
        return to_gray(frame.pixels, frame.encoding, gain.levels(frame))
    return np.ascontiguousarray(to_rgb8(frame.pixels, frame.encoding)[..., ::-1])


def as_dict(found: Detections, message: Image, names: list[str] | None) -> dict:
    """Return detections under the header of their image; boxes are x0, y0, x1, y1 px."""
    return {
        'stamp_ns': stamp_ns(message.header.stamp),
        'frame_id': message.header.frame_id,
        'width': message.width, 'height': message.height,
        'detections': [
            {'class': name_of(number, names), 'number': int(number),
             'score': round(float(score), 4), 'box': [round(float(value), 2) for value in box]}
            for box, score, number in zip(*found, strict=True)]}


def as_vision(found: Detections, header: Header, names: list[str] | None, messages):
    """Return the Detection2DArray of detections; messages is vision_msgs.msg, 4.0 or newer."""
    array = messages.Detection2DArray(header=header)
    for box, score, number in zip(*found, strict=True):
        x0, y0, x1, y1 = map(float, box)
        one = messages.Detection2D(header=header)
        one.bbox.center.position.x, one.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        one.bbox.size_x, one.bbox.size_y = x1 - x0, y1 - y0
        guess = messages.ObjectHypothesisWithPose()
        guess.hypothesis.class_id, guess.hypothesis.score = name_of(number, names), float(score)
        one.results.append(guess)
        array.detections.append(one)
    return array


def name_of(number: int, names: list[str] | None) -> str:
    """Return the name of a class, or its number where names are unknown."""
    return names[number] if names and number < len(names) else str(int(number))


def tiles(streams: list[Stream]) -> np.ndarray:
    """Return the newest drawn images beside each other, topic and count above each."""
    columns = []
    for stream in streams:
        image = stream.drawn if stream.drawn is not None else np.zeros((3, 4, 3), np.uint8)
        width = max(1, round(image.shape[1] * TILE_HEIGHT_PX / image.shape[0]))
        caption = np.zeros((CAPTION_PX, width, 3), np.uint8)
        cv2.putText(caption, f'{stream.topic}: {stream.last}', (4, 17),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        columns.append(np.vstack((caption, cv2.resize(image, (width, TILE_HEIGHT_PX)))))
    return np.hstack(columns)


def run(_, stop: process.StopRequest) -> None:
    """Run the node until stop is requested."""
    node = DetectorNode()
    try:
        process.spin_until(node, stop)
    finally:
        node.destroy_node()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return no options: all is given as ROS parameters. --help shows the text above."""
    parser = argparse.ArgumentParser(
        'detector_node', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args(arguments)


def main(args: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; return the exit code: 1 when the detector cannot be used."""
    return process.execute('detector_node', args, parse, run)


if __name__ == '__main__':
    raise SystemExit(main())
