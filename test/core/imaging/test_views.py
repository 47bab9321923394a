# SPDX-License-Identifier: Apache-2.0
"""The pictures for the eye."""

import numpy as np

from diffmf_ros.core.imaging.color import overlay, side_by_side

MAGENTA = (255, 0, 255)


def test_side_by_side_has_three_images():
    """Side by side shows RGB thermal and fused."""
    rgb, fused = np.full((4, 6, 3), 10, np.uint8), np.full((4, 6, 3), 30, np.uint8)

    picture = side_by_side(rgb, np.full((4, 6), 20, np.uint8), fused)

    assert picture.shape == (4, 18, 3)
    assert [int(value) for value in picture[0, ::6, 0]] == [10, 20, 30]


def test_overlay_draws_thermal_edges_only():
    """The overlay draws thermal edges and nothing else."""
    rgb = np.full((40, 60, 3), 90, np.uint8)
    thermal = np.zeros((40, 60), np.uint8)
    thermal[:, 30:] = 200

    picture = overlay(rgb, thermal, np.ones((40, 60), bool))

    columns = np.flatnonzero((picture == MAGENTA).all(axis=-1).any(axis=0))
    assert len(columns) and columns.min() >= 28 and columns.max() <= 31
    assert (picture[:, :28] == 90).all() and (rgb == 90).all()


def test_coverage_border_is_no_edge():
    """The border of what thermal sees is no edge."""
    rgb = np.full((40, 60, 3), 90, np.uint8)
    seen = np.zeros((40, 60), bool)
    seen[10:30, 10:50] = True

    picture = overlay(rgb, np.where(seen, 200, 0).astype(np.uint8), seen)

    assert (picture == 90).all()
