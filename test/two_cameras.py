# SPDX-License-Identifier: Apache-2.0
"""A synthetic scene for tests: a textured plane before an RGB and a thermal camera, both with lens
distortion.

What the cameras see is computed with OpenCV's projection, which shares nothing with ours.
"""

import cv2
import numpy as np

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.rig import Extrinsics, Rig

RGB_CAMERA = CameraModel((640, 480), ((520.0, 0.0, 317.2), (0.0, 523.0, 244.5), (0.0, 0.0, 1.0)),
                         (-0.32, 0.12, 8e-4, -5e-4, -0.02), frame_id='rgb_optical')
WIDE_THERMAL = CameraModel((320, 256), ((245.0, 0.0, 161.3), (0.0, 244.0, 125.1), (0.0, 0.0, 1.0)),
                           (-0.18, 0.05, -6e-4, 4e-4, 0.0), frame_id='thermal_optical')
RATIONAL_THERMAL = CameraModel((320, 256), WIDE_THERMAL.k,
                               (0.9, 0.2, 3e-4, -2e-4, 0.01, 1.1, 0.35, 0.03),
                               distortion_model='rational_polynomial', frame_id='thermal_optical')
FISHEYE_THERMAL = CameraModel((320, 256),
                              ((190.0, 0.0, 158.0), (0.0, 191.0, 129.5), (0.0, 0.0, 1.0)),
                              (0.03, -0.012, 0.004, -0.001), distortion_model='equidistant',
                              frame_id='thermal_optical')
THERMAL_CAMERAS = {'plumb_bob': WIDE_THERMAL, 'rational_polynomial': RATIONAL_THERMAL,
                   'equidistant': FISHEYE_THERMAL}
# Thermal 6 cm to the right, 2 cm above, 3 cm in front of RGB, turned by 1.2, -0.8 and 2 degrees.
ROTATION = cv2.Rodrigues(np.radians([1.2, -0.8, 2.0]))[0]
TRANSLATION_M = -ROTATION @ (0.06, -0.02, 0.03)
EXTRINSICS = Extrinsics(tuple(map(tuple, ROTATION.tolist())), tuple(TRANSLATION_M.tolist()))


def rig(thermal=WIDE_THERMAL, rgb=RGB_CAMERA):
    return Rig(rgb, thermal, EXTRINSICS)


def projected(camera, points, rotation=None, translation_m=(0.0, 0.0, 0.0)):
    """Pixels (N x 2) of points (N x 3) by OpenCV."""
    turn = cv2.Rodrigues(np.eye(3) if rotation is None else rotation)[0]
    shift, k = np.array(translation_m, float), np.array(camera.k)
    points = np.asarray(points, float).reshape(-1, 1, 3)
    if camera.distortion_model == 'equidistant':
        return cv2.fisheye.projectPoints(points, turn, shift, k,
                                         np.array(camera.d))[0].reshape(-1, 2)
    return cv2.projectPoints(points, turn, shift, k, np.array(camera.d))[0].reshape(-1, 2)


def pixel_grid(size, step=1):
    """All (or every step-th) pixel coordinates, N x 2, as floats."""
    return np.stack(np.meshgrid(np.arange(0.0, size[0], step), np.arange(0.0, size[1], step)),
                    -1).reshape(-1, 2)


def texture(x, y):
    """Gray levels 0..1 of a pattern on the plane where a ray of slope x, y meets it.

    Waves, in many directions.
    """
    random = np.random.default_rng(5)
    value = np.zeros_like(x)
    for _ in range(40):
        angle, phase, frequency = random.uniform(0, 2 * np.pi,
                                                 2).tolist() + [random.uniform(60, 250)]
        value += np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return 0.5 + value / 20


def views(this, depth_m):
    """(RGB, thermal) images, H x W uint8, of the textured plane Z = depth_m of the RGB camera's
    frame."""
    rays = this.rgb.rays(pixel_grid(this.rgb.size))
    own = texture(*rays.T).reshape(this.rgb.size[::-1])
    # A ray of the thermal camera meets the plane n X = d with n the plane's normal in thermal
    # axes.
    rays = np.column_stack((this.thermal.rays(pixel_grid(this.thermal.size)),
                            np.ones(np.prod(this.thermal.size))))
    normal = ROTATION[:, 2]
    points = rays * ((depth_m + normal @ TRANSLATION_M) / (rays @ normal))[:, None]
    points = (points - TRANSLATION_M) @ ROTATION
    assert np.allclose(points[:, 2], depth_m)
    other = texture(*(points[:, :2] / depth_m).T).reshape(this.thermal.size[::-1])
    return tuple((255 * np.clip(image, 0, 1)).round().astype(np.uint8) for image in (own, other))


def shifts(first, second, seen, step=16, margin=24):
    """(points, displacements), N x 2 px each.

    How far what is at points of first has moved in second: optical flow.
    """
    first, second = (np.where(seen, image, np.uint8(0)) for image in (first, second))
    around = np.ones((2 * margin + 1, 2 * margin + 1))
    inside = cv2.erode(seen.astype(np.uint8), around, borderType=cv2.BORDER_CONSTANT,
                       borderValue=0)
    points = pixel_grid(first.shape[::-1], step)
    points = points[inside[tuple(points.astype(int).T[::-1])] > 0].astype(np.float32)
    found, status, _ = cv2.calcOpticalFlowPyrLK(first, second, points[:, None], None,
                                                winSize=(31, 31), maxLevel=2,
                                                criteria=(3, 50, 1e-4))
    assert status.all()
    return points, found[:, 0] - points
