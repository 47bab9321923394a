# SPDX-License-Identifier: Apache-2.0
"""A camera driver of a process of its own: python -m camera_process TOPIC TYPE RELIABILITY [SIZE].

TYPE is Image, CompressedImage or None, which sends nothing. It sends 640x480 bgr8 images at 30 Hz, or with
SIZE as 64x48 smaller ones.
"""

import sys
import time

import numpy as np
import rclpy
from sensor_msgs.msg import CompressedImage, Image

from diffmf_ros.ros.messages import make_header, make_image
from diffmf_ros.ros.qos import profile

RATE_HZ = 30.0


def main() -> None:
    topic, kind, reliability, size = *sys.argv[1:4], (sys.argv[4:] or ['640x480'])[0]
    width, height = map(int, size.split('x'))
    rclpy.init()
    node = rclpy.create_node('driver')
    message_type = {'CompressedImage': CompressedImage}.get(kind, Image)
    publisher = node.create_publisher(message_type, topic, profile(reliability, depth=1))
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)

    def send():
        if kind != 'Image':
            return
        now_ns = time.time_ns()
        picture[:] += 1  # no two images of a camera are equal
        publisher.publish(make_image(picture, 'bgr8', make_header(now_ns, 'camera')))

    node.create_timer(1 / RATE_HZ, send)
    rclpy.spin(node)


if __name__ == '__main__':
    main()
