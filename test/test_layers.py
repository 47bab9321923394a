# SPDX-License-Identifier: Apache-2.0
"""Which part of the package may import which: the arrows between the layers point one way."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import diffmf_ros

PACKAGE = Path(diffmf_ros.__file__).parent
# Layer -> layers that it may import besides itself. A module belongs to the longest name that
# fits: core.frames to core, core.sync.pairing to core.sync.
CORE = {'core', 'core.sync', 'core.alignment', 'core.registration', 'core.imaging', 'core.checks'}
PRODUCT = CORE | {'models', 'inference', 'io'}
ALLOWED = {
    'core': set(),
    'core.sync': {'core'},
    'core.alignment': {'core'},
    'core.registration': {'core', 'core.alignment'},
    'core.imaging': {'core', 'core.alignment'},
    'core.checks': {'core', 'core.alignment', 'core.imaging'},
    'models': set(),
    'inference': CORE | {'models'},
    'io': CORE,
    'ros': PRODUCT,
    'tools': PRODUCT,
    'tools.bench.probes': PRODUCT | {'tools', 'ros'},
    'tools.view.viewer': PRODUCT | {'tools', 'ros'},
    'cli': PRODUCT | {'tools'},
    'api': PRODUCT,
    'executables': PRODUCT | {'ros', 'tools.view.viewer'},
}
IMPORTS_ROS = {'ros', 'tools.bench.probes', 'tools.view.viewer'}
ROS = {'rclpy', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'lifecycle_msgs',
       'rcl_interfaces', 'rosgraph_msgs', 'builtin_interfaces', 'launch', 'launch_ros',
       'cv_bridge',
       'message_filters', 'tf2_ros'}
CORE_LIBRARIES = {'numpy', 'cv2', 'yaml'}
CLOCKS_AND_LOGGERS = {'time', 'datetime', 'logging', 'warnings', 'threading', 'random'}


@cache
def imported_modules(source, module):
    """Absolute names of all modules that source, the text of module, imports anywhere in it.

    `from x import y` gives x and x.y, because y can be a module.
    """
    package = module if module.endswith('__init__') else module.rpartition('.')[0]
    package = package.removesuffix('.__init__')
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[:len(package.split('.')) - node.level
                                      + 1] if node.level else []
            origin = '.'.join(base + ([node.module] if node.module else []))
            found += (origin, *(f'{origin}.{alias.name}' for alias in node.names))
    return found


def layer_of(module):
    """Return the layer of a module of the package, or None."""
    top, *names = module.split('.')
    while top == 'diffmf_ros' and names and '.'.join(names) not in ALLOWED:
        names.pop()
    return '.'.join(names) if top == 'diffmf_ros' and names else None


def imports_by_module():
    """Yield (module, imported module) of the whole package."""
    for path in sorted(PACKAGE.rglob('*.py')):
        module = '.'.join(('diffmf_ros', *path.relative_to(PACKAGE).with_suffix('').parts))
        for imported in imported_modules(path.read_text(encoding='utf-8'), module):
            yield module, imported


def forbidden(module, imported):
    """Return why module may not import that one, or None."""
    layer, target, library = layer_of(module), layer_of(imported), imported.partition('.')[0]
    if layer and target and target != layer and target not in ALLOWED[layer]:
        return (f'{module} imports {imported}: {layer} may import '
                f'{sorted(ALLOWED[layer]) or "nothing"} of ours')
    if library in ROS and layer not in IMPORTS_ROS:
        return f'{module} imports {imported}: only {sorted(IMPORTS_ROS)} import ROS'
    if layer in CORE and library != 'diffmf_ros' and library not in CORE_LIBRARIES:
        if library not in sys.stdlib_module_names or library in CLOCKS_AND_LOGGERS:
            return (f'{module} imports {imported}: core is numpy in, numpy out, without clock or '
                    f'logger')
    return None


@cache
def names_of(path):
    """Return the names that a module has after its import, or None where it makes some up."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if '__getattr__' in names else names


def test_imported_names_exist():
    """No script or test imports a name that the package no longer has."""
    root = Path(__file__).parents[1]
    folders = (PACKAGE, *(root / name for name in ('benchmarks', 'docs', 'examples', 'test')))
    missing, seen = [], 0
    for path in (file for folder in folders for file in sorted(folder.rglob('*.py'))):
        module = '.'.join(path.relative_to(root).with_suffix('').parts)
        for imported in imported_modules(path.read_text(encoding='utf-8'), module):
            origin, _, name = imported.rpartition('.')
            file = (root / origin.replace('.', '/')).with_suffix('.py')
            if not origin.startswith('diffmf_ros.') or not file.is_file():
                continue
            seen += 1
            known = names_of(file)
            if known is not None and name not in known and name != '*':
                missing.append(f'{path.relative_to(root)}: {imported}')
    assert seen > 1000
    assert missing == []


def test_every_arrow_points_the_allowed_way():
    rows = list(imports_by_module())

    assert len(rows) > 100
    assert [reason for row in rows if (reason := forbidden(*row))] == []


