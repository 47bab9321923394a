# SPDX-License-Identifier: Apache-2.0
"""What the active node listens to.

Both cameras, their calibrations, and the optional range and shutter topics.

Callbacks of this module run in the executor's thread and end in the functions of Handlers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Range
from std_msgs.msg import Bool

from ..core.alignment.camera import CalibrationError, CameraModel, Uncalibrated
from ..core.alignment.geometry import AlignmentError
from ..core.frames import RGB, THERMAL, Frame, FrameError, Issue
from ..core.imaging.camera_picture import CameraPicture
from ..core.settings import Settings
from . import messages, qos
from .camera_watch import MESSAGES, CameraWatch
from .qos import StreamTopics

SHUTTER = 'thermal/shutter'
RANGE = 'range'


@dataclass(frozen=True)
class Handlers:
    """Where everything that arrives goes to."""

    frame: Callable[[Frame], None]
    refused: Callable[[str, FrameError], None]
    camera: Callable[[str, CameraModel | None], None]
    issue: Callable[[str, Issue | None], None]
    shutter: Callable[[bool], None]
    depth_m: Callable[[float], None]


class Inputs:
    """The subscriptions that settings ask for.

    `incompatible` maps a topic to the quality-of-service policy by which a publisher cannot be
    received; `watches` has what is known of the publishers of the images, by stream.
    """

    def __init__(self, node: Node, settings: Settings, handlers: Handlers):
        self.incompatible: dict[str, str] = {}
        self._node, self._qos, self._handlers = node, settings.qos, handlers
        self._known: dict[str, tuple] = {}
        self._settings = settings
        self._pictures = {stream: CameraPicture(stream) for stream in (RGB, THERMAL)}
        self._notes: dict[str, tuple[str, ...]] = {RGB: (), THERMAL: ()}
        self._infos: dict[str, CameraInfo] = {}
        self._subscriptions: list[qos.MatchingSubscription] = []
        self.watches: dict[str, CameraWatch] = {}
        for stream, transport in ((RGB, settings.input.rgb_transport),
                                  (THERMAL, settings.input.thermal_transport)):
            self._subscribe_camera(stream, transport)
        if settings.health.shutter_flag:
            self._subscribe(Bool, SHUTTER, lambda message: handlers.shutter(message.data))
        if settings.alignment.depth_from_range:
            self._subscribe(Range, RANGE, self._on_range)

    def refresh(self) -> None:
        """Follow publishers that came or went; call it now and then."""
        for subscription in self._subscriptions:
            if subscription.refresh():
                self.incompatible.pop(subscription.topic, None)
        for watch in self.watches.values():
            watch.refresh()

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self._subscriptions:
            subscription.destroy()
        self._subscriptions.clear()

    def _subscribe_camera(self, stream: str, transport: str) -> None:
        topics = StreamTopics.of(self._node, stream)
        topic = topics.image if transport == 'raw' else topics.compressed
        decode = messages.to_frame if transport == 'raw' else messages.compressed_to_frame
        self.watches[stream] = CameraWatch(self._node, stream, topics, transport,
                                           incompatible=lambda: self.incompatible.get(topic, ''))
        self._subscribe(MESSAGES[transport], topic, partial(self._on_image, decode, stream))
        self._subscribe(CameraInfo, topics.camera_info, partial(self._on_camera_info, stream),
                        take_latched=True)

    def _subscribe(self, message_type: type, topic: str, callback: Callable, *,
                   take_latched: bool = False) -> None:
        self._subscriptions.append(qos.MatchingSubscription(
            self._node, message_type, topic, callback, reliability=self._qos.reliability,
            depth=self._qos.depth,
            on_incompatible=self.incompatible.__setitem__, take_latched=take_latched))

    def _on_image(self, decode: Callable, stream: str, message) -> None:
        """Hand on the picture of an image message; what is new about it is logged."""
        self.watches[stream].newest_bytes = len(message.data)
        picture = self._pictures[stream]
        before = picture.state
        try:
            frame = picture.of(decode(message, stream, arrival_ns=time.monotonic_ns()),
                               self._settings)
        except FrameError as error:
            self._handlers.refused(stream, error)
            return
        if picture.state != before:
            self._tell_change(stream)
        self._handlers.frame(replace(frame, upright=True))

    def _tell_change(self, stream: str) -> None:
        """Log what is done to the images of a stream, and read its calibration again."""
        notes = self._pictures[stream].notes
        for note in notes:
            if note not in self._notes[stream]:
                self._node.get_logger().info(note)
        self._notes[stream] = notes
        if (message := self._infos.get(stream)) is not None:
            self._known.pop(stream, None)  # a latched calibration does not come again
            self._on_camera_info(stream, message)

    def _on_camera_info(self, stream: str, message: CameraInfo) -> None:
        """Cameras repeat their calibration with every image: only a new one is read."""
        content = (message.header.frame_id, message.width, message.height,
                   message.distortion_model, message.binning_x, message.binning_y, message.roi,
                   bytes(message.k),
                   bytes(message.r), bytes(message.p), tuple(message.d))
        if content == self._known.get(stream):
            return
        self._known[stream], self._infos[stream] = content, message
        try:
            camera = self._pictures[stream].camera(CameraModel.from_info(message), self._settings)
        except Uncalibrated:  # no fault: who needs a calibration says that it is missing
            self._handlers.issue(stream, None)
            self._handlers.camera(stream, None)
        except CalibrationError as error:
            self._handlers.issue(stream, Issue(
                'camera_info_unusable', f'{stream}/camera_info is not usable: {error}', stream))
            self._handlers.camera(stream, None)
        else:
            self._handlers.issue(stream, None)
            self._handlers.camera(stream, camera)

    def _on_range(self, message: Range) -> None:
        """A reading outside the sensor's own limits, as REP-117 has them, says nothing about the
        depth."""
        if not message.min_range <= message.range <= message.max_range:
            return
        try:
            self._handlers.depth_m(float(message.range))
        except AlignmentError as error:
            self._handlers.issue(RANGE, Issue('range_unusable',
                                              f'{RANGE} is not usable: {error}'))
        else:
            self._handlers.issue(RANGE, None)
