# SPDX-License-Identifier: Apache-2.0
"""The synthetic drive: equal for equal seeds, true to its stated geometry and clocks, and as its
scenes say."""

import json
from functools import cache

import cv2
import numpy as np
import pytest

from diffmf_ros.cli.sample_bag import sample_bag
from diffmf_ros.core.alignment.geometry import Alignment
from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.io.bag_messages import frames
from diffmf_ros.io.bags import START_NS, BagError, BagReader
from diffmf_ros.tools.synthetic.cameras import DriveError, make_rig
from diffmf_ros.tools.synthetic.drive import Drive, DriveSettings
from diffmf_ros.tools.synthetic.environments import ENVIRONMENTS
from diffmf_ros.tools.synthetic.record import TRUTH_FILE, alignment_of, record, recorded_drive
from diffmf_ros.tools.synthetic.render import View
from diffmf_ros.tools.synthetic.sensors import COUNTS_AT_ZERO, COUNTS_PER_K
from diffmf_ros.tools.synthetic.textures import Strip

pytestmark = pytest.mark.slow

SCENES = tuple(ENVIRONMENTS)
# RGB frame 10 k and thermal frame 3 k (at 9 Hz) show one and the same instant.
INSTANTS = (6, 9, 12, 15, 17)


@cache
def street(scene, seed):
    return Drive(DriveSettings(scene=scene, seed=seed)).scene


@cache
def drive(**changes):
    """A drive; those of one scene and seed go through one street, which takes long to make."""
    ride = Drive(DriveSettings(**changes))
    ride.scene = street(ride.settings.scene, ride.settings.seed)
    return ride


@cache
def seen(scene, k):
    """(luma, thermal, thermal on the RGB grid, truth) at k / 3 seconds."""
    ride = drive(scene=scene)
    rgb, thermal = ride.frame(RGB, 10 * k).frame.pixels, ride.frame(THERMAL, 3 * k).frame.pixels
    warped, _ = alignment_of(ride).warp(thermal, rgb_size=(640, 480))
    truth = ride.truth(ride.rig.rgb.exposure_ns(10 * k))
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), thermal, warped, truth


def grown(mask, by):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1))) > 0


# Determinism

@pytest.mark.parametrize('scene', SCENES)
def test_same_settings_same_frames(scene):
    """The same settings give the same frames in any order."""
    first, second = drive(scene=scene), Drive(DriveSettings(scene=scene))
    second.frame(THERMAL, 40)
    second.truth(12345)

    for stream, index in ((RGB, 7), (THERMAL, 5)):
        a, b = first.frame(stream, index), second.frame(stream, index)
        np.testing.assert_array_equal(a.frame.pixels, b.frame.pixels)
        assert a.frame.stamp_ns == b.frame.stamp_ns
    np.testing.assert_array_equal(first.truth(10**9).labels, second.truth(10**9).labels)


def test_another_seed_gives_another_drive():
    a, b = drive().frame(RGB, 7).frame.pixels, drive(seed=4).frame(RGB, 7).frame.pixels

    assert np.mean(cv2.absdiff(a, b)) > 5


def test_noise_differs_from_frame_to_frame():
    # The sky does not move, so what changes there is noise.
    a, b = (drive().frame(RGB, index).frame.pixels[:40, 250:390].astype(float) for index in (0, 1))

    assert 1.0 < np.std(a - b) < 12.0


# Rates, stamps, formats

@pytest.mark.parametrize(('rate', 'expected'), [(9, 54), (30, 180)])
def test_counts_and_stamps_are_exact(rate, expected):
    ride = drive(thermal_rate_hz=rate)

    assert (ride.count(RGB), ride.count(THERMAL)) == (180, expected)
    assert [ride.rig.rgb.stamp_ns(k) for k in (0, 1, 2, 3, 30)] == [0, 33333333, 66666667, 10**8,
                                                                    10**9]
    assert ride.rig.thermal.exposure_ns(rate * 2) == 2 * 10**9
    assert ride.rig.thermal_offset_ms == -12.0
    for index in (0, 1, 7):
        timed = ride.frame(THERMAL, index)
        assert timed.exposure_ns == round(index * 1e9 / rate)
        corrected = timed.frame.stamp_ns + round(ride.rig.thermal_offset_ms * 1e6)
        assert corrected == START_NS + timed.exposure_ns


