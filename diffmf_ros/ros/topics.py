# SPDX-License-Identifier: Apache-2.0
"""The topics of the node: what it listens to while it is active, and what it publishes beside
/diagnostics.

It listens to both cameras, their calibrations, and the optional range and shutter topics: those
callbacks run in the executor's thread and end in the functions of Handlers. Pictures that nobody
subscribes to are not made.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Range
from std_msgs.msg import Bool, Header

from ..core.alignment.camera import CalibrationError, CameraModel, Uncalibrated, output_info
from ..core.frames import RGB, THERMAL, Frame, FrameError, FusionResult, Issue
from ..core.imaging.camera_picture import CameraPicture
from ..core.imaging.color import overlay, side_by_side, to_rgb8
from ..core.settings import Settings
from . import messages, qos
from .camera_watch import MESSAGES, CameraWatch
from .qos import StreamTopics
from .range_watch import RANGE, RangeWatch

SHUTTER = 'thermal/shutter'


@dataclass(frozen=True)
class Handlers:
    """Where everything that arrives goes to."""

    frame: Callable[[Frame], None]
    refused: Callable[[str, FrameError], None]
    camera: Callable[[str, CameraModel | None], None]
    issue: Callable[[str, Issue | None], None]
    shutter: Callable[[bool], None]
    depth_m: Callable[[float | None], None]


class Inputs:
    """The subscriptions that settings ask for.

    `incompatible` maps a topic to the quality-of-service policy by which a publisher cannot be
    received; `watches` has what is known of the publishers of the images, by stream; `range` is
    the range finder, None where settings do not ask for one.
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
        self.range: RangeWatch | None = None
        for stream, transport in ((RGB, settings.input.rgb_transport),
                                  (THERMAL, settings.input.thermal_transport)):
            self._subscribe_camera(stream, transport)
        if settings.health.shutter_flag:
            self._subscribe(Bool, SHUTTER, lambda message: handlers.shutter(message.data))
        if settings.alignment.depth_from_range:
            self.range = RangeWatch(node, handlers.depth_m)
            self._subscribe(Range, RANGE, self.range.take)

    def refresh(self) -> None:
        """Follow publishers that came or went; call it now and then."""
        for subscription in self._subscriptions:
            if subscription.refresh():
                self.incompatible.pop(subscription.topic, None)
        for watch in self.watches.values():
            watch.refresh()
        if self.range is not None:
            self.range.refresh()

    @property
    def issues(self) -> list[Issue]:
        """Issues of the publishers of the images and of the range finder."""
        issues = [watch.issue for watch in self.watches.values() if watch.issue is not None]
        return [*issues, *(self.range.issues if self.range is not None else ())]

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


IMAGE, INFO, COMPRESSED, STATUS = ('fused/image', 'fused/camera_info', 'fused/image/compressed',
                                   'fused/status')
TEMPERATURE = 'fused/temperature'
ALIGNED, SIDE_BY_SIDE, OVERLAY, MASK = (
    f'fused/debug/{name}' for name in ('aligned_thermal', 'side_by_side', 'overlay', 'mask'))
TYPES = {IMAGE: Image, INFO: CameraInfo, COMPRESSED: CompressedImage, STATUS: DiagnosticArray,
         TEMPERATURE: Image,
         ALIGNED: Image, SIDE_BY_SIDE: Image, OVERLAY: Image, MASK: Image}
_UNCALIBRATED = 'fused/camera_info is uncalibrated'
# How long a node that stops waits until everybody has its last images.
ACKNOWLEDGE_S = 0.5  # less than process.STOP_S


