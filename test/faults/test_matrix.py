# SPDX-License-Identifier: Apache-2.0
"""The fault matrix over real DDS, a cell a test.

The numbers go to the test report as the property `measured`.
"""

import pytest

pytest.importorskip('torch', reason='torch is not installed')

from .cells import CAMERAS, CLOCKS, COMPUTE  # noqa: E402
from .matrix import verdict  # noqa: E402
from .rig import started  # noqa: E402

pytestmark = pytest.mark.slow  # begins first, as it takes longest


def names(cells):
    return {'argvalues': cells, 'ids': [cell.name for cell in cells]}


@pytest.fixture(scope='module')
def node(dds, tmp_path_factory):
    """Yield a rig around the node: that every cell ends with fused images makes it fit for the
    next one."""
    with started(tmp_path_factory.mktemp('node')) as rig:
        yield rig


@pytest.fixture
def faulty_node(dds, tmp_path):
    """Yield a rig around the node with a network that can be broken.

    How it failed before makes it more careful.
    """
    with started(tmp_path) as rig:
        yield rig


@pytest.mark.parametrize('cell', **names(CAMERAS))
def test_failing_camera_and_its_return(cell, node, record_property):
    """A failing camera is answered and its return too."""
    measured, complaints = verdict(cell, node)

    record_property('measured', measured.json)
    assert not complaints, '\n'.join(complaints)


@pytest.mark.parametrize('cell', **names(CLOCKS))
def test_a_bad_clock_is_lived_with(cell, node, record_property):
    measured, complaints = verdict(cell, node)

    record_property('measured', measured.json)
    assert not complaints, '\n'.join(complaints)


@pytest.mark.parametrize('cell', **names(COMPUTE))
def test_failing_network_and_its_return(cell, faulty_node, record_property):
    """A failing network is replaced and taken again."""
    measured, complaints = verdict(cell, faulty_node)

    record_property('measured', measured.json)
    assert not complaints, '\n'.join(complaints)
