# SPDX-License-Identifier: Apache-2.0
"""Salience, detail and flicker on images whose values can be worked out by hand."""

import numpy as np
import pytest

from diffmf_ros.tools.evaluation.perception import (
    FlickerMeter,
    detail,
    flicker,
    salience,
    thermal_detail,
)

SHAPE = 120, 160  # surround of 4 pixels


def night():
    """A hot target of 20 x 20 (2.1 %) in cold thermal, and visible at night: (ir, vi_y)."""
    ir, vi_y = np.full(SHAPE, 40, np.uint8), np.full(SHAPE, 20, np.uint8)
    ir[50:70, 50:70] = 240
    return ir, vi_y


def stripes(high=140):
    """Visible with an edge in every fourth column."""
    return np.tile(np.repeat(np.array([100, high], np.uint8), 4), (SHAPE[0], SHAPE[1] // 8))


def test_salience_of_maximum_and_visible():
    """Salience of the maximum is one and of the visible image nothing."""
    ir, vi_y = night()
    assert salience(ir, vi_y, np.maximum(ir, vi_y)) == 1.0
    assert salience(ir, vi_y, vi_y) == 0.0


def test_salience_is_contrast_share():
    """Salience is the share of the contrast."""
    # Given a contrast of 200 in the maximum, and a fused target that is 50 above its surround
    ir, vi_y = night()
    fused = np.where(ir == 240, 110, 60).astype(np.uint8)
    # then a quarter is left; dark targets count below nothing
    assert salience(ir, vi_y, fused) == pytest.approx(0.25)
    assert salience(ir, vi_y, 255 - fused) == pytest.approx(-0.25)


def test_surround_is_near_target():
    """Only what is near the target is its surround."""
    ir, vi_y = night()
    fused = np.maximum(ir, vi_y)
    fused[:40], fused[80:] = 255, 255  # ten pixels away
    assert salience(ir, vi_y, fused) == 1.0


def test_undefined_salience_is_nan():
    """Salience that no image defines is NaN."""
    ir, vi_y = night()
    flat = np.full(SHAPE, 77, np.uint8)
    assert np.isnan(salience(flat, vi_y, vi_y))  # all is equally hot
    # the maximum shows no target
    assert np.isnan(salience(ir, np.full(SHAPE, 240, np.uint8), vi_y))


def test_detail_of_visible_and_flat():
    """Detail of the visible image is one and of a flat one nothing."""
    flat, vi_y = np.full(SHAPE, 90, np.uint8), stripes()
    assert detail(flat, vi_y, vi_y) == pytest.approx(1)
    assert detail(flat, vi_y, flat) == 0


@pytest.mark.parametrize(('fused', 'kept'), [
    (stripes() // 2, 0.5),  # half the contrast
    (stripes(220), 1.0),  # three times the contrast is not three times the detail
    (255 - stripes(), 0.0),  # edges the other way round
    (np.maximum(120, stripes()), 0.5),  # washed out by a brighter thermal image
])
def test_detail_is_gradient_share(fused, kept):
    """Detail is the share of the gradient along the visible one."""
    flat = np.full(SHAPE, 90, np.uint8)
    assert detail(flat, stripes(), fused) == pytest.approx(kept, abs=1e-6)


def test_detail_counts_where_thermal_flat():
    """Detail counts only where thermal is flat."""
    # Given thermal with structure in the lower half, and a fused image that lost the visible one
    # there
    vi_y, structure = stripes(), stripes(200)[:, ::-1]
    lower = np.arange(SHAPE[0])[:, None] >= 60
    ir, fused = np.where(lower, structure, 100).astype(np.uint8), np.where(lower, 30, vi_y).astype(
        np.uint8)
    # then nothing of what counts is missing, and with structure everywhere nothing counts
    assert detail(ir, vi_y, fused) == pytest.approx(1)
    assert detail(np.full(SHAPE, 90, np.uint8), vi_y, fused) == pytest.approx(0.5, abs=0.01)
    assert np.isnan(detail(structure, vi_y, vi_y))


def test_detailless_visible_is_nan():
    """Detail of a visible image without any is NaN."""
    flat = np.full(SHAPE, 90, np.uint8)
    assert np.isnan(detail(flat, flat, flat))


def test_thermal_detail_mirrors_detail():
    # Given thermal stripes of which the fused image keeps half, over a flat visible image
    flat = np.full(SHAPE, 90, np.uint8)
    assert thermal_detail(stripes(), flat, stripes()) == pytest.approx(1)
    assert thermal_detail(stripes(), flat, stripes() // 2) == pytest.approx(0.5)
    assert thermal_detail(stripes(), flat, 255 - stripes()) == 0
    # then where the visible image has structure itself nothing counts
    assert np.isnan(thermal_detail(stripes(), stripes(200)[:, ::-1], stripes()))


def test_thermal_noise_is_no_detail():
    """Thermal noise is no detail to keep."""
    # Given stripes in the left half of thermal and gradients below 2 levels a pixel in the right
    # one
    flat, right = np.full(SHAPE, 90.0), np.arange(SHAPE[1]) >= 80
    weak = 100 + 1.5 * (np.arange(SHAPE[1]) % 2)[None, :].repeat(SHAPE[0], axis=0)
    ir = np.where(right, weak, stripes())
    # when the fused image has the stripes alone
    fused = np.where(right, 100, stripes())
    # then nothing is missing; with the weak gradients alone everything is undefined
    assert thermal_detail(ir, flat, fused) == pytest.approx(1, abs=0.01)
    assert np.isnan(thermal_detail(weak, flat, weak))


def noisy(seed, sigma, base):
    return np.clip(base + np.random.default_rng(seed).normal(0, sigma, SHAPE), 0, 255)


def test_flicker_relative_to_inputs():
    """Flicker is the change over that of the inputs."""
    # Given inputs whose noise changes by twice and by once the same amount, and fused frames with
    # the sum of both
    steps = [np.random.default_rng(seed).choice([-1.0, 1.0], SHAPE) for seed in range(5)]
    frames = [(100 + 2 * step, 100 + step, 100 + 3 * step) for step in steps]
    # when it is measured
    got = flicker(frames)
    # then the ratio is 3 to the mean of 2 and 1, and half of the pixels change by twice the step
    assert got.ratio == pytest.approx(2)
    assert got.ir == pytest.approx(2, rel=0.02)
    assert got.vi_y == pytest.approx(got.ir / 2)
    assert got.fused == pytest.approx(3 * got.vi_y)
    assert got.static_share > 0.95


def test_motion_is_no_flicker():
    """What moves does not count as flicker."""
    # Given noise in the whole image and a square that moves, and jumps in brightness where it is
    # fused
    frames = []
    for k in range(4):
        ir, vi_y = noisy(k, 2, 60), noisy(10 + k, 2, 100)
        fused = (ir + vi_y) / 2
        ir[20:60, 20 * k:20 * k + 20] = 200
        fused[20:60, 20 * k:20 * k + 20] = 250 - 40 * k
        frames.append((ir, vi_y, fused))
    got = flicker(frames)
    # then the ratio is that of averaged noise
    assert got.ratio == pytest.approx(1 / np.sqrt(2), abs=0.05)
    assert 0.7 < got.static_share < 0.95


def test_pumping_brightness_is_flicker():
    """A fused brightness that pumps is flicker."""
    frames = [(noisy(k, 1, 60), noisy(10 + k, 1, 100), np.full(SHAPE, 80.0 + 10 * (k % 2)))
              for k in range(4)]
    assert flicker(frames).fused == pytest.approx(10)
    assert flicker(frames).ratio > 5


def test_flicker_needs_two_frames():
    """Flicker needs two frames in a row."""
    frame = noisy(0, 1, 60), noisy(1, 1, 60), noisy(2, 1, 60)
    assert np.isnan(flicker([frame]).ratio)
    meter = FlickerMeter()
    meter.add(*frame)
    meter.interrupt()
    meter.add(*(image + 1 for image in frame))
    assert np.isnan(meter.result().fused)


def test_frozen_clip_has_no_flicker():
    """Flicker of a frozen clip is not defined."""
    still = np.full(SHAPE, 50, np.uint8)
    got = flicker([(still, still, still)] * 3)
    assert (got.fused, got.static_share) == (0.0, 1.0)
    assert np.isnan(got.ratio)
