# SPDX-License-Identifier: Apache-2.0
"""What the node publishes beside /diagnostics. Pictures that nobody subscribes to are not made."""

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ..core.alignment.camera import CalibrationError, CameraModel, output_info
from ..core.frames import FrameError, FusionResult, Issue
from ..core.imaging.color import to_rgb8
from ..core.imaging.views import overlay, side_by_side
from . import messages, qos

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
ACKNOWLEDGE_S = 1.0


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

    def wait_until_received(self) -> None:
        """Wait, but not for long, until all subscribers have acknowledged what was sent last."""
        for topic in (IMAGE, INFO, STATUS):
            self._publishers[topic].wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))

    def destroy(self) -> None:
        """Take the publishers away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
