# SPDX-License-Identifier: Apache-2.0
"""What the log says about the images of one camera: who publishes them, and why none come."""

import os
import time
from collections import deque
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from ..core.frames import RGB, THERMAL, Issue
from ..core.sync.stream_health import MANY_MISSING, StreamHealth, StreamState
from ..io.resources import fastdds_environment
from .qos import COMPRESSED, StreamTopics

SILENT_S = 3.0
# A loss that goes on is said again this much later.
REPEAT_S = 60.0
SHOWN_TOPICS = 6
# The shared-memory segment of Fast DDS without a profile: a larger best-effort image is seldom
# received.
LOSSLESS_BYTES = 512 * 1024
# A camera is losing frames if it was late this often in the newest reports and yet sent something
# between them.
LATE_TIMES, LATE_OF = 3, 10
TYPES = {'raw': 'sensor_msgs/msg/Image', 'compressed': 'sensor_msgs/msg/CompressedImage'}
MESSAGES = {'raw': Image, 'compressed': CompressedImage}


class CameraWatch:
    """Watches who publishes the images of one camera, and says in the log what is amiss.

    `newest_bytes` is the size of the image that arrived last, usable or not; whoever receives it
    sets it, refresh() takes it. `issue` says why there have been no images for SILENT_S and what
    to do; None while they come.
    """

    def __init__(self, node: Node, stream: str, topics: StreamTopics, transport: str, *,
                 incompatible: Callable[[], str]):
        """Say in the log what node listens to.

        Args:
            node: the node that subscribes.
            stream: RGB or THERMAL.
            topics: where the images of stream come from.
            transport: 'raw' or 'compressed', the one that is subscribed to.
            incompatible: returns the quality-of-service policy in which a publisher does not
                match, or ''.
        """
        self.issue: Issue | None = None
        self._node, self._stream, self._transport, self._topics = node, stream, transport, topics
        self._own = topics.image if transport == 'raw' else topics.compressed
        self._incompatible = incompatible
        self._publishers: tuple[str, ...] = ()
        self.newest_bytes: int | None = None
        self._size_bytes = 0
        self._start_s = self._silent_since_s = time.monotonic()
        self._frames = 0
        self._late_yet_alive: deque[bool] = deque(maxlen=LATE_OF)
        self._lost_at_s = -REPEAT_S
        self._losing = False
        self._given_time = False  # to a publisher that came in this silence
        node.get_logger().info(f'{stream}: listening to {self.topic} ({TYPES[transport]})')

    @property
    def topic(self) -> str:
        """The absolute name of the topic of the images, after remapping."""
        return self._node.resolve_topic_name(self._own)

    def refresh(self) -> None:
        """Look at the publishers; call it now and then."""
        offers = self._offers()
        self._tell_publishers(offers)
        if self.newest_bytes is not None:
            self._size_bytes, self.newest_bytes = self.newest_bytes, None
            self._silent_since_s = time.monotonic()
            self.issue, self._given_time = None, False
        elif time.monotonic() - self._silent_since_s >= SILENT_S:
            issue = Issue('no_images', f'no {self._stream} images: {self._why_none(offers)}',
                          self._stream)
            if issue != self.issue:
                self.issue = issue
                self._node.get_logger().warning(issue.text)

    def judge(self, health: StreamHealth, now_ns: int) -> None:
        """Say in the log that frames do not arrive, and why.

        Call it now and then with the state of the stream.
        """
        late = health.status(now_ns).state in (StreamState.STALE, StreamState.LOST)
        self._late_yet_alive.append(late and health.frames > self._frames)
        self._frames = health.frames
        why, now_s = self._why_missing(health), time.monotonic()
        if why and now_s - self._lost_at_s >= REPEAT_S:
            self._lost_at_s = now_s
            self._node.get_logger().warning(f'{self._stream}: {why}')
        if self._losing and not why:
            self._node.get_logger().info(f'{self._stream}: its frames arrive again')
        self._losing = bool(why)

    def _offers(self) -> list:
        """The publishers of the images; in the first seconds only those whose nodes have been
        discovered."""
        offers = self._node.get_publishers_info_by_topic(self._own)
        if time.monotonic() - self._start_s >= SILENT_S:
            return offers
        return [offer for offer in offers if 'UNKNOWN' not in offer.node_name]

    def _tell_publishers(self, offers: list) -> None:
        publishers = tuple(sorted(map(_described, offers)))
        if publishers == self._publishers:
            return
        # Who has just come has as long as who was there before, but only once: a driver that
        # starts again and again sends nothing.
        if not self._publishers and not self._given_time:
            self._silent_since_s, self.issue, self._given_time = time.monotonic(), None, True
        self._publishers = publishers
        if not publishers:
            self._node.get_logger().info(f'{self._stream}: {self.topic} is published by nobody '
                                         f'any more')
        elif len(publishers) == 1:
            self._node.get_logger().info(f'{self._stream}: {self.topic} is published by '
                                         f'{publishers[0]}')
        else:
            self._node.get_logger().warning(
                f'{self._stream}: {self.topic} is published by {len(publishers)} nodes, '
                f'{_listed(publishers)}: '
                'the frames of both come in turn; stop all but one')

    def _why_none(self, offers: list) -> str:
        """Return why no image comes and what to do."""
        wanted = TYPES[self._transport]
        matching = [offer for offer in offers if offer.topic_type == wanted]
        if not offers:
            return self._why_nobody()
        if not matching:
            return self._why_other_type(offers)
        if policy := self._incompatible():
            return (f'{self.topic} is published by {_listed(map(_described, matching))}, which '
                    f'does not match in {policy.lower()}: set qos.reliability to auto')
        said = (f'{self.topic} is published by {_listed(map(_described, matching))}, but nothing '
                f'has come for {SILENT_S:g} s: does the camera send (ros2 topic hz {self.topic})?')
        return f'{said} {_profile_advice()}' if _best_effort(matching) else said

    def _why_nobody(self) -> str:
        published = dict(self._node.get_topic_names_and_types())
        other = 'compressed' if self._transport == 'raw' else 'raw'
        beside = self._node.resolve_topic_name(
            self._topics.compressed if other == 'compressed' else self._topics.image)
        if TYPES[other] in published.get(beside, ()) and self._node.count_publishers(beside):
            return (f'nobody publishes {self.topic}, but {beside} is published: '
                    f'set input.{self._stream}_transport to {other}')
        others = self._other_images(published)
        if others:
            first = others[0].partition(' ')[0].removesuffix(COMPRESSED)
            return (f'nobody publishes {self.topic}; images are published on {", ".join(others)}: '
                    f'remap, as in {self._stream}_image:={first} (fusion.launch.py) or -r '
                    f'{self._stream}/image_raw:={first}')
        return (f'nobody publishes {self.topic}, nor any image that could be it: is the driver '
                f'running, in ROS_DOMAIN_ID {os.environ.get("ROS_DOMAIN_ID") or 0}?')

    def _other_images(self, published: dict) -> list[str]:
        """The topics of images that others publish, compressed ones marked.

        Not those of this package, nor those that it takes for the other camera.
        """
        inputs = (StreamTopics.of(self._node, stream) for stream in (RGB, THERMAL))
        taken = [name for topics in inputs for name in (topics.image, topics.compressed)]
        taken += [f'fused/{name}' for name in (
            'image', 'image/compressed', 'temperature', 'debug/aligned_thermal',
            'debug/side_by_side', 'debug/overlay', 'debug/mask')]
        own = set(map(self._node.resolve_topic_name, taken))
        marks = {TYPES['raw']: '', TYPES['compressed']: ' (compressed)'}
        found = [name + marks[kind] for name, kinds in sorted(published.items()) for kind in kinds
                 if kind in marks and name not in own and self._node.count_publishers(name)]
        return found[:SHOWN_TOPICS] + ['...'] * (len(found) > SHOWN_TOPICS)

    def _why_other_type(self, offers: list) -> str:
        said = (f'{self.topic} is published as '
                f'{_listed(sorted({offer.topic_type for offer in offers}))}')
        for transport, kind in TYPES.items():
            if any(offer.topic_type == kind for offer in offers):
                name = f'{self._stream}/image_raw' + (COMPRESSED if transport == 'compressed'
                                                      else '')
                return (f'{said}, not as {TYPES[self._transport]}: set '
                        f'input.{self._stream}_transport to {transport} '
                        f'and remap {name}:={self.topic}')
        return f'{said}, not as {TYPES[self._transport]}: remap to the topic of the images'

    def _why_missing(self, health: StreamHealth) -> str:
        """Return how many frames do not arrive, from whom, and what to do.

        Empty if nearly all do.
        """
        offers = self._offers()
        if not offers:
            return ''  # a camera that has ended loses nothing
        lossy = _best_effort(offers) and self._size_bytes > LOSSLESS_BYTES
        if health.missing_share >= MANY_MISSING:
            said = (f'{health.missing_share:.0%} of its frames do not arrive, by the gaps of '
                    f'their stamps')
        # too few for their usual gap to be known
        elif lossy and sum(self._late_yet_alive) >= LATE_TIMES:
            said = 'most of its frames do not arrive'
        else:
            return ''
        advice = ('they are lost on the way' if lossy
                  else 'this machine is too busy, or they take too long on the way')
        return f'{said}, from {_listed(map(_described, offers))}: {advice}. {_profile_advice()}'


def _described(offer) -> str:
    """Return 'NODE as TYPE, RELIABILITY'."""
    name = f'{offer.node_namespace.rstrip("/")}/{offer.node_name}'
    if 'UNKNOWN' in name:
        name = 'a program without a node'
    return f'{name} as {offer.topic_type}, {offer.qos_profile.reliability.name.lower()}'


def _best_effort(offers: list) -> bool:
    return any(offer.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for offer in offers)


def _profile_advice() -> str:
    variable, path = next(iter(fastdds_environment({}).items()))
    return ('Fast DDS loses best-effort images over 512 KB, and delays reliable ones, unless '
            'their sender has '
            f'the profile: start the driver with {variable}={path}')


def _listed(items) -> str:
    return ' and '.join(items)
