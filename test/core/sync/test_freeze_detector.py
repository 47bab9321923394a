# SPDX-License-Identifier: Apache-2.0
"""Equal images, in whatever layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.sync.stream_measures import FreezeDetector

SCENES = np.random.default_rng(3).integers(7000, 9000, (8, 24, 32), dtype=np.uint16)


def test_last_pixel_makes_a_difference():
    """The last pixel alone makes a difference."""
    still, image = FreezeDetector(), SCENES[0].copy()
    still.add(image)
    changed = image.copy()
    changed[-1, -1] += 1

    assert still.add(changed) and still.repeat_count == 1
    assert not still.add(changed.copy()) and still.repeat_count == 2


def test_pixel_beside_the_samples_counts():
    """A pixel that is not among those that are compared first makes a difference, too."""
    still, image = FreezeDetector(), np.zeros((64, 128), np.uint8)
    still.add(image)
    changed = image.copy()
    changed[1, 1] = 1

    assert still.flat_count == 1
    assert still.add(changed) and (still.repeat_count, still.flat_count) == (1, 0)


def test_padded_rows_compare_by_pixels():
    """Views of padded rows are compared by their pixels."""
    padded = np.zeros((24, 40, 3), np.uint8)
    padded[:, :32] = np.random.default_rng(1).integers(0, 255, (24, 32, 3))
    other = padded.copy()
    other[:, 32:] = 99
    still = FreezeDetector()
    still.add(padded[:, :32])

    assert not still.add(other[:, :32])
    assert still.repeat_count == 2


def test_equal_images_of_nan_are_equal():
    image = np.full((24, 31), np.nan, np.float32)
    image[0, 0] = 1
    still = FreezeDetector()
    still.add(image)

    assert not still.add(image.copy())
    assert (still.repeat_count, still.flat_count) == (2, 0)


def test_uniform_means_one_color():
    """One color is uniform and two are not."""
    color = np.full((24, 32, 3), (10, 20, 30), np.uint8)
    still = FreezeDetector()

    assert not still.add(color) and still.flat_count == 1
    color = color.copy()
    color[-1, -1, 2] = 31
    assert still.add(color) and still.flat_count == 0


def test_other_size_or_type_differs():
    """Another size or type is another image."""
    still = FreezeDetector()
    still.add(SCENES[0])

    assert still.add(SCENES[0][:-1]) and still.add(SCENES[0][:-1].astype(np.uint8))


@pytest.mark.parametrize('runs, usual', [
    ([1] * 6, 1), ([3] * 5, 1), ([3] * 6, 3), ([3, 3, 2, 3, 3, 3], 3), ([1, 1, 15, 1, 1, 1], 1),
    ([3, 3, 30, 3, 3, 3], 3), ([3, 2] * 3, 2), ([8] * 6, 8), ([9] * 6, 1), ([], 1),
    ([1, 2, 3, 4, 5, 6], 3)])
def test_habit_is_median_run(runs, usual):
    """The habit of a camera is the median of its runs."""
    still = FreezeDetector()

    for number, length in enumerate([*runs, 1]):
        for _ in range(length):
            still.add(SCENES[number % 2].copy())

    assert still.usual_repeats == usual


@settings(deadline=None)
@given(st.lists(st.sampled_from(range(3)), min_size=1, max_size=20))
def test_runs_match_slow_count(scenes):
    """Runs are counted like the slow way."""
    still = FreezeDetector()

    for i, scene in enumerate(scenes):
        still.add(SCENES[scene].copy())
        run = next((n for n in range(i + 1) if scenes[i - n] != scene), i + 1)
        assert still.repeat_count == run