def test_frames_in_recording_order():
    """Frames come in the order of their recording."""
    ride = drive(seconds=0.4)

    got = list(ride.frames())

    arrivals = [timed.frame.arrival_ns for timed in got]
    assert len(got) == 12 + 4
    assert arrivals == sorted(arrivals)
    assert [timed.frame.stream for timed in got[:3]] == [RGB, THERMAL, RGB]


@pytest.mark.parametrize(('bits', 'encoding', 'dtype'),
                         [(8, 'mono8', np.uint8), (16, 'mono16', np.uint16)])
def test_formats_of_both_cameras(bits, encoding, dtype):
    ride = drive(thermal_bits=bits)

    rgb, thermal = ride.frame(RGB, 0).frame, ride.frame(THERMAL, 0).frame

    assert (rgb.size, rgb.encoding, rgb.pixels.dtype) == ((640, 480), 'rgb8', np.uint8)
    assert (thermal.size, thermal.encoding, thermal.pixels.dtype) == ((320, 256), encoding, dtype)
    assert rgb.frame_id == 'rgb_camera_optical_frame'


def test_16_bit_counts_are_temperatures():
    """Counts of sixteen bit thermal are temperatures."""
    ride = drive(thermal_bits=16)
    counts = ride.frame(THERMAL, 45).frame.pixels
    truth = ride.truth(ride.rig.thermal.exposure_ns(45))
    warped, _ = alignment_of(ride).warp(counts, rgb_size=(640, 480))
    car = next(actor for actor in truth.actors if actor.kind == 'car' and actor.visible_px > 5000)

    celsius = (warped[truth.labels == car.label].mean() - COUNTS_AT_ZERO) / COUNTS_PER_K

    assert abs(celsius - car.temperature_c) < 1.0
    assert 6800 < counts.min() and counts.max() < 9000
    assert counts.max() - counts.min() > 800


@pytest.mark.parametrize(('wrong', 'message'), [
    ({'scene': 'noon'}, 'must be one of night, smoke, soot, fog, glare, snow, day, dusk; got'),
    ({'thermal_bits': 12}, '8 or 16 bits, got 12'),
    ({'thermal_rate_hz': 25}, '9 or 30 Hz, got 25'),
    ({'seconds': 0.0}, '0.2 to 600 seconds, got 0'),
    ({'seed': -1}, 'must not be negative, got -1'),
])
def test_settings_that_cannot_be_rendered(wrong, message):
    with pytest.raises(DriveError, match=message):
        Drive(DriveSettings(**wrong))


# Geometry

def projected(camera, points):
    turned = (points - np.array(camera.position_m)) @ camera.rotation.T
    pixels = turned @ camera.k.T
    return pixels[:, :2] / pixels[:, 2:]


@pytest.mark.parametrize('depth', [5.0, 18.0, 100.0])
def test_homography_maps_its_plane(depth):
    """Homography maps every point of its plane."""
    rig = make_rig()
    x, y = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 50)) * depth
    points = np.column_stack([x, y, np.full(50, depth)])

    thermal = projected(rig.thermal, points)
    mapped = cv2.perspectiveTransform(thermal[None], rig.rgb_from_thermal(depth))[0]

    np.testing.assert_allclose(mapped, projected(rig.rgb, points), atol=1e-9)


def test_parallax_off_plane_as_documented():
    """Parallax off the plane is as documented."""
    rig = make_rig()
    for depth in (9.0, 1e9):
        points = np.array([[0.0, 0.0, depth]])
        mapped = cv2.perspectiveTransform(projected(rig.thermal, points)[None],
                                          rig.rgb_from_thermal())[0]
        assert np.hypot(*(mapped - projected(rig.rgb, points))[0]) == pytest.approx(1.5, abs=0.06)


def test_thermal_covers_the_whole_rgb_image():
    _, mask = alignment_of(drive()).warp(np.zeros((256, 320), np.uint8), rgb_size=(640, 480))

    assert mask.all()


