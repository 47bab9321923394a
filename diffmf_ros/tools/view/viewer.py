# SPDX-License-Identifier: Apache-2.0
"""Shows a running fusion node on a web page: images, modes, rates, losses and warnings.

Images that no page shows are not received, and the overlay, which the node draws for its
subscribers, is not drawn then.
"""

import argparse
import json
import threading
from functools import partial

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from ...core.frames import RGB, THERMAL
from ...core.imaging import compressed
from ...core.imaging.color import to_rgb8
from ...core.imaging.encodings import BitDepth
from ...core.imaging.thermal import GainControl, to_gray
from ...core.settings import DEFAULTS
from ...io.writing import require_result_output, write_text
from ...ros import process, qos, topics
from ...ros.messages import compressed_to_frame, to_frame
from .board import PANELS, Board, Status, summarize
from .server import RESULT, Server

TOPICS = {
    'fused': topics.IMAGE,
    'rgb': 'rgb/image_raw',
    'thermal': 'thermal/image_raw',
    'overlay': topics.OVERLAY,
}
LOOK_S = 0.1
LONGEST_SIDE_PX = 960
JPEG_QUALITY = 80


class Viewer(Node):
    """Puts what a fusion node publishes onto a board."""

    def __init__(self, board: Board):
        """Watch the node of this node's namespace."""
        super().__init__('viewer', start_parameter_services=False)
        self._board = board
        self._gain, self._depth = GainControl(DEFAULTS.thermal), BitDepth()
        self._subscriptions_of: dict[str, qos.MatchingSubscription] = {}
        self.create_subscription(
            DiagnosticArray, topics.STATUS, self._on_status, qos.profile('reliable', depth=1)
        )
        self.create_subscription(
            DiagnosticArray,
            '/diagnostics',
            self._on_diagnostics,
            qos.profile('reliable', depth=10),
        )
        self.create_timer(LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        """Receive what pages show, and nothing else."""
        wanted = self._board.wanted()
        for panel in PANELS:
            subscription = self._subscriptions_of.get(panel)
            if panel not in wanted:
                if subscription is not None:
                    self._subscriptions_of.pop(panel).destroy()
                    self._board.take_off(panel)
                continue
            topic, message_type = self._source(panel)
            if subscription is not None and subscription.topic == topic:
                subscription.refresh()
                continue
            if subscription is not None:
                subscription.destroy()
            self._subscriptions_of[panel] = qos.MatchingSubscription(
                self,
                message_type,
                topic,
                partial(self._on_image, panel),
                reliability='auto',
                depth=1,
                on_incompatible=self._warn,
            )

    def _source(self, panel: str) -> tuple[str, type]:
        """Return topic and type of a panel's images: compressed ones if there are no others."""
        topic = self.resolve_topic_name(TOPICS[panel])
        raw = self.count_publishers(topic)
        self._board.note(panel, '' if raw else f'nobody publishes {topic}')
        if not raw and self.count_publishers(f'{topic}/compressed'):
            self._board.note(panel, '')
            return f'{topic}/compressed', CompressedImage
        return topic, Image

    def _on_image(self, panel: str, message: Image | CompressedImage) -> None:
        self._board.note(panel, '')  # an image may come before its publisher is known
        self._board.put(panel, partial(self._encode, panel, message))

    def _encode(self, panel: str, message: Image | CompressedImage) -> bytes:
        """Return the message as a JPEG. Raises FrameError. In the thread of a page."""
        read = compressed_to_frame if isinstance(message, CompressedImage) else to_frame
        frame = read(message, THERMAL if panel == 'thermal' else RGB, arrival_ns=0)
        if frame.stream == THERMAL:
            pixels, encoding = (
                to_gray(frame.pixels, frame.encoding, self._gain.levels(frame)),
                'mono8',
            )
        else:
            frame = self._depth.to_8_bit(frame)
            pixels, encoding = to_rgb8(frame.pixels, frame.encoding), 'rgb8'
        share = LONGEST_SIDE_PX / max(pixels.shape[:2])
        if share < 1:
            pixels = cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        return compressed.encode(pixels, encoding, quality=JPEG_QUALITY)

    def _on_status(self, message: DiagnosticArray) -> None:
        status = _plain(message)[0]
        self._board.set_mode(status.values.get('mode', ''), status.message if status.level else '')

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        summary = summarize(_plain(message), namespace=self.get_namespace())
        if summary is not None:
            self._board.report(summary)

    def _warn(self, topic: str, policy: str) -> None:
        self.get_logger().warning(f'{topic}: a publisher offers incompatible {policy}')


def _plain(message: DiagnosticArray) -> list[Status]:
    return [
        Status(
            status.name,
            status.level[0],
            status.message,
            {item.key: item.value for item in status.values},
        )
        for status in message.status
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser('viewer', description=__doc__)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0: all (default: 127.0.0.1)',
    )
    parser.add_argument('--port', type=_port, default=8080, help='0: any free (default: 8080)')
    parser.add_argument('--json', help='also write the address to this file; -: to the screen')
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f'must be a number from 0 to 65535, got {text}')
    return int(text)


def _tell(viewer: Node, server: Server, place: str | None) -> None:
    """Say the address of the page. Raises WriteError."""
    viewer.get_logger().info(f'open {server.url}')
    text = json.dumps({'out': server.url, 'port': server.server_port}, indent=1)
    if place == '-':
        print(text, flush=True)
    elif place:
        require_result_output(place, RESULT)
        write_text(place, text + '\n')


def view(options: argparse.Namespace, stop: process.StopRequest) -> None:
    """Serve the page until stop is requested. Raises ServerError."""
    board = Board()
    with Server(board, host=options.host, port=options.port) as server:
        threading.Thread(target=server.serve_forever, name='server', daemon=True).start()
        viewer = process.created(lambda: Viewer(board))
        try:
            _tell(viewer, server, options.json)
            process.spin_until(viewer, stop)
        finally:
            viewer.destroy_node()
            server.shutdown()


def main(args: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code: 2 when it cannot listen or write."""
    return process.execute('viewer', args, parse, view, failed=2)  # as of every diffmf command


if __name__ == '__main__':
    raise SystemExit(main())
