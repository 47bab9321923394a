# SPDX-License-Identifier: Apache-2.0
"""`diffmf align`: the homography between a thermal and an RGB camera, measured on images whose
truth is known."""

import shutil
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf

from diffmf_ros.core.alignment.homography import Alignment
from diffmf_ros.core.imaging.color import split_luma
from diffmf_ros.core.registration.matching import PyramidLevel, descriptor, ncc
from diffmf_ros.core.registration.planar import fit, transform_points
from diffmf_ros.core.registration.registration import (
    NARROW,
    RegistrationError,
    _windows,
    register,
)
from diffmf_ros.core.registration.shifts import Search
from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, START_NS, BagWriter
from diffmf_ros.tools import alignment_pairs
from diffmf_ros.tools.alignment_pairs import AlignmentPairsError, file_pairs, spread
from diffmf_ros.tools.synthetic.drive import Drive, DriveSettings

pytestmark = pytest.mark.slow
RGB_SIZE, THERMAL_SIZE = (640, 480), (320, 256)
WORLD = 1200  # pixels a side


@cache
def world(seed, *, shapes=160):
    """Return (visible, thermal), WORLD x WORLD uint8.

    The same shapes, with unrelated brightness and texture.
    """
    random = np.random.default_rng(seed)
    visible, thermal = (np.full((WORLD, WORLD), level, np.uint8) for level in (110, 70))
    for _ in range(shapes):
        center, axes = random.integers(0, WORLD, 2), random.integers(12, 90, 2)
        box = cv2.boxPoints((center.tolist(), axes.tolist(),
                             float(random.uniform(0, 180)))).astype(np.int32)
        for image in (visible, thermal):
            cv2.fillPoly(image, [box], int(random.integers(0, 256)))
    noise = random.normal(0, 6, (2, WORLD, WORLD))
    return tuple(np.clip(image + extra, 0, 255).astype(np.uint8)
                 for image, extra in zip((visible, cv2.GaussianBlur(thermal, (0, 0), 2.0)), noise,
                                         strict=True))


