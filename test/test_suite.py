# SPDX-License-Identifier: Apache-2.0
"""Rules of the tests themselves: what talks DDS takes a domain, and runs alone."""

import os

import pytest


def test_no_node_starts_without_domain():
    """A test that forgets the fixture `domain` fails, instead of meeting the nodes of others."""
    rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

    with pytest.raises(Exception, match='ROS_DOMAIN_ID'):
        rclpy.init(context=rclpy.Context())


def test_domain_puts_test_in_serial_part(request, domain):
    """The fixture marks its tests, lends a number, and takes it back."""
    assert request.node.get_closest_marker('dds')
    assert os.environ['ROS_DOMAIN_ID'] == str(domain)
    assert 1 <= domain <= 101


def test_parallel_workers_compute_in_one_thread():
    """Two workers on two cores would otherwise share them with each other's threads."""
    if 'PYTEST_XDIST_WORKER' not in os.environ:
        pytest.skip('runs in the parallel part of make test')

    assert os.environ['OMP_NUM_THREADS'] == '1'
