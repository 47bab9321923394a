# SPDX-License-Identifier: Apache-2.0
"""The aligner: which mapping the settings, the alignment file, the camera infos, TF and the depth
give."""

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from conftest import texts
from two_cameras import EXTRINSICS, RGB_CAMERA, WIDE_THERMAL, rig, views

from diffmf_ros.core.alignment.camera import CameraModel
from diffmf_ros.core.alignment.geometry import Aligner, Alignment, AlignmentError
from diffmf_ros.core.alignment.rig import Extrinsics
from diffmf_ros.core.settings import AlignmentSettings

SIZES = {'rgb_size': (640, 480), 'thermal_size': (320, 256)}
HOMOGRAPHY = Alignment(((1.8, -0.063, 34.0), (0.063, 1.79, 12.0), (1e-5, -2e-5, 1.0)), **SIZES)
GRIDS = ['rgb', 'thermal']
MOUNTING = {'rotation': [list(row) for row in EXTRINSICS.rotation],
            'translation_m': list(EXTRINSICS.translation_m)}


def block(camera):
    return {'size': list(camera.size), 'k': [list(row) for row in camera.k], 'd': list(camera.d),
            'distortion_model': camera.distortion_model}


@pytest.fixture
def file(tmp_path):
    """Return a function that writes an alignment file and gives its path."""
    def write(content):
        path = tmp_path / 'alignment.yaml'
        path.write_text(yaml.safe_dump(content), encoding='utf-8')
        return str(path)
    return write


@pytest.fixture
def rig_file(file):
    return file({'thermal_from_rgb': MOUNTING, 'rgb_camera': block(RGB_CAMERA),
                 'thermal_camera': block(WIDE_THERMAL)})


@pytest.fixture
def homography_file(tmp_path):
    HOMOGRAPHY.save(tmp_path / 'homography.yaml')
    return str(tmp_path / 'homography.yaml')


def with_infos(settings, rgb=RGB_CAMERA, thermal=WIDE_THERMAL):
    aligner = Aligner(settings)
    aligner.set_camera('rgb', rgb)
    aligner.set_camera('thermal', thermal)
    return aligner


def same(mapping, other):
    return (mapping.grid == other.grid and np.array_equal(mapping.seen, other.seen)
            and (mapping.thermal.tables is None) == (other.thermal.tables is None)
            and (mapping.rgb.tables is None) == (other.rgb.tables is None)
            and np.array_equal(mapping.thermal.tables or [], other.thermal.tables or [])
            and np.array_equal(mapping.rgb.tables or [], other.rgb.tables or []))


@pytest.mark.parametrize('grid, size', [('rgb', (640, 480)), ('thermal', (320, 256))])
def test_without_file_image_is_resized(grid, size):
    """Without a file the other image is resized."""
    aligner = Aligner(AlignmentSettings(output_grid=grid))
    heat, color = (np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                   for shape in ((256, 320), (480, 640, 3)))

    mapping = aligner.mapping(**SIZES)

    assert (mapping.grid, mapping.size, mapping.everywhere,
            texts(aligner.issues)) == (grid, size, True, ())
    assert (mapping.thermal.tables is None and mapping.rgb.tables is None
            and mapping.seen.shape == size[::-1])
    interpolation = {'rgb': cv2.INTER_LINEAR, 'thermal': cv2.INTER_AREA}[grid]
    assert np.array_equal(mapping.thermal(heat),
                          heat if grid == 'thermal' else cv2.resize(heat, size))
    assert np.array_equal(mapping.rgb(color),
                          color if grid == 'rgb'
                          else cv2.resize(color, size, interpolation=interpolation))


def test_images_of_other_shapes_are_named(homography_file):
    """A measured alignment of another shape of image, and images that are stretched a lot."""
    measured = Aligner(AlignmentSettings(file=homography_file))
    resized = Aligner(AlignmentSettings())
    said = []
    for aligner, sizes in ((measured, {'rgb_size': (640, 480), 'thermal_size': (640, 480)}),
                           (measured, {'rgb_size': (320, 240), 'thermal_size': (640, 512)}),
                           (resized, {'rgb_size': (1920, 600), 'thermal_size': (300, 900)}),
                           (resized, {'rgb_size': (1280, 720), 'thermal_size': (640, 512)})):
        aligner.mapping(**sizes)
        said.append(texts(aligner.issues))

    assert said == [('the alignment is for thermal images of 320x256, and these are 640x480: '
                     'measure it again with `diffmf align`',), (),
                    ('thermal of 300x900 is stretched to 1920x600, as no alignment is known: '
                     'measure it with `diffmf align`',), ()]

    resized.mapping(rgb_size=(1920, 600), thermal_size=(300, 900), live=False)
    assert resized.issues == ()


