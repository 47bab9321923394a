# SPDX-License-Identifier: Apache-2.0
"""What is installed: metadata that agree with each other, and a wheel that holds every file."""

import ast
import configparser
import os
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools

import diffmf_ros

ROOT = Path(__file__).resolve().parents[1]
EXECUTABLES = {'fusion_node', 'bag_player', 'recorder', 'viewer'}
# What the package imports from elsewhere than a ROS distribution.
PYTHON_ONLY = {'cv2', 'einops', 'matplotlib', 'numpy', 'onnx', 'onnxruntime', 'onnxscript',
               'ray', 'rerun', 'rich', 'rosbags', 'safetensors', 'torch', 'triton', 'typer',
               'yaml'}


@pytest.fixture
def metadata(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    seen = {}
    monkeypatch.setattr(setuptools, 'setup', seen.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return seen


@pytest.fixture(scope='module')
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the source, so that nothing built earlier gets in."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        '.*', 'build', 'install', 'log', 'out', '*.egg-info', '*.so', '__pycache__'))
    setup = source / 'setup.py'
    text = setup.read_text()
    # The same files in a fraction of the time: not optimized, and for one instruction set.
    for option, quick in (("'-O3'", "'-O0'"), ("in ('x86_64', 'AMD64')", "== ''")):
        assert text.count(option) == 1
        text = text.replace(option, quick)
    setup.write_text(text)
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
                    '--no-build-isolation', '--wheel-dir', folder, source], check=True)
    with zipfile.ZipFile(*folder.glob('*.whl')) as archive:
        yield archive


def test_one_version_everywhere(metadata, package_xml):
    assert metadata['version'] == diffmf_ros.__version__ == package_xml.findtext('version')
    assert metadata['name'] == package_xml.findtext('name') == 'diffmf_ros'
    assert metadata['license'] == package_xml.findtext('license')


def test_package_xml_is_format_3(package_xml):
    """Package.xml is a Python package of format 3."""
    assert package_xml.get('format') == '3'
    assert package_xml.findtext('export/build_type') == 'ament_python'


def test_package_xml_names_ros_imports(package_xml):
    """Package.xml names every ROS package that is imported."""
    imported = set()
    for path in [*(ROOT / 'diffmf_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition('.')[0])
    ros = imported - sys.stdlib_module_names - PYTHON_ONLY - {'diffmf_ros'}
    assert {'rclpy', 'sensor_msgs', 'launch_ros'} <= ros
    assert ros <= {element.text for element in package_xml.iter('exec_depend')}


def test_data_files_exist(metadata):
    for target, sources in metadata['data_files']:
        assert sources, target
        for source in sources:
            assert (ROOT / source).is_file(), source


@pytest.mark.parametrize('content, said', [
    (None, 'error: rclpy is not installed'),
    ('raise RuntimeError("of another numpy")',
     'error: rclpy cannot be imported: RuntimeError: of another numpy'),
])
def test_executables_without_ros_say_so(tmp_path, content, said):
    """In a process of its own: modules of the node that were imported keep their rclpy."""
    there = "sys.modules['rclpy'] = None"
    if content:
        (tmp_path / 'rclpy.py').write_text(content)
        there = f'sys.path.insert(0, {str(tmp_path)!r})'
    code = (f'import sys; {there}; from diffmf_ros import executables; '
            'sys.exit(executables.recorder())')
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)

    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(said) and ('pip install' in line or 'doctor' in line)


def test_executables_lie_where_ros2_launch_looks(metadata):
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['develop']['script_dir'] == config['install'][
        'install_scripts'] == '$base/lib/diffmf_ros'
    assert {Path(source).name
            for source in dict(metadata['data_files'])['lib/diffmf_ros']} == EXECUTABLES
    scripts = dict(script.split(' = ') for script in metadata['entry_points']['console_scripts'])
    assert scripts.keys() == EXECUTABLES | {'diffmf'}
    for target in scripts.values():
        module, function = target.split(':')
        defined = ast.parse((ROOT / f'{module.replace(".", "/")}.py').read_text()).body
        assert function in {node.name for node in defined
                            if isinstance(node, ast.FunctionDef)}, target


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('name', sorted(EXECUTABLES))
def test_signal_while_loading_is_quiet(tmp_path, name, number):
    """A signal that comes while the libraries load ends an executable at once, without a word."""
    # Given a library that loads for a minute, in which the main thread does not notice it
    (tmp_path / 'rclpy.py').write_text(
        'import signal\nimport time\n'
        'signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))\n'
        'print("loading", flush=True)\ntime.sleep(60)\n')
    process = subprocess.Popen([sys.executable, ROOT / 'resource' / 'lib' / name],
                               env=os.environ | {'PYTHONPATH': f'{tmp_path}:{ROOT}'},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout.readline() == 'loading\n'

    process.send_signal(number)

    assert (process.communicate(timeout=30)[0], process.returncode) == ('', 0)


def test_ros_pins_agree_with_the_requirements(metadata):
    lines = (ROOT / 'requirements' / 'ros.txt').read_text().splitlines()
    assert set(metadata['extras_require']['ros']) == {line for line in lines
                                                      if not line.startswith('#')}


@pytest.mark.slow
def test_wheel_holds_modules_and_weights(wheel):
    """Wheel holds every module and every weight file."""
    suffixes = {'.py', '.safetensors', '.md', '.html'}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / 'diffmf_ros').rglob('*')
                if path.suffix in suffixes}
    assert expected <= set(wheel.namelist())


@pytest.mark.slow
def test_wheel_holds_what_ros_needs(wheel):
    # Given what is to lie under the prefix
    expected = {'share/ament_index/resource_index/packages/diffmf_ros',
                'share/diffmf_ros/package.xml',
                *(f'lib/diffmf_ros/{name}' for name in EXECUTABLES),
                *(f'share/diffmf_ros/{path.relative_to(ROOT)}'
                  for folder in ('launch', 'config') for path in (ROOT / folder).rglob('*')
                  if path.suffix in ('.py', '.xml', '.yaml', '.json', '.rviz', '.service'))}
    # when a wheel is built
    data = {name.partition('.data/data/')[2]: wheel.getinfo(name) for name in wheel.namelist()}
    # then all of it is there, and the executables are executable
    assert expected <= data.keys()
    for name in EXECUTABLES:
        assert data[f'lib/diffmf_ros/{name}'].external_attr >> 16 & 0o111 == 0o111


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('c++')), reason='no C++ compiler')
@pytest.mark.slow
def test_wheel_holds_the_compiled_kernel(wheel):
    assert [name for name in wheel.namelist()
            if name.startswith('diffmf_ros/models/kernels/_cpu.')]
