# SPDX-License-Identifier: Apache-2.0
"""The calibrations of the pictures of a recording follow its pictures."""

import numpy as np
from two_cameras import RGB_CAMERA

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.tools.bag_cameras import BagCameras


def pair_of(width, height):
    """Return a pair whose RGB image has a size in pixels."""
    rgb = Frame(RGB, 0, 'rgb', np.zeros((height, width), np.uint8), 'mono8')
    return Pair(rgb, Frame(THERMAL, 0, 'thermal', np.zeros((24, 32), np.uint8), 'mono8'), 0)


def test_calibration_judged_by_newest_picture():
    """A calibration is not judged before the first picture, and its problem ends with the cause.

    The crop lies in the images, of twice the size of the calibration, and not in a calibrated one.
    """
    width, height = RGB_CAMERA.size
    settings = with_changes(DEFAULTS, {
        'input.rgb_crop': f'{width + 40}x{height + 40}+0+0'})
    told = []
    cameras = BagCameras({RGB: RGB_CAMERA}, settings, changed=lambda *of: told.append(of))

    assert (cameras.problems, cameras.camera(RGB), told) == ((), None, [])

    cameras.pair(pair_of(2 * width, 2 * height))
    assert (cameras.problems, cameras.camera(RGB).size) == ((), (width + 40, height + 40))

    cameras.pair(pair_of(3 * width, 2 * height))  # of another shape
    problem, = cameras.problems
    assert 'rgb/camera_info: the calibration is for' in problem and cameras.camera(RGB) is None

    cameras.pair(pair_of(2 * width, 2 * height))
    assert (cameras.problems, cameras.camera(RGB).size) == ((), (width + 40, height + 40))
