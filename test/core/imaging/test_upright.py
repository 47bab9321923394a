# SPDX-License-Identifier: Apache-2.0
"""Crops, mirrors and quarter turns of the images of a camera, and of its calibration with them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from diffmf_ros.core.alignment.camera import CalibrationError, CameraModel
from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Pair
from diffmf_ros.core.imaging.camera_picture import CameraPicture, cropped, turned, turned_camera
from diffmf_ros.core.settings import DEFAULTS, ORIENTATIONS, SettingsError, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

K = ((310.0, 0.0, 170.0), (0.0, 305.0, 112.5), (0.0, 0.0, 1.0))
LENSES = {
    'plumb_bob': (-0.32, 0.12, 8e-3, -5e-3, -0.02),
    'thin_prism': (-0.1, 0.02, 3e-3, 2e-3, 0.01, 0.0, 0.0, 0.0, 4e-3, 1e-3, -2e-3, 3e-3),
    'equidistant': (0.05, -0.02, 0.01, 0.0),
    'none': (),
}


def model(lens='plumb_bob'):
    """Return a camera of 320 x 240 with this lens."""
    r = cv2.Rodrigues(np.array((0.01, -0.02, 0.005)))[0]
    return CameraModel((320, 240), K, LENSES[lens], r=tuple(map(tuple, r)), distortion_model=lens)


def moved(point, size, orientation):
    """Return where a pixel of an image of this size is in the turned image, by turning an image of
    it."""
    axes = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    x, y = (turned(axis, orientation) for axis in axes)
    row, column = np.unravel_index(np.hypot(x - point[0], y - point[1]).argmin(), x.shape)
    return column, row


@pytest.mark.parametrize('orientation', ORIENTATIONS)
@pytest.mark.parametrize('lens', LENSES)
def test_the_calibration_turns_with_the_image(orientation, lens):
    # given rays of some pixels of the image as sent
    camera, pixels = model(lens), np.array([(40, 30), (200, 100), (290, 220)])
    x, y = camera.rays(pixels).T

    # when both are turned
    upright = turned_camera(camera, orientation)

    # then the same pixels, wherever they are now, see the same things in the axes of the turned
    # image
    found = np.array([moved(pixel, camera.size, orientation) for pixel in pixels])
    x = -x if orientation.startswith('mirrored') else x
    for _ in range({'90': 1, '180': 2, '270': 3}.get(orientation.rpartition('_')[2], 0)):
        x, y = -y, x
    np.testing.assert_allclose(upright.rays(found), np.stack((x, y), axis=1), atol=1e-9)
    assert upright.size == turned(np.zeros((240, 320)), orientation).shape[::-1]


def test_rectified_projection_turns_too():
    """The projection of the rectified image turns too."""
    camera = replace(model(), p=((300.0, 0.0, 160.0, -30.0), (0.0, 300.0, 120.0, 0.0),
                                 (0.0, 0.0, 1.0, 0.0)))

    upright = camera.rotated_right()

    # what was at (160 + 30, 120 + 60) is at (239 - 180, 190)
    assert np.allclose(np.array(upright.p) @ (-0.2, 0.1, 1, 0), (239 - 180, 190, 1))
    assert upright.p[1][3] == -30.0
    np.testing.assert_allclose(np.array(upright.turned) @ (0.1, 0.2, 1), (-0.2, 0.1, 1))


def test_four_quarters_are_identity():
    """Four quarters and two mirrors are nothing."""
    camera = model('thin_prism')

    again = camera.rotated_right().rotated_right().rotated_right().rotated_right().mirrored(
        ).mirrored()

    np.testing.assert_allclose(again.k, camera.k)
    np.testing.assert_allclose(again.d, camera.d)
    np.testing.assert_allclose(again.turned, np.eye(3))


def test_a_tilted_sensor_cannot_be_turned():
    camera = CameraModel((320, 240), K, (*LENSES['thin_prism'], 0.01, 0.0),
                         distortion_model='tilted')
    with pytest.raises(CalibrationError, match='tilted sensor'):
        camera.rotated_right()


def thermal(pixels):
    """Return a thermal frame of 16 bits."""
    return Frame(THERMAL, 1, 'lwir', pixels, 'mono16')


def test_crop_then_turn_once():
    """A picture above raw data is cropped and turned once."""
    pixels = np.arange(384 * 256, dtype=np.uint16).reshape(384, 256)
    settings = with_changes(DEFAULTS, {'input.thermal_crop': '256x192+0+0',
                                       'input.thermal_orientation': 'rotated_90'})
    picture = CameraPicture(THERMAL)

    found = picture.of(thermal(pixels), settings)
    uncropped = CameraPicture(THERMAL)
    uncropped.of(thermal(pixels), DEFAULTS)

    assert 'input.thermal_crop, such as 256x192+0+0' in uncropped.notes[0]
    assert picture.notes == () and found.size == (192, 256)
    assert np.array_equal(found.pixels, np.rot90(pixels[:192], -1))
    assert picture.of(found, settings) is found
    # the calibration of the whole image, of the same at twice the size, and that of the picture
    # alone
    k = ((200.0, 0.0, 127.5), (0.0, 200.0, 90.0), (0.0, 0.0, 1.0))
    whole, alone = CameraModel((256, 384), k), CameraModel((256, 192), k)
    for camera in (whole, whole.scaled_to((512, 768)), alone):
        assert picture.camera(camera, settings).size == (192, 256)
        assert picture.camera(camera, settings).k[0] == pytest.approx((200.0, 0.0, 191 - 90.0))


def test_reference_columns_are_cut_off():
    random = np.random.default_rng(3)
    pixels = random.integers(7000, 8000, (156, 208), np.uint16)
    pixels[:, 206:] = 0

    picture = CameraPicture(THERMAL)

    assert np.array_equal(picture.of(thermal(pixels), DEFAULTS).pixels, pixels[:, :206])
    assert '2 at the right' in picture.notes[0]
    assert picture.camera(CameraModel((208, 156), K), DEFAULTS).size == (206, 156)


def test_invalid_crop_is_refused():
    """A crop beyond the image and one that is none are refused."""
    with pytest.raises(FrameError, match='200x100.*got 160x120'):
        cropped(np.zeros((120, 160)), (0, 0, 200, 100))
    with pytest.raises(SettingsError, match='input.rgb_crop must be like 256x192'):
        with_changes(DEFAULTS, {'input.rgb_crop': '0,0,20,10'})


@pytest.mark.parametrize('orientation', ['rotated_180', 'mirrored', 'rotated_270'])
def test_turned_camera_fuses_like_upright(orientation):
    """A turned camera is fused as an upright one."""
    random = np.random.default_rng(2)
    heat = cv2.GaussianBlur(random.random((120, 160)), (0, 0), 4)
    heat = np.uint16(7000 + 2000 * (heat - heat.min()) / np.ptp(heat))
    rgb = Frame(RGB, 1, 'rgb', random.integers(40, 200, (120, 160, 3), np.uint8), 'rgb8')
    back = {'rotated_180': 'rotated_180', 'mirrored': 'mirrored',
            'rotated_270': 'rotated_90'}[orientation]
    sent = turned(heat, back)

    upright = FusionPipeline(with_changes(DEFAULTS, {'model': 'classical'})).fuse(
        Pair(rgb, thermal(heat), 0))
    found = FusionPipeline(with_changes(DEFAULTS,
                                        {'model': 'classical',
                                         'input.thermal_orientation': orientation})).fuse(
        Pair(rgb, thermal(sent), 0))

    assert np.array_equal(found.pixels, upright.pixels)
