# SPDX-License-Identifier: Apache-2.0
"""Alignment files and the warp of thermal onto the RGB grid."""

import cv2
import numpy as np
import pytest
import yaml

from diffmf_ros.core.alignment.geometry import Alignment, AlignmentError

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# 320x256 thermal in the middle of 640x480 RGB, turned by 2 degrees, with a little perspective.
TILTED = ((1.8, -0.063, 34.0), (0.063, 1.79, 12.0), (1e-5, -2e-5, 1.0))


def smooth(width, height, seed=0):
    """A picture without sharp edges, so that interpolation errors stay below a gray level or two.
    """
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 8)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def write(path, **changes):
    content = {'rgb_from_thermal': [list(row) for row in TILTED], 'rgb_size': [640, 480],
               'thermal_size': [320, 256], **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def warp_slowly(thermal, matrix, rgb_size):
    """Per RGB pixel: invert the homography, interpolate between four pixels (edge repeated)."""
    height, width = thermal.shape
    inverse = np.linalg.inv(matrix)
    image, mask = np.zeros(rgb_size[::-1]), np.zeros(rgb_size[::-1], bool)
    for v, u in np.ndindex(image.shape):
        x, y, w = inverse @ (u, v, 1)
        x, y = x / w, y / w
        if w <= 0 or not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            continue
        mask[v, u] = True
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        top = thermal[y0, x0] * (x0 + 1 - x) + thermal[y0, x1] * (x - x0)
        bottom = thermal[y1, x0] * (x0 + 1 - x) + thermal[y1, x1] * (x - x0)
        image[v, u] = top * (y0 + 1 - y) + bottom * (y - y0)
    return image, mask


def away_from_edges(mask):
    return cv2.erode(mask.astype(np.uint8), np.ones((9, 9)), borderType=cv2.BORDER_CONSTANT,
                     borderValue=0).astype(bool)


def test_a_homography_equals_the_slow_reference():
    thermal = smooth(40, 32).astype(np.float32)
    matrix = ((1.8, -0.06, 4.0), (0.06, 1.75, 2.5), (4e-4, -3e-4, 1.0))
    alignment = Alignment(matrix, rgb_size=(80, 60), thermal_size=(40, 32))

    image, mask = alignment.warp(thermal, rgb_size=(80, 60))

    expected, expected_mask = warp_slowly(thermal, np.array(matrix), (80, 60))
    assert np.array_equal(mask, expected_mask)
    assert 0.5 < mask.mean() < 0.95
    # OpenCV interpolates at 1/32 pixel.
    assert np.abs(image - expected)[mask].max() < 1.5
    assert not image[~mask].any()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_the_identity_changes_nothing(dtype):
    thermal = smooth(33, 21).astype(dtype)
    alignment = Alignment(IDENTITY, rgb_size=(33, 21), thermal_size=(33, 21))

    image, mask = alignment.warp(thermal, rgb_size=(33, 21))

    assert image.dtype == dtype and mask.all()
    assert np.array_equal(image, thermal)


def test_shift_leaves_zero_outside():
    """A shift leaves zero and false outside."""
    matrix = ((1.0, 0.0, 5.0), (0.0, 1.0, -3.0), (0.0, 0.0, 1.0))
    thermal = np.full((20, 30), 200, np.uint8)

    image, mask = Alignment(matrix, rgb_size=(30, 20),
                            thermal_size=(30, 20)).warp(thermal, rgb_size=(30, 20))

    assert not mask[:, :5].any() and not mask[17:].any() and mask[:17, 5:].all()
    assert np.array_equal(image, np.where(mask, 200, 0))


def test_pixels_behind_the_horizon_are_outside():
    matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.02, 1.0))
    alignment = Alignment(matrix, rgb_size=(40, 100), thermal_size=(40, 30))

    image, mask = alignment.warp(np.full((30, 40), 9, np.uint8), rgb_size=(40, 100))

    # Thermal rows -0.5 to 29.5 land on y / (1 + 0.02 y) = -0.51 to 18.6; rows beyond 50 map to w <
    # 0.
    assert mask[:19].any(1).all() and not mask[19:].any()
    assert not image[19:].any()


