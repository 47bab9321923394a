# SPDX-License-Identifier: Apache-2.0
"""The node's job as it is usually written: what `diffmf bench --shell` compares with.

message_filters pairs, images are converted as cv_bridge does, thermal is stretched from its
minimum to its maximum, and everything happens in the callback. It checks nothing and survives
nothing; both probes say so.
"""

from collections.abc import Callable

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, Image

QUEUE = 10
SLOP_S = 0.05


def synchronizer(inputs: list, callback: Callable[[Image, Image], None]):
    """Return the approximate synchronizer of message_filters on its filters inputs.

    Raises ImportError without it.
    """
    from message_filters import ApproximateTimeSynchronizer

    synchronizer = ApproximateTimeSynchronizer(inputs, QUEUE, SLOP_S)
    synchronizer.registerCallback(callback)
    return synchronizer


class UsualFusion:
    """Fuses two messages with network(thermal, y), which takes and returns H x W uint8."""

    def __init__(self, homography: np.ndarray,
                 network: Callable[[np.ndarray, np.ndarray], np.ndarray]):
        """homography is 3x3, from thermal to RGB pixels."""
        self._homography, self._network = homography, network

    def __call__(self, rgb: Image, thermal: Image, stage) -> tuple[Image, CameraInfo]:
        """Return the fused image and its camera info; every stage ends with stage.lap(name)."""
        bgr = np.frombuffer(rgb.data, np.uint8).reshape(rgb.height, rgb.width, 3)
        counts = np.frombuffer(thermal.data, np.uint16).reshape(thermal.height, thermal.width)
        stage.lap('decode')
        gray = np.empty(counts.shape, np.uint8)
        cv2.normalize(counts, gray, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
        warped = cv2.warpPerspective(gray, self._homography, (rgb.width, rgb.height))
        stage.lap('align')
        y, cr, cb = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2YCrCb))
        stage.lap('color')
        fused = self._network(warped, y)
        stage.lap('network')
        picture = cv2.cvtColor(cv2.merge((fused, cr, cb)), cv2.COLOR_YCrCb2BGR)
        stage.lap('color')
        image = _message(picture, rgb)
        info = CameraInfo(header=rgb.header, width=rgb.width, height=rgb.height)
        stage.lap('messages')
        return image, info


def _message(picture: np.ndarray, base: Image) -> Image:
    """As CvBridge.cv2_to_imgmsg: bytes, which releases that check every field take value by value.
    """
    message = Image(header=base.header, height=picture.shape[0], width=picture.shape[1],
                    encoding='bgr8', step=picture.strides[0])
    message.data = picture.tobytes()
    return message