def truth(*, ratio=0.8, angle_deg=4.0, shift=(30.0, -20.0), perspective=(0.02, -0.01)):
    """Return rgb_from_thermal: thermal's field is ratio as wide as that of RGB, turned about its
    center, shifted."""
    scale, angle = ratio * RGB_SIZE[0] / THERMAL_SIZE[0], np.radians(angle_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = [np.eye(3), np.eye(3)]
    for matrix, size, more in zip(middle, (THERMAL_SIZE, RGB_SIZE), ((0, 0), shift), strict=True):
        matrix[:2, 2] = [(side - 1) / 2 + extra for side, extra in zip(size, more, strict=True)]
    core = np.eye(3)
    core[:2, :2], core[2, :2] = turn, np.array(perspective) / (np.array(THERMAL_SIZE) / 2)
    return middle[1] @ core @ np.linalg.inv(middle[0])


def seen_by(scene, rgb_from_thermal):
    """Return the pair (RGB luminance, thermal) that two cameras take of a world."""
    visible, thermal = scene
    world_from_rgb = np.array([[1.0, 0, 280], [0, 1, 360], [0, 0, 1]])
    return tuple(cv2.warpPerspective(image, matrix, size,
                                     flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
                 for image, matrix, size in ((visible, world_from_rgb, RGB_SIZE),
                                             (thermal, world_from_rgb @ rgb_from_thermal,
                                              THERMAL_SIZE)))


# Some pixels beside truth(): an alignment that follows a start costs a tenth of one without.
ROUGH = Alignment(tuple(map(tuple, truth(
    ratio=0.83, angle_deg=3.0, shift=(20.0, -10.0), perspective=(0, 0)).tolist())),
    RGB_SIZE, THERMAL_SIZE)


@cache
def registered(seed):
    """The alignment of one pair with truth(), found without a start."""
    return register([seen_by(world(seed), truth())])


def corners(size):
    return np.array([(x, y) for x in (0, size[0] - 1) for y in (0, size[1] - 1)], float)


def error_px(found, expected):
    """Mean distance of the corners of thermal, in RGB pixels."""
    matrix = np.array(found.alignment.rgb_from_thermal)
    points = corners(THERMAL_SIZE)
    return float(np.hypot(*(transform_points(matrix, points)
                            - transform_points(expected, points)).T).mean())


@pytest.mark.parametrize('change', [
    {}, {'ratio': 1.3, 'angle_deg': -8.0, 'shift': (-60.0, 40.0)},
    {'ratio': 0.65, 'shift': (90.0, 60.0)}])
def test_one_pair_within_2_px(change):
    """One pair of unrelated brightness gives the corners within 2 px."""
    expected = truth(**change)

    found = register([seen_by(world(1), expected)]) if change else registered(1)

    assert error_px(found, expected) < 2.0
    assert (found.model, found.confidence, found.pairs) == ('homography', 'good', 1)
    assert found.inliers <= found.correspondences
    assert found.residual_px < 2.0
    assert found.field_ratio == pytest.approx(change.get('ratio', 0.8), rel=0.02)
    assert found.rotation_deg == pytest.approx(change.get('angle_deg', 4.0), abs=0.3)
    assert found.shift_px == pytest.approx(change.get('shift', (30.0, -20.0)), abs=2.0)


def test_expected_error_matches_true_error():
    """The expected error is of the size of the error."""
    expected = truth()

    found = [register([seen_by(world(seed), expected)], start=ROUGH) for seed in (2, 3)]

    for result in found:
        assert error_px(result, expected) < 4 * result.uncertainty_px


def test_pooled_pairs_of_weak_structure():
    """Pairs are pooled so that scenes with little structure suffice together.

    With a known ratio fewer ways are searched.
    """
    expected = truth()
    poor = [seen_by(world(seed, shapes=9), expected) for seed in range(20, 26)]
    with pytest.raises(RegistrationError, match='more pairs|5 to 10 pairs'):
        register(poor[:1], field_ratio=0.8)

    found = register(poor, field_ratio=0.8)

    assert found.pairs == 6
    assert error_px(found, expected) < 5.0


def test_same_pairs_same_alignment():
    """The same pairs give the same alignment."""
    first, second = registered(1), register([seen_by(world(1), truth())])

    # Not to the bit: how OpenCV sums depends on where an array lies in memory.
    assert error_px(first, np.array(second.alignment.rgb_from_thermal)) < 1e-3
    assert (first.correspondences, first.inliers) == (second.correspondences, second.inliers)


def test_16_bit_and_nan_thermal():
    """Thermal of 16-bit and of float with NaN is registered."""
    expected = truth()
    rgb, thermal = seen_by(world(5), expected)
    kelvin = 280 + thermal.astype(np.float32) / 10
    kelvin[100:103, 50:60] = np.nan

    for values, start in ((7000 + 9 * thermal.astype(np.uint16), ROUGH), (kelvin, None)):
        assert error_px(register([(rgb, values)], start=start), expected) < 2.0


@pytest.mark.parametrize('change', [
    {'ratio': 0.8, 'angle_deg': 90.0}, {'ratio': 0.45, 'angle_deg': -37.0},
    {'ratio': 1.6, 'angle_deg': 180.0}, {'ratio': 0.36, 'angle_deg': 142.0}],
    ids=['quarter turn', 'roll', 'upside down', 'narrow'])
def test_any_roll_and_lens(change):
    """Cameras of any roll and of lenses that differ much are aligned without a start."""
    expected = truth(perspective=(0, 0), **change)
    pairs = 1 if change['ratio'] > 0.4 else 3  # a narrow view has room for few blocks

    found = register([seen_by(world(6 + pair, shapes=400), expected) for pair in range(pairs)])

    assert error_px(found, expected) < 3.0
    assert found.field_ratio == pytest.approx(change['ratio'], rel=0.02)
    assert abs(found.rotation_deg) == pytest.approx(abs(change['angle_deg']), abs=0.5)


def test_start_is_followed():
    """A start that is right within some pixels leads to the alignment."""
    expected = truth(ratio=0.8, angle_deg=32.0)
    pair = seen_by(world(6), expected)

    rough = truth(ratio=0.82, angle_deg=30.5, shift=(22.0, -12.0), perspective=(0, 0))
    found = register([pair], start=Alignment(tuple(map(tuple, rough)), RGB_SIZE, THERMAL_SIZE))

    assert error_px(found, expected) < 2.0


def test_start_of_other_sizes_rescaled():
    """A start measured at other sizes is rescaled."""
    expected = truth()
    pair = seen_by(world(7), expected)
    half = np.diag([0.5, 0.5, 1]) @ expected @ np.diag([4, 4, 1])

    found = register([pair], start=Alignment(tuple(map(tuple, half)), (320, 240), (80, 64)))

    assert error_px(found, expected) < 2.0


@pytest.mark.parametrize('ratio, usual', [
    (None, [True, False, False]), (1.2, [True, False]), (0.42, [False, False])])
def test_usual_rolls_searched_first(ratio, usual):
    """Cameras as they usually stand are searched first, also where the ratio is known."""
    windows = _windows(ratio)

    assert [window.usual for window in windows] == usual
    assert windows[0].angles_deg == (-12.0, 12.0)
    if ratio:
        assert all(window.field_ratios[0] < ratio < window.field_ratios[1] for window in windows)
        assert (windows[0].width == 320) == (ratio < NARROW)


def test_known_field_ratio_narrow_thermal():
    """A known ratio of the fields finds a narrow thermal camera."""
    expected = truth(ratio=0.42, angle_deg=3.0, perspective=(0, 0))

    found = register([seen_by(world(8, shapes=500), expected)], field_ratio=0.45)

    assert error_px(found, expected) < 2.0


@pytest.mark.parametrize('spoilt, field_ratio', [
    (lambda rgb, thermal: (rgb, thermal[:, ::-1].copy()), None),
    (lambda rgb, thermal: (rgb, seen_by(world(99), truth())[1]), None),
    (lambda rgb, thermal: (rgb, np.full_like(thermal, 80)), None),
    (lambda rgb, thermal: (rgb, np.random.default_rng(0).integers(0, 256, thermal.shape,
                                                                  np.uint8)), 0.8),
], ids=['mirrored', 'another scene', 'flat', 'noise'])
def test_indecisive_images_get_advice(spoilt, field_ratio):
    """Images that do not tell are refused with advice."""
    pair = spoilt(*seen_by(world(9), truth()))

    with pytest.raises(RegistrationError, match='--init'):
        register([pair], field_ratio=field_ratio)


def test_implausible_alignment_is_refused():
    """An implausible alignment is refused even where images agree with it."""
    tiny = truth(ratio=0.15)
    pair = seen_by(world(10, shapes=1500), tiny)

    with pytest.raises(RegistrationError, match='with a field ratio outside 0.2 to 5'):
        register([pair], start=Alignment(tuple(map(tuple, tiny)), RGB_SIZE, THERMAL_SIZE))


@pytest.mark.parametrize('pairs, words', [
    ([], 'at least one pair'),
    ([(np.zeros((480, 640, 3), np.uint8), np.zeros((256, 320), np.uint8))], 'height x width'),
    ([(np.zeros((480, 640)), np.zeros((256, 320))), (np.zeros((480, 640)), np.zeros((128, 160)))],
     'different sizes'),
    ([(np.zeros((480, 640)), np.zeros((24, 32)))], '64x64'),
    ([(np.zeros((480, 640)), np.full((256, 320), np.nan))], 'finite'),
])
def test_unusable_images_are_named(pairs, words):
    """Images that cannot be used are named."""
    with pytest.raises(RegistrationError, match=words):
        register(pairs)


@pytest.mark.parametrize('scene', ['night', 'smoke'])
def test_synthetic_drive_within_5_px(scene):
    """The synthetic drive is aligned within 5 px of its exact homography."""
    drive = Drive(DriveSettings(scene=scene, seed=1, seconds=6, thermal_rate_hz=30))
    pairs = [(split_luma(drive.frame('rgb', index).frame.pixels, 'rgb8')[0],
              drive.frame('thermal', index).frame.pixels)
             for index in (20, 80, 140)]

    found = register(pairs)

    assert error_px(found, drive.rig.rgb_from_thermal()) < 5.0
    assert found.coverage > 0.3


# The parts.

def test_descriptor_ignores_inversion_not_direction():
    """An inverted image is described alike and an edge across is not."""
    image = np.tile(np.float32(128) + 100 * np.sin(np.arange(96, dtype=np.float32) / 6), (96, 1))
    everywhere = np.ones(image.shape, bool)

    assert ncc(descriptor(image), descriptor(255 - image),
               everywhere) == pytest.approx(1.0, abs=1e-3)
    assert ncc(descriptor(image), descriptor(image.T.copy()), everywhere) < 0.1


def test_search_finds_any_shift():
    """The search finds a shift in any direction."""
    image = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (200, 260)).astype(np.float32),
                             (0, 0), 3.0)
    for x, y in ((11, -7), (-20, 9), (0, 0)):
        search = Search([descriptor(image[50:150, 60:190])], largest_shift=0.25)
        width, height = search.canvas
        moved = np.zeros((height, width), np.float32)
        seen = np.zeros((height, width), bool)
        offset_x, offset_y = (int(value) for value in search.to_canvas[:2, 2])
        # What lies at (x, y) from there in the image must move back by it.
        part = image[50 + y:150 + y, 60 + x:190 + x]
        moved[offset_y:offset_y + 100, offset_x:offset_x + 130] = part
        seen[offset_y:offset_y + 100, offset_x:offset_x + 130] = True

        views = search.spectra([(descriptor(moved, seen), seen, (0, 0))])
        assert search.best(views)[1] == (x, y)


