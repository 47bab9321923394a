# SPDX-License-Identifier: Apache-2.0
"""Rules of the tests themselves: what talks DDS takes a domain, and runs alone."""

import os
import subprocess
import sys

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


def test_files_are_collected_under_launch_testing(tmp_path):
    """A plugin that imports test files by itself, as that of launch_testing does, is not asked."""
    (tmp_path / 'imports_early.py').write_text(
        'def pytest_pycollect_makemodule(module_path, parent):\n    raise '
        'AssertionError(module_path)\n')
    path = os.pathsep.join((str(tmp_path), *sys.path))

    done = subprocess.run([sys.executable, '-m', 'pytest', '-p', 'imports_early', '--collect-only',
                           '-q', __file__],
                          env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True,
                          timeout=60)

    assert done.returncode == 0, done.stdout
    assert 'test_files_are_collected_under_launch_testing' in done.stdout