class Outputs:
    """The publishers of a configured node; they send while it is active."""

    def __init__(self, node: LifecycleNode):
        self._node = node
        self._publishers = {
            topic: node.create_lifecycle_publisher(
                message_type, topic, qos.profile('reliable', depth=1),
                qos_overriding_options=QoSOverridingOptions.with_default_policies())
            for topic, message_type in TYPES.items()}

    def other_publishers(self) -> str:
        """Return who else publishes the fused images, in words; empty for nobody."""
        names = [f'{offer.node_namespace.rstrip("/")}/{offer.node_name}'
                 for offer in self._node.get_publishers_info_by_topic(IMAGE)]
        if (own := self._node.get_fully_qualified_name()) in names:
            names.remove(own)
        topic = self._node.resolve_topic_name(IMAGE)
        return f'{topic} is published by {" and ".join(names)}' if names else ''

    def publish(self, result: FusionResult, *, camera: CameraModel | None, informed: bool,
                jpeg_quality: int) -> tuple[Issue, ...]:
        """Publish an image with its camera info, both under one header, and what else of it
        somebody subscribes to; return what is amiss with the calibration and the temperatures.

        camera is that of the grid of result; informed: a camera info of that grid has come.
        """
        image = messages.result_image(result)
        height, width = result.pixels.shape[:2]
        info, found = None, []
        if camera is not None:
            try:
                info = output_info(camera, (width, height))
            except CalibrationError as error:
                found.append(Issue('uncalibrated', f'{result.grid}/camera_info: {error}; '
                                   f'{_UNCALIBRATED}', result.grid))
        elif not informed:  # one that is not usable has an issue of its own
            found.append(Issue('uncalibrated', f'nothing received on {result.grid}/camera_info: '
                               f'{_UNCALIBRATED}', result.grid))
        self._publishers[IMAGE].publish(image)
        self._publishers[INFO].publish(messages.make_camera_info(
            image.header, size=(width, height), camera=info))
        if self._publishers[COMPRESSED].get_subscription_count():
            self._publishers[COMPRESSED].publish(
                messages.compressed_result(result, quality=jpeg_quality))
        if self._publishers[TEMPERATURE].get_subscription_count():
            found += self._publish_temperature(result, image.header)
        return tuple(found)

    def publish_status(self, status: DiagnosticArray) -> None:
        """Publish how the image with the header of status was made."""
        self._publishers[STATUS].publish(status)

    def publish_views(self, result: FusionResult, rgb_encoding: str) -> None:
        """Publish the pictures of a pair that somebody wants, under the header of result.

        rgb_encoding is that of the RGB frame.
        """
        wanted = [topic for topic in (ALIGNED, SIDE_BY_SIDE, OVERLAY, MASK)
                  if self._publishers[topic].get_subscription_count()]
        images = result.images
        if images is None or not wanted:
            return
        rgb = to_rgb8(images.rgb, rgb_encoding)
        views = {
            ALIGNED: lambda: (images.thermal, 'mono8'),
            MASK: lambda: (images.seen.astype(np.uint8) * 255, 'mono8'),
            OVERLAY: lambda: (overlay(rgb, images.thermal, images.seen), 'rgb8'),
            SIDE_BY_SIDE: lambda: (side_by_side(rgb, images.thermal,
                                                to_rgb8(result.pixels, result.encoding)), 'rgb8')}
        header = messages.make_header(result.stamp_ns, result.frame_id)
        for topic in wanted:
            self._publishers[topic].publish(messages.make_image(*views[topic](), header))

    def _publish_temperature(self, result: FusionResult, header: Header) -> list[Issue]:
        """Publish the temperatures of the scene; return why there are none."""
        try:
            celsius = result.temperature()
        except FrameError as error:
            return [Issue('no_temperature', f'nothing is published on {TEMPERATURE}: {error}')]
        if celsius is not None:
            self._publishers[TEMPERATURE].publish(messages.make_image(celsius, '32FC1', header))
        return []

    def wait_until_received(self, *others: Publisher) -> None:
        """Wait, but not for long, until all subscribers have acknowledged what was sent last, by
        the others too."""
        until_s = time.monotonic() + ACKNOWLEDGE_S
        for publisher in (*others, *(self._publishers[topic] for topic in (IMAGE, INFO, STATUS))):
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, until_s - time.monotonic())))

    def destroy(self) -> None:
        """Take the publishers away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
