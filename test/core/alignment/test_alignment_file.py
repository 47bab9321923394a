# SPDX-License-Identifier: Apache-2.0
"""Calibrations as Kalibr, ROS and OpenCV write them are read as what they are, or refused with
what to do."""

import cv2
import numpy as np
import pytest
from conftest import texts

from diffmf_ros.core.alignment.alignment_file import RigFile, load_alignment
from diffmf_ros.core.alignment.geometry import Aligner
from diffmf_ros.core.alignment.homography import AlignmentError
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import AlignmentSettings
from diffmf_ros.tools.alignment_pairs import rough_alignment

CAMCHAIN = """
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.3, 0.1, 0.001, -0.002]
  distortion_model: radtan
  intrinsics: [520.0, 521.0, 319.5, 239.5]
  resolution: [640, 480]
  rostopic: {first}
cam1:
  T_cn_cnm1:
  - [0.0, -1.0, 0.0, -0.05]
  - [1.0, 0.0, 0.0, 0.01]
  - [0.0, 0.0, 1.0, 0.002]
  - [0.0, 0.0, 0.0, 1.0]
  cam_overlaps: [0]
  camera_model: pinhole
  distortion_coeffs: [0.01, 0.002, 0.0, 0.0]
  distortion_model: equidistant
  intrinsics: [300.0, 301.0, 159.5, 127.5]
  resolution: [320, 256]
  rostopic: {second}
"""
ROS_CAMERA = """
image_width: 320
image_height: 256
camera_name: lepton
camera_matrix:
  rows: 3
  cols: 3
  data: [300.0, 0.0, 159.5, 0.0, 301.0, 127.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.1, 0.02, 0.0, 0.0, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
projection_matrix:
  rows: 3
  cols: 4
  data: [290.0, 0.0, 160.0, 0.0, 0.0, 291.0, 128.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""
MOUNTED = """
thermal_from_rgb: {rotation: [1, 0, 0, 0, 1, 0, 0, 0, 1], translation_m: [-0.05, 0, 0]}
"""


def written(folder, text, name='rig.yaml'):
    """Return the path of a file with this text."""
    (folder / name).write_text(text)
    return folder / name


def test_camchain_gives_cameras_and_mounting(tmp_path):
    """A camchain is two cameras and their mounting."""
    rig = load_alignment(written(tmp_path, CAMCHAIN.format(first='/cam0/image_raw',
                                                           second='/cam1/image_raw')))

    assert isinstance(rig, RigFile)
    assert (rig.rgb.size, rig.thermal.size) == ((640, 480), (320, 256))
    assert rig.rgb.k == ((520.0, 0.0, 319.5), (0.0, 521.0, 239.5), (0.0, 0.0, 1.0))
    assert (rig.rgb.distortion_model, rig.thermal.distortion_model) == ('plumb_bob', 'equidistant')
    assert rig.extrinsics.translation_m == (-0.05, 0.01, 0.002)
    assert rig.extrinsics.rotation[0] == (0.0, -1.0, 0.0)


def test_topic_selects_thermal_of_camchain(tmp_path):
    """The topic says which camera of a camchain is thermal."""
    rig = load_alignment(written(tmp_path, CAMCHAIN.format(first='/flir_boson/image_raw',
                                                           second='/color/image_raw')))

    assert (rig.rgb.size, rig.thermal.size) == ((320, 256), (640, 480))
    # X_0 = R^T (X_1 - t)
    np.testing.assert_allclose(rig.extrinsics.translation_m, (-0.01, -0.05, -0.002))
    assert rig.extrinsics.rotation[0] == (0.0, 1.0, 0.0)


@pytest.mark.parametrize('as_path', [True, False])
def test_ros_camera_inline_or_file(tmp_path, as_path):
    """A camera of ROS stands in a block or in its own file."""
    written(tmp_path, ROS_CAMERA, 'lepton.yaml')
    indented = ROS_CAMERA.replace('\n', '\n  ')
    path = written(tmp_path, MOUNTED
                   + ('thermal_camera: lepton.yaml' if as_path else 'thermal_camera:' + indented))

    rig = load_alignment(path)

    assert (rig.rgb, rig.thermal.size, rig.thermal.d) == (None, (320, 256),
                                                          (-0.1, 0.02, 0.0, 0.0, 0.0))
    assert rig.thermal.p[1] == (0.0, 291.0, 128.0, 0.0)
    assert rig.extrinsics.rotation == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def stereo_file(path, **changes):
    """Write what a program does with the result of stereoCalibrate."""
    values = {'cameraMatrix1': np.array([[520, 0, 319.5], [0, 520, 239.5], [0, 0, 1]]),
              'distCoeffs1': np.array([[-0.3, 0.1, 0, 0, 0.0]]),
              'cameraMatrix2': np.array([[300, 0, 159.5], [0, 300, 127.5], [0, 0, 1.0]]),
              'distCoeffs2': np.zeros((1, 5)), 'R': np.eye(3), 'T': np.array([[-0.05], [0], [0]]),
              'image_size1': np.array([640, 480]), 'image_size2': np.array([320, 256]), **changes}
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in values.items():
        if value is not None:
            storage.write(name, value)
    storage.release()
    return path


@pytest.mark.parametrize('head', ['%YAML:1.0', '%YAML 1.0'])
def test_opencv_stereo_file_is_read(head, tmp_path):
    """What OpenCV writes of two cameras is read, with the first line of any of its versions."""
    path = stereo_file(tmp_path / 'stereo.yml')
    first, _, rest = path.read_text().partition('\n')
    assert first.startswith('%YAML')
    path.write_text(f'{head}\n{rest}')

    rig = load_alignment(path)

    assert (rig.rgb.size, rig.thermal.size) == ((640, 480), (320, 256))
    assert rig.rgb.d == (-0.3, 0.1, 0.0, 0.0, 0.0)
    assert rig.extrinsics.translation_m == (-0.05, 0.0, 0.0)


@pytest.mark.parametrize('text, words', [
    (ROS_CAMERA, 'calibration of one camera.*thermal_from_rgb'),
    (CAMCHAIN.format(first='a', second='b').replace('radtan', 'fov'),
     'cam0: expected camera_model pinhole'),
    (CAMCHAIN.format(first='a', second='b').replace('  T_cn_cnm1', '  T_imu'), 'no T_cn_cnm1'),
    (CAMCHAIN.format(first='a', second='b').partition('cam1')[0], 'two cameras, got cam0'),
    (CAMCHAIN.format(first='a', second='b').replace('-0.05]', '-50.0]'),
     'metres, not in millimetres'),
    ('rgb_camera: other.yaml\n' + MOUNTED, 'other.yaml')])
def test_what_is_missing_is_said(tmp_path, text, words):
    with pytest.raises(AlignmentError, match=words):
        load_alignment(written(tmp_path, text))


def test_opencv_without_size_is_refused(tmp_path):
    """OpenCV without an image size is refused."""
    path = stereo_file(tmp_path / 'stereo.yml', image_size1=None, image_size2=None)
    with pytest.raises(AlignmentError, match=r'add image_size1: \[width, height\]'):
        load_alignment(path)


def test_calibration_aspect_mismatch_is_issue(tmp_path):
    """Images of another shape than the calibration are an issue."""
    path = written(tmp_path, CAMCHAIN.format(first='/rgb/image', second='/thermal/image').replace(
        '[0.0, -1.0, 0.0, -0.05]', '[1.0, 0.0, 0.0, -0.05]').replace('[1.0, 0.0, 0.0, 0.01]',
                                                                     '[0.0, 1.0, 0.0, 0.01]'))
    aligner = Aligner(AlignmentSettings(file=str(path)))

    aligner.mapping(rgb_size=(640, 480), thermal_size=(160, 128))
    assert aligner.issues == ()
    aligner.mapping(rgb_size=(640, 480), thermal_size=(160, 120))

    assert ('thermal: the calibration is for 320x256, the image has 160x120'
            in texts(aligner.issues)[0])


def test_align_starts_at_calibration_plane(tmp_path):
    """Align starts at the plane of a calibration."""
    path = written(tmp_path, CAMCHAIN.format(first='/rgb/image', second='/thermal/image').replace(
        '[0.0, -1.0, 0.0, -0.05]', '[1.0, 0.0, 0.0, -0.05]').replace('[1.0, 0.0, 0.0, 0.01]',
                                                                     '[0.0, 1.0, 0.0, 0.01]'))
    frames = [Frame(stream, 1, stream, np.zeros((height, width), np.uint8), 'mono8')
              for stream, width, height in ((RGB, 640, 480), (THERMAL, 320, 256))]

    start = rough_alignment(path, Pair(*frames, offset_ns=0), plane_depth_m=20.0)

    x, y, z = np.array(start.rgb_from_thermal) @ (159.5, 127.5, 1)
    # the middle of thermal looks along its axis: 5 cm to the right of and 1 cm above that of RGB,
    # 20 m away
    assert (x / z, y / z) == pytest.approx((319.5 + 520 * 0.05 / 20, 239.5 - 521 * 0.01 / 20),
                                           abs=0.6)
