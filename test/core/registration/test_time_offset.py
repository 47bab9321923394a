# SPDX-License-Identifier: Apache-2.0
"""The time offset of two cameras, of clips whose motion is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.homography import Alignment
from diffmf_ros.core.registration.registration import RegistrationError
from diffmf_ros.core.registration.time_offset import (
    _Seen,
    _solved,
    _static_origin,
    _straight_step,
    _turns,
    _uncertainty_s,
    estimate_offset,
)

pytestmark = pytest.mark.slow
SIZE, SECONDS = (320, 240), 4.0


def world():
    """Return (visible, thermal), 400 x 720 uint8: one set of shapes, unrelated brightness."""
    random = np.random.default_rng(4)
    images = [np.full((400, 720), level, np.uint8) for level in (110, 70)]
    for _ in range(260):
        center, axes = random.integers(0, (720, 400)), random.integers(8, 50, 2)
        box = cv2.boxPoints((center.tolist(), axes.tolist(), float(random.uniform(0, 180))))
        for image in images:
            cv2.fillPoly(image, [box.astype(np.int32)], int(random.integers(0, 256)))
    return images


def clip(image, rate_hz, place, *, late_s=0.0, seconds=SECONDS):
    """Return the clip of a camera that looks at place(t) pixels from the middle of image."""
    random, frames = np.random.default_rng(round(rate_hz)), []
    for t in np.arange(0, seconds, 1 / rate_hz):
        x, y = place(t)
        view = cv2.getRectSubPix(image, SIZE, (360 + x, 200 + y))
        noisy = view + random.normal(0, 2, view.shape)
        frames.append((float(t + late_s), np.clip(noisy, 0, 255).astype(np.uint8)))
    return frames


def turning(t):
    """Turn to and fro."""
    return 60 * np.sin(2 * np.pi * 0.4 * t), 8 * np.sin(2 * np.pi * 0.7 * t)


def still(t):
    """Look at one place."""
    return 0.0, 0.0


EYES = tuple(CameraModel(size, ((focal, 0.0, x), (0.0, focal, y), (0.0, 0.0, 1.0)))
             for size, focal, x, y in (((640, 480), 520.0, 319.5, 229.0),
                                       ((320, 256), 248.0, 160.0, 125.0)))
ALIGNMENT = Alignment(((1.0, 0.0, 2.0), (0.0, 1.0, -1.0), (0.0, 0.0, 1.0)), SIZE, SIZE)


@pytest.mark.parametrize('late_ms, times', [(-60.0, 1), (45.0, 3)])
def test_turning_cameras_tell_offset(late_ms, times):
    """Cameras that are turned to and fro tell their offset, and how sure it is.

    Also where the driver sends each thermal image three times under one stamp.
    """
    visible, thermal = world()
    heat = clip(thermal, 9, turning, late_s=late_ms / 1e3)

    found = estimate_offset(clip(visible, 30, turning),
                            [frame for frame in heat for _ in range(times)], ALIGNMENT)

    assert found.offset_ms == pytest.approx(-late_ms, abs=2.0)
    assert abs(found.offset_ms + late_ms) < 2 * found.uncertainty_ms < 8.0
    assert f'{found.offset_ms:+.1f} ms' in found.summary


def test_still_cameras_are_refused():
    """Nothing that moves tells nothing, which is said with what to record instead.

    The search wanders, to an offset without certainty or out of the overlap of the clips.
    """
    visible, thermal = world()
    short = SECONDS / 2  # all rounds of the search are gone through

    with pytest.raises(RegistrationError, match='^no time offset: .* turned to and fro'):
        estimate_offset(clip(visible, 30, still, seconds=short),
                        clip(thermal, 9, still, seconds=short), ALIGNMENT)


def straight_drive(*, offset_s, base_m, speed_m_s=2.0, turn_deg_s=0.0):
    """Return what is seen on a straight drive: ground and walls at both sides.

    A sixth of the blocks have the motion of something nearer, as those across an edge of depth.
    turn_deg_s: by which the cameras turn to and fro, at most.
    """
    random = np.random.default_rng(5)
    low, high = random.uniform((-4, 1.5, 4), (4, 1.5, 40), (600, 3)), random.uniform(
        (-6, -6, 6), (-6, 1.5, 40), (600, 3))
    points = np.vstack((low, high, high * (-1, 1, 1)))
    instant = random.integers(0, 60, len(points)).astype(float)
    yaw = np.radians(turn_deg_s) * np.sin(0.7 * instant)
    turn = cv2.Rodrigues(np.radians((0.4, -0.6, 0.9)))[0]
    ahead = np.array((0, 0, speed_m_s))

    def pixels(k, where):
        return where[:, :2] / where[:, 2:] * k[0][0] + (k[0][2], k[1][2])

    def views(t, yaw=yaw):
        x, y, z = (points - t * ahead).T
        here = np.column_stack((x * np.cos(t * yaw) + z * np.sin(t * yaw), y,
                                z * np.cos(t * yaw) - x * np.sin(t * yaw)))
        return pixels(EYES[0].k, here), pixels(EYES[1].k, (here - base_m) @ turn.T)

    rgb, thermal = views(0.0)[0], views(offset_s)[1]
    flow, untouched = ((views(0.05, turned)[0] - views(-0.05, turned)[0]) / 0.1
                       for turned in (yaw, 0.0))
    flow[::6] += 0.6 * untouched[::6]
    inside = ((rgb > 0) & (rgb < (639, 479))).all(axis=1)
    flows = [flow + random.normal(0, 1, flow.shape) for _ in range(2)]
    seen = _Seen(thermal, rgb + random.normal(0, 0.3, rgb.shape), *flows, np.zeros(len(rgb)),
                 instant)
    return seen.only(inside)


@pytest.mark.parametrize('speed_m_s', [2.0, -2.0])
def test_calibrated_straight_drive_tells_offset(speed_m_s):
    """With calibrated cameras a straight drive tells the offset, beside a base line of 5 cm.

    So does one backward.
    """
    seen = straight_drive(offset_s=0.012, base_m=(0.05, -0.015, 0.0), speed_m_s=speed_m_s)

    origin = _static_origin(seen)

    assert origin == pytest.approx((319.5, 229.0), abs=4.0)
    assert _straight_step(seen, EYES, origin) == pytest.approx(0.012, abs=0.002)


def test_turns_outdo_parallax_of_a_drive():
    """Cameras that turn on a drive tell the offset without calibrations, whatever the parallax."""
    seen = straight_drive(offset_s=0.012, base_m=(0.0, 0.15, 0.0), turn_deg_s=2.0)
    matrix = cv2.findHomography(seen.thermal, seen.rgb, cv2.RANSAC)[0]

    error_ms = 1e3 * _solved(seen, matrix)[0] - 12

    assert _turns(straight_drive(offset_s=0.012, base_m=(0.0, 0.15, 0.0))) is None
    assert abs(error_ms) < 1e3 * _uncertainty_s(seen, matrix, EYES, None) < 2.0


def test_doubtful_direction_is_uncertain():
    """What is off in an eighth of the directions at all times is within the stated uncertainty."""
    seen = straight_drive(offset_s=0.012, base_m=(0.05, -0.015, 0.0))
    origin = _static_origin(seen)
    direction = np.arctan2(*(seen.rgb - origin).T)
    off_px = 0.8 * (direction >= np.quantile(direction, 7 / 8))

    seen = replace(seen, rgb=seen.rgb + off_px[:, None] * (0.0, 1.0))

    error_ms = 1e3 * _straight_step(seen, EYES, origin) - 12
    assert 1.0 < error_ms < 1e3 * _uncertainty_s(seen, np.eye(3), EYES, origin) < 3.0


def test_few_static_blocks_no_origin():
    """Too few blocks, or instants, of what stands still do not tell where the flow comes from."""
    seen = straight_drive(offset_s=0.0, base_m=(0.05, 0.0, 0.0))

    assert _static_origin(seen.only(np.arange(len(seen.rgb)) % 8 == 0)) is None
    assert _static_origin(replace(seen, instant=seen.instant % 7)) is None


def test_short_overlap_is_refused():
    """Clips that overlap for a moment have too few instants to tell how sure the offset is."""
    visible, thermal = world()

    with pytest.raises(RegistrationError, match='no time offset: .* needed'):
        estimate_offset(clip(visible, 30, turning)[:24], clip(thermal, 9, turning), ALIGNMENT)


def test_unrelated_clips_are_refused():
    """Clips of two places have no blocks in common."""
    visible, _ = world()
    flat = np.full((400, 720), 90, np.uint8)

    with pytest.raises(RegistrationError, match='blocks were found in both'):
        estimate_offset(clip(visible, 30, turning), clip(flat, 9, turning), ALIGNMENT)
