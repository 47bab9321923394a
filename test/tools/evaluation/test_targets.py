# SPDX-License-Identifier: Apache-2.0
"""Contrast of targets, haze, saturation and flat thermal on pictures of known values."""

import numpy as np
import pytest

from diffmf_ros.core.imaging import classical
from diffmf_ros.tools.evaluation.metrics import flat_thermal, haze, saturation, score
from diffmf_ros.tools.evaluation.scoring import means
from diffmf_ros.tools.evaluation.targets import ScoredTarget, hot_blobs, summary, targets

SHAPE = 240, 320  # top-hat of 31 pixels, blobs of at least 36
WALKER, OTHER = np.s_[100:130, 60:72], np.s_[100:130, 200:212]


def picture(background, *levels_of):
    """A flat picture with rectangles: (where, level) each."""
    image = np.full(SHAPE, background, np.uint8)
    for where, level in levels_of:
        image[where] = level
    return image


def snow():
    """A walker who is warm (+100) in thermal and dark (-150) on snow, and one who is warm."""
    return picture(60, (WALKER, 160), (OTHER, 160)), picture(200, (WALKER, 50), (OTHER, 200))


def test_hot_blobs_are_people():
    """Hot blobs are people and nothing else."""
    # Given a walker, a wall broader than people, a speck of 9 pixels, a blob of 40 levels and a
    # kerb
    wall, speck, cool = np.s_[20:140, 240:280], np.s_[20:23, 20:23], np.s_[180:210, 60:72]
    kerb = np.s_[220:224, 100:150]
    ir = picture(60, (WALKER, 160), (wall, 200), (speck, 250), (cool, 100), (kerb, 160))
    blobs = hot_blobs(ir)
    # then the walker alone is found, but for a pixel at its edge
    assert len(blobs) == 1
    found = np.zeros(SHAPE, bool)
    found[blobs[0].window] = blobs[0].inside
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    edges = np.subtract((rows[0], rows[-1], columns[0], columns[-1]), (100, 129, 60, 71))
    assert np.abs(edges).max() <= 1


def test_cool_blobs_are_no_targets():
    """What is cooler than a tenth of the image is no target."""
    # Given a house in the sun, a sixth of the image, and a walker who is cooler than that
    house = np.s_[:, 250:]
    assert len(hot_blobs(picture(60, (WALKER, 160), (house, 150)))) == 1
    assert hot_blobs(picture(60, (WALKER, 160), (house, 170))) == []


def test_flat_thermal_has_no_targets():
    """A flat thermal image has no targets."""
    flat = picture(77)
    assert targets(flat, flat, flat) == []
    assert all(np.isnan(value) for value in summary([]).values())


def test_target_share_ignores_sign():
    """Target is the share of the better camera whatever its sign."""
    ir, vi_y = snow()
    # Given a fused image with a third of the dark walker and all of the other
    fused = picture(100, (WALKER, 50), (OTHER, 200))
    found = targets(ir, vi_y, fused)
    # then each is measured against the camera that shows it best
    assert [(round(t.ir), round(t.vi_y), round(t.fused)) for t in found] == [
        (100, -150, -50),
        (100, 0, 100),
    ]
    assert [t.kept for t in found] == pytest.approx([1 / 3, 1.0], abs=0.01)
    assert [t.dark for t in found] == [True, False]
    assert targets(ir, vi_y, 255 - fused)[0].kept == pytest.approx(1 / 3, abs=0.01)


def test_excess_contrast_is_not_rewarded():
    """More contrast than the better camera has is not rewarded."""
    found = [ScoredTarget(ir=50.0, vi_y=0.0, fused=100.0),
             ScoredTarget(ir=50.0, vi_y=0.0, fused=25.0)]
    assert found[0].kept == 2.0
    assert summary(found)['target'] == 0.75


def test_worst_tenth_and_dark_rgb():
    """The worst tenth and those dark in RGB."""
    # Given 20 targets that keep 0.05 to 1 of thermal, the first of them just dark in RGB
    found = [
        ScoredTarget(ir=100.0, vi_y=-20.0 if n == 0 else -19.9, fused=5.0 * (n + 1))
        for n in range(20)
    ]
    assert summary(found) == pytest.approx(
        {'target': 0.525, 'target_worst': 0.075, 'target_dark': 0.05}
    )


