# SPDX-License-Identifier: Apache-2.0
"""Pictures of a street for tests of blind cameras: structure, people, lamps, smoke, noise."""

import cv2
import numpy as np

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair

SIZE = 640, 480
PEOPLE = (np.s_[200:280, 150:180], np.s_[220:300, 420:450])


def ground(seed, low, high, size=SIZE, scale=12):
    """Gray levels from low to high: blobs of about scale pixels, H x W float."""
    width, height = size
    small = np.random.default_rng(seed).uniform(0, 1, (height // scale + 1, width // scale + 1))
    return low + (high - low) * cv2.resize(small, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)


def thermal_scene(seed=1, warmth=140, size=SIZE):
    """A thermal image, H x W uint8: ground of 20 to 70 levels, and two people."""
    image = ground(seed, 20, 70)
    for person in PEOPLE:
        image[person] += warmth
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image.round().clip(0, 255).astype(np.uint8)


def rgb_scene(seed=2, low=30, high=220, size=SIZE):
    """An RGB image, H x W x 3 uint8, with texture."""
    luma = cv2.resize(ground(seed, low, high), size, interpolation=cv2.INTER_AREA)
    return np.repeat(luma.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def noisy(level, deviation, shape, seed=0, dtype=np.uint8):
    """An image of one level with noise."""
    values = np.random.default_rng(seed).normal(level, deviation, shape).round()
    return values.clip(0, np.iinfo(dtype).max).astype(dtype)


def smoke(rgb, left, level=190):
    """The RGB image behind smoke that leaves this share of its contrast."""
    return (left * rgb + (1 - left) * level).round().astype(np.uint8)


def night_with_lamps():
    """A black RGB image but for three lamps."""
    image = noisy(4, 2, (SIZE[1], SIZE[0], 3))
    for x, y in ((100, 80), (300, 60), (560, 120)):
        cv2.circle(image, (x, y), 9, (250, 240, 200), -1)
    return image


def pair(rgb, thermal, stamp_ns=0, encoding='mono8'):
    return Pair(Frame(RGB, stamp_ns, 'rgb_optical', rgb, 'rgb8'),
                Frame(THERMAL, stamp_ns, 'thermal_optical', thermal, encoding), 0)
