# SPDX-License-Identifier: Apache-2.0
"""What the active node listens to: both cameras, their calibrations, and the optional range and shutter topics.

Callbacks of this module run in the executor's thread and end in the functions of Handlers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Range
from std_msgs.msg import Bool

from ..core.alignment.camera import CalibrationError, CameraModel, Uncalibrated
from ..core.alignment.geometry import AlignmentError
from ..core.frames import RGB, THERMAL, Frame, FrameError
from ..core.imaging.bit_depth import BitDepth
from ..core.imaging.extra_rows import SENSORS, ExtraRows
from ..core.imaging.false_color import GRAY, UNKNOWN, FalseColor
from ..core.settings import Settings
from . import messages, qos
from .camera_watch import MESSAGES, CameraWatch
from .stream_topics import StreamTopics

SHUTTER = 'thermal/shutter'
RANGE = 'range'


@dataclass(frozen=True)
class Handlers:
    """Where everything that arrives goes to."""

    frame: Callable[[Frame], None]
    refused: Callable[[str, FrameError], None]
    camera: Callable[[str, CameraModel | None], None]
    complaint: Callable[[str, str], None]
    shutter: Callable[[bool], None]
    depth_m: Callable[[float], None]


class Inputs:
    """The subscriptions that settings ask for.

    `incompatible` maps a topic to the quality-of-service policy by which a publisher cannot be received;
    `watches` has what is known of the publishers of the images, by stream.
    """

    def __init__(self, node: Node, settings: Settings, handlers: Handlers):
        self.incompatible: dict[str, str] = {}
        self._node, self._qos, self._handlers = node, settings.qos, handlers
        self._known: dict[str, tuple] = {}
        self._depth, self._extra_rows, self._thermal = BitDepth(), ExtraRows(), settings.thermal
        self._cut = (0, 0)
        self._false_color = FalseColor()
        self._infos: dict[str, CameraInfo] = {}
        self._subscriptions = []
        self.watches: dict[str, CameraWatch] = {}
        for stream, transport in ((RGB, settings.input.rgb_transport), (THERMAL, settings.input.thermal_transport)):
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
        self._subscribe(CameraInfo, topics.camera_info, partial(self._on_camera_info, stream), take_latched=True)

    def _subscribe(self, message_type: type, topic: str, callback: Callable, *, take_latched: bool = False) -> None:
        self._subscriptions.append(qos.MatchingSubscription(
            self._node, message_type, topic, callback, reliability=self._qos.reliability, depth=self._qos.depth,
            on_incompatible=self.incompatible.__setitem__, take_latched=take_latched))

    def _on_image(self, decode: Callable, stream: str, message) -> None:
        self.watches[stream].message_came(len(message.data))
        try:
            frame = decode(message, stream, arrival_ns=time.monotonic_ns())
            frame = self._depth.to_8_bit(frame) if stream == RGB else self._thermal_picture(frame)
        except FrameError as error:
            self._handlers.refused(stream, error)
        else:
            self._handlers.frame(frame)

    def _thermal_picture(self, frame: Frame) -> Frame:
        """Return a thermal frame without extra rows and in gray. Raises FrameError (false_color)."""
        before = self._false_color.palette
        gray = self._false_color.to_gray(self._without_extra_rows(frame))
        palette = self._false_color.palette
        if palette not in (before, GRAY):
            how = ('a palette that is not known here, and read by their luminance: choose white-hot in the camera'
                   if palette == UNKNOWN else f'the palette {palette}, which is undone')
            self._node.get_logger().info(f'thermal: its images are colored by {how}')
        return gray

    def _without_extra_rows(self, frame: Frame) -> Frame:
        before = self._cut
        trimmed = self._extra_rows.without(frame, self._thermal)
        self._cut = (self._extra_rows.top, self._extra_rows.bottom)
        if self._cut != before:
            self._node.get_logger().info(
                f'thermal: {self._cut[0]} rows at the top and {self._cut[1]} at the bottom of {frame.size[0]}x'
                f'{frame.size[1]} are cut off (thermal.extra_rows_top, extra_rows_bottom)')
            if (message := self._infos.get(THERMAL)) is not None:  # a latched one does not come again
                self._known.pop(THERMAL, None)
                self._on_camera_info(THERMAL, message)
        return trimmed

    def _picture_of(self, stream: str, camera: CameraModel) -> CameraModel:
        """Return camera without the extra rows, if its calibration has them."""
        top, bottom = self._cut if stream == THERMAL else (0, 0)
        (width, height), rows = camera.size, top + bottom
        if not rows or (width, height - rows) not in SENSORS and self._thermal.extra_rows_top < 0:
            return camera
        return camera.cropped(0, top, width, height - rows)

    def _on_camera_info(self, stream: str, message: CameraInfo) -> None:
        """Cameras repeat their calibration with every image: only a new one is read."""
        content = (message.header.frame_id, message.width, message.height, message.distortion_model,
                   message.binning_x, message.binning_y, message.roi, bytes(message.k), bytes(message.r),
                   bytes(message.p), tuple(message.d))
        if content == self._known.get(stream):
            return
        self._known[stream], self._infos[stream] = content, message
        try:
            camera = self._picture_of(stream, CameraModel.from_info(message))
        except Uncalibrated:  # no fault: who needs a calibration says that it is missing
            self._handlers.complaint(stream, '')
            self._handlers.camera(stream, None)
        except CalibrationError as error:
            self._handlers.complaint(stream, f'{stream}/camera_info is not usable: {error}')
            self._handlers.camera(stream, None)
        else:
            self._handlers.complaint(stream, '')
            self._handlers.camera(stream, camera)

    def _on_range(self, message: Range) -> None:
        """A reading outside the sensor's own limits, as REP-117 has them, says nothing about the depth."""
        if not message.min_range <= message.range <= message.max_range:
            return
        try:
            self._handlers.depth_m(float(message.range))
        except AlignmentError as error:
            self._handlers.complaint(RANGE, f'{RANGE} is not usable: {error}')
        else:
            self._handlers.complaint(RANGE, '')
