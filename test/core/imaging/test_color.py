# SPDX-License-Identifier: Apache-2.0
"""Luminance and chroma against the BT.601 formulas; pictures for the eye."""

import numpy as np
import pytest

from diffmf_ros.core.frames import FrameError
from diffmf_ros.core.imaging.color import (
    join_luma,
    output_encoding,
    overlay,
    paint,
    side_by_side,
    split_luma,
    to_rgb8,
)
from diffmf_ros.core.settings import DEFAULTS, iter_specs

MAGENTA = (255, 0, 255)


def random_image(channels=3, size=(7, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)


def reference_split(rgb):
    r, g, b = np.moveaxis(rgb.astype(float), 2, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return y, np.clip(np.stack((0.713 * (r - y) + 128, 0.564 * (b - y) + 128), -1), 0, 255)


def reference_join(y, chroma):
    cr, cb = np.moveaxis(chroma.astype(float) - 128, 2, 0)
    rgb = np.stack((y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb), -1)
    return np.clip(rgb, 0, 255)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8'])
def test_split_is_bt601(encoding):
    """Split is BT.601 in every channel order."""
    pixels = random_image(4 if 'a' in encoding else 3)
    rgb = pixels[..., :3] if encoding.startswith('rgb') else pixels[..., 2::-1]

    y, color = split_luma(pixels, encoding)

    expected_y, expected_chroma = reference_split(rgb)
    assert y.dtype == color.dtype == np.uint8
    assert np.abs(y - expected_y).max() <= 0.51
    assert np.abs(color[..., 1:] - expected_chroma).max() <= 1.0


@pytest.mark.parametrize('encoding, output',
                         [('rgb8', 'rgb8'), ('rgba8', 'rgb8'), ('mono8', 'rgb8'),
                                              ('bgr8', 'bgr8'), ('bgra8', 'bgr8')])
def test_join_is_bt601(encoding, output):
    """Join is BT.601 in the output order."""
    ycc = random_image(seed=1)

    joined = join_luma(ycc[..., 0], ycc, encoding)

    rgb = joined if output == 'rgb8' else joined[..., ::-1]
    assert output_encoding(encoding) == output
    assert np.abs(rgb - reference_join(ycc[..., 0], ycc[..., 1:])).max() <= 1.0


def test_unchanged_luminance_round_trip():
    """An unchanged luminance gives the image back."""
    pixels = random_image(size=(48, 64))
    y, color = split_luma(pixels, 'bgr8')
    before = y.copy(), color.copy()

    joined = join_luma(y, color, 'bgr8')

    assert np.abs(joined.astype(int) - pixels).max() <= 3
    assert np.array_equal(y, before[0]) and np.array_equal(color, before[1])


def test_gray_stays_exactly_gray():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)

    joined = join_luma(*split_luma(gray, 'mono8'), 'mono8')

    assert np.array_equal(joined, np.repeat(gray[..., None], 3, 2))


def test_strided_read_only_views():
    """Strided read-only views are read right."""
    padded = random_image(size=(6, 9))
    padded.flags.writeable = False

    y, color = split_luma(padded[:, 2:7], 'rgb8')

    expected = split_luma(padded[:, 2:7].copy(), 'rgb8')
    assert np.array_equal(y, expected[0]) and np.array_equal(color, expected[1])


@pytest.mark.parametrize('encoding', ['mono16', '32FC1'])
def test_non_8_bit_is_refused(encoding):
    """What is not 8-bit is refused."""
    with pytest.raises(FrameError, match=f'rgb8, .*, mono8\\), got {encoding}'):
        split_luma(np.zeros((2, 2), np.uint16), encoding)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8'])
def test_every_color_encoding_becomes_rgb8(encoding):
    pixels = random_image(4 if 'a' in encoding else 3)

    rgb = pixels[..., :3] if encoding.startswith('rgb') else pixels[..., 2::-1]
    assert np.array_equal(to_rgb8(pixels, encoding), rgb)


def test_gray_becomes_rgb8():
    """Gray becomes rgb8 and 16 bits are refused."""
    gray = random_image()[..., 0]

    assert np.array_equal(to_rgb8(gray, 'mono8'), np.stack((gray,) * 3, -1))
    with pytest.raises(FrameError, match='expected an 8-bit'):
        to_rgb8(gray.astype(np.uint16), 'mono16')


@pytest.mark.parametrize('encoding, first', [('rgb8', 'red'), ('bgr8', 'blue')])
def test_palette_follows_channel_order(encoding, first):
    """A palette colors the luminance in the channel order of the camera."""
    luma = np.array([[0, 128, 255]], np.uint8)

    pixels, painted = paint(luma, None, encoding=encoding, color='hot')

    assert painted == encoding and pixels.shape == (1, 3, 3)
    warm = pixels[0, 1].tolist()  # half way up, `hot` is red to orange
    assert (warm if first == 'red' else warm[::-1])[0] == 255 and min(warm) == 0


def test_gray_is_the_luminance_itself():
    luma = np.arange(12, dtype=np.uint8).reshape(3, 4)

    pixels, encoding = paint(luma, None, encoding='rgb8', color='gray')

    assert encoding == 'mono8' and np.array_equal(pixels, luma)


def test_keep_chroma_joins_camera_color():
    """Keep chroma joins the color of the camera."""
    image = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    luma, ycrcb = split_luma(image, 'bgr8')

    expected = join_luma(luma, ycrcb, 'bgr8')
    for color, levels in (('raw_chroma', 0), ('keep_chroma', 1)):
        pixels, encoding = paint(luma, ycrcb, encoding='bgr8', color=color)
        assert encoding == 'bgr8' and np.abs(pixels.astype(int) - expected).max() <= levels


def test_every_color_policy_paints():
    """Every choice of the setting can be painted."""
    luma = np.arange(12, dtype=np.uint8).reshape(3, 4)
    choices = next(item.choices for item in iter_specs(DEFAULTS) if item.name == 'output.color')

    for color in choices:
        pixels, _ = paint(luma, split_luma(luma, 'mono8')[1], encoding='mono8', color=color)
        assert pixels.shape[:2] == luma.shape, color


def test_side_by_side_has_three_images():
    """Side by side shows RGB thermal and fused."""
    rgb, fused = np.full((4, 6, 3), 10, np.uint8), np.full((4, 6, 3), 30, np.uint8)

    picture = side_by_side(rgb, np.full((4, 6), 20, np.uint8), fused)

    assert picture.shape == (4, 18, 3)
    assert [int(value) for value in picture[0, ::6, 0]] == [10, 20, 30]


def test_overlay_draws_thermal_edges_only():
    """The overlay draws thermal edges and nothing else."""
    rgb = np.full((40, 60, 3), 90, np.uint8)
    thermal = np.zeros((40, 60), np.uint8)
    thermal[:, 30:] = 200

    picture = overlay(rgb, thermal, np.ones((40, 60), bool))

    columns = np.flatnonzero((picture == MAGENTA).all(axis=-1).any(axis=0))
    assert len(columns) and columns.min() >= 28 and columns.max() <= 31
    assert (picture[:, :28] == 90).all() and (rgb == 90).all()


def test_coverage_border_is_no_edge():
    """The border of what thermal sees is no edge."""
    rgb = np.full((40, 60, 3), 90, np.uint8)
    seen = np.zeros((40, 60), bool)
    seen[10:30, 10:50] = True

    picture = overlay(rgb, np.where(seen, 200, 0).astype(np.uint8), seen)

    assert (picture == 90).all()
