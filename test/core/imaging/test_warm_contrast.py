# SPDX-License-Identifier: Apache-2.0
"""Warm objects get the contrast that the better camera has, and nothing else changes."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.missing_detail import MOST_ADDED_LEVELS, MOST_LEVELS
from diffmf_ros.core.imaging.warm_contrast import (
    MOST,
    WarmContrast,
    WarmView,
    find_objects,
    lifted,
)
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

HEIGHT, WIDTH = 240, 320
PERSON = np.s_[100:160, 150:170]
FRAME_NS = 33_000_000


def plain(level, *parts):
    """An image of one level, with parts (slices, level)."""
    image = np.full((HEIGHT, WIDTH), level, np.uint8)
    for part, value in parts:
        image[part] = value
    return image


def contrast(image, part=PERSON):
    """Mean of a part minus the mean of the 6 pixels around it."""
    rows, columns = part
    around = np.zeros(image.shape, bool)
    around[rows.start - 8:rows.stop + 8, columns.start - 8:columns.stop + 8] = True
    around[rows.start - 2:rows.stop + 2, columns.start - 2:columns.stop + 2] = False
    return float(image[part].mean()) - float(image[around].mean())


def lift_of(fused, thermal, luma, seen=None):
    return WarmContrast()(fused, WarmView.of(thermal, luma, seen))


def with_contrast(fused, *cameras):
    return lifted(fused, lift_of(fused, *cameras))


WARM = plain(60, (PERSON, 160))


def test_hidden_person_gets_thermal_contrast():
    """A person as gray as the wall becomes as bright above it as in thermal."""
    fused = plain(90)
    assert contrast(with_contrast(fused, WARM, fused)) == pytest.approx(100, abs=8)


def test_dark_coat_stays_dark():
    """A person who is dark before snow in RGB, and was fused to gray, becomes dark again."""
    luma = plain(210, (PERSON, 60))
    result = with_contrast(plain(210, (PERSON, 190)), WARM, luma)
    assert contrast(result) == pytest.approx(-150, abs=25)


def test_no_darker_than_rgb():
    """Before a bright wall without room above it, a person is as dark as RGB shows and no darker.

    Contrast of that sign in no camera would be an invention.
    """
    luma = plain(235, (PERSON, 205))
    assert contrast(with_contrast(plain(235), WARM, luma)) == pytest.approx(-30, abs=8)


def test_clear_person_is_unchanged():
    """What has the contrast already is not exaggerated."""
    fused = plain(60, (PERSON, 165))
    assert contrast(with_contrast(fused, WARM, plain(60))) == pytest.approx(105, abs=2)


PATCH = np.s_[180:200, 60:110]  # on the road


def test_spot_of_no_camera_is_lowered():
    """A white patch that the network painted on a road, warm all over, is taken back."""
    fused = plain(70, (PATCH, 190))
    result = with_contrast(fused, plain(170, (PATCH, 185)), plain(70))
    assert contrast(result, PATCH) < 30
    assert contrast(result) == contrast(fused)


@pytest.mark.parametrize('camera', ['thermal', 'luma'])
def test_spot_of_a_camera_stays(camera):
    """A lamp, or a warm pipe too slender for a person, is as bright as its camera shows.

    Edges of the visible image get a little more.
    """
    pipe = np.s_[180:190, 20:220]
    seen = {'thermal': plain(60), 'luma': plain(60)} | {camera: plain(60, (pipe, 190))}
    fused = plain(60, (pipe, 190))
    exceeding = contrast(with_contrast(fused, *seen.values()), pipe) - 130
    assert -3 < exceeding < 3 + (2 * MOST_ADDED_LEVELS if camera == 'luma' else 0)


def test_warm_wall_around_a_dark_door_stays():
    """What is warm and wide is no spot where the visible image leaves a frame of it.

    Beside the door its visible edge comes back, by some levels.
    """
    wall, door = np.s_[60:180, 100:220], np.s_[90:150, 130:190]
    fused = plain(40, (wall, 130), (door, 40))
    lift = lift_of(fused, plain(40, (wall, 130)), plain(40, (door, 200)))
    assert np.abs(lift[70:76, 110:210]).max() < 1 and np.abs(lift).max() <= MOST_LEVELS


def test_spot_outside_the_overlap_stays():
    """Where only one camera sees, nothing is compared."""
    fused, seen = plain(70, (PATCH, 190)), np.ones((HEIGHT, WIDTH), bool)
    seen[170:] = False
    assert lift_of(fused, plain(170), plain(70), seen) is None


def test_visible_texture_is_not_clipped():
    """Lifting stops below white, by the spread of what is there."""
    texture = np.random.default_rng(3).normal(0, 25, (60, 20))
    fused = plain(140)
    fused[PERSON] = np.clip(150 + texture, 0, 255)
    thermal = plain(20, (PERSON, 220))
    result = with_contrast(fused, thermal, fused)
    assert contrast(result) > contrast(fused) + 40
    assert np.mean(result[PERSON] == 255) < 0.2


@pytest.mark.parametrize(('part', 'why'), [
    (np.s_[40:200, 60:260], 'a building'),
    (np.s_[40:180, 150:178], 'a pillar'),
    (np.s_[100:104, 20:300], 'a kerb'),
    (np.s_[100:101, 150:151], 'a hot pixel')])
def test_other_warm_things_stay(part, why):
    """What has not the size and shape of a person is no object."""
    assert find_objects(plain(60, (part, 160))) == [], why


def test_noise_is_no_object():
    noise = np.random.default_rng(1).normal(80, 8, (HEIGHT, WIDTH)).astype(np.uint8)
    assert find_objects(noise) == []


def test_object_outside_common_view_stays():
    seen = np.ones((HEIGHT, WIDTH), bool)
    seen[:, 140:] = False
    assert lift_of(plain(90), WARM, plain(90), seen) is None


def test_unseen_half_of_object_stays():
    """Beyond the view of one camera nothing is lifted."""
    seen = np.ones((HEIGHT, WIDTH), bool)
    seen[:, 164:] = False
    result = with_contrast(plain(90), WARM, plain(90), seen)
    assert result[120, 153] > 130
    assert result[120, 168] == 90


def test_part_of_dark_object_stays():
    """A warm hand before a dark coat is no white spot in a dark walker."""
    coat, hand = np.s_[90:170, 146:174], np.s_[126:134, 156:164]
    thermal = plain(60, (coat, 130), (hand, 220))
    luma = plain(210, (coat, 50))
    result = with_contrast(plain(210, (coat, 150)), thermal, luma)
    assert result[hand].mean() < result[coat].mean() + 10


def test_side_follows_pair_before():
    """A walker between bright and dark does not blink: the side of the pair before is kept."""
    monitor, alone = WarmContrast(), []
    signs = []
    for number, visible in enumerate((20, 75, 20, 75, 20, 75)):
        luma, fused = plain(100, (PERSON, 100 - visible)), plain(100)
        lift = monitor(fused, WarmView.of(WARM, luma), stamp_ns=1 + number * FRAME_NS)
        signs.append(np.sign(contrast(lifted(fused, lift))))
        alone.append(np.sign(contrast(with_contrast(fused, WARM, luma))))
    assert len(set(alone)) == 2
    assert len(set(signs)) == 1


def test_gap_forgets_side():
    monitor = WarmContrast()
    light, dark = (WarmView.of(WARM, plain(100, (PERSON, level))) for level in (80, 25))
    monitor(plain(100), light, stamp_ns=1)
    lift = monitor(plain(100), dark, stamp_ns=2_000_000_000)
    assert contrast(lifted(plain(100), lift)) < 0


def test_tiny_image_shows_no_objects():
    small = [cv2.resize(image, (80, 60)) for image in (WARM, plain(90))]
    assert WarmView.of(*small) is None


def test_tiny_image_stays_unchanged():
    """A tiny image is fused to the same with and without warm contrast, a larger one is not."""
    person = plain(60, (np.s_[60:160, 120:170], 160))
    wall = np.broadcast_to(np.linspace(180, 220, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))
    for size, same in (((WIDTH, HEIGHT), False), ((80, 60), True)):
        thermal, gray = (cv2.resize(image, size) for image in (person, wall))
        pair = Pair(Frame(RGB, 0, '', np.dstack([gray] * 3), 'rgb8'),
                    Frame(THERMAL, 0, '', thermal, 'mono8'), 0)
        with_it, without = (
            FusionPipeline(with_changes(DEFAULTS, {
                'model': 'classical', 'output.warm_contrast': asked})).fuse(pair).pixels
            for asked in (True, False))
        assert np.array_equal(with_it, without) == same


def test_lift_saturates_every_channel():
    image = np.full((4, 6, 3), (10, 120, 250), np.uint8)
    result = lifted(image, np.full((4, 6), 20, np.float32))
    assert result[0, 0].tolist() == [30, 140, 255]
    assert image[0, 0].tolist() == [10, 120, 250]


def test_number_of_objects_is_bounded():
    """A texture of warm spots costs no more time than a crowd: the largest ones are objects."""
    thermal = plain(60)
    for row in range(8, HEIGHT - 8, 16):
        for column in range(8, WIDTH - 8, 16):
            thermal[row:row + 6, column:column + 4] = 160
    thermal[PERSON] = 160

    outer = find_objects(thermal)[0]

    assert len(outer.share) == MOST
    assert outer.share.max() * thermal.size >= thermal[PERSON].size


@pytest.mark.parametrize('shape, upright', [((60, 20), True), ((20, 20), True), ((20, 30), False)])
def test_upright_objects_taller_than_wide(shape, upright):
    height, width = shape
    objects = find_objects(plain(60, (np.s_[100:100 + height, 150:150 + width], 170)))[0]
    assert objects.upright.tolist() == [upright]
