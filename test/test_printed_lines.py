# SPDX-License-Identifier: Apache-2.0
"""Lines of the pages that are no `diffmf` command, as far as they can be checked in any place.

`make` lines are given to `make -n`, which prints what it would do, and every variable has to show
in that. Of the others what they name has to exist: launch files with their arguments, executables,
parameters with values that they take, scripts with their options, extras, files and build
arguments of containers. They are not run: there may be no `ros2` and no `docker`. Options of
programs of others, names of their packages and topics of a reader's cameras are not checked.
Python on the pages is run, YAML is read as the node reads it, XML is parsed.
"""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from xml.etree import ElementTree

import numpy as np
import pytest
import setuptools
import yaml
from test_deployment import instructions
from test_docs import PAGES, ROOT, mentions, name_of, printed_lines, text_of, understood

import diffmf_ros
from diffmf_ros.core.alignment.alignment_file import load_alignment
from diffmf_ros.core.alignment.homography import Alignment
from diffmf_ros.core.parameter_spec import NODE, read_params
from diffmf_ros.core.settings import DEFAULTS, with_changes

BLOCK = re.compile(r'^ *```(\w+)\n(.*?)^ *```', re.MULTILINE | re.DOTALL)
TOPIC = re.compile(r'/?[a-z]\w*(/\w+)*')
# Packages of others, whose lines were read in their sources.
OTHERS = {'yolo_bringup', 'ros_gz_image', 'ros_gz_bridge'}
# Commands of ros2 itself that sentences mention.
OF_ROS = {('bag', 'record'), ('bag', 'play'), ('param', 'load'), ('param', 'set'),
          ('topic', 'echo'), ('security', 'create_permission'), ('launch',)}
LAUNCH_MODULES = ('launch', 'launch.actions', 'launch.conditions', 'launch.events',
                  'launch.events.process', 'launch.launch_description_sources', 'launch.logging',
                  'launch.substitutions', 'launch_ros', 'launch_ros.actions',
                  'launch_ros.parameter_descriptions', 'launch_ros.substitutions')
LEPTON = """{image_width: 160, image_height: 120, distortion_model: plumb_bob,
 camera_matrix: {data: [160.0, 0, 80, 0, 160, 60, 0, 0, 1]},
 distortion_coefficients: {data: [0.0, 0, 0, 0, 0]}}"""
# What only a reader can do, and why.
NOT_CHECKED = {
    'git': "the address of the repository is the reader's to fill in",
    'cd': 'changes the folder', 'source': 'changes the environment',
    'apt': 'changes the machine', 'rosdep': 'changes the machine', 'ssh': 'needs two machines',
    'trtexec': 'needs TensorRT'}


def steps_of(line: str) -> Iterator[list[str]]:
    """Yield the words of the commands of a line, without variables, sudo and further lines."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index('&&') if '&&' in words else len(words)
        step, words = words[:end], words[end + 1:]
        while '=' in step[0] or step[0] == 'sudo':
            step = step[1:]
        yield step


def in_blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield (page, words of a command) of every block of code that is for a shell."""
    for page in (page for page in PAGES if page.name != 'CHANGELOG.md'):
        for line in printed_lines(page):
            for words in steps_of(line):
                yield name_of(page), words


def in_sentences() -> Iterator[tuple[str, list[str]]]:
    """Yield (page, words of a command) of code in sentences."""
    for page in (page for page in PAGES if page.name != 'CHANGELOG.md'):
        for text in mentions(page):
            if ' ' in text and text.split()[0] in CHECKS:
                yield name_of(page), shlex.split(text)


def follow_make(words: list[str]) -> None:
    """Make knows the targets, and what they do depends on the variables."""
    values = {name: f'value-of-{name}' for name, sign, _ in
              (word.partition('=') for word in words) if sign}
    given = [word for word in words if '=' not in word]
    done = subprocess.run(['make', '-n', '-C', ROOT, *given,
                           *(f'{name}={value}' for name, value in values.items())],
                          capture_output=True, text=True, env={'PATH': os.environ['PATH']})

    assert done.returncode == 0, done.stderr
    assert all(value in done.stdout for value in values.values()), done.stdout


def declared(path: Path) -> dict[str, SimpleNamespace]:
    """The arguments of a launch file and of those that it includes, by name.

    It runs with stand-ins for launch, which need not be installed.
    """
    found, included = {}, []

    def argument(name, *, default_value=None, choices=None, **_):
        found[name] = SimpleNamespace(name=name, default_value=default_value, choices=choices)
        return found[name]

    modules = {name: MagicMock() for name in LAUNCH_MODULES}
    modules['launch.actions'].DeclareLaunchArgument = argument
    modules['launch.substitutions'].PathJoinSubstitution = list
    modules['launch_ros.substitutions'].FindPackageShare = str
    modules['launch.launch_description_sources'].PythonLaunchDescriptionSource = included.append
    with pytest.MonkeyPatch.context() as patched:
        for name, module in modules.items():
            patched.setitem(sys.modules, name, module)
        runpy.run_path(str(path))['generate_launch_description']()
    ours = (file for package, _, file in included if package == 'diffmf_ros')
    return {name: value for file in ours
            for name, value in declared(ROOT / 'launch' / file).items()} | found


