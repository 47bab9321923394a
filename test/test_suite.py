# SPDX-License-Identifier: Apache-2.0
"""Rules of the tests themselves: what talks DDS takes a domain, and runs alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What a ROS installation need not have: a file that imports it as a whole is skipped without it.
OPTIONAL = {'einops', 'matplotlib', 'onnx', 'onnxruntime', 'onnxscript', 'ray', 'rerun', 'torch',
            'triton'}


def needs(path: Path, known: dict[str, set[str]]) -> set[str]:
    """Return the optional packages that importing a test or helper file needs and does not ask
    for. known has the helpers that were looked at, by path."""
    if str(path) in known:
        return known[str(path)]
    known[str(path)] = found = set()
    asked = set()
    for node in ast.parse(path.read_text()).body:
        for call in ast.walk(node) if isinstance(node, (ast.Expr, ast.Assign)) else ():
            if isinstance(call, ast.Call) and 'importorskip' in ast.unparse(call.func):
                asked.add(call.args[0].value.partition('.')[0])
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                 [node.module or ''] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            found |= {name.partition('.')[0]} & OPTIONAL
            helpers = [folder / f'{name}.py' for folder in (path.parent, TESTS)]
            for helper in filter(Path.is_file, helpers):
                found |= needs(helper, known)
    found -= asked
    return found


@pytest.mark.slow
def test_missing_packages_stop_no_collection():
    """A file that needs a package which is not everywhere says so before it imports it."""
    known: dict[str, set[str]] = {}
    wanting = {str(path.relative_to(TESTS)): needs(path, known)
               for path in sorted(TESTS.rglob('test_*.py'))}

    assert {path: names for path, names in wanting.items() if names} == {}


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


@pytest.mark.slow
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
