# SPDX-License-Identifier: Apache-2.0
"""Records topics into a rosbag2 until it is stopped, where `ros2 bag record` is not installed.

The recording grows in BAG.unfinished/ and is stored every second: when the disk is full, the power
goes or the process is killed, what was stored until then stays there and opens as a bag.
"""

import argparse
from collections import Counter
from functools import partial

from rclpy.clock import Clock, ClockType
from rclpy.logging import get_logger
from rclpy.node import Node

from ..core.ros_names import require_topic_name
from ..io.bags import STORAGES, BagWriter
from . import process, qos
from .messages import MessageTypeError, message_class

LOOK_S = 0.2
NOBODY_S = 5.0  # a publisher takes up to some seconds to be found
COMMIT_S = 1.0
DEPTH = 10


class Recorder:
    """Writes what arrives on some topics into an open bag, as the bytes that came over the wire.
    """

    def __init__(self, node: Node, writer: BagWriter, topics: list[str]):
        """Subscribe to each topic as soon as somebody publishes it and its type is thereby known.
        """
        self.counts: Counter[str] = Counter()
        self._refused: dict[str, str] = {}  # topics of types that are not installed, and why
        self._node, self._writer = node, writer
        self._awaited = list(dict.fromkeys(map(node.resolve_topic_name, topics)))
        self._subscriptions: list[qos.MatchingSubscription] = []
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._nobody = node.create_timer(NOBODY_S, self._say_awaited, clock=steady)
        self._timers = (node.create_timer(LOOK_S, self._look, clock=steady),
                        node.create_timer(COMMIT_S, writer.commit, clock=steady))

    @property
    def missing(self) -> list[str]:
        """Topics of which nothing was recorded, each with the reason."""
        subscribed = [subscription.topic for subscription in self._subscriptions]
        return [*(f'{topic} (nobody published it)' for topic in self._awaited),
                *(f'{topic} ({reason})' for topic, reason in self._refused.items()),
                *(f'{topic} (no message came)' for topic in subscribed
                  if not self.counts[topic])]

    def _look(self) -> None:
        known = dict(self._node.get_topic_names_and_types())
        # A topic that others only subscribe to is known, too.
        for topic in [t for t in self._awaited if t in known and self._node.count_publishers(t)]:
            self._awaited.remove(topic)
            try:
                self._subscribe(topic, known[topic][0])
            except MessageTypeError as error:
                if not self._awaited and not self._subscriptions:
                    raise  # else the other topics go on
                self._refused[topic] = str(error)
                self._node.get_logger().error(f'{topic} is not recorded: {error}')
        for subscription in self._subscriptions:
            subscription.refresh()

    def _say_awaited(self) -> None:
        self._nobody.cancel()  # once
        if self._awaited:
            self._node.get_logger().warning(
                f'nobody publishes {", ".join(self._awaited)} so far: waiting')

    def _subscribe(self, topic: str, type_name: str) -> None:
        self._subscriptions.append(qos.MatchingSubscription(
            self._node, message_class(type_name), topic, partial(self._write, topic, type_name),
            raw=True,
            reliability='auto', depth=DEPTH, on_incompatible=self._warn))
        self._node.get_logger().info(f'recording {topic} ({type_name})')

    def _write(self, topic: str, type_name: str, raw: bytes) -> None:
        self._writer.write(topic, type_name, raw, self._node.get_clock().now().nanoseconds)
        self.counts[topic] += 1

    def _warn(self, topic: str, policy: str) -> None:
        self._node.get_logger().warning(f'{topic}: a publisher offers incompatible {policy}')


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser('recorder', description=__doc__)
    parser.add_argument('bag', help='the folder to make')
    parser.add_argument('topics', nargs='+', metavar='TOPIC')
    parser.add_argument('--storage', choices=STORAGES, default='sqlite3')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bag')
    return parser.parse_args(arguments)


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM; return the exit code: 1 when no bag could be made."""
    return process.execute('recorder', args, parse, record)


def record(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Record what options name into a new bag. Raises BagError, or DiffmfError for a topic that
    cannot be."""
    for topic in options.topics:
        require_topic_name(topic)
    with BagWriter(options.bag, options.storage, overwrite=options.overwrite, keep=True) as writer:
        counts = run(writer, options.topics, stop)
    recorded = ', '.join(f'{count} {topic}' for topic, count in sorted(counts.items()))
    get_logger('recorder').info(f'recorded {recorded} into {options.bag}')


def run(writer: BagWriter, topics: list[str], stop: process.StopRequest) -> Counter:
    """Record topics until stop is requested; return the number of messages of each.

    Those without any are said.
    """
    node = process.created(lambda: Node('recorder'))
    try:
        recorder = Recorder(node, writer, topics)
        process.spin_until(node, stop)
        if missing := recorder.missing:
            node.get_logger().warning(f'not recorded: {", ".join(missing)}')
        return recorder.counts
    finally:
        node.destroy_node()


if __name__ == '__main__':
    raise SystemExit(main())
