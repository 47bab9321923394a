# SPDX-License-Identifier: Apache-2.0
"""Targets of the training on made-up pairs of 240 x 320 pixels, where the answer is known."""

import cv2
import numpy as np
import pytest

from diffmf_ros.tools.training.target import denoised, fused_target, noise_sigma
from diffmf_ros.tools.training.warm_objects import (
    LEVEL,
    WarmScene,
    find_objects,
    show_objects,
    thermal_ground,
    warmth,
)

SHAPE = 240, 320
PERSON = np.zeros(SHAPE, bool)
PERSON[100:140, 150:170] = True
NEAR, FAR = (cv2.dilate(np.uint8(PERSON), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0
             for radius in (3, 8))
RING = FAR & ~NEAR


def picture(ground, person):
    """H x W float32: a person of one level on a ground of one level, or of an image of levels."""
    return np.float32(LEVEL) * np.where(PERSON, person, ground).astype(np.float32)


def texture(low, high, *, sigma=3.0, seed=0):
    """A smooth texture in levels."""
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, low, high, cv2.NORM_MINMAX)


def contrast(image):
    """Of the person against the ring around it, in levels."""
    return float(image[PERSON].mean() - image[RING].mean()) / LEVEL


def target_of(ir, y):
    return fused_target(ir, y, WarmScene.of(ir))


@pytest.mark.parametrize('level', [0, 90, 255])
def test_flat_thermal_leaves_visible(level):
    """Flat thermal leaves the visible image as it is."""
    y = np.float32(LEVEL * texture(20, 235))
    target = target_of(np.full(SHAPE, level * LEVEL, np.float32), y)
    assert np.abs(target.image - y).max() < LEVEL
    assert not target.warm.any()
    assert not target.share.any()


def test_warm_person_in_dark():
    """A warm person in the dark gets the contrast of thermal."""
    # Given a night scene: thermal shows a person by 120 levels, the visible image by 20,
    ir, y = picture(40, 160), picture(10, 30)
    target = target_of(ir, y)
    # then the person is bright, and the ground stays dark.
    assert contrast(target.image) >= 0.9 * 120
    assert np.median(target.image[~FAR]) == pytest.approx(10 * LEVEL, abs=2 * LEVEL)
    # And the masks say where: the person is warm and his brightness comes from thermal.
    assert target.warm[PERSON].mean() > 0.9 and target.share[PERSON].mean() > 0.8
    assert target.warm[~FAR].max() == 0 and target.share[~FAR].max() < 0.05


def test_dark_person_on_bright_ground():
    """A person who is dark before a bright ground stays dark."""
    # Given a walker on snow whom the visible image shows by -140 levels and thermal by 60,
    target = target_of(picture(60, 120), picture(200, 60))
    assert contrast(target.image) <= -0.9 * 140


def test_warm_face_of_dark_person():
    """A warm face of a dark person stays dark with him."""
    # Given a walker on snow, dark in the visible image, whose face is warmer and brighter than
    # his coat,
    face = np.zeros(SHAPE, bool)
    face[104:114, 155:165] = True
    ir, y = picture(60, 120), picture(200, 40)
    ir[face], y[face] = 220 * LEVEL, 70 * LEVEL
    target = target_of(ir, y)
    # then the face is still darker than the snow, as the visible image has it.
    assert target.image[face].mean() <= 100 * LEVEL


def test_visible_detail_on_warm_person():
    """Visible detail stays on a warm person."""
    # Given a warm person with stripes of 40 levels on the coat, two pixels wide, in the dark,
    stripes = 20.0 * np.sign(np.sin(np.arange(SHAPE[1]) * np.pi / 2 + 0.1))
    target = target_of(picture(40, 160), picture(10, 40 + stripes))
    # then most of them are there, on a bright person.
    inside = target.image[110:130, 155:165]
    assert contrast(target.image) >= 0.9 * 120
    assert inside.std() >= 0.6 * 20 * LEVEL


def test_darkish_person_becomes_bright():
    """A person hardly darker than a dark ground becomes bright."""
    # Given a person whom the visible image shows by -15 levels and thermal by 100,
    target = target_of(picture(50, 150), picture(60, 45))
    assert contrast(target.image) >= 0.9 * 100


def test_smoke_leaves_room():
    """Smoke leaves room for a warm person."""
    # Given smoke of a middle gray that hides a person whom thermal shows by 80 levels,
    target = target_of(picture(60, 140), picture(150, 150))
    assert contrast(target.image) >= 0.9 * 80


def test_white_smoke_opens_around_person():
    """White smoke opens around a warm person."""
    # Given smoke so bright that a person cannot be 80 levels brighter than it,
    target = target_of(picture(60, 140), picture(205, 205))
    # then its ground gets darker around him and most of the contrast is there.
    assert target.image[RING].mean() < (205 - 8) * LEVEL
    assert contrast(target.image) >= 0.7 * 80
    assert target.image[:20, :20].mean() == pytest.approx(205 * LEVEL, abs=3 * LEVEL)


