# SPDX-License-Identifier: Apache-2.0
"""What a fused image gets back of either camera: contrast of warm objects, visible detail."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.imaging.restoration import (
    Restoration,
    WarmContrast,
    added,
    find_objects,
    flat_share,
    missing_detail,
)

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


def with_contrast(fused, thermal, luma, **options):
    return added(fused, WarmContrast()(fused, thermal, luma, **options))


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
    assert WarmContrast()(fused, WARM, plain(60)) is None


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
    assert WarmContrast()(plain(90), WARM, plain(90), seen) is None


def test_unseen_half_of_object_stays():
    """Beyond the view of one camera nothing is lifted."""
    seen = np.ones((HEIGHT, WIDTH), bool)
    seen[:, 164:] = False
    result = with_contrast(plain(90), WARM, plain(90), seen=seen)
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
        lift = monitor(fused, WARM, luma, stamp_ns=1 + number * FRAME_NS)
        signs.append(np.sign(contrast(added(fused, lift))))
        alone.append(np.sign(contrast(with_contrast(fused, WARM, luma))))
    assert len(set(alone)) == 2
    assert len(set(signs)) == 1


def test_gap_forgets_side():
    monitor = WarmContrast()
    light, dark = plain(100, (PERSON, 80)), plain(100, (PERSON, 25))
    monitor(plain(100), WARM, light, stamp_ns=1)
    lift = monitor(plain(100), WARM, dark, stamp_ns=2_000_000_000)
    assert contrast(added(plain(100), lift)) < 0


def test_tiny_image_is_unchanged():
    fused, thermal, luma = (cv2.resize(image, (80, 60)) for image in (plain(90), WARM, plain(90)))
    cameras = thermal, luma, np.ones(thermal.shape, bool)
    assert added(fused, Restoration()(fused, luma, cameras=cameras)) is fused


def test_flat_share_of_thermal():
    """1 where thermal is constant, 0 on an edge and beside it."""
    share = flat_share(plain(60, (np.s_[:, 160:], 120)), 1.5, 2.5)
    assert share[:, :140].min() == 1 and share[:, 180:].min() == 1
    assert share[:, 158:162].max() == 0


def test_lost_detail_comes_back():
    """Stripes of RGB that fusing halved are whole again, and the fused brightness stays."""
    stripes = np.where(np.arange(WIDTH) % 8 < 4, 80, 120).astype(np.uint8)
    luma = np.broadcast_to(stripes, (HEIGHT, WIDTH)).copy()
    fused = (100 + (luma.astype(int) - 100) // 2 + 30).astype(np.uint8)
    result = added(fused, missing_detail(fused, luma, np.ones((HEIGHT // 2, WIDTH // 2),
                                                              np.float32)))
    inner = result[40:-40, 40:-40].astype(float)
    assert inner.mean() == pytest.approx(130, abs=1)
    assert inner.max() - inner.min() == pytest.approx(40, abs=4)


def test_detail_waits_behind_veil():
    """Where thermal shows through fog, what is left of the scene in it does not come back."""
    stripes = (180 + 20 * np.sin(np.arange(2 * WIDTH) / 3)).astype(np.uint8)
    luma = np.broadcast_to(stripes, (2 * HEIGHT, 2 * WIDTH)).copy()
    fused, small = np.full_like(luma, 120), cv2.resize(luma, (WIDTH, HEIGHT))
    cameras = plain(60), small, np.ones((HEIGHT, WIDTH), bool)
    clear = Restoration()(fused, luma, cameras=cameras)
    veiled = Restoration()(fused, luma, cameras=cameras,
                           veil=np.full((40, 53), 0.75, np.float32))
    assert np.std(clear) > 8
    assert np.abs(veiled).max() < 1e-3


def test_noise_does_not_come_back():
    """Where both cameras show nothing, the noise of the visible one stays filtered."""
    noise = np.random.default_rng(2).normal(60, 3, (2 * HEIGHT, 2 * WIDTH)).astype(np.uint8)
    fused, small = np.full_like(noise, 60), cv2.resize(noise, (WIDTH, HEIGHT),
                                                       interpolation=cv2.INTER_AREA)
    cameras = plain(60), small, np.ones((HEIGHT, WIDTH), bool)
    levels = Restoration()(fused, noise, cameras=cameras)
    assert np.std(levels) < 0.1 * np.std(noise)


def test_added_saturates_every_channel():
    image = np.full((4, 6, 3), (10, 120, 250), np.uint8)
    result = added(image, np.full((4, 6), 20, np.float32))
    assert result[0, 0].tolist() == [30, 140, 255]
    assert image[0, 0].tolist() == [10, 120, 250]
