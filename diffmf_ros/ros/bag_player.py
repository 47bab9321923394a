# SPDX-License-Identifier: Apache-2.0
"""Publishes bags with their own stamps, in real time, where `ros2 bag play` is not installed."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rich.console import Console
from rich.progress import Progress
from rosgraph_msgs.msg import Clock

from ..core.frames import DiffmfError, FrameError
from ..io.bags import BagReader, Message, is_compressed
from . import process, qos
from .messages import NS_PER_S, MessageTypeError, make_header, message_class

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CLOCK_PERIOD_S = 0.01
DEPTH = 10
# A subscriber that matches its reliability to what is offered subscribes anew within this time.
SETTLE_S = 1.0
DRAIN_S = 0.3


class BagPlayer:
    """Publishes the messages of open bags through a node, on their topics and with their stamps.

    The bags follow each other without a pause, on the same publishers.
    """

    def __init__(self, node: Node, readers: Sequence[BagReader], stop: process.StopRequest, *,
                 topics: list[str] | None, reliability: str, rate: float, clock: bool):
        """Create the publishers. topics None: all whose message type is installed here.

        rate is bag seconds per second. Raises BagError or MessageTypeError for a topic that was
        asked for and is missing or of an unknown type, DiffmfError for a topic of other types in
        other bags.
        """
        self._node, self._readers, self._stop, self._rate = node, readers, stop, rate
        for reader in readers if topics is not None else ():
            reader.require(*topics or ())
        self._types = {name: topic.msgtype for reader in reversed(readers)
                       for name, topic in reader.topics.items() if topic.count}
        for name in topics if topics is not None else self._types:
            _require_one_type(name, readers)
        self._publishers = self._make_publishers(topics, qos.profile(reliability, depth=DEPTH))
        self._clock = None
        if clock:
            self._clock = node.create_publisher(Clock, '/clock', qos.profile('reliable', depth=1))
        self._clock_due_s = 0.0
        self.published = self.damaged = 0
        self.latest_ms = 0.0

    def _rare(self, topic: str) -> bool:
        """Whether a topic is sent a few times alone, as mountings and calibrations are.

        It is latched, so that who comes later has it, and who asks for latched topics, as TF does.
        """
        return (self._types[topic] not in IMAGE_TYPES
                and sum(reader.topics[topic].count for reader in self._readers
                        if topic in reader.topics) <= DEPTH)

    def _make_publishers(self, topics: list[str] | None, profile) -> dict:
        publishers: dict[str, Any] = {}
        for topic in topics if topics is not None else self._types:
            try:
                message_type = message_class(self._types[topic])
            except MessageTypeError as error:
                if topics is not None:
                    raise
                self._node.get_logger().warning(f'leaving out {topic}: {error}')
                continue
            publishers[topic] = self._node.create_publisher(
                message_type, topic,
                qos.profile('reliable', depth=DEPTH, latched=True) if self._rare(topic)
                else profile)
        if not publishers:
            there = ', '.join(f'{name} ({msgtype})' for name, msgtype in sorted(
                self._types.items()))
            raise DiffmfError('no topic of the bag has messages of a type that is installed here; '
                              'it has ' + there)
        return publishers

    def _played(self, reader: BagReader) -> list[str]:
        """Return the topics of a bag that are played."""
        return [name for name, topic in reader.topics.items()
                if topic.count and name in self._publishers]

    @property
    def total(self) -> int:
        """Messages of one pass through the bags."""
        return sum(reader.topics[name].count for reader in self._readers
                   for name in self._played(reader))

    def wait_for_subscribers(self, timeout_s: float) -> None:
        """Return once every image topic has a subscription and all have been the same for a
        second.

        Raises DiffmfError, naming the topics that nobody reads, after timeout_s.
        """
        images = [t for t in self._publishers if self._types[t] in IMAGE_TYPES]
        deadline_s = time.monotonic() + timeout_s
        before, since_s = None, 0.0
        while not self._stop.requested:
            unread = [t for t in images if not self._publishers[t].get_subscription_count()]
            found = {t: {bytes(info.endpoint_gid)
                         for info in self._node.get_subscriptions_info_by_topic(t)}
                     for t in images}
            now_s = time.monotonic()
            if unread or found != before:
                before, since_s = found, now_s
            elif now_s - since_s >= SETTLE_S:
                return
            if unread and now_s > deadline_s:
                raise DiffmfError(f'nobody subscribed to {", ".join(unread)} within {timeout_s:g} '
                                  's: start the subscriber, or choose other topics with --topics')
            time.sleep(process.POLL_S)

    def play(self, progress: Progress) -> None:
        """Publish every message once, at its time; end early when stop is requested.

        Raises BagError when the bag is damaged or yields another number of messages than it
        declares.
        """
        task = progress.add_task('playing', total=self.total)
        for reader in self._readers:
            self._play(reader, lambda: progress.advance(task))

    def _play(self, reader: BagReader, report: Callable[[], None]) -> None:
        start_s, start_ns = time.monotonic(), None
        for message in reader.messages(self._played(reader)):
            start_ns = message.stamp_ns if start_ns is None else start_ns
            due_s = start_s + (message.stamp_ns - start_ns) / NS_PER_S / self._rate
            self._sleep_until(due_s, message.stamp_ns)
            if self._stop.requested:
                return
            if self._usable(reader, message):
                self._publishers[message.topic].publish(message.raw)
                self.published += 1
            self.latest_ms = max(self.latest_ms, (time.monotonic() - due_s) * 1e3)
            report()

    def _usable(self, reader: BagReader, message: Message) -> bool:
        """Return whether a message can be read, and count it if not.

        Raises BagError when the bag compresses messages.
        """
        if message.msgtype not in IMAGE_TYPES and not is_compressed(message.raw):
            return True
        try:
            reader.require_readable(message)
        except FrameError as error:
            self.damaged += 1
            if self.damaged == 1:
                self._node.get_logger().warning(f'left out: {error}')
            return False
        return True

    def drain(self) -> None:
        """Give lost pieces of the last messages a moment to be sent again.

        The acknowledgement itself comes with the next heartbeat, up to 3 s later: not worth
        waiting for.
        """
        deadline_s = time.monotonic() + DRAIN_S
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=max(deadline_s - time.monotonic(), 0.0)))

    def _sleep_until(self, due_s: float, due_ns: int) -> None:
        """Sleep until due_s of the monotonic clock, which is due_ns of the bag.

        Tick /clock meanwhile.
        """
        while not self._stop.requested:
            left_s = due_s - time.monotonic()
            self._tick(due_ns - int(max(left_s, 0.0) * self._rate * NS_PER_S))
            if left_s <= 0:
                return
            time.sleep(min(left_s, CLOCK_PERIOD_S if self._clock else process.POLL_S))

    def _tick(self, bag_ns: int) -> None:
        now_s = time.monotonic()
        if self._clock is not None and now_s >= self._clock_due_s:
            self._clock_due_s = now_s + CLOCK_PERIOD_S
            self._clock.publish(Clock(clock=make_header(bag_ns, '').stamp))


def _require_one_type(topic: str, readers: Sequence[BagReader]) -> None:
    """Raise DiffmfError when a topic has messages of several types."""
    types: dict[str, list[str]] = {}
    for reader in readers:
        if topic in reader.topics and reader.topics[topic].count:
            types.setdefault(reader.topics[topic].msgtype, []).append(str(reader.path))
    if len(types) > 1:
        found = '; '.join(f'{name} in {", ".join(bags)}' for name, bags in types.items())
        raise DiffmfError(f'expected one type of {topic} in all bags, got {found}: play them one '
                          'after the other, or choose other topics with --topics')


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser('bag_player', description=__doc__)
    parser.add_argument('bags', nargs='+', metavar='bag',
                        help='a rosbag2 folder, or a .db3 or .mcap file; several play one after '
                        'the other')
    parser.add_argument('--rate', type=_positive, default=1.0,
                        help='bag seconds per second (default 1)')
    parser.add_argument('--loop', type=_count, default=1, metavar='N',
                        help='play N times; 0: until stopped')
    parser.add_argument('--clock', action='store_true',
                        help='publish the time of the bag on /clock, 100 Hz')
    parser.add_argument('--reliability', choices=tuple(qos.POLICIES), default='reliable')
    parser.add_argument('--topics', nargs='+', metavar='TOPIC', help='play these only')
    parser.add_argument('--wait-for-subscribers', type=_positive, metavar='SECONDS',
                        help='start when every image topic is subscribed to; fail after SECONDS')
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    try:
        if 0 < (value := float(text)) < float('inf'):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'must be a number above 0, got {text}')


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'must be a whole number from 0 on, got {text}')
    return int(text)


def main(args: list[str] | None = None) -> int:
    """Play a bag; return the exit code: 0 at the end or when stopped, 1 for a bag that cannot be
    played."""
    return process.execute('bag_player', args, parse, play_bag)


def play_bag(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Play the bags that options name. Raises BagError, DiffmfError or MessageTypeError."""
    with ExitStack() as stack:
        run([stack.enter_context(BagReader(bag)) for bag in options.bags], options, stop)


def run(readers: Sequence[BagReader], options: argparse.Namespace,
        stop: process.StopRequest) -> None:
    """Play the bags as often as asked."""
    node = process.created(lambda: Node('bag_player', start_parameter_services=False))
    try:
        player = BagPlayer(node, readers, stop, topics=options.topics,
                           reliability=options.reliability, rate=options.rate, clock=options.clock)
        if options.wait_for_subscribers:
            player.wait_for_subscribers(options.wait_for_subscribers)
        played, start_s = 0, time.monotonic()
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            while not stop.requested and (options.loop < 1 or played < options.loop):
                player.play(progress)
                played += 1
        took_s = time.monotonic() - start_s
        player.drain()
        node.get_logger().info(f'published {player.published} messages in {took_s:.1f} s, '
                               f'at most {player.latest_ms:.1f} ms late'
                               + (f'; {player.damaged} damaged ones were left out'
                                  if player.damaged else ''))
    finally:
        node.destroy_node()


if __name__ == '__main__':
    raise SystemExit(main())
