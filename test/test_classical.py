# SPDX-License-Identifier: Apache-2.0
"""What the weight-free fusion promises: hot targets, visible texture, and harmlessness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffmf_ros.core.classical import fuse

SHAPE = (240, 320)
PERSON = (slice(90, 150), slice(140, 165))


def texture(shape=SHAPE, low=0.1, high=0.9, seed=0):
    """A checked pattern with noise: edges at several scales."""
    rows, columns = np.indices(shape)
    pattern = 0.6 * ((rows // 12 + columns // 16) % 2) + 0.4 * np.random.default_rng(seed).uniform(size=shape)
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
def test_a_hot_person_in_the_dark_keeps_most_of_its_contrast(visible):
    fused = fuse(hot_person(), flat(visible))

    assert contrast(fused) > 0.7 * contrast(hot_person())
    assert fused[PERSON].mean() > visible + 0.4


def test_a_hot_person_before_faint_texture_stays_salient():
    fused = fuse(hot_person(), texture(low=0.0, high=0.3))

    assert contrast(fused) > 0.6 * contrast(hot_person())


@pytest.mark.parametrize('temperature', [0.0, 0.5, 1.0])
def test_flat_thermal_leaves_the_visible_image(temperature):
    visible = texture()

    assert np.abs(fuse(flat(temperature), visible) - visible).max() < 1e-5


def test_texture_stays_under_thermal_that_only_shades():
    shade = np.repeat(np.linspace(0.2, 0.8, SHAPE[1], dtype=np.float32)[None], SHAPE[0], 0)
    visible = texture()

    assert np.corrcoef(fuse(shade, visible).ravel(), visible.ravel())[0, 1] > 0.95


def test_noise_of_a_fraction_of_a_grey_level_leaves_the_visible_image():
    noise = np.random.default_rng(0).normal(0.5, 0.1 / 255, SHAPE).astype(np.float32)

    assert np.abs(fuse(noise, flat(0.3)) - 0.3).max() < 0.5 / 255


def test_thermal_structure_shows_where_the_visible_image_is_blind():
    thermal = texture(seed=3)

    assert np.corrcoef(fuse(thermal, flat(0.6)).ravel(), thermal.ravel())[0, 1] > 0.9


def test_a_picture_fused_with_itself_is_itself():
    picture = texture(shape=(101, 77))

    assert np.abs(fuse(picture, picture) - picture).max() < 1e-5


@pytest.mark.parametrize('ir, y', [(0, 0), (0, 1), (1, 0), (1, 1), (0.3, 0.7)])
def test_constants_give_the_visible_constant(ir, y):
    assert np.abs(fuse(flat(ir), flat(y)) - y).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 70), st.integers(1, 70))
def test_any_size_and_content_stays_finite_and_in_range(data, height, width):
    values = arrays(np.float32, (height, width), elements=st.floats(0, 1, width=32))

    fused = fuse(data.draw(values), data.draw(values))

    assert fused.shape == (height, width) and fused.dtype == np.float32
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1


def test_read_only_and_strided_inputs_are_read_and_left_alone():
    ir, y = texture(seed=1), texture(seed=2)
    expected = fuse(ir[::2, ::3].copy(), y[::2, ::3].copy())
    ir.flags.writeable = y.flags.writeable = False

    assert np.array_equal(fuse(ir[::2, ::3], y[::2, ::3]), expected)
