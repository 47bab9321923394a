# SPDX-License-Identifier: Apache-2.0
"""Fusing at a smaller working size: what comes back at full size."""

import cv2
import numpy as np
import pytest

from diffmf_ros.inference.working_size import fuse_scaled

SCALES = [0.5, 0.35, 0.25]


def average(ir, y):
    """A network far from the maximum."""
    return (ir + y) / 2


def subdued_maximum(ir, y):
    """A network that is linear in the brighter and the darker source."""
    return 0.8 * cv2.max(ir, y) + 0.1 * cv2.min(ir, y) + 0.05


@pytest.fixture
def scene():
    """Return thermal and visible luminance, 96 x 128.

    Smooth and textured parts, an edge, and noise.
    """
    random = np.random.default_rng(0)
    ir, y = (cv2.GaussianBlur(random.random((96, 128), np.float32), None, sigma)
             for sigma in (4, 1))
    ir, y = (cv2.normalize(image, None, 0.1, 0.9, cv2.NORM_MINMAX) for image in (ir, y))
    y[:, 61:] *= 0.5
    return ir, y


def psnr_db(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def test_full_scale_is_the_network_itself(scene):
    assert np.array_equal(fuse_scaled(average, *scene, scale=1.0), average(*scene))


@pytest.mark.parametrize('scale, size', [(0.5, (48, 64)), (0.35, (34, 45)), (0.25, (24, 32))])
def test_the_network_gets_small_images(scene, scale, size):
    seen = []

    def note_size(ir, y):
        seen.append((ir.shape, y.shape, ir.dtype))
        return y

    fuse_scaled(note_size, *scene, scale=scale)
    assert seen == [(size, size, np.float32)]


@pytest.mark.parametrize('scale', SCALES)
def test_small_maximum_is_large_maximum(scene, scale):
    """What is the maximum when small is the maximum when large."""
    assert np.abs(fuse_scaled(cv2.max, *scene, scale=scale) - cv2.max(*scene)).max() < 1e-6


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('network', [average, subdued_maximum])
def test_fine_texture_comes_back(scene, network, scale):
    whole = network(*scene)
    small = cv2.resize(
        network(*(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                                 for image in scene)), (128, 96))

    back = psnr_db(fuse_scaled(network, *scene, scale=scale), whole)

    assert back > psnr_db(small, whole) + 10
    assert back > 35


@pytest.mark.parametrize('scale', SCALES)
def test_edge_sharp_without_halo(scale):
    """An edge stays sharp and gets no halo."""
    y = np.full((64, 96), 0.2, np.float32)
    y[:, 47:] = 0.7  # not on the grid of any of the small images
    ir = np.full_like(y, 0.4)

    fused = fuse_scaled(subdued_maximum, ir, y, scale=scale)

    whole = subdued_maximum(ir, y)
    step = fused[32, 47] - fused[32, 46]
    assert step == pytest.approx(whole[32, 47] - whole[32, 46], rel=0.1)
    assert np.abs(fused - whole).max() < 0.02


@pytest.mark.parametrize('scale', SCALES)
def test_two_pixel_hot_spot_contrast(scale):
    """A hot spot of two pixels keeps its contrast."""
    y = np.full((64, 96), 0.3, np.float32)
    ir = np.full_like(y, 0.1)
    ir[30:32, 41:43] = 1.0

    fused = fuse_scaled(subdued_maximum, ir, y, scale=scale)

    whole = subdued_maximum(ir, y)
    assert fused[30:32, 41:43].min() - fused[10, 10] > 0.9 * (whole[30, 41] - whole[10, 10])


@pytest.mark.parametrize('scale', SCALES)
def test_flat_images_stay_flat(scale):
    ir, y = np.full((40, 50), 0.25, np.float32), np.full((40, 50), 0.75, np.float32)
    assert fuse_scaled(average, ir, y, scale=scale) == pytest.approx(0.5, abs=1e-6)


def test_equal_sources_come_back_unchanged(scene):
    # As where thermal does not see and luminance takes its place: both guides are one.
    _, y = scene
    assert np.abs(fuse_scaled(average, y, y, scale=0.5) - y).max() < 1e-3


@pytest.mark.parametrize('scale', [0.125, 0.5])
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (3, 5), (37, 53)])
def test_any_size_is_taken(size, scale):
    ir, y = np.random.default_rng(1).random((2, *size), np.float32)
    fused = fuse_scaled(average, ir, y, scale=scale)
    assert (fused.shape, fused.dtype) == (size, np.float32)
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1


def test_a_failing_network_is_not_hidden(scene):
    def fail(ir, y):
        raise RuntimeError('out of memory')

    with pytest.raises(RuntimeError, match='out of memory'):
        fuse_scaled(fail, *scene, scale=0.5)
