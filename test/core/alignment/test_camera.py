# SPDX-License-Identifier: Apache-2.0
"""Camera models: from a camera info, at other sizes, and through the lens."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_cameras import RGB_CAMERA, THERMAL_CAMERAS, pixel_grid, projected

from diffmf_ros.core.alignment.camera import CalibrationError, CameraModel, output_info
from diffmf_ros.io.bag_messages import camera_info_message

K = ((1040.0, 0.0, 633.0), (0.0, 1046.0, 489.5), (0.0, 0.0, 1.0))
# Of the right camera of a stereo rig: another center and focal length than K, and a baseline.
P = ((1010.0, 0.0, 640.5, -121.2), (0.0, 1010.0, 470.25, 0.0), (0.0, 0.0, 1.0, 0.0))
D = (-0.32, 0.12, 8e-4, -5e-4, -0.02)
R = cv2.Rodrigues(np.array((0.01, -0.02, 0.005)))[0]
POINT = np.array((0.7, -0.4, 3.0))
ROI = {'x_offset': 420, 'y_offset': 120, 'width': 640, 'height': 320}


def info(**changes):
    roi = {'x_offset': 0, 'y_offset': 0, 'width': 0, 'height': 0, 'do_rectify': False,
           **changes.pop('roi', {})}
    fields = {'width': 1280, 'height': 960, 'distortion_model': 'plumb_bob', 'd': list(D),
              'k': np.ravel(K), 'r': R.ravel(), 'p': np.ravel(P), 'binning_x': 0, 'binning_y': 0,
              **changes}
    return SimpleNamespace(header=SimpleNamespace(frame_id='rgb_optical'),
                           roi=SimpleNamespace(**roi), **fields)


def full_pixels():
    """Where POINT lies in the raw and in the rectified image of the whole sensor."""
    x, y, z = np.array(P) @ (*POINT, 1)
    raw = projected(CameraModel((1280, 960), K, D), POINT)[0]
    return raw, np.array((x / z, y / z))


def blob(size, center, sigma=9.0):
    """A bright spot: what a lens makes of a point."""
    x, y = np.arange(size[0]) - center[0], np.arange(size[1])[:, None] - center[1]
    return np.exp(-(x * x + y * y) / (2 * sigma * sigma)).astype(np.float32)


def centroid(image):
    return np.array([(image * axis).sum() / image.sum()
                     for axis in (np.arange(image.shape[1]), np.arange(image.shape[0])[:, None])])


def cropped(image, roi):
    return image[roi['y_offset']:roi['y_offset'] + roi['height'],
                 roi['x_offset']:roi['x_offset'] + roi['width']]


DELIVERED = {
    'as calibrated': ({}, lambda full: full),
    'halved': ({}, lambda full: cv2.resize(full, (640, 480), interpolation=cv2.INTER_AREA)),
    'a third, rounded': ({},
                         lambda full: cv2.resize(full, (427, 320), interpolation=cv2.INTER_AREA)),
    'enlarged': ({}, lambda full: cv2.resize(full, (1920, 1440))),
    'cropped': ({'roi': ROI}, lambda full: cropped(full, ROI)),
    'binned by 2': ({'binning_x': 2, 'binning_y': 2},
                    lambda full: cv2.resize(full, (640, 480), interpolation=3)),
    'binned by 4 and 2': ({'binning_x': 4, 'binning_y': 2},
                          lambda full: cv2.resize(full, (320, 480), interpolation=cv2.INTER_AREA)),
    'cropped and binned': ({'roi': ROI, 'binning_x': 2, 'binning_y': 2},
                           lambda full: cv2.resize(cropped(full, ROI), (320, 160),
                                                   interpolation=cv2.INTER_AREA)),
    'cropped, binned and halved': ({'roi': ROI, 'binning_x': 2, 'binning_y': 2},
                                   lambda full: cv2.resize(
        cropped(full, ROI), (160, 80), interpolation=cv2.INTER_AREA)),
}


@pytest.mark.parametrize('changes, deliver', DELIVERED.values(), ids=DELIVERED)
def test_k_and_p_project_known_point(changes, deliver):
    """K and P project a known point onto the delivered image."""
    raw, rectified = (deliver(blob((1280, 960), pixel)) for pixel in full_pixels())
    size = raw.shape[::-1]

    model = output_info(CameraModel.from_info(info(**changes)), size)

    x, y, z = np.array(model.p) @ (*POINT, 1)
    assert model.size == size
    assert np.abs(model.project(POINT) - centroid(raw)).max() < 0.1
    assert np.abs((x / z, y / z) - centroid(rectified)).max() < 0.1
    assert (model.d, model.r, model.distortion_model) == (D, tuple(map(tuple, R.tolist())),
                                                          'plumb_bob')


def test_calibrated_size_keeps_info_exactly():
    """The info of an image as calibrated keeps every bit."""
    model = output_info(CameraModel.from_info(info()), (1280, 960))

    assert (model.k, model.p, model.d, model.frame_id) == (K, P, D, 'rgb_optical')


def test_other_aspect_has_no_calibration():
    """An image of another shape has no calibration."""
    with pytest.raises(CalibrationError,
                       match='is for 1280x960, the image has 640x512, .*region of interest'):
        output_info(CameraModel.from_info(info()), (640, 512))


def test_undeclared_crop_has_no_calibration():
    """A crop that the camera info does not tell has no calibration."""
    with pytest.raises(CalibrationError, match='is for 640x320, the image has 1280x960'):
        output_info(CameraModel.from_info(info(roi=ROI)), (1280, 960))


@settings(deadline=None)
@given(width=st.integers(16, 4000), height=st.integers(16, 4000), scale=st.floats(0.25, 4))
def test_pixel_rounding_keeps_the_aspect(width, height, scale):
    """Rounding to whole pixels is no other shape."""
    camera = CameraModel((width, height), K)

    scaled = camera.scaled_to((round(scale * width), round(scale * height)))
    back = scaled.scaled_to((width, height))

    assert np.allclose(back.k, K, atol=1e-6) and np.allclose(back.p, camera.p, atol=1e-6)


def test_bag_message_is_read_alike():
    """A message of a bag is read alike."""
    k = np.array(K)
    message = camera_info_message(k, width=1280, height=960, stamp_ns=5, frame_id='rgb_optical')

    model = CameraModel.from_info(message)

    assert (model.size, model.k, model.distortion_model) == ((1280, 960), K, 'plumb_bob')
    assert model.p == tuple((*row, 0.0) for row in K)


def test_zero_r_and_p_mean_unrectified():
    """Zeros for R and P mean that nothing is rectified."""
    model = CameraModel.from_info(info(r=np.zeros(9), p=np.zeros(12)))

    assert np.array_equal(model.r, np.eye(3)) and np.array_equal(np.array(model.p)[:, :3], K)


@pytest.mark.parametrize('changes, words', [
    ({'k': np.zeros(9)}, 'K is zero: calibrate'),
    ({'k': np.full(9, np.nan)}, 'rows of 3 finite numbers for k'),
    ({'k': np.ravel(((0.0, 0, 320), (0, 500, 240), (0, 0, 1)))}, 'fx and fy above 0'),
    ({'k': np.ravel(((-500.0, 0, 320), (0, 500, 240), (0, 0, 1)))}, 'fx and fy above 0'),
    ({'k': np.ravel(((500.0, 0, 320), (0, 500, 240), (0, 0, 0)))}, 'fx and fy above 0'),
    ({'p': np.full(12, np.inf)}, 'rows of 4 finite numbers for p'),
    ({'d': [float('nan')]}, 'finite distortion'),
    ({'width': 0}, 'both at least 1'),
    ({'roi': {**ROI, 'x_offset': 700}},
     r'region of interest inside 1280x960, got 640x320 at \(700, 120\)'),
])
def test_unusable_camera_info_is_refused(changes, words):
    """An unusable camera info is refused with the reason."""
    with pytest.raises(CalibrationError, match=words):
        CameraModel.from_info(info(**changes))


@pytest.mark.parametrize('model, d', [('double_sphere', (0.1, 0.2)), ('equidistant', (0.1,) * 5),
                                      ('rational_polynomial', (0.1,) * 15), ('', (0.1,))])
def test_unknown_lens_has_no_rays(model, d):
    """An unknown lens model has an output info but no rays."""
    camera = CameraModel.from_info(info(distortion_model=model, d=list(d)))

    assert output_info(camera, (640, 480)).k[0][0] == 520.0
    with pytest.raises(CalibrationError,
                       match=f'expected the lens model plumb_bob.*with {len(d)}: calibrate'):
        camera.rays(np.zeros((1, 2)))


@pytest.mark.parametrize('model, d',
                         [('', ()), ('none', ()), ('None', (0.0,) * 5), ('plumb_bob', (0.0,) * 5),
                                      ('rational_polynomial', (0.0,) * 14),
                                      ('Inverse Brown Conrady', (0.0,) * 5)])
def test_zero_distortion_needs_no_model(model, d):
    """A lens without distortion needs no model."""
    camera = CameraModel((640, 480), K, d, distortion_model=model)

    assert np.allclose(camera.rays((633.0 + 104, 489.5)), (0.1, 0))


@pytest.mark.parametrize('camera', [RGB_CAMERA, *THERMAL_CAMERAS.values()],
                         ids=['rgb', *THERMAL_CAMERAS])
def test_rays_and_projection_match_opencv(camera):
    """Rays and projection agree with OpenCV all over the image."""
    pixels = pixel_grid(camera.size, 7)

    rays = camera.rays(pixels)

    points = np.column_stack((rays, np.ones(len(rays)))) * 3.5
    assert np.abs(projected(camera, points) - pixels).max() < 1e-6
    assert np.abs(camera.project(points) - pixels).max() < 1e-6
    pinhole = (pixels - np.array(camera.k)[:2, 2]) / np.diag(camera.k)[:2]
    assert np.abs(rays - pinhole).max() > 0.02  # there is distortion to be removed


MANY = (0.9, 0.2, 3e-4, -2e-4, 0.01, 1.1, 0.35, 0.03, 2e-3, -1e-3, -1.5e-3, 8e-4, 0.012, -0.02)


@pytest.mark.parametrize('model, count', [('radtan', 4), ('Brown-Conrady', 5), ('plumb_bob', 8),
                                          ('thin_prism', 12),
                                          ('rational_polynomial', 12), ('plumb_bob', 14),
                                          ('opencv', 14)])
def test_lens_names_and_coefficient_counts(model, count):
    """A lens of OpenCV is known by every name and number of coefficients."""
    d = MANY[:count] if count > 5 else D[:count]
    camera = CameraModel((320, 256), THERMAL_CAMERAS['plumb_bob'].k, d, distortion_model=model)
    pixels = pixel_grid(camera.size, 9)

    rays = camera.rays(pixels)

    points = np.column_stack((rays, np.ones(len(rays)))) * 2.0
    assert np.abs(projected(camera, points) - pixels).max() < 1e-6
    assert np.abs(camera.project(points) - pixels).max() < 1e-6


@pytest.mark.parametrize('name', ['fisheye', 'equi', 'Kannala Brandt4'])
def test_equidistant_has_other_names(name):
    camera = THERMAL_CAMERAS['equidistant']
    pixels = pixel_grid(camera.size, 9)

    assert np.array_equal(replace(camera, distortion_model=name).rays(pixels), camera.rays(pixels))


def test_inverse_brown_conrady_undoes_distortion():
    """Inverse Brown-Conrady removes what the other adds."""
    there = CameraModel((640, 480), RGB_CAMERA.k, D[:5])
    back = replace(there, distortion_model='Inverse Brown Conrady')
    plane = np.array(((0.1, 0.2), (-0.3, 0.15), (0.4, -0.3)))
    pixels = plane * (520.0, 523.0) + (317.2, 244.5)

    # What one makes of a direction is what the other sees at a pixel.
    seen = projected(there, np.column_stack((plane, np.ones(3))))
    assert np.abs(back.rays(pixels) * (520.0, 523.0) + (317.2, 244.5) - seen).max() < 1e-9
    rays = back.rays(pixels)
    assert np.abs(back.project(np.column_stack((rays, np.ones(3)))) - pixels).max() < 1e-5


def test_behind_or_beyond_has_no_pixel():
    """What is behind or beyond the lens model has no pixel."""
    # r (1 - 0.3 r^2) turns back at r = 1.054
    barrel = CameraModel((640, 480), RGB_CAMERA.k, (-0.3,))

    inside, folded, behind = barrel.project(((1.0, 0, 1), (1.1, 0, 1), (0, 0, -1)))

    assert inside[0] == pytest.approx(317.2 + 520 * 0.7)
    assert np.isnan(folded).all() and np.isnan(behind).all()


def test_unreached_pixel_has_no_ray():
    """A pixel that no ray reaches has none."""
    # images up to 0.703 from the axis: column 682
    barrel = CameraModel((2000, 480), RGB_CAMERA.k, (-0.3,))

    rays = barrel.rays(((680.0, 244.5), (690.0, 244.5)))

    assert rays[0] == pytest.approx((1.0, 0.0), abs=0.03) and np.isnan(rays[1]).all()


def test_a_shift_moves_the_content():
    shifted = RGB_CAMERA.shifted(3.5, -2.0)

    assert np.allclose(shifted.project(POINT), RGB_CAMERA.project(POINT) + (3.5, -2.0))
    assert RGB_CAMERA.shifted(0.0, 0.0) is RGB_CAMERA
    assert replace(shifted, size=(1, 1)).p[0][2] == 317.2 + 3.5
