# SPDX-License-Identifier: Apache-2.0
"""Which sides a network takes, and how an image gets them."""

import numpy as np
import pytest

from diffmf_ros.models import SizeRule

S4FUSION = SizeRule(12, 1, centered=True)


@pytest.mark.parametrize('side, fitting', [
    (1, 13), (13, 13), (14, 25), (240, 241), (320, 325), (480, 481), (640, 649), (768, 769),
    (1024, 1033)])
def test_s4fusion_sides_twelves_plus_one(side, fitting):
    """Sides of S4Fusion are twelves and one."""
    assert S4FUSION.padded(side) == fitting


@pytest.mark.parametrize('side, missing',
                         [(480, (0, 1)), (640, (4, 5)), (649, (0, 0)), (240, (0, 1)), (1, (6, 6))])
def test_padding_is_split_evenly(side, missing):
    """Half of what is missing goes before rounded down."""
    assert S4FUSION.padding(side) == missing


@pytest.mark.parametrize('side, missing', [(16, (0, 0)), (17, (0, 15)), (1, (0, 15))])
def test_without_a_center_all_goes_behind(side, missing):
    assert SizeRule(16).padding(side) == missing


@pytest.mark.parametrize('sides', [S4FUSION, SizeRule(16)], ids=str)
@pytest.mark.parametrize('shape', [(1, 1), (2, 1), (3, 30), (13, 13), (20, 41)])
def test_mirror_omits_the_edge(sides, shape):
    """An image is mirrored without its edge."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros.inference.engine import pad_to
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = np.pad(image, [sides.padding(side) for side in shape], mode='reflect')
    assert np.array_equal(pad_to(torch.from_numpy(image)[None, None], sides)[0, 0].numpy(),
                          expected)


def test_what_does_not_fit_is_named():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    with pytest.raises(ValueError, match=r'sides of a multiple of 12 plus 1 pixels; got '
                       r'\(1, 1, 13, 14\)'):
        S4FUSION.require(*torch.zeros(2, 1, 1, 13, 14))
    with pytest.raises(ValueError, match=r'got \(1, 1, 13, 13\) and \(1, 1, 25, 13\)'):
        S4FUSION.require(torch.zeros(1, 1, 13, 13), torch.zeros(1, 1, 25, 13))