@pytest.mark.parametrize('size, inside', [((64, 48), False), ((65, 47), True)])
@pytest.mark.parametrize('angle_deg', [-150.0, 20.0, 172.5])
def test_half_turn_shares_views(size, inside, angle_deg):
    """A search finds images half a turn apart from views of one of them: score and place."""
    images = [cv2.GaussianBlur(image, (0, 0), 2.0) for image in
              np.random.default_rng(2).normal(100, 40, (2, 90, 120)).astype(np.float32)]
    options = {'largest_shift': 0.25, 'inside': inside}
    shared = PyramidLevel(images[:1], images[1:], width=size[0])
    near, far = (shared.search(0.6, angle_deg + turn, **options) for turn in (0, 180))

    turned = PyramidLevel(images[:1], [images[1][::-1, ::-1].copy()], width=size[0])
    score, matrix = turned.search(0.6, angle_deg, **options)

    assert far[0] == pytest.approx(score, rel=1e-4) and far[0] != pytest.approx(near[0], rel=0.05)
    back = np.array([[-1.0, 0, 119], [0, -1, 89], [0, 0, 1]])
    assert far[1] == pytest.approx(matrix @ back, abs=1e-6)


def correspondences(matrix, *, count, outliers, noise_px, seed, box=(0, 0, 319, 255)):
    random = np.random.default_rng(seed)
    source = random.uniform(box[:2], box[2:], (count, 2))
    target = transform_points(matrix, source) + random.normal(0, noise_px, (count, 2))
    target[:outliers] = random.uniform(0, 500, (outliers, 2))
    return source, target