@pytest.mark.parametrize('thermal_size, said', [
    ((102, 100), ''), ((103, 100), 'measure it again'), ((149, 100), ''), ((150, 100), 'stretched')
])
def test_stretch_limits_are_exact(thermal_size, said):
    """A measured shape may be bent by 2 %, and one that is resized be less than 1.5 times as wide.
    """
    one = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    aligner = Aligner(AlignmentSettings())
    if thermal_size[0] < 110:
        aligner._setup = replace(aligner._setup, source=Alignment(one, (100, 100), (100, 100)))

    aligner.mapping(rgb_size=(100, 100), thermal_size=thermal_size)

    assert [said in text for text in texts(aligner.issues)] == [True] * bool(said)


def test_aligner_says_what_it_uses(homography_file, rig_file):
    """The sizes of the file and the calibrations in use can be asked for; two mappings are kept.
    """
    measured, of_rig = (Aligner(AlignmentSettings(file=name))
                        for name in (homography_file, rig_file))
    measured.set_camera('thermal', WIDE_THERMAL)

    assert [measured.measured_size(stream) for stream in GRIDS] == [(640, 480), (320, 256)]
    assert [Aligner(AlignmentSettings()).measured_size(stream) for stream in GRIDS] == [None] * 2
    assert [measured.camera(stream) for stream in GRIDS] == [None, WIDE_THERMAL]
    assert [of_rig.camera(stream).k for stream in GRIDS] == [RGB_CAMERA.k, WIDE_THERMAL.k]
    assert of_rig._built.cache_info().maxsize == 2


@pytest.mark.parametrize('grid', GRIDS)
def test_a_homography_file_is_used(homography_file, grid):
    mapping = Aligner(AlignmentSettings(file=homography_file, output_grid=grid)).mapping(**SIZES)

    assert same(mapping, HOMOGRAPHY.mapping(**SIZES, grid=grid)) and 0.5 < mapping.seen.mean() < 1


def test_thermal_grid_inverts_homography():
    """On the thermal grid a homography is the inverse."""
    scene = cv2.GaussianBlur(np.random.default_rng(0).random((480, 640)).astype(np.float32),
                             (0, 0), 9)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    on_thermal = HOMOGRAPHY.mapping(**SIZES, grid='thermal')

    back = HOMOGRAPHY.mapping(**SIZES).thermal(on_thermal.rgb(scene))

    inner = np.s_[60:420, 80:560]
    assert on_thermal.seen.mean() > 0.9
    assert np.abs(back[inner].astype(int) - scene[inner]).max() <= 4


@pytest.mark.parametrize('grid', GRIDS)
def test_rig_file_needs_no_camera_info(rig_file, grid):
    """A file of both cameras and their mounting needs no camera info."""
    aligner = Aligner(AlignmentSettings(file=rig_file, plane_depth_m=7.0, output_grid=grid))

    mapping = aligner.mapping(**SIZES)

    assert same(mapping, rig().mapping(7.0, grid=grid)) and aligner.issues == ()


def test_missing_block_waits_for_camera_info(file):
    """Camera without block waits for its info.

    Until the camera info describes it, thermal is resized.
    """
    aligner = Aligner(AlignmentSettings(
        file=file({'thermal_from_rgb': MOUNTING, 'rgb_camera': block(RGB_CAMERA)})))

    before, problems = aligner.mapping(**SIZES), texts(aligner.issues)
    aligner.set_camera('thermal', WIDE_THERMAL)

    assert before.thermal.tables is None and before.everywhere
    assert problems == ('waiting for a calibration on thermal/camera_info: thermal is resized '
                        'meanwhile',)
    assert same(aligner.mapping(**SIZES), rig().mapping(20.0)) and aligner.issues == ()


def test_file_block_overrides_camera_info(rig_file):
    """A block of the file wins over the camera info."""
    nominal = CameraModel((640, 480), ((600.0, 0.0, 320.0), (0.0, 600.0, 240.0), (0.0, 0.0, 1.0)))

    aligner = with_infos(AlignmentSettings(file=rig_file), rgb=nominal)

    assert same(aligner.mapping(**SIZES), rig().mapping(20.0))


