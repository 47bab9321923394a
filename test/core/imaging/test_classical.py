# SPDX-License-Identifier: Apache-2.0
"""What the weight-free fusion promises: hot targets, visible texture, and harmlessness."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffmf_ros.core.imaging.classical import fuse

SHAPE = (240, 320)
PERSON = (slice(90, 150), slice(140, 165))


def texture(shape=SHAPE, low=0.1, high=0.9, seed=0):
    """A checked pattern with noise: edges at several scales."""
    rows, columns = np.indices(shape)
    pattern = 0.6 * ((rows // 12 + columns // 16) % 2) + 0.4 * np.random.default_rng(seed).uniform(
        size=shape)
    return (low + (high - low) * pattern).astype(np.float32)


def flat(value, shape=SHAPE):
    return np.full(shape, value, np.float32)


def hot_person(ground=0.2, person=0.9):
    ir = flat(ground)
    ir[PERSON] = person
    return ir


def contrast(image):
    """Mean of the person minus mean of a frame 20 pixels wide around."""
    rows, columns = PERSON
    around = np.zeros(image.shape, bool)
    around[rows.start - 20:rows.stop + 20, columns.start - 20:columns.stop + 20] = True
    around[PERSON] = False
    return image[PERSON].mean() - image[around].mean()


@pytest.mark.parametrize('visible', [0.0, 0.05, 0.4])
def test_hot_person_in_dark(visible):
    """A hot person in the dark keeps most of its contrast."""
    fused = fuse(hot_person(), flat(visible))

    assert contrast(fused) > 0.7 * contrast(hot_person())
    assert fused[PERSON].mean() > visible + 0.4


def test_hot_person_before_faint_texture():
    """A hot person before faint texture stays salient."""
    fused = fuse(hot_person(), texture(low=0.0, high=0.3))

    assert contrast(fused) > 0.6 * contrast(hot_person())


@pytest.mark.parametrize('ground, coat', [(0.5, 0.25), (0.35, 0.1), (0.95, 0.4)],
                         ids=['day', 'dusk', 'snow'])
def test_dark_person_warm_in_thermal(ground, coat):
    """A person dark in RGB and warm in thermal stays visible."""
    # given a walker who is darker than the ground in RGB and warmer in thermal
    visible = flat(ground)
    visible[PERSON] = coat
    thermal = hot_person(ground=0.3, person=0.6)

    fused = fuse(thermal, visible)

    # then the fused contrast, whatever its sign, is about that of the better camera
    better = max(abs(contrast(thermal)), abs(contrast(visible)))
    assert abs(contrast(fused)) > 0.8 * better


def test_patterned_coat_keeps_contrast():
    """A patterned coat against a bright ground keeps its contrast."""
    # given opposite contrasts of the same size, and clothes of several brightnesses
    visible = flat(0.55)
    visible[PERSON] = texture(low=0.15, high=0.45)[PERSON]
    thermal = hot_person(ground=0.3, person=0.6)

    assert abs(contrast(fuse(thermal, visible))) > 0.8 * 0.28


def test_dark_person_keeps_one_polarity():
    """A dark person before snow and wall keeps one polarity."""
    # given snow below and a gray wall above, a dark walker before both, warm in thermal
    visible = flat(0.9)
    visible[:110] = 0.55
    visible[PERSON] = 0.2
    thermal = hot_person(ground=0.3, person=0.55)

    fused = fuse(thermal, visible)

    # then he is darker than both, or brighter than both, but not half and half
    rows, columns = PERSON
    sides = fused[:, columns.start - 12:columns.start - 4].mean(axis=1)
    parts = (fused[:, columns].mean(axis=1) - sides)[rows][8:-8]
    assert np.abs(parts[np.abs(np.arange(98, 142) - 110) > 6]).min() > 0.15
    assert len(set(np.sign(parts[np.abs(np.arange(98, 142) - 110) > 6]))) == 1


def test_a_hot_person_darkens_nothing_around():
    visible = texture(low=0.25, high=0.35)
    thermal = hot_person()

    fused = fuse(thermal, visible)

    rows, columns = PERSON
    for distance in (10, 20, 40):  # rings of 6 pixels around the person
        ring = np.zeros(SHAPE, bool)
        ring[rows.start - distance - 6:rows.stop + distance + 6,
             columns.start - distance - 6:columns.stop + distance + 6] = True
        ring[rows.start - distance:rows.stop + distance,
             columns.start - distance:columns.stop + distance] = False
        assert abs((fused - visible)[ring].mean()) < 4 / 255, distance


def test_gray_thermal_is_no_haze():
    """A gray thermal background is no haze."""
    visible = texture(low=0.02, high=0.1)
    background = cv2.GaussianBlur(np.random.default_rng(1).uniform(size=SHAPE), (0, 0), 60)
    thermal = (0.4 + 0.2 * (background - background.min()) / np.ptp(background)).astype(np.float32)

    assert (fuse(thermal, visible) - visible).mean() < 3 / 255


def test_hot_person_in_white_smoke():
    """A hot person shows in white smoke."""
    smoke = flat(1.0)

    fused = fuse(hot_person(), smoke)

    assert contrast(fused) > 0.1


def test_hot_person_in_bright_fog():
    """A hot person shows in bright fog where RGB has a shadow."""
    fog = flat(0.8)
    fog[PERSON] = 0.78

    assert contrast(fuse(hot_person(ground=0.3, person=0.6), fog)) > 0.15


def test_plain_sky_hides_thermal_noise():
    """Thermal noise does not show in a plain sky."""
    # given a plain sky, thermal noise of 2 levels, and structure elsewhere
    sky = (slice(0, 120), slice(None))
    noise = np.random.default_rng(0).normal(0, 2 / 255, SHAPE)
    thermal = (0.4 + noise).astype(np.float32)
    thermal[150:] += texture()[150:] * 0.4

    fused = fuse(np.clip(thermal, 0, 1), flat(0.6))

    assert fused[sky].std() < 0.6 * thermal[sky].std()


def test_walking_person_changes_little_elsewhere():
    """A person who walks changes little elsewhere."""
    # given two frames of a static scene in which a hot person moves by 8 pixels
    visible = texture(low=0.2, high=0.5)
    before = hot_person()
    after = np.roll(before, 8, axis=1)

    change = np.abs(fuse(after, visible) - fuse(before, visible))

    columns = PERSON[1]
    far = np.ones(SHAPE, bool)
    far[:, columns.start - 80:columns.stop + 88] = False
    assert change[far].max() < 1 / 255


@pytest.mark.parametrize('temperature', [0.0, 0.5, 1.0])
def test_flat_thermal_leaves_the_visible_image(temperature):
    visible = texture()

    assert np.abs(fuse(flat(temperature), visible) - visible).max() < 1e-5


def test_texture_survives_thermal_shading():
    """Texture stays under thermal that only shades."""
    shade = np.repeat(np.linspace(0.2, 0.8, SHAPE[1], dtype=np.float32)[None], SHAPE[0], 0)
    visible = texture()

    assert np.corrcoef(fuse(shade, visible).ravel(), visible.ravel())[0, 1] > 0.95


def test_subgray_noise_leaves_visible_image():
    """Noise of a fraction of a gray level leaves the visible image."""
    noise = np.random.default_rng(0).normal(0.5, 0.1 / 255, SHAPE).astype(np.float32)

    assert np.abs(fuse(noise, flat(0.3)) - 0.3).max() < 0.5 / 255


def test_thermal_fills_blind_visible():
    """Thermal structure shows where the visible image is blind."""
    thermal = texture(seed=3)

    assert np.corrcoef(fuse(thermal, flat(0.6)).ravel(), thermal.ravel())[0, 1] > 0.9


def test_self_fusion_is_identity():
    """A picture fused with itself is itself."""
    picture = texture(shape=(101, 77))

    assert np.abs(fuse(picture, picture) - picture).max() < 1e-5


@pytest.mark.parametrize('ir, y', [(0, 0), (0, 1), (1, 0), (1, 1), (0.3, 0.7)])
def test_constants_give_the_visible_constant(ir, y):
    assert np.abs(fuse(flat(ir), flat(y)) - y).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 70), st.integers(1, 70))
def test_any_content_stays_finite(data, height, width):
    """Any size and content stays finite and in range."""
    values = arrays(np.float32, (height, width), elements=st.floats(0, 1, width=32))

    fused = fuse(data.draw(values), data.draw(values))

    assert fused.shape == (height, width) and fused.dtype == np.float32
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1


def test_read_only_and_strided_inputs():
    """Read-only and strided inputs are read and left alone."""
    ir, y = texture(seed=1), texture(seed=2)
    expected = fuse(ir[::2, ::3].copy(), y[::2, ::3].copy())
    ir.flags.writeable = y.flags.writeable = False

    assert np.array_equal(fuse(ir[::2, ::3], y[::2, ::3]), expected)
