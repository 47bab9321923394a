# SPDX-License-Identifier: Apache-2.0
"""Average precision and objects found on boxes of known values; boxes as JSON."""

import json

import numpy as np
import pytest

from diffmf_ros.tools.evaluation.detection_scores import (
    BoxesError,
    Truth,
    average_precision,
    found_again,
    matches,
    objects_found,
    overlaps,
    read_boxes,
)
from diffmf_ros.tools.evaluation.detector import Detections
from diffmf_ros.tools.evaluation.detector_trial import DetectorTrial

BOX, NEXT, FAR = (0, 0, 10, 20), (30, 0, 40, 20), (60, 0, 70, 20)


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def truth(*people, ignore=()):
    return Truth(boxes(*people), boxes(*ignore))


def found(*rows):
    """Detections of (box, score) or (box, score, class)."""
    return Detections(
        boxes(*(row[0] for row in rows)).astype(np.float32),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] if len(row) > 2 else 0 for row in rows], int),
    )


def test_overlap_is_intersection_over_union():
    assert overlaps(boxes(BOX), boxes(BOX, (5, 0, 15, 20), FAR))[0] == pytest.approx([1, 1 / 3, 0])
    assert overlaps(boxes(), boxes(BOX)).shape == (0, 1)


def test_object_found_once_by_surest():
    """An object is found once by the surest."""
    matched, counts = matches(
        found((BOX, 0.5), (BOX, 0.9), (NEXT, 0.3)), truth(BOX, NEXT), overlap=0.5
    )
    assert matched.tolist() == [-1, 0, 1]
    assert counts.all()


def test_ignored_regions_do_not_count():
    """What lies by more than half in a region to ignore does not count."""
    # Given detections by 60 % and by exactly half in a region, and one on an object in it
    region = (0, 0, 100, 12)
    matched, counts = matches(
        found((BOX, 0.9), ((30, 2, 40, 22), 0.8), ((60, 0, 70, 10), 0.7)),
        truth((60, 0, 70, 10), ignore=[region]),
        overlap=0.5,
    )
    assert matched.tolist() == [-1, -1, 0]
    assert counts.tolist() == [False, True, True]


def test_average_precision_under_envelope():
    """Average precision is the area below the envelope."""
    # Given hit, miss, hit in the order of their scores, over two images with four objects
    images = [
        (found((BOX, 0.9), (FAR, 0.8)), truth(BOX, NEXT)),
        (found((BOX, 0.7)), truth(BOX, NEXT)),
    ]
    # then precision 1 holds up to a recall of 1/4, and 2/3 up to 2/4
    assert average_precision(images, overlap=0.5) == pytest.approx(1 / 4 + (2 / 3) / 4)
    assert average_precision([(found(), truth(BOX))], overlap=0.5) == 0
    assert np.isnan(average_precision([(found((BOX, 0.9)), truth())], overlap=0.5))


def test_the_overlap_that_is_asked_decides():
    images = [(found(((0, 0, 10, 9), 0.9)), truth(BOX))]  # 0.45
    assert (average_precision(images, overlap=0.4), average_precision(images, overlap=0.5)) == (
        1,
        0,
    )


def test_found_from_three_tenths():
    """Objects are found from a score of three tenths."""
    images = [
        (found((BOX, 0.30001), (NEXT, 0.29999)), truth(BOX, NEXT)),
        (found(((0, 0, 10, 8.1), 0.9)), truth(BOX)),
    ]
    assert objects_found(images) == 2


def test_found_again_same_class_place():
    """Found again is of the same class and place."""
    reference = found((BOX, 0.9, 0), (NEXT, 0.9, 2), (FAR, 0.9, 2))
    assert found_again(reference, reference) == 3
    assert (
        found_again(reference, found((BOX, 0.4, 2), (NEXT, 0.4, 2), ((66, 0, 76, 20), 0.9, 2)))
        == 1
    )
    assert found_again(found(), reference) == 0


def test_trial_scores_by_data_set():
    """A trial scores every method by data set."""
    # Given one person found in RGB, another in thermal, and by day a car in RGB alone
    answers = {
        1: found((BOX, 0.9), (FAR, 0.8, 2)),
        2: found((NEXT, 0.6)),
        3: found((BOX, 0.7), (NEXT, 0.4)),
    }

    class Known:
        def of(self, dataset, name):
            return truth(BOX, NEXT) if name == 'a' else None

    trial = DetectorTrial(lambda picture: answers[int(picture[0, 0])], boxes=Known())
    pictures = {'rgb': 1, 'fused': 3, 'thermal': 2}
    for dataset, name, level in (('day', 'a', 90), ('night', 'a', 20), ('night', 'b', 20)):
        trial.look(
            dataset,
            name,
            {method: np.full((20, 80), value, np.uint8) for method, value in pictures.items()},
            np.full((20, 80), level, np.uint8),
        )
    table = trial.table()
    # then both cameras together and the fused image find both
    assert list(table) == ['day', 'night', 'all']
    assert list(table['all']) == ['rgb', 'thermal', 'pooled', 'fused']
    assert {method: row['AP40'] for method, row in table['all'].items()} == {
        'rgb': 0.5,
        'thermal': 0.5,
        'pooled': 1.0,
        'fused': 1.0,
    }
    assert [table['all'][method]['found'] for method in table['all']] == [2, 2, 4, 4]
    assert (table['all']['fused']['people'], table['all']['fused']['detections']) == (4, 6)
    # and the car is missed, by day, where it counts
    assert [table['day'][method]['day_others'] for method in table['day']] == [1, 0, 1, 0]
    assert table['day']['fused']['day_again'] == 0.5
    assert np.isnan(table['night']['fused']['day_again'])


def test_boxes_found_by_set_or_stem(tmp_path):
    """Boxes are found by data set and stem or stem."""
    path = tmp_path / 'boxes.json'
    path.write_text(
        json.dumps({'north_a': {'people': [BOX], 'ignore': [FAR]}, 'b': {'people': []}})
    )
    got = read_boxes(path)
    assert got.of('north', 'a').people.tolist() == [list(BOX)] and got.of(
        'north', 'a'
    ).ignore.tolist() == [list(FAR)]
    assert got.of('south', 'a') is None
    assert got.of('south', 'b').people.shape == got.of('south', 'b').ignore.shape == (0, 4)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('[1', 'cannot be read as JSON'),
        ('[]', 'an entry for each image'),
        ('{"a": [1]}', 'a: expected {"people"'),
        ('{"a": {"people": 3}}', 'a, people: expected a list of boxes, got 3'),
        ('{"a": {"people": [[0, 0, 5]]}}', r'expected \[x0, y0, x1, y1\] with x0 < x1'),
        ('{"a": {"people": [], "ignore": [[5, 0, 5, 9]]}}', 'a, ignore: .*got .5, 0, 5, 9.'),
        ('{"a": {"people": [[0, 0, "5", 9]]}}', 'got .0, 0, "5", 9.'),
    ],
)
def test_invalid_boxes_name_their_place(tmp_path, text, said):
    """Boxes that are none are refused with their place."""
    path = tmp_path / 'boxes.json'
    path.write_text(text)
    with pytest.raises(BoxesError, match=said):
        read_boxes(path)
    with pytest.raises(BoxesError, match='cannot be read'):
        read_boxes(tmp_path / 'missing.json')
