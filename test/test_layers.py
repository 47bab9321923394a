# SPDX-License-Identifier: Apache-2.0
"""Which part of the package may import which: the arrows between the layers point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffmf_ros

PACKAGE = Path(diffmf_ros.__file__).parent
# layer -> layers that it may import besides itself; a file directly in the package is its own layer.
ALLOWED = {
    'core': set(),
    'models': set(),
    'inference': {'core', 'models'},
}
ROS = {'rclpy', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'lifecycle_msgs', 'rcl_interfaces',
       'rosgraph_msgs', 'builtin_interfaces', 'launch', 'launch_ros', 'cv_bridge', 'message_filters',
       'tf2_ros'}
CORE_LIBRARIES = {'numpy', 'cv2', 'yaml'}
CLOCKS_AND_LOGGERS = {'time', 'datetime', 'logging', 'warnings', 'threading', 'random'}


def imported_modules(source, module):
    """Absolute names of all modules that source, the text of module, imports anywhere in it.

    `from x import y` yields x and x.y, because y can be a module.
    """
    package = module if module.endswith('__init__') else module.rpartition('.')[0]
    package = package.removesuffix('.__init__')
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            origin = '.'.join(base + ([node.module] if node.module else []))
            yield origin
            yield from (f'{origin}.{alias.name}' for alias in node.names)


def imports_by_layer():
    """Rows of (file, its layer, imported module) of the whole package."""
    for path in sorted(PACKAGE.rglob('*.py')):
        relative = path.relative_to(PACKAGE)
        module = '.'.join(('diffmf_ros', *relative.with_suffix('').parts))
        for imported in imported_modules(path.read_text(encoding='utf-8'), module):
            yield str(relative), relative.parts[0].removesuffix('.py'), imported


def ours(imported):
    """Layer of ours that an imported module belongs to, or None."""
    top, _, rest = imported.partition('.')
    layer = rest.partition('.')[0]
    known = (PACKAGE / layer).is_dir() or (PACKAGE / f'{layer}.py').is_file()
    return layer if top == 'diffmf_ros' and layer and known else None


def forbidden(file, layer, imported):
    """Why layer may not import that module, or None."""
    target, library = ours(imported), imported.partition('.')[0]
    if target in ('ros', 'cli') and target != layer:
        return f'{file} imports {imported}: nothing imports {target}'
    if layer in ALLOWED and target and target != layer and target not in ALLOWED[layer]:
        return f'{file} imports {imported}: {layer} may import {sorted(ALLOWED[layer]) or "nothing"} of ours'
    if library in ROS and layer != 'ros':
        return f'{file} imports {imported}: only ros imports ROS'
    if layer == 'core' and library != 'diffmf_ros' and library not in CORE_LIBRARIES:
        if library not in sys.stdlib_module_names or library in CLOCKS_AND_LOGGERS:
            return f'{file} imports {imported}: core is numpy in, numpy out, without clock or logger'
    return None


def test_every_arrow_points_the_allowed_way():
    rows = list(imports_by_layer())

    assert len(rows) > 100
    assert [reason for row in rows if (reason := forbidden(*row))] == []


@pytest.mark.parametrize('module, source, imported', [
    ('diffmf_ros.models.scan', 'from ..core import frames', 'diffmf_ros.core.frames'),
    ('diffmf_ros.core.frames', 'def f():\n    from .. import bags', 'diffmf_ros.bags'),
    ('diffmf_ros.core.frames', 'import time', 'time'),
    ('diffmf_ros.core.frames', 'import torch.nn', 'torch.nn'),
    ('diffmf_ros.core.__init__', 'from ..models.scan import x', 'diffmf_ros.models.scan'),
    ('diffmf_ros.inference.engine', 'import diffmf_ros.cli.main', 'diffmf_ros.cli.main'),
    ('diffmf_ros.cli.main', 'from ..ros.messages import x', 'diffmf_ros.ros.messages'),
    ('diffmf_ros.bags', 'from .ros import messages', 'diffmf_ros.ros.messages'),
    ('diffmf_ros.bags', 'from rclpy.serialization import x', 'rclpy.serialization'),
])
def test_a_wrong_arrow_is_found(module, source, imported):
    found = list(imported_modules(source, module))

    assert imported in found
    assert forbidden(module, module.split('.')[1], imported)


@pytest.mark.parametrize('module, source, imported', [
    ('diffmf_ros.inference.engine', 'from ..models import scan', 'diffmf_ros.models.scan'),
    ('diffmf_ros.models.kernels.cpu', 'from ..scan import x', 'diffmf_ros.models.scan'),
    ('diffmf_ros.core.thermal', 'from .frames import Frame', 'diffmf_ros.core.frames'),
    ('diffmf_ros.core.thermal', 'import cv2', 'cv2'),
    ('diffmf_ros.core.thermal', 'from dataclasses import dataclass', 'dataclasses'),
    ('diffmf_ros.ros.fusion_node', 'import rclpy', 'rclpy'),
])
def test_a_right_arrow_passes(module, source, imported):
    found = list(imported_modules(source, module))

    assert imported in found
    assert forbidden(module, module.split('.')[1], imported) is None


@pytest.mark.parametrize('modules', ['diffmf_ros', 'diffmf_ros.core.frames, diffmf_ros.core.settings'])
def test_importing_needs_neither_ros_torch_nor_opencv(modules):
    blocked = "import sys; sys.modules.update(dict.fromkeys(('rclpy', 'torch', 'cv2'))); "

    done = subprocess.run([sys.executable, '-c', f'{blocked}import {modules}'], cwd=PACKAGE.parent,
                          capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_the_core_runs_without_ros_and_torch():
    names = ', '.join(f'diffmf_ros.core.{path.stem}' for path in sorted((PACKAGE / 'core').glob('[a-z]*.py')))
    blocked = "import sys; sys.modules.update(dict.fromkeys(('rclpy', 'torch'))); "

    done = subprocess.run([sys.executable, '-c', f'{blocked}import {names}'], cwd=PACKAGE.parent,
                          capture_output=True, text=True, check=False)

    assert names.count('diffmf_ros') >= 9
    assert (done.returncode, done.stderr) == (0, '')