@pytest.mark.parametrize('model, change', [
    ('homography', {}), ('affine', {'perspective': (0, 0)}),
    ('similarity', {'perspective': (0, 0)})])
def test_fit_tolerates_third_of_outliers(model, change):
    """A third of outliers does not spoil a fit."""
    expected = truth(**change)
    source, target = correspondences(expected, count=120, outliers=40, noise_px=0.3, seed=1)

    found = fit(source, target, model, threshold_px=1.5)

    assert np.abs(transform_points(found.matrix, corners(THERMAL_SIZE))
                  - transform_points(expected, corners(THERMAL_SIZE))).max() < 0.6
    assert np.count_nonzero(found.inliers[40:]) >= 78
    assert found.residual_px == pytest.approx(0.3 * 2 ** 0.5, rel=0.2)


def test_fit_spread_matches_repetition():
    """The spread of a fit is what repetition shows."""
    expected, points = truth(), corners(THERMAL_SIZE)
    fits = [fit(*correspondences(expected, count=60, outliers=0, noise_px=1.0, seed=seed),
                'homography', threshold_px=8.0) for seed in range(60)]
    errors = np.array([transform_points(found.matrix, points) - transform_points(expected, points)
                       for found in fits])
    measured = float(np.sqrt(np.square(errors).sum(axis=2).mean()))

    assert np.mean([found.transfer_std_px(points) for found in fits]) == pytest.approx(
        measured, rel=0.2)


def test_corner_matches_determine_homography_poorly():
    """Matches in one corner determine a homography far less than a similarity."""
    expected = truth(perspective=(0, 0))
    source, target = correspondences(expected, count=30, outliers=0, noise_px=0.5, seed=3,
                                     box=(0, 0, 100, 80))

    spreads = [fit(source, target, model, threshold_px=3.0).transfer_std_px(corners(THERMAL_SIZE))
               for model in ('homography', 'affine', 'similarity')]

    assert all(richer > 1.3 * poorer for richer, poorer in pairwise(spreads))