def best_shift(picture, mask, box, reach=6):
    """The shift (x, y) at which the warm silhouette in picture fits mask best."""
    left, top, right, bottom = box
    wanted = mask[top:bottom, left:right].astype(np.float32)
    wanted -= wanted.mean()
    score = {(x, y): float((picture[top + y:bottom + y, left + x:right + x] * wanted).sum())
             for x in range(-reach, reach + 1) for y in range(-reach, reach + 1)}
    return max(score, key=score.get)


@pytest.mark.parametrize('scene', ['night', 'smoke', 'fog', 'snow'])
def test_homography_puts_people_on_masks(scene):
    """Stated homography puts warm people on their masks."""
    # Given people wholly in the picture and large enough to measure
    rig, own, plane, resized = make_rig(), [], [], []
    for k in (6, 9):
        _, thermal, warped, truth = seen(scene, k)
        for actor in truth.actors:
            if actor.kind == 'car' or actor.visible_px < 450 or not 8 < actor.box_px[0] < 632 - 40:
                continue
            # When thermal is warped for their own depth, for the stated plane, or only resized
            mask = truth.labels == actor.label
            exact = cv2.warpPerspective(thermal, rig.rgb_from_thermal(actor.distance_m),
                                        (640, 480))
            own.append(best_shift(exact, mask, actor.box_px))
            plane.append(best_shift(warped, mask, actor.box_px))
            resized.append(best_shift(cv2.resize(thermal, (640, 480)), mask, actor.box_px))

    # Then they lie where the truth says, but for the parallax; and resizing alone is plainly worse
    assert len(own) >= 4
    assert np.abs(own).max() <= 2 and np.abs(own).mean() < 0.4
    assert np.abs(plane).max() <= 2
    assert np.median(np.hypot(*np.transpose(resized))) > 3


def test_moving_actor_at_true_time():
    """A moving actor is where the true time says not where the stamp says."""
    ride = drive()
    truth = {dt: ride.truth(ride.rig.thermal.exposure_ns(45) + dt) for dt in (0, 150_000_000)}
    boxes = {dt: next(a.box_px for a in truth[dt].actors if a.label == 1) for dt in truth}
    thermal = ride.frame(THERMAL, 45).frame.pixels
    exact = cv2.warpPerspective(thermal, ride.rig.rgb_from_thermal(10.0), (640, 480))

    shift = {dt: best_shift(exact, truth[dt].labels == 1, boxes[dt], reach=14) for dt in truth}

    assert np.hypot(*shift[0]) <= 1.5
    # 1.25 m/s across at 10 m is 9.8 px in 150 ms; approaching adds a little.
    assert -14 <= shift[150_000_000][0] <= -7


# What the scenes show

@cache
def contrasts(scene):
    """Rows (luma, thermal, distance) of everybody of at least 200 visible pixels.

    Mean less that of its surround.
    """
    rows = []
    for k in INSTANTS:
        luma, _, warped, truth = seen(scene, k)
        anyone = grown(truth.labels > 0, 2)
        for actor in truth.actors:
            if actor.visible_px >= 200:
                inside = truth.labels == actor.label
                around = grown(inside, 8) & ~anyone
                rows.append((*(float(image[inside].mean() - image[around].mean())
                               for image in (luma, warped)),
                             actor.distance_m))
    assert len(rows) >= 20
    return np.array(rows).T


@pytest.mark.parametrize(('scene', 'rgb_limit', 'thermal_least'), [
    ('night', 31, 77), ('smoke', 10, 61), ('soot', 31, 61), ('fog', 31, 31), ('glare', 45, 77)])
def test_thermal_shows_actors_rgb_barely(scene, rgb_limit, thermal_least):
    """Thermal shows the actors and RGB barely does."""
    rgb, thermal, _ = contrasts(scene)

    assert np.abs(rgb).mean() < rgb_limit
    assert thermal.mean() > thermal_least
    assert thermal.min() > 10


def test_white_smoke_bright_soot_dark():
    """White smoke is brighter than people and soot darker."""
    white, soot = (contrasts(scene)[0] for scene in ('smoke', 'soot'))

    assert np.mean(white < 1) > 0.8 and white.mean() < -2
    assert np.mean(soot > -1) > 0.8 and soot.mean() > 5