def test_mounting_comes_from_tf():
    """TF gives the mounting of cameras with camera infos."""
    aligner = Aligner(AlignmentSettings(from_tf=True))
    aligner.mapping(**SIZES)
    assert texts(aligner.issues) == (
        'waiting for a calibration on rgb/camera_info and a calibration on thermal/camera_info '
        'and TF between the two cameras: thermal is resized meanwhile',)

    aligner.set_camera('rgb', RGB_CAMERA)
    aligner.set_camera('thermal', WIDE_THERMAL)
    aligner.set_extrinsics(EXTRINSICS)

    assert same(aligner.mapping(**SIZES), rig().mapping(20.0)) and aligner.issues == ()
    aligner.set_extrinsics(None)
    assert 'TF between the two cameras' in texts(aligner.issues)[0]


def test_live_sizes_are_rescaled(rig_file):
    """Live images of other sizes are aligned alike."""
    aligner = Aligner(AlignmentSettings(file=rig_file))

    mapping = aligner.mapping(rgb_size=(320, 240), thermal_size=(160, 128))

    whole = rig().mapping(20.0)
    x, y = ((table[::2, ::2] + table[1::2, ::2] + table[::2, 1::2] + table[1::2, 1::2]) / 4
            for table in whole.thermal.tables)
    inner = np.s_[20:220, 20:300]
    # The center of a pixel is the middle of four; thermal pixels are twice as large.
    assert np.abs((mapping.thermal.tables[0] * 2 + 0.5 - x)[inner]).max() < 0.01
    assert np.abs((mapping.thermal.tables[1] * 2 + 0.5 - y)[inner]).max() < 0.01


def test_calibration_mismatch_resizes_thermal(rig_file):
    """A calibration that does not fit the image is an issue and thermal is resized."""
    aligner = Aligner(AlignmentSettings(file=rig_file))

    mapping = aligner.mapping(rgb_size=(640, 512), thermal_size=(320, 256))

    assert mapping.thermal.tables is None and mapping.size == (640, 512)
    assert len(texts(aligner.issues)) == 1
    assert 'rgb: the calibration is for 640x480, the image has 640x512' in texts(aligner.issues)[0]
    assert texts(aligner.issues)[0].endswith('thermal is resized meanwhile')
    aligner.mapping(**SIZES)
    assert aligner.issues == ()


@pytest.mark.parametrize('source', ['resize', 'homography', 'rig'])
def test_trim_shifts_rgb_pixels(source, rig_file, homography_file):
    """Trim shifts thermal by pixels of the live RGB image."""
    settings = AlignmentSettings(file={'resize': '', 'homography': homography_file,
                                       'rig': rig_file}[source])
    aligner = Aligner(settings)
    _, heat = views(rig(), 20.0)
    before = aligner.mapping(**SIZES).thermal(heat)

    aligner.configure(replace(settings, trim_x_px=7.0, trim_y_px=-4.0))
    after = aligner.mapping(**SIZES).thermal(heat)

    inner, moved = np.s_[80:400, 80:560], np.s_[76:396, 87:567]
    assert np.abs(after[moved].astype(int) - before[inner]).max() <= 2
    assert np.abs(after[inner].astype(int) - before[inner]).max() > 50


@pytest.mark.parametrize('source', ['resize', 'homography', 'rig'])
def test_trim_agrees_on_both_grids(source, rig_file, homography_file):
    """On the thermal grid the same trim aligns the same pixels."""
    settings = AlignmentSettings(file={'resize': '', 'homography': homography_file,
                                       'rig': rig_file}[source],
                                 trim_x_px=7.0, trim_y_px=-4.0)
    on_rgb = Aligner(settings).mapping(**SIZES)
    on_thermal = Aligner(replace(settings, output_grid='thermal')).mapping(**SIZES)

    # From the pixel (160, 128) of thermal to RGB by one table and back, by interpolation, through
    # the other.
    u, v = ((float(table[128, 160]) + 0.5) * 640 / (on_thermal.rgb.averaged or (640,))[0] - 0.5
            for table in on_thermal.rgb.tables)
    at = np.float32([[u]]), np.float32([[v]])
    back = [float(cv2.remap(table, *at, cv2.INTER_LINEAR)[0, 0])
            for table in on_rgb.thermal.tables]
    assert back == pytest.approx((160, 128), abs=0.01)


def test_live_depth_moves_the_plane(rig_file):
    """The depth moves the plane live and none brings back that of the settings."""
    aligner = Aligner(AlignmentSettings(file=rig_file, plane_depth_m=20.0))

    aligner.set_depth_m(5.0)
    near = aligner.mapping(**SIZES)
    aligner.set_depth_m(None)

    assert same(near, rig().mapping(5.0)) and same(aligner.mapping(**SIZES), rig().mapping(20.0))