def set_value(name: str, text: str) -> None:
    """A parameter of the fusion node takes a value."""
    with_changes(DEFAULTS, {name: yaml.safe_load(text)})


def follow_launch(words: list[str]) -> None:
    """The launch file is there and takes the arguments. None is missing, unless all are."""
    if words[0] in OTHERS:
        return
    places = [ROOT / words[0]] if words[0].endswith('.py') else [
        ROOT / folder / words[1] for folder in ('launch', 'examples')]
    (path,) = filter(Path.is_file, places)
    arguments = declared(path)
    given = dict(word.split(':=') for word in words if ':=' in word)
    parameters = {'fusion_model': 'model'}

    assert given.keys() <= arguments.keys()
    required = {name for name, one in arguments.items() if one.default_value is None}
    assert not given or required <= given.keys()
    for name, text in given.items():
        if arguments[name].choices:
            assert text in arguments[name].choices
        elif name in parameters:
            set_value(parameters[name], text)
        elif name.endswith('_image'):
            assert TOPIC.fullmatch(text)
        elif arguments[name].default_value in ('true', 'false'):
            assert text in ('true', 'false')
        elif name in ('fusion_params_file', 'rigs'):
            assert text.endswith('.yaml')
        else:
            assert name in ('bag', 'detector', 'model')  # files of the reader


def follow_ros2(words: list[str]) -> None:
    """What the command names is the package's, with values that it takes."""
    if words[0] == 'launch' and words[1:]:
        follow_launch(words[1:])
    elif words[0] == 'run' and words[1:] and words[1] not in OTHERS:
        assert words[1] == 'diffmf_ros' and (ROOT / 'resource' / 'lib' / words[2]).is_file()
        for name, text in parameters_in(words):
            set_value(name, text)
    elif words[:2] == ['param', 'set'] and words[2:]:
        assert words[2] == f'/{NODE}'
        set_value(*words[3:])
    else:
        assert words[0] == 'run' or {tuple(words[:1]), tuple(words[:2])} & OF_ROS


def parameters_in(words: list[str]) -> list[tuple[str, str]]:
    """The parameters that a command gives to a node."""
    return [tuple(word.split(':=')) for before, word in zip(words, words[1:], strict=False)
            if before == '-p']


def follow_script(words: list[str]) -> None:
    """The script is there and has the options."""
    text = (ROOT / words[0]).read_text()
    known = {node.value for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.Constant)} if words[0].endswith('.py') else {'--'}
    options = {word for word in words[1:] if re.match('--[a-z]', word)} - {'--ros-args'}

    assert options <= known
    if parameters_in(words):
        assert 'rclpy' in text and {name for name, _ in parameters_in(words)} <= known


def follow_python(words: list[str]) -> None:
    """The script or module is there and has the options."""
    if words[0] != '-m':
        follow_script(words)
    elif words[1] in CHECKS:
        CHECKS[words[1]](words[2:])
    else:
        assert words[1] == 'diffmf_ros.cli.main'
        understood(['1' if word.isupper() else word for word in words[2:]])


def follow_pip(words: list[str]) -> None:
    """What is installed is a requirement, this folder, or its wheel, with extras that it has."""
    metadata = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(setuptools, 'setup', metadata.update)
        patched.chdir(ROOT)
        runpy.run_path('setup.py')
    extras = metadata['extras_require']
    known = {re.split('[<>=[]', name)[0] for names in (metadata['install_requires'],
                                                       *extras.values()) for name in names}
    wheel = re.compile(rf'(dist/)?diffmf_ros(-{diffmf_ros.__version__}-cp\d+-cp\d+-\w+\.whl)?'
                       r'(\[(\w+)])?')
    names = [word for word in words[1:] if not word.startswith('-') and word != 'dist']

    assert words[0] in ('install', 'wheel') and (names or '--require-hashes' in words)
    for name in names:
        ours = wheel.fullmatch(name)
        assert name in known | {'.'} or ours and ours[4] in {None, *extras}


def follow_docker(words: list[str]) -> None:
    """Files and build arguments are there, and what is run was built by another line."""
    lines = [step[1:] for _, step in in_blocks() if step[0] == 'docker']
    built = {one[one.index('-t') + 1] for one in lines if one[0] == 'build'}
    if words[0] == 'run':
        assert words[-1] in built
        return
    path = ROOT / words[words.index('-f') + 1]
    known = {text.partition('=')[0] for name, text in instructions(path) if name == 'ARG'}
    given = [words[at + 1].partition('=')[0] for at, word in enumerate(words)
             if word == '--build-arg']
    assert words[0] == 'build' and words[-1] == '.' and set(given) <= known


def follow_colcon(words: list[str]) -> None:
    """The package that is built is this one."""
    assert words[0] == 'build' and words[1:] in ([], ['--packages-select', 'diffmf_ros'])