def test_fog_hides_the_far_ones():
    rgb, _, distance = contrasts('fog')

    assert np.abs(rgb[distance < 12]).mean() > 2 * np.abs(rgb[distance > 16]).mean()


def test_oncoming_lamps_saturate_and_veil():
    """Oncoming lamps saturate the picture and veil their surround."""
    dazzled, _, _, truth = seen('glare', 15)
    night = seen('night', 15)[0]
    car = next(actor for actor in truth.actors if actor.kind == 'car' and actor.visible_px > 1500)
    left, top, right, bottom = car.box_px
    sky = np.s_[top - 90:top - 60, left:right]

    assert np.mean(dazzled > 250) > 3 * np.mean(night > 250)
    assert np.mean(dazzled > 250) > 0.004
    assert dazzled[sky].mean() > 2 * dazzled[:20, -100:].mean()


def test_people_on_snow():
    """People on snow are dark in RGB and bright in thermal."""
    rgb, thermal, _ = contrasts('snow')

    assert rgb.mean() < -50 and np.mean(rgb < -20) > 0.85
    assert thermal.mean() > 60 and thermal.min() > 20
    assert np.median(seen('snow', 9)[0][300:]) > 170


def test_day_rgb_shows_hidden_people():
    """By day RGB shows people whom the warm road hides in thermal."""
    rgb, thermal, _ = contrasts('day')

    assert np.abs(rgb).mean() > 20
    assert np.mean(np.abs(thermal) < 20) > 0.2


@pytest.mark.parametrize('k', INSTANTS)
def test_dusk_automatic_gain_is_gray(k):
    """Automatic gain makes the background of dusk gray."""
    _, thermal, _, _ = seen('dusk', k)

    assert 90 <= thermal.mean() <= 130
    assert np.percentile(thermal, 99.5) > 200


@pytest.mark.parametrize(('scene', 'ratio'), [('night', 2.5), ('smoke', 1.8)])
def test_rgb_shows_background_thermal_barely(scene, ratio):
    """RGB shows the background and thermal barely does."""
    def edges(image):
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)  # not the noise
        return np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))

    luma, _, warped, truth = seen(scene, 9)
    street = ~grown(truth.labels > 0, 15)
    street[:240] = False  # below the skyline, which thermal shows against the cold sky

    assert edges(luma)[street].mean() > ratio * edges(warped)[street].mean()


def test_truth_boxes_hold_the_labels():
    truth = seen('night', 9)[3]

    assert truth.labels.shape == (480, 640) and truth.labels.dtype == np.uint8
    assert len(truth.actors) >= 5
    for actor in truth.actors:
        left, top, right, bottom = actor.box_px
        mask = truth.labels == actor.label
        assert mask.sum() == actor.visible_px == mask[top:bottom, left:right].sum()
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[
            :, right - 1].any()
        assert 15 < actor.temperature_c < 45
        assert actor.visible_px <= actor.silhouette_px


def test_truth_needs_no_rendering():
    """Truth of an RGB frame does not depend on having rendered it."""
    fresh, used = Drive(DriveSettings()), drive()
    used.frame(RGB, 60)

    np.testing.assert_array_equal(fresh.truth(2 * 10**9).labels, used.truth(2 * 10**9).labels)
    assert fresh.truth(2 * 10**9).actors == used.truth(2 * 10**9).actors


# The fast plane sampler against an obvious one

def test_strip_view_is_box_filter():
    """Strip view is the box filter of its texture."""
    rng = np.random.default_rng(0)
    texture = rng.uniform(0, 1, (40, 16, 5)).astype(np.float32)
    strip = Strip(texture, step_m=(0.5, 0.25), across_m=-2.0)
    # far to near, more than two periods of 20 m
    edges = np.array([50.0, 33.0, 21.3, 20.9, 20.8, 3.2])
    across = np.tile((np.arange(16) + 0.5) * 0.25 - 2.0, (5, 1))

    got = strip.view(edges, across)

    fine = np.repeat(texture, 500, axis=0)  # 1 mm
    for line, (far, near) in enumerate(zip(edges, edges[1:], strict=False)):
        rows = np.arange(round(near * 1000), round(far * 1000)) % len(fine)
        np.testing.assert_allclose(got[line], fine[rows].mean(axis=0), atol=2e-3)