def test_unchanged_mapping_is_same_object(rig_file):
    """As long as nothing changes the mapping is the same object."""
    settings = AlignmentSettings(file=rig_file)
    aligner = with_infos(settings)
    first = aligner.mapping(**SIZES)

    aligner.set_camera('rgb', replace(RGB_CAMERA))
    aligner.configure(replace(settings))

    assert aligner.mapping(**SIZES) is first


@pytest.mark.parametrize('depth_m', [0.0, -2.0, float('nan'), float('inf'), 0.01])
def test_invalid_depth_keeps_the_old(rig_file, depth_m):
    """An invalid depth is refused and the old one stays."""
    aligner = Aligner(AlignmentSettings(file=rig_file))
    aligner.set_depth_m(5.0)

    with pytest.raises(AlignmentError, match='depth' if depth_m == 0.01 else
                       f'^expected a depth above 0 m, got {depth_m} m$'):
        aligner.set_depth_m(depth_m)

    assert same(aligner.mapping(**SIZES), rig().mapping(5.0))


def test_invalid_settings_keep_the_old(rig_file, file, tmp_path):
    """Settings that are not usable are refused and the old ones stay."""
    aligner = Aligner(AlignmentSettings(file=rig_file))
    before = aligner.mapping(**SIZES)

    with pytest.raises(AlignmentError, match='cannot read the alignment file'):
        aligner.configure(AlignmentSettings(file=str(tmp_path / 'none.yaml'), trim_x_px=5.0))
    with pytest.raises(AlignmentError, match='away from what the RGB camera sees'):
        aligner.set_extrinsics(None)
        aligner.configure(AlignmentSettings(file=file({
            'thermal_from_rgb': {'rotation': [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
                                 'translation_m': [0, 0, 0]},
            'rgb_camera': block(RGB_CAMERA), 'thermal_camera': block(WIDE_THERMAL)})))

    assert aligner.mapping(**SIZES) is before


def test_tf_facing_away_is_refused():
    """What TF says is refused when it turns the thermal camera away."""
    aligner = with_infos(AlignmentSettings(from_tf=True))
    aligner.set_extrinsics(EXTRINSICS)

    with pytest.raises(AlignmentError, match='away from what the RGB camera sees'):
        aligner.set_extrinsics(Extrinsics(((-1.0, 0, 0), (0, 1, 0), (0, 0, -1)), (0.0, 0.0, 0.0)))

    assert same(aligner.mapping(**SIZES), rig().mapping(20.0))


def test_unknown_lens_resizes_thermal():
    """A camera info with an unknown lens is an issue and thermal is resized."""
    aligner = with_infos(AlignmentSettings(from_tf=True),
                         rgb=replace(RGB_CAMERA, distortion_model='fisheye624'))
    with pytest.raises(AlignmentError, match='expected the lens model'):
        aligner.set_extrinsics(EXTRINSICS)

    aligner.set_camera('rgb', RGB_CAMERA)
    aligner.set_extrinsics(EXTRINSICS)
    aligner.set_camera('rgb', replace(RGB_CAMERA, distortion_model='fisheye624'))

    assert aligner.mapping(**SIZES).thermal.tables is None
    assert 'expected the lens model' in texts(aligner.issues)[0]


@pytest.mark.parametrize('content, from_tf, words', [
    ({'thermal_from_rgb': MOUNTING}, True, 'so would TF'),
    ({'rgb_camera': block(RGB_CAMERA)}, False,
     'not how they are mounted: add thermal_from_rgb, or set alignment.from_tf to true'),
    ({'thermal_from_rgb': MOUNTING, 'rgb_from_thermal': []}, False,
     'expected the keys rgb_from_thermal'),
    ({'thermal_from_rgb': [1, 2]}, False,
     'thermal_from_rgb: expected the keys rotation, translation_m'),
    ({'thermal_from_rgb': {**MOUNTING, 'rotation': 'none'}}, False,
     'thermal_from_rgb.rotation: expected numbers, got none'),
    ({'thermal_from_rgb': {**MOUNTING, 'rotation': [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}}, False,
     'mirrors'),
    ({'thermal_from_rgb': MOUNTING, 'rgb_camera': {'size': [640, 480]}}, False,
     'rgb_camera: expected the keys'),
    ({'thermal_from_rgb': MOUNTING, 'rgb_camera': {**block(RGB_CAMERA), 'k': [[0, 0, 0]] * 3}},
     False, 'rgb_camera: expected k to be'),
    ({'thermal_from_rgb': MOUNTING,
      'thermal_camera': {**block(RGB_CAMERA), 'distortion_model': 'double_sphere'}}, False,
     'thermal_camera: expected the lens model'),
])
def test_rig_file_errors_are_distinct(file, content, from_tf, words):
    """Each unusable rig file has its own error."""
    with pytest.raises(AlignmentError, match=words):
        Aligner(AlignmentSettings(file=file(content), from_tf=from_tf))


def test_lens_block_is_optional(file):
    """A block of the lens may be left out."""
    plain = {'size': [640, 480], 'k': [list(row) for row in RGB_CAMERA.k]}
    path = file({'thermal_from_rgb': MOUNTING, 'rgb_camera': plain,
                 'thermal_camera': block(WIDE_THERMAL)})

    mapping = Aligner(AlignmentSettings(file=path)).mapping(**SIZES)

    assert same(mapping, rig(rgb=CameraModel((640, 480), RGB_CAMERA.k)).mapping(20.0))


def test_range_without_extrinsics_is_issue(homography_file):
    """A range without extrinsics is an issue."""
    for path in ('', homography_file):
        aligner = Aligner(AlignmentSettings(file=path, depth_from_range=True))
        assert texts(aligner.issues) == (
            'alignment.depth_from_range has no effect without extrinsics '
            '(alignment.file or alignment.from_tf)',)


def test_parallax_follows_depth_and_size(rig_file):
    """The parallax needs the extrinsics and follows depth and live size."""
    aligner = Aligner(AlignmentSettings(file=rig_file, plane_depth_m=12.0))

    assert aligner.parallax_px(6.0, **SIZES) == pytest.approx(
        tuple(rig().parallax_px(6.0, plane_depth_m=12.0)))
    half = aligner.parallax_px(6.0, rgb_size=(320, 240), thermal_size=(320, 256))
    assert np.multiply(half, 2) == pytest.approx(aligner.parallax_px(6.0, **SIZES))
    with pytest.raises(AlignmentError, match='^the parallax needs the extrinsics and both '
                       'calibrations: set alignment.file or alignment.from_tf$'):
        Aligner(AlignmentSettings()).parallax_px(6.0, **SIZES)


def test_mapping_is_whole_across_threads(rig_file):
    """A mapping asked for while another thread sets is always a whole one."""
    aligner = Aligner(AlignmentSettings(file=rig_file))
    sizes = {'rgb_size': (64, 48), 'thermal_size': (32, 26)}
    known = {}
    for depth_m in (3.0, 30.0):
        aligner.set_depth_m(depth_m)
        known[depth_m] = aligner.mapping(**sizes).thermal.tables[0]
    stop = threading.Event()

    def set_in_turn():
        while not stop.is_set():
            for depth_m in known:
                aligner.set_depth_m(depth_m)

    setter = threading.Thread(target=set_in_turn)
    setter.start()
    try:
        found = [aligner.mapping(**sizes).thermal.tables[0] for _ in range(300)]
    finally:
        stop.set()
        setter.join(timeout=10)

    assert all(any(np.array_equal(table, one) for one in known.values()) for table in found)


def test_rectified_images_use_their_projections():
    """Rectified images with the infos of the raw ones are aligned by their projections."""
    # Given cameras whose drivers rectify, with other focal lengths and, of a stereo pair, turned
    # axes
    turn = cv2.Rodrigues(np.array((0.02, -0.03, 0.01)))[0]
    p = ((480.0, 0.0, 325.0, 0.0), (0.0, 480.0, 238.0, 0.0), (0.0, 0.0, 1.0, 0.0))
    rgb = replace(RGB_CAMERA, p=p, r=tuple(map(tuple, turn.tolist())))
    thermal = replace(WIDE_THERMAL,
                      p=((230.0, 0.0, 160.0, 0.0), (0.0, 230.0, 127.0, 0.0), (0.0, 0.0, 1.0, 0.0)))
    aligner = Aligner(AlignmentSettings(from_tf=True, rgb_rectified=True, thermal_rectified=True,
                                        plane_depth_m=15.0))
    aligner.set_camera('rgb', rgb)
    aligner.set_camera('thermal', thermal)
    aligner.set_extrinsics(EXTRINSICS)

    x, y = aligner.mapping(**SIZES).thermal.tables

    # then an RGB pixel is where OpenCV finds its point, on the plane across the rectified view, in
    # rectified thermal
    ray = np.array(((600 - 325.0) / 480.0, (440 - 238.0) / 480.0, 1.0)) * 15.0
    point = np.array(EXTRINSICS.rotation) @ (turn.T @ ray) + EXTRINSICS.translation_m
    assert (x[440, 600], y[440, 600]) == pytest.approx(
        (230.0 * point[0] / point[2] + 160.0, 230.0 * point[1] / point[2] + 127.0), abs=0.01)