@pytest.mark.parametrize('module, source, imported', [
    ('diffmf_ros.models.scan', 'from ..core import frames', 'diffmf_ros.core.frames'),
    ('diffmf_ros.core.frames', 'def f():\n    from ..io import bags', 'diffmf_ros.io.bags'),
    ('diffmf_ros.core.frames', 'import time', 'time'),
    ('diffmf_ros.core.frames', 'import torch.nn', 'torch.nn'),
    ('diffmf_ros.core.__init__', 'from ..models.scan import x', 'diffmf_ros.models.scan'),
    ('diffmf_ros.inference.engine', 'import diffmf_ros.cli.main', 'diffmf_ros.cli.main'),
    ('diffmf_ros.cli.main', 'from ..ros.messages import x', 'diffmf_ros.ros.messages'),
    ('diffmf_ros.io.bags', 'from ..ros import messages', 'diffmf_ros.ros.messages'),
    ('diffmf_ros.io.bags', 'from rclpy.serialization import x', 'rclpy.serialization'),
    ('diffmf_ros.io.bags', 'from ..inference import pipeline', 'diffmf_ros.inference.pipeline'),
    ('diffmf_ros.core.settings', 'from .sync import pairing', 'diffmf_ros.core.sync.pairing'),
    ('diffmf_ros.core.sync.pairing', 'from ..imaging import color',
     'diffmf_ros.core.imaging.color'),
    ('diffmf_ros.core.alignment.warp', 'from ..imaging.thermal import x',
     'diffmf_ros.core.imaging.thermal.x'),
    ('diffmf_ros.inference.engine', 'from ..io import images', 'diffmf_ros.io.images'),
    ('diffmf_ros.ros.fusion_node', 'from ..tools import replay', 'diffmf_ros.tools.replay'),
    ('diffmf_ros.tools.demo', 'from ..ros import messages', 'diffmf_ros.ros.messages'),
    ('diffmf_ros.tools.bench.report', 'from .probes import publish',
     'diffmf_ros.tools.bench.probes.publish'),
    ('diffmf_ros.tools.demo', 'from ..cli import main', 'diffmf_ros.cli.main'),
    ('diffmf_ros.api', 'from .tools.replay import x', 'diffmf_ros.tools.replay.x'),
])
def test_a_wrong_arrow_is_found(module, source, imported):
    found = list(imported_modules(source, module))

    assert imported in found
    assert forbidden(module, imported)


@pytest.mark.parametrize('module, source, imported', [
    ('diffmf_ros.inference.engine', 'from ..models import scan', 'diffmf_ros.models.scan'),
    ('diffmf_ros.models.kernels.cpu', 'from ..scan import x', 'diffmf_ros.models.scan'),
    ('diffmf_ros.core.imaging.thermal', 'from ..frames import Frame', 'diffmf_ros.core.frames'),
    ('diffmf_ros.core.imaging.thermal', 'import cv2', 'cv2'),
    ('diffmf_ros.core.imaging.thermal', 'from dataclasses import dataclass', 'dataclasses'),
    ('diffmf_ros.core.checks.sight_monitor', 'from ..imaging import color',
     'diffmf_ros.core.imaging.color'),
    ('diffmf_ros.ros.fusion_node', 'import rclpy', 'rclpy'),
    ('diffmf_ros.tools.bench.probes.shell', 'from ....ros import frame_loop',
     'diffmf_ros.ros.frame_loop'),
    ('diffmf_ros.cli.demo', 'from ..tools import demo', 'diffmf_ros.tools.demo'),
])
def test_a_right_arrow_passes(module, source, imported):
    found = list(imported_modules(source, module))

    assert imported in found
    assert forbidden(module, imported) is None


@pytest.mark.parametrize('modules',
                         ['diffmf_ros', 'diffmf_ros.core.frames, diffmf_ros.core.settings'])
def test_import_needs_no_heavy_library(modules):
    """Importing needs neither ROS torch nor OpenCV."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('rclpy', 'torch', 'cv2'))); "

    done = subprocess.run([sys.executable, '-c', f'{blocked}import {modules}'], cwd=PACKAGE.parent,
                          capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_core_runs_without_ros_torch():
    """The core runs without ROS and torch."""
    files = sorted((PACKAGE / 'core').rglob('[a-z]*.py'))
    names = ', '.join('.'.join(('diffmf_ros', *path.relative_to(PACKAGE).with_suffix('').parts))
                      for path in files)
    blocked = "import sys; sys.modules.update(dict.fromkeys(('rclpy', 'torch'))); "

    done = subprocess.run([sys.executable, '-c', f'{blocked}import {names}'], cwd=PACKAGE.parent,
                          capture_output=True, text=True, check=False)

    assert names.count('diffmf_ros') >= 9
    assert (done.returncode, done.stderr) == (0, '')


def test_class_names_are_unique():
    """A class name means one thing in the whole package."""
    places = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))

    assert {name: files for name, files in places.items() if len(files) > 1} == {}
