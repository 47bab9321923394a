# SPDX-License-Identifier: Apache-2.0
"""How images travel: quality-of-service profiles, and subscriptions that follow what is offered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

POLICIES = {'reliable': ReliabilityPolicy.RELIABLE, 'best_effort': ReliabilityPolicy.BEST_EFFORT}


def profile(reliability: str, *, depth: int, latched: bool = False) -> QoSProfile:
    """Return the keep-last profile of this reliability ('reliable' or 'best_effort').

    latched: transient local, else volatile.
    """
    return QoSProfile(depth=depth, reliability=POLICIES[reliability],
                      durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                      else DurabilityPolicy.VOLATILE)


def best_match(node: Node, topic: str) -> str:
    """Return 'reliable' when topic has publishers and all of them offer it, else 'best_effort'.

    Best effort connects to every publisher, but loses images larger than the sender's
    shared-memory segment (512 KB unless its Fast DDS profile says otherwise). topic is the name
    before remapping.
    """
    offered = [info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)]
    reliable = offered and all(policy == ReliabilityPolicy.RELIABLE for policy in offered)
    return 'reliable' if reliable else 'best_effort'


def is_latched(node: Node, topic: str) -> bool:
    """Return whether topic has publishers and all of them keep their messages for subscribers to
    come."""
    offered = [info.qos_profile.durability for info in node.get_publishers_info_by_topic(topic)]
    return bool(offered) and all(policy == DurabilityPolicy.TRANSIENT_LOCAL for policy in offered)


class MatchingSubscription:
    """A subscription whose reliability is given, or ('auto') follows the publishers of the topic.
    """

    def __init__(self, node: Node, message_type: type, topic: str, callback: Callable[[Any], None],
                 *, reliability: str, depth: int, on_incompatible: Callable[[str, str], None],
                 raw: bool = False, take_latched: bool = False):
        """Subscribe; callback gets a message, or with raw its CDR bytes.

        on_incompatible(topic, policy) is called when a publisher appears that cannot be received.
        take_latched: get what latched publishers sent before, too.
        """
        self.topic = topic
        self.reliability = ''
        self._latched = False
        self._take_latched = take_latched
        self._node = node
        self._message_type = message_type
        self._callback = callback
        self._wanted = reliability
        self._depth = depth
        self._raw = raw
        self._on_incompatible = on_incompatible
        self._subscription: Any = None
        self.refresh()

    def refresh(self) -> bool:
        """Subscribe anew when another quality of service fits the publishers better.

        Return whether it did.
        """
        best = best_match(self._node, self.topic) if self._wanted == 'auto' else self._wanted
        latched = self._take_latched and is_latched(self._node, self.topic)
        if (best, latched) == (self.reliability, self._latched):
            return False
        self.destroy()
        self.reliability, self._latched = best, latched
        self._subscription = self._node.create_subscription(
            self._message_type, self.topic, self._callback,
            profile(best, depth=self._depth, latched=latched),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._report),
            raw=self._raw)
        return True

    def destroy(self) -> None:
        """Unsubscribe; refresh() subscribes again."""
        self.reliability = ''
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _report(self, event: Any) -> None:
        self._on_incompatible(self.topic, qos_policy_name_from_kind(event.last_policy_kind))


COMPRESSED = '/compressed'


@dataclass(frozen=True)
class StreamTopics:
    """The topics of one camera, as names to subscribe to with the node that they were made for.

    Where only the images are remapped, the other two are looked for beside them, as
    image_transport does: rgb/image_raw:=/camera/image_raw means /camera/camera_info and
    /camera/image_raw/compressed too.
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
