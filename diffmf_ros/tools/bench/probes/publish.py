# SPDX-License-Identifier: Apache-2.0
"""Measures what publishing images costs the publisher: `diffmf bench` runs it where ROS is
installed.

Prints one JSON object: milliseconds per image to build the message ('encode') and to hand it to
the middleware ('publish'), with one subscriber in another process.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import Image

from ....ros import messages, process, qos

TOPIC = 'diffmf_publish_probe'
WAIT_S = 20.0
PERIOD_S = 1 / 30


def listen() -> None:
    """Receive images until the parent ends this process."""
    stop = process.StopRequest.on_signals()
    process.init([])
    node = Node('publish_probe_listener')
    node.create_subscription(Image, TOPIC, lambda message: None, qos.profile('reliable', depth=1))
    process.spin_until(node, stop)
    try_shutdown()


def measure(width: int, height: int, frames: int) -> dict[str, list[float]]:
    """Publish frames images of width x height at 30 Hz.

    Raises TimeoutError when nobody listens.
    """
    process.init([])
    node = Node('publish_probe')
    publisher = node.create_publisher(Image, TOPIC, qos.profile('reliable', depth=1))
    deadline_s = time.monotonic() + WAIT_S
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f'no subscriber appeared within {WAIT_S:g} s')
        time.sleep(process.POLL_S)
    pixels = np.zeros((height, width, 3), np.uint8)
    timings: dict[str, list[float]] = {'encode': [], 'publish': []}
    for stamp_ns in range(frames):
        start = time.perf_counter()
        message = messages.make_image(pixels, 'rgb8', messages.make_header(stamp_ns, 'camera'))
        built = time.perf_counter()
        publisher.publish(message)
        timings['encode'].append(1e3 * (built - start))
        timings['publish'].append(1e3 * (time.perf_counter() - built))
        time.sleep(PERIOD_S)
    rclpy.shutdown()
    return timings


def main() -> int:
    """Measure and print; with --listen be the other process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--listen', action='store_true')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--frames', type=int, default=30)
    options = parser.parse_args()
    process.use_camera_transports()
    if options.listen:
        listen()
        return 0
    listener = subprocess.Popen([sys.executable, '-m', __spec__.name, '--listen'])
    try:
        print(json.dumps(measure(options.width, options.height, options.frames)))
    finally:
        listener.terminate()
        listener.wait()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
