# SPDX-License-Identifier: Apache-2.0
"""Chroma of the fused image: saturation is kept, the colored noise of dark pixels is not."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.imaging.color import join_luma, paint, split_luma

SIZE = (96, 128)
PATCH = (slice(32, 64), slice(48, 80))


def plain(rgb, size=SIZE):
    return np.full((*size, 3), rgb, np.uint8)


def fused(image, luma, color='keep_chroma', **more):
    """The fused image, rgb8, of an rgb8 image and its new luminance."""
    return paint(luma, split_luma(image, 'rgb8')[1], encoding='rgb8', color=color, **more)[0]


def saturation(image):
    largest = image.max(-1).astype(float)
    return ((largest - image.min(-1)) / np.maximum(largest, 1)).mean()


def noisy(rgb, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, (*SIZE, 3))
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


def test_an_unchanged_luminance_keeps_the_image():
    # given a dark, noisy and colored image
    image = noisy((12, 9, 30), sigma=8)
    # when its luminance is that of the fused image
    y, _ = split_luma(image, 'rgb8')
    # then nothing changes but by the rounding of luminance and chroma
    assert np.abs(fused(image, y).astype(int) - image).max() <= 3
    assert np.abs(fused(image, y).astype(int) - fused(image, y, 'raw_chroma')).max() <= 1


@pytest.mark.parametrize('gain', [0.3, 0.7, 1.2, 1.5])
@pytest.mark.parametrize('rgb', [(140, 90, 80), (60, 110, 150), (90, 140, 60)])
def test_saturation_stays_where_luminance_is_scaled(gain, rgb):
    image = plain(rgb)
    y, _ = split_luma(image, 'rgb8')

    result = fused(image, np.rint(gain * y).astype(np.uint8))

    assert saturation(result) == pytest.approx(saturation(image), rel=0.08)


def test_strong_lift_bounds_chroma():
    """More than half brighter fades to a bounded chroma."""
    image = plain((90, 60, 50))

    result = fused(image, np.full(SIZE, 240, np.uint8))

    assert np.ptp(result.astype(int), axis=-1).max() <= 1.5 * 40 + 3


def test_dark_color_noise_is_hidden():
    """Colored noise of the dark does not show on a lifted target."""
    # given colored noise in the dark, and a fused luminance with a warm target
    image = noisy((8, 6, 7), sigma=8)
    luma = split_luma(image, 'rgb8')[0].copy()
    luma[PATCH] = 200
    # when it is joined with and without color trust
    spread = {color: np.ptp(fused(image, luma, color)[PATCH].astype(int), -1).mean()
              for color in ('keep_chroma', 'raw_chroma')}
    # then the target is gray
    assert spread['raw_chroma'] > 8
    assert spread['keep_chroma'] < 2


def test_black_camera_gives_gray():
    """A black camera gives a gray image."""
    luma = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)

    result = fused(plain((0, 0, 0)), luma)

    assert np.array_equal(result, np.repeat(luma[..., None], 3, axis=-1))


@pytest.mark.parametrize('rgb', [(0, 0, 160), (150, 0, 0)])
def test_saturated_dim_color_is_trusted(rgb):
    """Saturated color of little luminance is trusted."""
    image = plain(rgb)
    y, _ = split_luma(image, 'rgb8')

    raw, kept = (fused(image, y + np.uint8(25), color) for color in ('raw_chroma', 'keep_chroma'))

    assert saturation(kept) > 0.95 * saturation(raw)


def test_color_outside_the_fused_part_stays():
    image = noisy((120, 40, 60), sigma=20)
    seen = np.zeros(SIZE, bool)
    seen[:, :50] = True
    luma = np.where(seen, 230, split_luma(image, 'rgb8')[0]).astype(np.uint8)

    result = fused(image, luma, seen=seen)

    assert np.array_equal(result[~seen], fused(image, luma, 'raw_chroma')[~seen])
    assert not np.array_equal(result[seen], fused(image, luma, 'raw_chroma')[seen])


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (2, 3), (33, 21)])
def test_every_size_is_joined(size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    luma = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    image.flags.writeable = luma.flags.writeable = False

    assert fused(image, luma).shape == (*size, 3)


def test_color_follows_channel_order():
    """Color is in the order of the camera."""
    image = noisy((150, 60, 20), sigma=10)
    luma = cv2.add(split_luma(image, 'rgb8')[0], 30)

    ycrcb = split_luma(image[..., ::-1], 'bgr8')[1]
    result, encoding = paint(luma, ycrcb, encoding='bgr8', color='keep_chroma')

    assert encoding == 'bgr8' and np.array_equal(result[..., ::-1], fused(image, luma))


def test_raw_chroma_is_unchanged():
    """Raw chroma is all of the camera's."""
    image = noisy((10, 9, 30), sigma=8)
    luma = np.full(SIZE, 128, np.uint8)

    expected = join_luma(luma, split_luma(image, 'rgb8')[1], 'rgb8')
    assert np.array_equal(fused(image, luma, 'raw_chroma'), expected)


def test_tensor_median_matches_opencv():
    """The median on tensors is that of OpenCV."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros.inference.image_tensors import _median
    image = np.random.default_rng(4).integers(0, 256, (21, 34), np.uint8)

    there = _median(torch.from_numpy(image).float()[None])[0].numpy()

    assert np.array_equal(there, cv2.medianBlur(image, 3))
