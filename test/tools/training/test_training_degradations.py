# SPDX-License-Identifier: Apache-2.0
"""What is done to clean pairs in training: each degradation alone, and none."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from diffmf_ros.tools.training.data import (
    LEVEL,
    Degradations,
    degraded_thermal,
    degraded_visible,
    with_dark_coats,
    with_noise,
)

NAMES = [field.name for field in fields(Degradations)]
NONE = Degradations(**dict.fromkeys(NAMES, 0.0))
VISIBLE = 'dark', 'veil', 'glare', 'blind', 'dark_coats', 'visible_noise'
SEEDS = range(12)


def texture(seed=0, *, low=0.3, high=0.9):
    """Smooth 96 x 128 float32 in [low, high]."""
    noise = np.random.default_rng(seed).standard_normal((96, 128)).astype(np.float32)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, low, high, cv2.NORM_MINMAX)
    return np.clip(image, low, high)  # normalize rounds


def degraded(y, ir, chances, *, seed=0):
    """(y, ir) with everything that may happen to them; the brightest of ir is warm."""
    random = np.random.default_rng(seed)
    warm = np.float32(ir > 0.7)
    ir = degraded_thermal(ir, random, chances)
    y = degraded_visible(with_dark_coats(y, warm, random, chances), random, chances)
    return with_noise(y, ir, random, chances)


def only(name, y=None, ir=None):
    """What is left of y and ir, for every seed, when this alone happens and always."""
    y, ir = texture(1) if y is None else y, texture(2) if ir is None else ir
    return [degraded(y, ir, replace(NONE, **{name: 1.0}), seed=seed) for seed in SEEDS]


def test_no_degradations_no_change():
    """Without degradations both images stay as they are."""
    y, ir = texture(1), texture(2)
    found = degraded(y, ir, NONE)
    assert np.array_equal(found[0], y) and np.array_equal(found[1], ir)


@pytest.mark.parametrize('name', NAMES)
def test_degradation_bounded_single_and_repeatable(name):
    """A degradation stays in range changes its camera alone and repeats."""
    # Given one degradation that always happens,
    y, ir = texture(1, low=0.0, high=1.0), texture(2, low=0.0, high=1.0)
    for (new_y, new_ir), again in zip(only(name, y, ir), only(name, y, ir)):
        # then images keep type, size and range, and a seed gives the same images,
        for image, repeated in zip((new_y, new_ir), again):
            assert (image.dtype, image.shape) == (np.float32, (96, 128))
            assert 0 <= image.min() and image.max() <= 1
            assert np.array_equal(image, repeated)
        # and one of the two cameras is another one.
        changed = [not np.array_equal(*images) for images in ((new_y, y), (new_ir, ir))]
        assert changed == [name in VISIBLE, name not in VISIBLE]


@pytest.mark.parametrize('name', NAMES)
def test_frequency_is_as_asked(name):
    """It happens as often as it is asked for."""
    y, ir, times = texture(1)[:16, :16], texture(2)[:16, :16], 300
    chances = replace(NONE, **{name: 0.25})
    found = [degraded(y, ir, chances, seed=seed) for seed in range(times)]
    changed = sum(not (np.array_equal(a, y) and np.array_equal(b, ir)) for a, b in found)
    assert changed == pytest.approx(0.25 * times, abs=4 * (times * 0.25 * 0.75) ** 0.5)


def test_darkness_leaves_two_fifths():
    """Darkness leaves at most two fifths of the light."""
    y = texture(1)
    for dark, _ in only('dark', y):
        assert (dark <= 0.4 * y + 1e-6).all()
        assert dark.max() > 0.3 ** 1.5 * 0.03


def test_coats_dark_on_bright_ground():
    """Coats are dark before a bright ground."""
    # Given a gray scene one part of which is warm,
    y, ir = np.full((96, 128), 0.5, np.float32), np.zeros((96, 128), np.float32)
    ir[30:60, 40:60] = 1
    for coats, _ in only('dark_coats', y, ir):
        # then its ground is brighter than it was, and the warm part at most half as bright as
        # that.
        ground, coat = coats[0, 0], coats[45, 50]
        assert 0.2 + 0.8 * 0.5 <= ground <= 0.6 + 0.4 * 0.5
        assert 0.05 * ground - 1e-6 <= coat <= 0.5 * ground
        assert np.isin(coats, (ground, coat)).all()


def test_a_veil_takes_contrast_away():
    # Given a fine pattern of black and white,
    y = np.float32(np.indices((96, 128)).sum(0) % 2)
    left = [np.abs(np.diff(veiled, axis=1)).mean() for veiled, _ in only('veil', y)]
    # then the veils of twelve images leave less of it, and not all are alike.
    assert max(left) <= 1.01
    assert np.mean(left) < 0.85
    assert np.ptp(left) > 0.2


def test_glare_only_adds_light_and_saturates():
    y = texture(1)
    for bright, _ in only('glare', y):
        assert (bright >= y - 1e-6).all()
        assert bright.max() == 1.0


def test_blind_camera_black_or_white():
    """A blind camera is black or white."""
    levels = {float(blind.max()) for blind, _ in only('blind') if np.ptp(blind) == 0}
    assert levels <= {0.0, np.float32(0.02), np.float32(0.98), 1.0}
    assert len(levels) > 1


def test_gray_thermal_keeps_warmth_order():
    """Gray thermal lifts the ground and keeps the order of warmth."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None].repeat(96, axis=0)
    for _, gray in only('gray_thermal', ir=ramp):
        assert 0.1 <= gray.min() <= 0.5
        assert 0.85 - 1e-6 <= gray.max() <= 1
        assert (np.diff(gray[0]) >= 0).all()


def test_black_hot_negative_flat_uniform():
    """Black hot is the negative and flat thermal one level."""
    ir = texture(2)
    for _, inverted in only('black_hot', ir=ir):
        assert np.allclose(inverted, 1 - ir, atol=1e-6)
    levels = [flat for _, flat in only('flat_thermal', ir=ir)]
    assert all(np.ptp(flat) == 0 for flat in levels)
    assert np.ptp([flat[0, 0] for flat in levels]) > 0.3


def test_thermal_shift_four_pixels():
    """Thermal is shifted by at most four pixels."""
    # Given a spot in the middle,
    rows, columns = np.mgrid[:96, :128]
    spot = np.exp(-((rows - 48) ** 2 + (columns - 64) ** 2) / 32).astype(np.float32)
    for _, moved in only('shift', ir=spot):
        # then its center of mass moves, and no farther.
        way = [(axis * moved).sum() / moved.sum() - start
               for axis, start in ((rows, 48), (columns, 64))]
        assert max(map(abs, way)) <= 4.05
        assert np.hypot(*way) > 0.05


def test_noise_has_stated_size():
    """Noise has the size that is said."""
    y, ir = (np.full((96, 128), 0.5, np.float32) for _ in range(2))
    visible = [np.std(noisy) / LEVEL for noisy, _ in only('visible_noise', y, ir)]
    thermal = [np.std(noisy) / LEVEL for _, noisy in only('thermal_noise', y, ir)]
    assert 1 * 0.8 ** 0.5 * 0.9 < min(visible) and max(visible) < 12 * 0.8 ** 0.5 * 1.1
    assert 0.5 * 0.9 < min(thermal) and max(thermal) < np.hypot(4, 1.5) * 1.1
    assert max(visible) > 2 * min(visible)