def test_gray_thermal_is_no_haze():
    """Gray thermal does not lie over the dark as haze."""
    # Given a dark scene under thermal that is gray, with a slow slope,
    slope = np.linspace(110, 130, SHAPE[1])[None].repeat(SHAPE[0], axis=0)
    y = np.float32(LEVEL * texture(6, 90))
    target = target_of(picture(slope, 200), y)
    # then the darkest pixels stay as dark as they are.
    darkest = (y <= np.percentile(y, 30)) & (target.warm == 0) & ~FAR
    assert (target.image - y)[darkest].mean() < LEVEL
    assert contrast(target.image) > 50


def test_detail_from_better_camera():
    """Detail comes from the camera that has it."""
    # Given thermal flat at the left, and the visible image at the right,
    left, right = np.s_[16:-16, 16:144], np.s_[16:-16, 176:-16]
    visible, thermal = texture(60, 110), texture(88, 112, sigma=2.0, seed=1)
    visible[:, 160:], thermal[:, :160] = 85, 100
    y, ir = (np.float32(LEVEL * image) for image in (visible, thermal))
    target = target_of(ir, y).image
    # then the target has the structure of the other one.
    assert np.abs(target - y)[left].max() < LEVEL
    assert np.corrcoef(target[right].ravel(), ir[right].ravel())[0, 1] > 0.8
    assert 0.4 * ir[right].std() < target[right].std() < 1.5 * ir[right].std()


def test_noise_removed_clean_untouched():
    """Noise is measured and taken away and clean images are left alone."""
    clean = np.float32(LEVEL * texture(60, 190))
    noise = np.random.default_rng(5).standard_normal(SHAPE) * 6 * LEVEL
    noisy = np.clip(clean + noise, 0, 1).astype(np.float32)
    assert noise_sigma(noisy) == pytest.approx(6 * LEVEL, rel=0.1)
    assert noise_sigma(clean) == 0.5 * LEVEL
    assert denoised(clean) is clean
    assert (denoised(noisy) - clean).std() < 0.6 * (noisy - clean).std()


def test_scene_described_by_whole_thermal():
    """A scene is described by its whole thermal image."""
    # Given an image of which a hundredth is hot, half of it taken at half the size,
    ir = np.full((480, 640), 0.2, np.float32)
    ir[:48, :64] = 0.9
    scene = WarmScene.of(ir, scale=0.5)
    assert (scene.height_px, scene.scale, scene.area_px) == (240, 0.5, 240 * 320)
    assert (scene.median, scene.hot) == pytest.approx((0.2, 0.9))
    # and the range of a flat one is 40 levels.
    flat = WarmScene.of(np.full((480, 640), 0.2, np.float32))
    assert flat.hot - flat.median == pytest.approx(40 * LEVEL)


def objects_of(ir):
    scene = WarmScene.of(ir)
    ground = thermal_ground(ir, scene)
    return find_objects(ir, ground, warmth(ir, ground, scene), scene)


def discs(*found, ground=80):
    """Thermal with discs of (row, column, radius in pixels, levels above the ground)."""
    image = np.full(SHAPE, float(ground), np.float32)
    for row, column, radius, above in found:
        cv2.circle(image, (column, row), radius, ground + above, -1)
    return np.float32(LEVEL) * image


@pytest.mark.parametrize('found, count', [
    ((), 0),
    (((60, 60, 8, 40), (60, 200, 8, 40), (180, 120, 8, 40)), 3),
    (((60, 60, 8, 20),), 0),  # not 28 levels above the ground
    (((60, 60, 8, -60),), 0),  # cold
    (((60, 60, 1, 40),), 0),  # too small
    (((120, 160, 60, 40),), 0),  # so wide that it belongs to the ground
    (((60, 60, 8, 60),), 2),  # above 28 and above 50
    (((60, 60, 8, 100),), 3),  # above 85 too
])
def test_warm_objects_counted_per_step(found, count):
    """Warm objects are counted once for every step that they reach."""
    assert len(objects_of(discs(*found))) == count


def test_nested_object_comes_after():
    """An object in an object comes after it."""
    # Given a warm disc with a hot one in it,
    outer, *inner = objects_of(discs((120, 160, 20, 40), (120, 160, 8, 70)))
    # then both are objects, the outer one first, each with its own surround.
    assert len(inner) == 1
    assert outer.area_px > 4 * inner[0].area_px
    for item in (outer, *inner):
        assert item.pixels.shape == item.surround.shape == item.weight.shape
        assert item.pixels.sum() == item.area_px
        assert not (item.pixels & item.surround).any()
        assert 0 <= item.weight.min() and item.weight.max() <= 1


def test_object_contrast_in_any_image():
    """Contrast of an object is that of its surround in any image."""
    item, = objects_of(discs((60, 60, 8, 40)))
    brighter = discs((60, 60, 12, 0), ground=30)
    brighter[item.window][item.pixels] += 0.5
    assert item.contrast_in(brighter) == pytest.approx(0.5, abs=1e-6)


def test_nothing_is_drawn_without_objects():
    fused = np.float32(LEVEL * texture(20, 200))
    image, share = show_objects([], fused, fused, fused, WarmScene.of(fused))
    assert np.array_equal(image, fused)
    assert not share.any()