CHECKS = {
    'make': follow_make, 'ros2': follow_ros2, 'docker': follow_docker, 'pip': follow_pip,
    'python': follow_python, '.venv/bin/python': follow_python, 'colcon': follow_colcon,
    'torchrun': lambda words: follow_python(words[words.index('-m'):]),
    'pytest': lambda words: [exists(word) for word in words if word != '-s'],
    'benchmarks/gpu.sh': lambda words: exists('benchmarks/gpu.sh'),
    'rviz2': lambda words: exists(words[words.index('-d') + 1])}


def exists(path: str) -> None:
    """A file or folder of the repository is there."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize('page, words', dict.fromkeys(
    (page, tuple(words)) for page, words in [*in_blocks(), *in_sentences()]
    if words[0] in CHECKS), ids=lambda value: value if isinstance(value, str) else ' '.join(value))
def test_what_lines_name_exists(page, words):
    """What a printed or mentioned line names is there."""
    if words[0] == 'make' and shutil.which('make') is None:
        pytest.skip('make is not installed')
    CHECKS[words[0]](list(words[1:]))


def test_every_program_is_known():
    """Every line of a block for a shell is checked here or run elsewhere, or cannot be."""
    programs = {words[0] for _, words in in_blocks()}

    assert programs - CHECKS.keys() - {'diffmf'} == NOT_CHECKED.keys()
    assert CHECKS.keys() <= programs


@pytest.mark.parametrize('program, line', [
    ('make', 'docs NOTHING=1'), ('make', 'nothing'),
    ('ros2', 'launch diffmf_ros fusion.launch.py model:=x'),
    ('ros2', 'launch diffmf_ros fusion.launch.py fusion_model:=x'),
    ('ros2', 'launch diffmf_ros fusion.launch.py fusion_profile:=x'),
    ('ros2', 'launch diffmf_ros replay.launch.py rate:=2'), ('ros2', 'run diffmf_ros nothing'),
    ('ros2', 'run diffmf_ros fusion_node --ros-args -p sync.max_distance_ms:=-1.0'),
    ('ros2', 'param set /fusion thermal.polarity black_hot'),
    ('ros2', 'param set /fusion_node thermal.polarity cold'), ('ros2', 'topic nothing'),
    ('docker', 'build -f docker/Nothing -t a .'), ('docker', 'run --rm nothing'),
    ('docker', 'build -f docker/Dockerfile --build-arg NOTHING=1 -t a .'),
    ('pip', 'install diffmf_ros[nothing]'), ('pip', 'install nothing'),
    ('python', 'benchmarks/page.py --nothing'), ('python', '-m pytest test/nothing.py'),
    ('python', 'examples/detector_node.py --ros-args -p nothing:=1'),
    ('colcon', 'build --packages-select nothing')])
def test_wrong_lines_are_found(program, line):
    """A line that names what is not there is found."""
    with pytest.raises((AssertionError, OSError, ValueError, KeyError, diffmf_ros.DiffmfError)):
        CHECKS[program](shlex.split(line))


def blocks_of(language: str) -> list[tuple[str, str]]:
    """Rows of (page, text) of the blocks of a language."""
    return [(name_of(page), text) for page in PAGES
            for of, text in BLOCK.findall(text_of(page)) if of == language]


@pytest.mark.parametrize('page, text', blocks_of('yaml'))
def test_printed_yaml_is_taken(tmp_path, page, text):
    """A printed file of parameters or of an alignment has names and values that are taken."""
    path = tmp_path / 'printed.yaml'
    path.write_text(text)
    (tmp_path / 'lepton.yaml').write_text(LEPTON)
    if 'ros__parameters' in text:
        with_changes(DEFAULTS, read_params(path))
    else:
        assert load_alignment(path).thermal.size == (160, 120)


@pytest.mark.parametrize('page, text', blocks_of('xml'))
def test_printed_xml_is_well_formed(page, text):
    assert len(ElementTree.fromstring(f'<all>{text}</all>'))


def test_printed_python_runs(tmp_path, monkeypatch):
    """The blocks of the page about Python run one after the other, on a CPU."""
    cv2 = pytest.importorskip('cv2')
    pytest.importorskip('torch', reason='torch is not installed')
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(1)
    rgb = noise.integers(0, 256, (48, 64, 3), np.uint8)
    thermal = noise.integers(0, 256, (48, 64), np.uint8)
    cv2.imwrite('rgb.png', rgb)
    cv2.imwrite('thermal.png', thermal)
    Alignment(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (64, 48),
              (64, 48)).save(tmp_path / 'align.yaml')
    names = {'pairs': [(1, rgb, thermal), (2, rgb, thermal)]}

    for _, text in [row for row in blocks_of('python') if row[0] == 'docs/python.md']:
        exec(compile(text.replace("'cuda'", "'cpu'"), 'python.md', 'exec'), names)
        assert names['fused'].shape == (48, 64, 3)

    assert cv2.imread('fused.png').shape == (48, 64, 3)
