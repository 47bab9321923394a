# SPDX-License-Identifier: Apache-2.0
"""The names of the topics of one camera: what goes with its images follows them when they are remapped."""

from dataclasses import dataclass

from rclpy.node import Node

COMPRESSED = '/compressed'


@dataclass(frozen=True)
class StreamTopics:
    """The topics of one camera, as names to subscribe to with the node that they were made for.

    Where only the images are remapped, the other two are looked for beside them, as image_transport does:
    rgb/image_raw:=/camera/image_raw means /camera/camera_info and /camera/image_raw/compressed too.
    """

    image: str
    compressed: str
    camera_info: str

    @classmethod
    def of(cls, node: Node, stream: str) -> 'StreamTopics':
        """Return the topics of a stream, RGB or THERMAL, of node."""
        image, compressed, info = (f'{stream}/{name}' for name in (
            'image_raw', 'image_raw' + COMPRESSED, 'camera_info'))
        base = None  # the image topic that somebody has chosen, if anybody has
        if _remapped(node, image):
            base = node.resolve_topic_name(image)
        elif _remapped(node, compressed):
            base = node.resolve_topic_name(compressed).removesuffix(COMPRESSED)
        if base is None:
            return cls(image, compressed, info)
        return cls(image,
                   compressed if _remapped(node, compressed) else base + COMPRESSED,
                   info if _remapped(node, info) else f'{base.rpartition("/")[0]}/camera_info')


def _remapped(node: Node, topic: str) -> bool:
    return node.resolve_topic_name(topic) != node.resolve_topic_name(topic, only_expand=True)