def test_too_few_points_no_fit():
    """Too few or coinciding points have no fit."""
    same = np.tile([[10.0, 20.0]], (30, 1))

    assert fit(same[:5], same[:5], 'similarity', threshold_px=1.0) is None
    assert fit(same, same, 'homography', threshold_px=1.0) is None


@pytest.mark.parametrize('count, most, expected', [
    (3, 5, [0, 1, 2]), (10, 1, [0]), (100, 3, 3), (7, 7, list(range(7)))])
def test_spread_covers_all_items(count, most, expected):
    """Items are spread over the whole of them."""
    kept = spread(range(count), most)

    assert kept == expected if isinstance(expected, list) else len(kept) == expected
    if count == 100:
        assert kept[0] == 0 and kept[-1] >= 90
        assert max(b - a for a, b in pairwise(kept)) <= 60


# The command.

def align(*arguments):
    return diffmf('align', *arguments)


@pytest.fixture(scope='module')
def taken(tmp_path_factory):
    """vi/ and ir/ of three pairs with truth(), in color and gray, and ROUGH."""
    path = tmp_path_factory.mktemp('taken')
    for name in ('vi', 'ir'):
        (path / name).mkdir()
    for seed in (31, 32, 33):
        rgb, thermal = seen_by(world(seed), truth())
        cv2.imwrite(str(path / 'vi' / f'{seed}.png'), cv2.merge((rgb, rgb, rgb)))
        cv2.imwrite(str(path / 'ir' / f'{seed}.png'), thermal)
    ROUGH.save(path / 'rough.yaml')
    return path


@pytest.fixture
def folder(taken, tmp_path):
    """A copy for one test."""
    return shutil.copytree(taken, tmp_path, dirs_exist_ok=True)


def test_two_files_give_all_outputs(folder):
    """Two files give an alignment file an overlay and a report."""
    done = align(folder / 'vi/31.png', folder / 'ir/31.png', '-o', folder / 'a.yaml', '--overlay',
                  folder / 'o.png')

    assert done.returncode == 0, done.stderr
    found = Alignment.load(folder / 'a.yaml')
    assert (found.rgb_size, found.thermal_size) == (RGB_SIZE, THERMAL_SIZE)
    points = corners(THERMAL_SIZE)
    distance = transform_points(np.array(found.rgb_from_thermal),
                                points) - transform_points(truth(), points)
    assert np.hypot(*distance.T).max() < 3.0
    for words in ('homography from 1 pair', 'confidence good', 'inliers of', 'residual',
                  'coverage', 'field ratio 0.8', 'rotation +4.'):
        assert words in done.stdout
    picture = cv2.imread(str(folder / 'o.png'))
    assert picture.shape == (480, 640, 3)
    # colored edges on a gray picture
    assert (picture != picture[..., :1]).any(axis=2).sum() > 1000


def test_folders_and_rough_start(folder):
    """Two folders and a rough start are taken."""
    done = align(folder / 'vi', folder / 'ir', '-o', folder / 'a.yaml', '--init',
                  folder / 'rough.yaml', '--max-pairs', 2)

    assert done.returncode == 0, done.stderr
    assert 'from 2 pairs' in done.stdout


@pytest.mark.parametrize('ros2, use', [
    (None, 'diffmf replay {0}/bag OUT --alignment {0}/a.yaml --thermal-offset-ms 5.0 '
           '--topics /eye/rgb /eye/thermal ('),
    ('ros2', 'fusion.launch.py alignment_file:={0}/a.yaml thermal_offset_ms:=5.0 '
             'rgb_image:=/eye/rgb thermal_image:=/eye/thermal\n')])