def test_view_projects_like_the_camera():
    camera = make_rig().rgb
    view = View(640, 480, camera.focal_px, *camera.center_px, position=(1.0, 1.5, 0.0))

    pixels = view.project(np.array([[1.0, 1.5, 7.0], [2.0, 0.5, 10.0]]))

    np.testing.assert_allclose(pixels, [[319.2, 228.5], [319.2 + 52, 228.5 + 52]])


# The bag

def test_sample_bag_has_alignment_and_truth(tmp_path):
    """Sample bag holds the drive its alignment and its truth."""
    settings = DriveSettings(scene='smoke', seed=5, seconds=0.2, thermal_rate_hz=30,
                             thermal_bits=16)

    sample_bag(tmp_path / 'bag', seconds=0.2, seed=5, scene='smoke', thermal_rate=30,
               thermal_bits=16, storage='mcap', overwrite=False)

    ride = Drive(settings)
    with BagReader(tmp_path / 'bag') as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {
            '/rgb/image_raw': 6, '/rgb/camera_info': 6, '/thermal/image_raw': 6,
            '/thermal/camera_info': 6}
        got = list(frames(bag, '/rgb/image_raw', '/thermal/image_raw'))
        info = next(bag.messages(['/thermal/camera_info']))
        k = bag.deserialize(info.raw, info.msgtype).k
    for frame, timed in zip(got, ride.frames(), strict=True):
        assert (frame.stream, frame.stamp_ns, frame.arrival_ns) == (
            timed.frame.stream, timed.frame.stamp_ns, timed.frame.arrival_ns)
        np.testing.assert_array_equal(frame.pixels, timed.frame.pixels)
    np.testing.assert_array_equal(k.reshape(3, 3), ride.rig.thermal.k)
    assert Alignment.load(tmp_path / 'bag' / 'alignment.yaml') == alignment_of(ride)
    truth = json.loads((tmp_path / 'bag' / 'ground_truth.json').read_text())
    assert truth['thermal_offset_ms'] == -12.0
    assert truth['settings'] == {'scene': 'smoke', 'seed': 5, 'seconds': 0.2,
                                 'thermal_rate_hz': 30, 'thermal_bits': 16}
    last = truth['frames'][RGB][-1]
    assert last['stamp_ns'] == max(frame.stamp_ns for frame in got if frame.stream == RGB)
    expected = ride.truth(last['exposure_ns']).actors
    assert [tuple(actor['box_px']) for actor in last['actors']] == [actor.box_px
                                                                    for actor in expected]
    assert [actor['temperature_c'] for actor in last['actors']] == [a.temperature_c
                                                                    for a in expected]


def test_sample_bag_refuses_an_existing_path(tmp_path):
    (tmp_path / 'bag').mkdir()

    with pytest.raises(BagError, match='exists already'):
        sample_bag(tmp_path / 'bag', seconds=0.3, seed=0, scene='night', thermal_rate=9,
                   thermal_bits=8, storage='sqlite3', overwrite=False)


def test_recorded_drive_describes_itself(tmp_path):
    """A recorded drive says what it is."""
    settings = DriveSettings(scene='fog', seed=2, seconds=0.7)

    written = list(record(Drive(settings), tmp_path / 'bag', from_s=0.5))

    # Only what was exposed since half a second is there, at its own times.
    got = recorded_drive(tmp_path / 'bag')
    assert len(written) == 6 + 2
    assert (got.settings, got.thermal_offset_ms) == (settings, -12.0)
    assert got.alignment.is_file()
    assert list(got.exposures_ns.items())[:2] == [
        (START_NS + 5 * 10**8, 5 * 10**8), (START_NS + 533333333, 533333333)]


def test_foreign_bags_and_broken_truth(tmp_path):
    """Other bags are no recorded drives and broken truth is explained."""
    assert recorded_drive(tmp_path) is None

    (tmp_path / TRUTH_FILE).write_text('{"settings": {"scene": "night"}}')

    with pytest.raises(DriveError, match='expected the ground truth of a rendered drive in '
                       '.*render the drive again'):
        recorded_drive(tmp_path)