@pytest.mark.parametrize('scale', [-1.0, 3.5])
def test_matrix_scale_does_not_matter(scale):
    """The scale of the matrix does not matter."""
    thermal = smooth(320, 256)
    sizes = {'rgb_size': (640, 480), 'thermal_size': (320, 256)}
    scaled = tuple(tuple(scale * v for v in row) for row in TILTED)

    image, mask = Alignment(scaled, **sizes).warp(thermal, rgb_size=(640, 480))

    expected, expected_mask = Alignment(TILTED, **sizes).warp(thermal, rgb_size=(640, 480))
    assert np.array_equal(mask, expected_mask)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_measured_sizes_keep_pixel_centers():
    """Measured sizes are rescaled with the pixel center."""
    alignment = Alignment(TILTED, rgb_size=(640, 480), thermal_size=(320, 256))
    large = smooth(640, 512)
    measured = cv2.resize(large, (320, 256), interpolation=cv2.INTER_AREA)

    full, full_mask = alignment.warp(measured, rgb_size=(640, 480))
    from_large, _ = alignment.warp(large, rgb_size=(640, 480))
    half, half_mask = alignment.warp(measured, rgb_size=(320, 240))

    # Half a pixel of misplacement would be 4 gray levels here; see the slope of the picture.
    inner = away_from_edges(full_mask)
    assert np.abs(np.gradient(full.astype(float))[1][inner]).max() > 8
    assert np.abs(from_large.astype(int) - full)[inner].max() <= 3
    shrunk = cv2.resize(full, (320, 240), interpolation=cv2.INTER_AREA)
    inner = away_from_edges(half_mask)
    assert inner.mean() > 0.5
    assert np.abs(half.astype(int) - shrunk)[inner].max() <= 2


@pytest.mark.parametrize('size, interpolation',
                         [((64, 48), cv2.INTER_LINEAR), ((16, 12), cv2.INTER_AREA)])
def test_resize_sees_the_whole_image(size, interpolation):
    """Resize is a plain resize with everything seen."""
    thermal = smooth(32, 26)

    image, mask = Alignment.resize().warp(thermal, rgb_size=size)

    assert np.array_equal(image, cv2.resize(thermal, size, interpolation=interpolation))
    assert mask.shape == image.shape and mask.all()


def test_resize_matches_equal_view_homography():
    """Resize agrees with the homography of equal fields of view."""
    thermal = smooth(32, 24)
    alignment = Alignment(IDENTITY, rgb_size=(100, 100), thermal_size=(100, 100))

    image, mask = alignment.warp(thermal, rgb_size=(64, 48))

    assert mask.all()
    assert np.abs(image.astype(int) - Alignment.resize().warp(thermal, rgb_size=(64, 48))[0]).max(
        ) <= 1


def test_strided_read_only_views():
    """Strided read-only views are read right."""
    data = bytes(range(200))
    view = np.ndarray((5, 8), np.uint16, data, strides=(19, 2))

    image, _ = Alignment(IDENTITY, rgb_size=(8, 5),
                         thermal_size=(8, 5)).warp(view, rgb_size=(8, 5))
    resized, _ = Alignment.resize().warp(view, rgb_size=(8, 5))

    assert np.array_equal(image, view) and np.array_equal(resized, view)


def test_mask_is_not_writable():
    """The mask cannot be spoiled for the next frame."""
    for alignment in (Alignment.resize(),
                      Alignment(IDENTITY, rgb_size=(8, 5), thermal_size=(8, 5))):
        _, mask = alignment.warp(np.zeros((5, 8), np.uint8), rgb_size=(8, 5))

        with pytest.raises(ValueError, match='read-only'):
            mask[0, 0] = False


def test_large_image_is_averaged_first():
    """Of an image of which a pixel of the grid covers several, none is skipped."""
    alignment = Alignment(((4.5, 0.0, 1.5), (0.0, 4.5, 1.5), (0.0, 0.0, 1.0)), (640, 512),
                          (160, 128))
    sizes = {'rgb_size': (640, 512), 'thermal_size': (160, 128)}

    assert alignment.mapping(**sizes, grid='thermal').rgb.averaged == (160, 128)
    assert alignment.mapping(**sizes, grid='rgb').thermal.averaged is None


def test_a_saved_alignment_loads_equal(tmp_path):
    alignment = Alignment(((1 / 3, 1e-17, 7.0), (0.0, 0.3, 1e-5), (1e-9, 0.0, 1.0)), (640, 480),
                          (320, 256))

    alignment.save(tmp_path / 'a.yaml')

    assert Alignment.load(tmp_path / 'a.yaml') == alignment


def test_yaml_text_numbers_are_read(tmp_path):
    """Numbers that YAML takes for text are read."""
    path = tmp_path / 'a.yaml'
    path.write_text('rgb_from_thermal: [[1, 0, 2], [0, 1, 0], [1e-5, 0, 1]]\n'
                    'rgb_size: [640, 480]\nthermal_size: [320, 256]\n')

    assert Alignment.load(path).rgb_from_thermal == ((1.0, 0.0, 2.0), (0.0, 1.0, 0.0),
                                                     (1e-5, 0.0, 1.0))