def test_pairs_of_a_bag_are_taken(folder, monkeypatch, ros2, use):
    """Pairs of a bag are taken, and the line that uses the file names topics and offset."""
    monkeypatch.setattr('diffmf_ros.cli.align.which', lambda name: ros2)
    measure, there = alignment_pairs.time_offset, []
    monkeypatch.setattr(alignment_pairs, 'time_offset', lambda *of, **more: (
        there.append((folder / 'a.yaml').exists()), measure(*of, **more))[1])
    with BagWriter(folder / 'bag') as bag:
        for index, seed in enumerate((31, 32, 33)):
            stamp_ns = START_NS + index * 100_000_000
            for name, kind, encoding in (('rgb', 'vi', 'bgr8'), ('thermal', 'ir', 'mono8')):
                flag = cv2.IMREAD_COLOR if name == 'rgb' else cv2.IMREAD_GRAYSCALE
                pixels = cv2.imread(str(folder / kind / f'{seed}.png'), flag)
                bag.write(f'/eye/{name}', IMAGE,
                          image_message(pixels, encoding, stamp_ns=stamp_ns, frame_id=name),
                          stamp_ns)

    done = align('--bag', folder / 'bag', '-o', folder / 'a.yaml', '--init', folder / 'rough.yaml',
                 '--topics', '/eye/rgb', '/eye/thermal', '--thermal-offset-ms', '5')

    assert done.returncode == 0, done.stderr
    assert there == [False]  # what an interruption at that time leaves
    assert 'homography from 3 pairs' in done.stdout
    assert 'no time offset: 3 RGB and 3 thermal frames with stamps came' in done.stdout
    assert use.format(folder) in done.stdout


def test_crop_file_fits_cropped_images(folder, monkeypatch):
    """The file of cropped and turned images fits what the node makes of them."""
    monkeypatch.setattr('diffmf_ros.cli.align.which', lambda name: None)
    turned = np.array([[-1.0, 0, 319], [0, -1, 255], [0, 0, 1]])
    to_crop = np.array([[1.0, 0, -40], [0, 1, -20], [0, 0, 1]])
    rough = to_crop @ np.array(ROUGH.rgb_from_thermal) @ turned
    Alignment(tuple(map(tuple, rough.tolist())), (560, 440),
              THERMAL_SIZE).save(folder / 'rough.yaml')

    done = align(folder / 'vi/31.png', folder / 'ir/31.png', '-o', folder / 'a.yaml',
                 '--rgb-crop', '560x440+40+20', '--thermal-orientation', 'rotated_180',
                 '--init', folder / 'rough.yaml')

    assert done.returncode == 0, done.stderr
    assert 'thermal_offset_ms' not in done.stdout  # a pair of files has none
    assert '--rgb-crop 560x440+40+20 --thermal-orientation rotated_180 (' in done.stdout
    found = Alignment.load(folder / 'a.yaml')
    assert (found.rgb_size, found.thermal_size) == ((560, 440), THERMAL_SIZE)
    cropped = to_crop @ truth() @ turned
    distance = transform_points(np.array(found.rgb_from_thermal),
                                corners(THERMAL_SIZE)) - transform_points(cropped,
                                                                          corners(THERMAL_SIZE))
    assert np.hypot(*distance.T).max() < 4.0


def test_refused_alignment_exits_1(folder):
    """A refused alignment writes nothing and exits with 1."""
    done = align(folder / 'vi/31.png', folder / 'ir/32.png', '-o', folder / 'a.yaml', '--overlay',
                 folder / 'o.png', '--init', folder / 'rough.yaml')

    assert done.returncode == 1
    assert '--init' in done.stderr
    assert not (folder / 'a.yaml').exists() and not (folder / 'o.png').exists()


def test_existing_file_kept_without_overwrite(folder):
    """An existing file is kept unless overwriting is asked for."""
    (folder / 'a.yaml').write_text('precious')
    arguments = (folder / 'vi/31.png', folder / 'ir/31.png', '-o', folder / 'a.yaml',
                 '--init', folder / 'rough.yaml')

    refused = align(*arguments)

    assert refused.returncode == 2 and 'overwrite' in refused.stderr
    assert (folder / 'a.yaml').read_text() == 'precious'
    assert align(*arguments, '--overwrite').returncode == 0
    assert Alignment.load(folder / 'a.yaml').rgb_size == RGB_SIZE


@pytest.mark.parametrize('arguments', [
    (), ('vi',), ('vi', 'ir', '--bag', 'bag'),
    ('vi', 'ir', '--init', 'a.yaml', '--fov-ratio', '1'),
    ('vi', 'ir/31.png'), ('none.png', 'ir/31.png')])
def test_wrong_arguments_exit_with_2(folder, monkeypatch, arguments):
    monkeypatch.chdir(folder)

    done = align(*arguments)

    assert done.returncode == 2
    assert 'Traceback' not in done.stderr


def test_folders_whose_names_differ_are_refused(folder):
    (folder / 'ir/33.png').rename(folder / 'ir/34.png')

    with pytest.raises(AlignmentPairsError, match='33: no thermal image'):
        file_pairs(folder / 'vi', folder / 'ir', DEFAULTS, most=10)
