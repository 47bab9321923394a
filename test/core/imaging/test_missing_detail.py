# SPDX-License-Identifier: Apache-2.0
"""Detail of one camera comes back where the other one is flat, and softens around warm objects."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.imaging.missing_detail import (
    GAIN,
    MOST_ADDED_LEVELS,
    MOST_LEVELS,
    OF_THERMAL,
    VISIBLE_GAIN,
    FineDetail,
)

SHAPE = 240, 320
THUMBNAIL = 120, 160
RNG = np.random.default_rng(5)
FLAT = np.full(SHAPE, 60, np.uint8)
ROWS, COLUMNS = np.indices(SHAPE)
WALL = ROWS < 200  # below it both images are plain
STRIPES = np.where(WALL & (COLUMNS % 8 < 4), 40, 60).astype(np.uint8)
CROSSING = np.where(WALL & (ROWS % 8 < 4), 20, 60).astype(np.uint8)
NOWHERE = np.zeros(THUMBNAIL, np.float32)
INSIDE = np.s_[20:180, 20:-20]


def missing_detail(fused, thermal, luma, warm=NOWHERE, seen=None, upright=True):
    return FineDetail.of(thermal, luma, warm, warm if upright else NOWHERE, seen).missing(fused)


def share_of(stripes, levels, part=INSIDE):
    """How much of the fine detail of an image is in levels, by least squares."""
    fine = stripes - cv2.GaussianBlur(stripes.astype(np.float32), (0, 0), 4)
    return float((fine * levels)[part].sum() / (fine * fine)[part].sum())


def test_thermal_detail_in_the_dark():
    """A wall that RGB does not show comes in from thermal, over the noise of RGB."""
    luma = cv2.add(FLAT // 6, RNG.integers(0, 3, SHAPE).astype(np.uint8))
    assert share_of(STRIPES, missing_detail(luma, STRIPES, luma)) == pytest.approx(GAIN, rel=0.05)


def test_visible_detail_where_thermal_is_flat():
    """Lettering on a wall of one temperature comes back in full."""
    assert share_of(STRIPES, missing_detail(FLAT, FLAT, STRIPES)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize('brightness, share', [(30, 1), (120, VISIBLE_GAIN)])
def test_faint_visible_detail_comes_back(brightness, share):
    """What is too faint to be structure, too; in a bright view stronger, as noise lies over it."""
    faint = np.where(COLUMNS % 8 < 4, brightness, brightness + 2).astype(np.uint8)
    flat = np.full(SHAPE, brightness, np.uint8)
    assert share_of(faint, missing_detail(flat, flat, faint)) == pytest.approx(share, abs=0.03)


def test_strong_visible_detail_is_hardly_sharpened():
    """By two levels at most: an edge of a bright view has no halo."""
    bright = cv2.add(STRIPES, 80)
    added = missing_detail(bright, cv2.add(FLAT, 80), bright)
    assert 1 < np.abs(added[INSIDE]).max() < MOST_ADDED_LEVELS + 0.1


@pytest.mark.parametrize('thermal, luma', [(FLAT, STRIPES), (STRIPES, FLAT)])
def test_detail_that_is_there_is_not_doubled(thermal, luma):
    assert np.abs(missing_detail(STRIPES, thermal, luma)[INSIDE]).max() < 0.5


def test_two_detailed_cameras_stay_as_fused():
    """Where both have structure a network has chosen; nothing is added."""
    fused = cv2.addWeighted(STRIPES, 0.5, CROSSING, 0.5, 0)
    assert np.abs(missing_detail(fused, STRIPES, CROSSING)[INSIDE]).max() < 0.01


@pytest.mark.parametrize('levels_rms, smooth_px, share',
                         [(2, 0.3, 0.01), (2, 1.5, 0.6), (3, 1.0, 0.1)])
def test_thermal_noise_is_no_detail(levels_rms, smooth_px, share):
    """None of it reaches a plain sky, of noise that the camera smoothed a part. An edge comes in.

    Stronger noise raises the limits, so that less of it comes in.
    """
    noise = cv2.GaussianBlur(RNG.normal(0, 1, SHAPE), (0, 0), smooth_px)
    noise *= levels_rms / noise.std()
    thermal = np.clip(FLAT + noise + 60 * (ROWS >= 120), 0, 255).astype(np.uint8)
    for unseen in 0, 80:  # columns of the left border
        thermal[:, :unseen], seen = 0, np.ones(THUMBNAIL, bool)
        seen[:, :unseen // 2] = False
        levels = np.abs(missing_detail(FLAT, thermal, FLAT, seen=seen))[:, unseen:]
        assert levels[20:80].mean() < share * np.abs(noise).mean()
        assert levels[116:124].mean() > 4


def test_thermal_edge_has_no_strong_halo():
    """The edge of a cold sky, 150 levels, adds no more than the limit."""
    edge = np.where(ROWS < 120, 20, 170).astype(np.uint8)
    assert np.abs(missing_detail(FLAT, edge, FLAT)).max() == pytest.approx(MOST_LEVELS)


def test_warm_objects_and_unseen_parts_stay():
    warm, seen = NOWHERE.copy(), np.ones(THUMBNAIL, bool)
    warm[40:60, 40:60], seen[:, 100:] = 1, False
    levels = missing_detail(FLAT, STRIPES, FLAT, warm, seen)
    assert not levels[80:120, 80:120].any() and not levels[:, 202:].any()
    assert levels[140:180, 40:160].any()


def test_visible_detail_around_a_person_softens():
    """Next to the person a quarter and more is away; beyond a fifth of the height nothing is."""
    warm = NOWHERE.copy()
    warm[50:70, 70:90] = 1
    for thermal in FLAT, CROSSING:
        levels = STRIPES + missing_detail(STRIPES, thermal, STRIPES, warm)
        assert 1 - OF_THERMAL < share_of(STRIPES, levels, np.s_[92:95, 140:180]) < 0.75
        assert share_of(STRIPES, levels, np.s_[20:50, 140:180]) == pytest.approx(1, abs=0.03)


def test_visible_detail_around_a_car_stays():
    """What is warm and wider than tall is no person."""
    warm = NOWHERE.copy()
    warm[50:60, 70:90] = 1
    levels = STRIPES + missing_detail(STRIPES, FLAT, STRIPES, warm, upright=False)
    assert share_of(STRIPES, levels, np.s_[82:85, 140:180]) == pytest.approx(1, abs=0.03)
