# SPDX-License-Identifier: Apache-2.0
"""Detail of one camera comes back where the other one is flat, and nowhere else."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.imaging.missing_detail import GAIN, MOST, FineDetail, median_noise

SHAPE = 120, 160
RNG = np.random.default_rng(5)
FLAT = np.full(SHAPE, 60, np.uint8)
STRIPES = np.where(np.indices(SHAPE)[1] % 8 < 4, 56, 64).astype(np.uint8)
NOWHERE = np.zeros(SHAPE, np.float32)
INSIDE = np.s_[10:-10, 10:-10]


def missing_detail(fused, thermal, luma, warm, seen=None):
    return FineDetail.of(thermal, luma, warm, seen).missing(fused)


def share_of(stripes, levels):
    """How much of the fine detail of an image is in levels, by least squares."""
    fine = stripes - cv2.GaussianBlur(stripes.astype(np.float32), (0, 0), 2)
    return float((fine * levels)[INSIDE].sum() / (fine * fine)[INSIDE].sum())


def test_thermal_detail_in_the_dark():
    """A wall that RGB does not show comes in from thermal, over the noise of RGB."""
    luma = cv2.add(FLAT // 6, RNG.integers(0, 3, SHAPE).astype(np.uint8))
    assert share_of(STRIPES, missing_detail(luma, STRIPES, luma, NOWHERE)) == pytest.approx(
        GAIN, abs=0.1)


def test_visible_detail_where_thermal_is_flat():
    """Lettering on a wall of one temperature comes back in full."""
    assert share_of(STRIPES, missing_detail(FLAT, FLAT, STRIPES, NOWHERE)) == pytest.approx(
        1, abs=0.02)


def test_detail_that_is_there_is_not_doubled():
    for thermal, luma in (FLAT, STRIPES), (STRIPES, FLAT):
        assert np.abs(missing_detail(STRIPES, thermal, luma, NOWHERE)[INSIDE]).max() < 0.01


def test_two_detailed_cameras_stay_as_fused():
    """Where both have structure a network has chosen; nothing is added."""
    other = np.ascontiguousarray(np.where(np.indices(SHAPE)[0] % 8 < 4, 30, 90).astype(np.uint8))
    fused = cv2.addWeighted(STRIPES, 0.5, other, 0.5, 0)
    assert np.abs(missing_detail(fused, STRIPES, other, NOWHERE)[INSIDE]).max() < 0.01


@pytest.mark.parametrize('deviation', [1.0, 3.0])
def test_thermal_noise_is_no_detail(deviation):
    """Noise stays out of a plain sky, strong noise too, while an edge beside it comes in."""
    noise = RNG.normal(0, deviation, SHAPE)
    thermal = np.clip(FLAT + noise + 60 * (np.indices(SHAPE)[0] >= 60), 0, 255).astype(np.uint8)
    levels = np.abs(missing_detail(FLAT, thermal, FLAT, NOWHERE))
    assert median_noise(thermal) == pytest.approx(deviation, rel=0.1)
    assert levels[10:40].mean() < 0.05 * deviation
    assert levels[58:62].mean() > 4


def test_thermal_edge_has_no_strong_halo():
    """The edge of a cold sky, 150 levels, adds no more than the limit."""
    edge = np.where(np.indices(SHAPE)[0] < 60, 20, 170).astype(np.uint8)
    assert np.abs(missing_detail(FLAT, edge, FLAT, NOWHERE)).max() <= MOST


def test_warm_objects_and_unseen_parts_stay():
    warm, seen = NOWHERE.copy(), np.ones(SHAPE, bool)
    warm[40:60, 40:60], seen[:, 100:] = 1, False
    levels = missing_detail(FLAT, STRIPES, FLAT, warm, seen)
    assert not levels[40:60, 40:60].any() and not levels[:, 100:].any()
    assert levels[70:100, 20:80].any()
