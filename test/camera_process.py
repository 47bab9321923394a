# SPDX-License-Identifier: Apache-2.0
"""A camera driver of a process of its own.

    python -m camera_process TOPIC TYPE RELIABILITY [SIZE [RATE [AHEAD_S]]]

TYPE is Image, CompressedImage or None, which sends nothing. It sends gray bgr8 images of SIZE,
640x480 unless given, at RATE, 30 Hz unless given, with stamps that are AHEAD_S, 0 unless given.
When it is interrupted it prints how many it has sent.
"""

import sys
import time
from contextlib import suppress

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import CompressedImage, Image

from diffmf_ros.ros.messages import make_header, make_image
from diffmf_ros.ros.qos import profile

DEFAULTS = ('640x480', '30', '0')


def main() -> None:
    topic, kind, reliability, size, rate_hz, ahead_s = *sys.argv[1:], *DEFAULTS[len(sys.argv) - 4:]
    width, height = map(int, size.split('x'))
    rclpy.init()
    node = rclpy.create_node('driver')
    message_type = {'CompressedImage': CompressedImage}.get(kind, Image)
    publisher = node.create_publisher(message_type, topic, profile(reliability, depth=1))
    random = np.random.default_rng(1)
    gray = random.integers(0, 256, (height, width, 1), dtype=np.uint8)
    picture = np.repeat(gray, 3, axis=2)  # thermal in colors of no palette would be refused

    sent = 0

    def send():
        nonlocal sent
        if kind != 'Image':
            return
        now_ns = time.time_ns() + round(float(ahead_s) * 1e9)
        picture[:] += 1  # no two images of a camera are equal
        publisher.publish(make_image(picture, 'bgr8', make_header(now_ns, 'camera')))
        sent += 1

    node.create_timer(1 / float(rate_hz), send)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    print('sent', sent)


if __name__ == '__main__':
    main()