@pytest.mark.parametrize('changes, words', [
    ({'rgb_size': None}, 'expected the keys rgb_from_thermal, rgb_size, thermal_size, '
                         'got rgb_from_thermal, thermal_size'),
    ({'rgb_size': [0, 480]}, r'rgb_size must be \[width, height\]'),
    ({'extra': 1}, 'expected the keys'),
    ({'rgb_size': [640]}, r'rgb_size must be \[width, height\]'),
    ({'thermal_size': [320, 0]}, r'thermal_size must be \[width, height\]'),
    ({'thermal_size': 320}, r'thermal_size must be \[width, height\]'),
    ({'rgb_size': [float('inf'), 480]}, r'rgb_size must be \[width, height\]'),
    ({'rgb_size': [float('nan'), 480]}, r'rgb_size must be \[width, height\]'),
    ({'rgb_from_thermal': [[10**400, 0, 0], [0, 1, 0], [0, 0, 1]]}, 'too large'),
    ({'rgb_from_thermal': [[1, 0], [0, 1]]}, '3 rows of 3 numbers'),
    ({'rgb_from_thermal': [1, 2, 3]}, 'expected numbers in nested lists'),
    ({'rgb_from_thermal': [['a', 0, 0], [0, 1, 0], [0, 0, 1]]},
     'expected numbers in nested lists'),
    ({'rgb_from_thermal': [[float('nan'), 0, 0], [0, 1, 0], [0, 0, 1]]}, 'must be finite'),
    ({'rgb_from_thermal': [[1, 2, 0], [2, 4, 0], [0, 0, 1]]}, 'singular'),
    ({'rgb_from_thermal': [[0, 0, 0], [0, 0, 0], [0, 0, 0]]}, 'through infinity'),
    ({'rgb_from_thermal': [[-1, 0, 320], [0, 1, 0], [0, 0, 1]]},
     r'mirrors the image; .* flipped picture, or x and y swapped\?$'),
    ({'rgb_from_thermal': [[0, 1, 0], [1, 0, 0], [0, 0, 1]]}, 'mirrors'),
    ({'rgb_from_thermal': [[-1e-5, 0, 0], [0, 1, 0], [0, 0, 1]]}, 'singular'),
    ({'rgb_from_thermal': [[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]]},
     r'rgb_from_thermal sends part of the thermal image through infinity; the third row should be '
     r'close to \[0, 0, 1\]$'),
    ({'rgb_from_thermal': [[3000, 0, 0], [0, 3000, 0], [0.01, 0.02, 1]]}, r'cover 6.61e\+04 RGB'),
])
def test_file_errors_are_distinct(tmp_path, changes, words):
    """Each unusable file has its own error."""
    path = write(tmp_path / 'bad.yaml', **changes)

    with pytest.raises(AlignmentError, match=f'bad.yaml: .*{words}'):
        Alignment.load(path)


@pytest.mark.parametrize('content', [None, b'{', b'\xff\xfe\x00', b'', b'[1, 2]'])
def test_non_alignment_file_is_refused(tmp_path, content):
    """What is no alignment file is refused."""
    path = tmp_path / 'bad.yaml'
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(AlignmentError, match='bad.yaml' if content != b'[1, 2]' else
                       'bad.yaml: expected keys with values, got list'):
        Alignment.load(path)


@pytest.mark.parametrize('beyond_px, usable', [(0.25, True), (-0.25, False)])
@pytest.mark.parametrize('low', [(False, False), (False, True), (True, False), (True, True)])
def test_horizon_may_touch_no_corner(low, beyond_px, usable):
    """A horizon a quarter of a pixel beyond a corner is usable, and none that cuts it off."""
    inward = np.where(low, 1, -1)
    corner = np.where(low, -0.5, np.subtract((64, 48), 0.5)) - inward * beyond_px
    matrix = ((56.0, 0.0, 0.0), (0.0, 56.0, 0.0), (*map(float, inward), -float(inward @ corner)))

    if usable:
        Alignment(matrix, (640, 480), (64, 48))
    else:
        with pytest.raises(AlignmentError, match='infinity'):
            Alignment(matrix, (640, 480), (64, 48))


@pytest.mark.parametrize('scale', [0.01, 99.99])
def test_extreme_scales_are_usable(scale):
    """A thermal pixel may cover 0.0001 to 10,000 RGB pixels, an image be a single one."""
    matrix = ((scale, 0.0, 0.0), (0.0, scale, 0.0), (0.0, 0.0, 1.0))

    assert Alignment(matrix, (1, 1), (1, 1)).rgb_from_thermal == matrix


def test_trim_has_two_directions():
    image, size = smooth(64, 48), (64, 48)
    moved = Alignment(((1.0, 0.0, 5.0), (0.0, 1.0, 2.0), (0.0, 0.0, 1.0)), size, size)

    trimmed = Alignment(IDENTITY, size, size).mapping(rgb_size=size, thermal_size=size,
                                                      trim_px=(5.0, 2.0))

    assert np.array_equal(trimmed.thermal(image), moved.warp(image, rgb_size=size)[0])


def test_resizing_is_not_saved(tmp_path):
    with pytest.raises(AlignmentError, match='leave the setting `alignment.file` empty'):
        Alignment.resize().save(tmp_path / 'a.yaml')