def test_boxes_stand_for_blobs():
    ir, vi_y = snow()
    # Given one box, whose target thermal does not show, and a neighbor that is to be ignored
    cold, other = picture(60), (200, 100, 212, 130)
    vi_y = picture(200, (WALKER, 50), (np.s_[90:140, 74:90], 0))
    box, beside = (60, 100, 72, 130), (74, 90, 90, 140)
    found = targets(cold, vi_y, vi_y, boxes=[box], ignore=[beside])
    # then the neighbor is no part of the ring, and no contrast is no target
    assert [(t.ir, t.vi_y, t.fused) for t in found] == [(0.0, -150.0, -150.0)]
    assert targets(cold, vi_y, vi_y, boxes=[box])[0].vi_y > -150
    assert targets(cold, cold, cold, boxes=[other]) == []
    assert len(targets(ir, snow()[1], ir, boxes=[box, other])) == 2


def test_boxes_are_clipped_to_image():
    """Boxes that leave the image are cut."""
    vi_y = picture(200, (np.s_[100:130, :12], 50))
    assert targets(vi_y, vi_y, vi_y, boxes=[(-12, 100, 12, 130)])[0].kept == 1.0
    assert targets(vi_y, vi_y, vi_y, boxes=[(400, 100, 412, 130)]) == []


def test_targets_ignore_image_scale():
    """Targets do not depend on the scale of the image."""
    ir, vi_y = snow()
    twice = [np.kron(image, np.ones((2, 2), np.uint8)) for image in (ir, vi_y, ir)]
    assert [round(t.kept, 1) for t in targets(*twice)] == [
        round(t.kept, 1) for t in targets(ir, vi_y, ir)
    ]


def test_means_pool_all_targets():
    """Means pool the targets of all images."""
    # Given an image with nineteen good targets and one with a single bad one
    values = score(np.zeros((48, 48)), np.zeros((48, 48)), np.zeros((48, 48)))
    rows = [
        type(values)(values | summary(found), found)
        for found in ([ScoredTarget(100.0, 0.0, 100.0)] * 19, [ScoredTarget(100.0, 0.0, 0.0)])
    ]
    # then the means count each target once
    assert means(rows)['target'] == pytest.approx(0.95)
    assert means(rows)['target_worst'] == 0.5


def test_haze_lifts_cool_dark_pixels():
    """Haze is the lift of dark pixels that are not hot."""
    # Given a visible image with a dark third, a hot walker in it, and gray thermal
    dark = np.s_[:, :100]
    vi_y, ir = picture(200, (dark, 10)), picture(60, (WALKER, 250))
    # when the dark third is lifted by 30 levels and the walker by more
    fused = picture(200, (dark, 40), (WALKER, 250))
    # then haze is 30, of the visible image 0, and below nothing where the fused image is darker
    assert haze(ir, vi_y, fused) == pytest.approx(30)
    assert haze(ir, vi_y, vi_y) == 0
    assert haze(ir, vi_y, picture(200, (dark, 5))) == pytest.approx(-5)


def test_saturation_kept_counts_no_gain():
    # Given a color of saturation 0.75 in one half and of 0.5 in the other
    visible = np.zeros((40, 60, 3), np.uint8)
    visible[:, :30], visible[:, 30:] = (40, 80, 160), (80, 80, 160)
    faded, vivid = visible.copy(), visible.copy()
    faded[:, :30] = (80, 120, 160)  # 0.5
    vivid[:, 30:] = (0, 0, 160)  # 1
    assert saturation(visible, visible) == 1
    assert saturation(visible, faded) == pytest.approx(1.0 / 1.25)
    assert saturation(visible, vivid) == 1


def test_dark_pixels_have_no_color():
    """Pixels too dark to have a color do not count."""
    visible = np.zeros((40, 60, 3), np.uint8)
    visible[:, :30], visible[:, 30:] = (0, 0, 31), (0, 80, 160)
    fused = visible.copy()
    fused[:, :30] = 31
    assert saturation(visible, fused) == 1
    assert np.isnan(saturation(visible // 8, fused))
    assert np.isnan(saturation(np.full_like(visible, 90), fused))


def test_flat_thermal_is_the_worst_level():
    vi_y = np.random.default_rng(0).integers(100, 156, SHAPE, np.uint8)
    # The visible image itself has no error; classical keeps it to rounding
    assert flat_thermal(lambda ir, y: y, vi_y) == np.inf
    assert flat_thermal(classical.fuse, vi_y) > 40
    # thermal alone is worst at 255 or 0, by what a plain sum says
    worst = max(np.mean((vi_y.astype(float) - level) ** 2) for level in (0, 255))
    assert flat_thermal(lambda ir, y: ir, vi_y) == pytest.approx(10 * np.log10(255**2 / worst))
