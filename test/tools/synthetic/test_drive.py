# SPDX-License-Identifier: Apache-2.0
"""Contrast of people from ground truth, on made-up pictures whose contrasts are known."""

import numpy as np
import pytest

from diffmf_ros.tools.synthetic.drive import ActorTruth, DriveTruth, contrast, counts, sightings

BOX = (40, 20, 60, 70)


def scene(*actors):
    """A truth of 100 x 120 with the boxes of actors as their labels."""
    labels = np.zeros((100, 120), np.uint8)
    for actor in actors:
        left, top, right, bottom = actor.box_px
        labels[top:bottom, left:right] = actor.label
    return DriveTruth(labels, actors)


def actor(label=1, box=BOX, kind='person', hidden=0.0):
    size = (box[2] - box[0]) * (box[3] - box[1])
    return ActorTruth(label, kind, box, size, round(size / (1 - hidden)), 12.0, 25.0)


def painted(truth, background, *levels):
    image = np.full(truth.labels.shape, background, np.uint8)
    for label, level in enumerate(levels, start=1):
        image[truth.labels == label] = level
    return image


@pytest.mark.parametrize(('level', 'background'), [(200, 50), (10, 240), (90, 90)])
def test_contrast_person_against_ring(level, background):
    """Contrast is the mean of the person less that of the ring."""
    truth = scene(actor())

    assert contrast(painted(truth, background, level), truth.labels == 1) == level - background


def test_ring_excludes_outline_and_others():
    """Ring leaves out the outline what is far and other people."""
    # Given a second person beside the first, a blurred outline, and something bright further away
    truth = scene(actor(), actor(2, (62, 20, 75, 70)))
    image = painted(truth, 50, 150, 255)
    image[:, 36:40][truth.labels[:, 36:40] == 0] = 50
    image[20:70, 38:40] = 255
    image[:, 80:] = 255
    image[:8] = 255

    alone = contrast(image, truth.labels == 1)
    beside = contrast(image, truth.labels == 1, others=truth.labels > 0)

    assert beside == 100
    assert alone < 60


def test_filling_person_has_no_contrast():
    """A person who fills the picture has no contrast."""
    assert contrast(np.full((50, 50), 200, np.uint8), np.ones((50, 50), bool)) == 0


@pytest.mark.parametrize(('level', 'seen'), [(120, True), (119, False), (81, False), (80, True)])
def test_twenty_levels_are_seen(level, seen):
    """Twenty levels of either sign are seen."""
    truth = scene(actor())

    (found,) = sightings(truth, painted(truth, 100, level))

    assert found.contrasts == (level - 100,)
    assert found.seen == (seen,)


def test_every_picture_judged_by_luminance():
    """Every picture is judged and color counts as luminance."""
    truth = scene(actor())
    green = np.zeros((100, 120, 3), np.uint8)
    green[truth.labels == 1] = (0, 200, 0)

    (found,) = sightings(truth, green, painted(truth, 30, 210), painted(truth, 30, 30))

    assert found.contrasts == pytest.approx((0.587 * 200, 180, 0), abs=0.6)
    assert found.seen == (True, True, False)


def test_only_people_who_count_are_judged():
    people = (actor(), actor(2, (80, 20, 90, 64)), actor(3, (5, 10, 20, 60), hidden=0.6),
              actor(4, (95, 10, 110, 60), 'cyclist'), actor(5, (60, 75, 100, 99), 'car'))
    truth = scene(*people)

    assert [counts(one) for one in people] == [True, False, False, True, False]
    assert [found.actor.label
            for found in sightings(truth, painted(truth, 9, 99, 99, 99, 99, 99))] == [1, 4]


def test_other_size_is_refused():
    """A picture of another size is refused."""
    with pytest.raises(ValueError, match=r'labels \(100, 120\), got \(50, 60\)'):
        sightings(scene(actor()), np.zeros((50, 60), np.uint8))
