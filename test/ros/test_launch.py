# SPDX-License-Identifier: Apache-2.0
"""The launch files, wherever the `launch` of a ROS installation is at hand."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from diffmf_ros.core.parameter_spec import read_params
from diffmf_ros.core.settings import DEFAULTS, iter_specs, with_changes
from diffmf_ros.io.resources import FASTDDS_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
FUSION_ARGUMENTS = {'namespace', 'use_sim_time', 'autostart', 'use_respawn', 'shutdown_on_exit',
                    'log_level', 'rgb_image', 'rgb_camera_info', 'thermal_image',
                    'thermal_camera_info',
                    'fused_image', 'record', 'fusion_profile', 'fusion_params_file',
                    'fusion_model', 'fusion_preset',
                    'fusion_weights',
                    'fusion_device', 'alignment_file', 'rgb_transport', 'thermal_transport',
                    'rgb_offset_ms',
                    'thermal_offset_ms', 'hold_last_ms'}
# What other packages call things of their own, so that a launch file that includes this one would
# hand it down.
COMMON_NAMES = {'model', 'preset', 'weights', 'device', 'params_file', 'config', 'rate'}
DEADLINE_S = 60.0
HUGE_PAGES = 'THP_MEM_ALLOC_ENABLE'

# Our own launch/ folder is importable as a namespace, so ask for a module that only the real one
# has.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('launch.actions') is None
    or importlib.util.find_spec('launch_ros') is None,
    reason='launch is not installed')


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A prefix that holds the package as an installation does, first in the ament index."""
    share = tmp_path / 'share' / 'diffmf_ros'
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
    for folder in (share, index, tmp_path / 'lib'):
        folder.mkdir(parents=True)
    (index / 'diffmf_ros').touch()
    for source, target in (('launch', share / 'launch'), ('config', share / 'config'),
                           ('resource/lib', tmp_path / 'lib' / 'diffmf_ros')):
        target.symlink_to(ROOT / source)
    for name, first in (('AMENT_PREFIX_PATH', tmp_path), ('PYTHONPATH', ROOT),
                        ('PATH', Path(sys.executable).parent)):
        monkeypatch.setenv(name, str(first), prepend=os.pathsep)
    return share


def description_of(path: Path):
    return runpy.run_path(str(path))['generate_launch_description']()


def arguments_of(description) -> dict[str, list]:
    """Every argument that `ros2 launch --show-args` lists, included files too, with its default.
    """
    return {argument.name: argument.default_value
            for argument in description.get_launch_arguments()}


def run(description, *, until=lambda printed: False) -> tuple[dict[str, int], str]:
    """Run a launch until it ends by itself, or until(all that was printed) is true.

    Return the exit code of each process, by its name or, of several of one name, by name and
    number, and all that they printed.
    """
    from launch import LaunchDescription, LaunchService
    from launch.actions import EmitEvent, RegisterEventHandler, Shutdown, TimerAction
    from launch.event_handlers import OnProcessExit, OnProcessIO
    from launch.events import Shutdown as ShutdownEvent

    printed, codes = [], {}

    def collect(event):
        printed.append(event.text.decode())
        return EmitEvent(event=ShutdownEvent(reason='seen enough')) if until(
            ''.join(printed)) else None

    def note_exit(event, context):
        name = event.process_name.rpartition('-')[0]
        codes[event.process_name if name in codes else name] = event.returncode

    service = LaunchService()
    service.include_launch_description(LaunchDescription([
        RegisterEventHandler(OnProcessIO(on_stdout=collect, on_stderr=collect)),
        RegisterEventHandler(OnProcessExit(on_exit=note_exit)),
        TimerAction(period=DEADLINE_S, actions=[Shutdown(reason='the deadline has passed')]),
        description]))
    service.run()
    return codes, ''.join(printed)


def test_fusion_arguments_are_shown(installed):
    arguments = arguments_of(description_of(installed / 'launch' / 'fusion.launch.py'))
    assert arguments.keys() == FUSION_ARGUMENTS


def test_replay_takes_fusion_arguments(installed):
    """Replay needs a bag and takes every argument of fusion."""
    arguments = arguments_of(description_of(installed / 'launch' / 'replay.launch.py'))
    assert FUSION_ARGUMENTS < arguments.keys()
    assert [name for name, default in arguments.items() if default is None] == ['bag']


def test_replay_ends_with_bag(installed, domain, small_bag, monkeypatch):
    """Replay fuses a bag and ends with it."""
    # Given a user who has set neither transports nor huge pages
    for variable in (*FASTDDS_VARIABLES, HUGE_PAGES):
        # so that what the launch sets is taken away after the test
        monkeypatch.setenv(variable, '')
        monkeypatch.delenv(variable)
    # when the bag of 1 s is replayed into the weight-free fusion
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    codes, printed = run(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(installed / 'launch' / 'replay.launch.py')),
        launch_arguments={'bag': str(small_bag), 'fusion_model': 'classical'}.items()))
    # then the node was configured, all was played, and both processes ended cleanly
    assert 'configured: classical on cpu' in printed
    assert 'published 90 messages' in printed
    assert codes == {'fusion_node': 0, 'bag_player': 0}
    set_for_cameras = {os.environ.get(name) for name in FASTDDS_VARIABLES} - {None, ''}
    assert set_for_cameras == {str(ROOT / 'config' / 'fastdds.xml')}
    assert os.environ[HUGE_PAGES] == '1'


def launch_node(installed, **arguments) -> subprocess.CompletedProcess:
    """Run fusion.launch.py as `ros2 launch` does, in a process of its own."""
    code = ('import runpy, sys; from launch import LaunchService; service = '
            'LaunchService(argv=sys.argv[2:]); given = (item.split(":=", 1) for item in '
            'sys.argv[2:]); '
            'service.context.launch_configurations.update(given); '
            'describe = runpy.run_path(sys.argv[1])["generate_launch_description"]; '
            'service.include_launch_description(describe()); sys.exit(service.run())')
    command = [sys.executable, '-c', code, str(installed / 'launch' / 'fusion.launch.py')]
    return subprocess.run([*command, *(f'{name}:={value}' for name, value in arguments.items())],
                          capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.mark.parametrize('shutdown_on_exit, code', [('false', 0), ('true', 1)])
def test_dead_node_ends_launch(installed, domain, shutdown_on_exit, code):
    """A node that dies ends the launch with a code where that is wanted."""
    ended = launch_node(installed, fusion_model='clasical', shutdown_on_exit=shutdown_on_exit)

    printed = ended.stdout + ended.stderr
    assert ended.returncode == code, printed
    assert 'exit code 1' in printed


def test_argument_names_are_distinctive(installed):
    """No argument has a name that other packages are likely to use."""
    assert not FUSION_ARGUMENTS & COMMON_NAMES


def test_unknown_arguments_end_launch(installed, domain):
    """Unknown arguments are refused with the ones that were meant, and nothing starts."""
    ended = launch_node(installed, modell='classical', detector='yolo')

    printed = ended.stdout + ended.stderr
    assert 'modell is not an argument of fusion.launch.py, did you mean fusion_model?' in printed
    assert 'detector is not an argument' in printed and ended.returncode == 1
    assert 'process started' not in printed


def test_unknown_arguments_are_refused(installed, monkeypatch):
    """Started by itself the file knows all arguments; included by another one it does not."""
    from launch import LaunchContext
    functions = runpy.run_path(str(installed / 'launch' / 'fusion.launch.py'))
    context = LaunchContext(argv=['detector:=yolo', 'rgb_imag:=/camera/image'])
    context.launch_configurations['fusion_params_file'] = str(installed / 'config/fusion.yaml')

    for name in ('all.launch.py', 'fusion.launch.py'):
        monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', 'robot', name])
        functions['check'](context)

    for names in (['diffmf_ros', 'fusion.launch.py'],
                  [str(installed / 'launch' / 'fusion.launch.py')]):
        monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', *names])
        with pytest.raises(RuntimeError, match='detector is not an argument of fusion.launch.py; '
                                               'rgb_imag is not .*, did you mean rgb_image[?]'):
            functions['check'](context)


@pytest.mark.parametrize('profile', ['vehicle', 'uav'])
def test_profiles_reach_the_node(installed, domain, profile):
    """Every value of a profile is a parameter, is not the default, and the node starts with it."""
    values = read_params(ROOT / 'config' / 'profiles' / f'{profile}.yaml')
    with_changes(DEFAULTS, values)
    assert values and not values.items() & {spec.name: spec.value
                                            for spec in iter_specs(DEFAULTS)}.items()

    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    _, printed = run(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(installed / 'launch' / 'fusion.launch.py')),
        launch_arguments={'fusion_profile': profile, 'fusion_model': 'classical'}.items()),
        until=lambda printed: 'configured: classical' in printed)

    assert 'configured: classical' in printed and 'unknown parameter' not in printed


def test_params_file_wins_over_profile(installed, tmp_path):
    """A params file of the user comes after the profile, the default one before it."""
    from launch import LaunchContext
    functions = runpy.run_path(str(installed / 'launch' / 'fusion.launch.py'))
    own = tmp_path / 'own.yaml'
    own.touch()
    context = LaunchContext()
    context.launch_configurations.update(
        fusion_profile='uav', fusion_params_file=str(installed / 'config/fusion.yaml'))
    names = [path.name for path in functions['params_files'](context)]
    assert names == ['fusion.yaml', 'uav.yaml']

    context.launch_configurations['fusion_params_file'] = str(own)

    assert [path.name for path in functions['params_files'](context)] == ['uav.yaml', 'own.yaml']


def test_missing_params_file_is_refused(installed, domain):
    """A params file that does not exist is refused."""
    ended = launch_node(installed, fusion_params_file='/nowhere/fusion.yaml')

    printed = ended.stdout + ended.stderr
    assert ('fusion_params_file: there is no file /nowhere/fusion.yaml' in printed
            and ended.returncode == 1)


def test_the_arguments_reach_the_node(installed, domain, tmp_path):
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    given = {'fusion_model': 'classical', 'rgb_image': '/camera/image_raw',
             'thermal_transport': 'compressed', 'thermal_image': '/lepton/image',
             'fused_image': '/front/fused',
             'record': str(tmp_path / 'bag'), 'rgb_offset_ms': '1',
             'thermal_offset_ms': '-37000.5', 'hold_last_ms': '50'}

    _, printed = run(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(installed / 'launch' / 'fusion.launch.py')),
        launch_arguments=given.items()),
        until=lambda printed: 'recording /front/fused ' in printed
                     and 'thermal: listening to' in printed)

    assert 'rgb: listening to /camera/image_raw (sensor_msgs/msg/Image)' in printed
    assert ('thermal: listening to /lepton/image/compressed '
            '(sensor_msgs/msg/CompressedImage)' in printed)
    assert 'recording /front/camera_info ' in printed and 'unknown parameter' not in printed


def test_what_the_user_has_set_stays(installed, monkeypatch):
    from launch import LaunchContext
    monkeypatch.setenv(HUGE_PAGES, '0')
    monkeypatch.setenv(FASTDDS_VARIABLES[0], '/home/user/dds.xml')
    functions = runpy.run_path(str(installed / 'launch' / 'fusion.launch.py'))
    assert functions['environment'](LaunchContext()) == []


def test_rigs_start_node_per_entry(installed, domain, tmp_path):
    """Rigs starts a node for every entry with its own arguments."""
    rigs = tmp_path / 'rigs.yaml'
    rigs.write_text('- {namespace: front, fusion_model: classical}\n'
                    '- {namespace: rear, fusion_model: diffmf, fusion_preset: nano, autostart: '
                    'true}\n')
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    codes, printed = run(
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(installed / 'launch' / 'rigs.launch.py')),
                                 launch_arguments={'rigs': str(rigs)}.items()),
        until=lambda printed: printed.count('configured: ') == 2)

    assert '[front.fusion_node]: configured: classical' in printed
    assert '[rear.fusion_node]: configured: diffmf nano' in printed
    assert list(codes.values()) == [0, 0]


@pytest.mark.parametrize('content, words', [
    ('namespace: front', 'expected a list of rigs'),
    ('[]', 'expected a list of rigs'),
    ('- {fusion_model: classical}', 'namespace of its own'),
    ('- {namespace: a}\n- {namespace: a}', 'namespace of its own'),
    ('- {namespace: a, fusion_modell: classical}',
     'unknown arguments fusion_modell, did you mean fusion_model.; known: alignment_file'),
])
def test_impossible_rigs_file_is_refused(installed, tmp_path, content, words):
    """A rigs file that cannot work is refused."""
    functions = runpy.run_path(str(installed / 'launch' / 'rigs.launch.py'))
    path = tmp_path / 'rigs.yaml'
    path.write_text(content)

    with pytest.raises(ValueError, match=words):
        functions['read_rigs'](path, FUSION_ARGUMENTS)


def test_shipped_rigs_are_readable(installed):
    """The rigs that are shipped can be read."""
    functions = runpy.run_path(str(installed / 'launch' / 'rigs.launch.py'))

    rigs = functions['read_rigs'](installed / 'config' / 'rigs.yaml', FUSION_ARGUMENTS)

    assert [rig['namespace'] for rig in rigs] == ['front', 'rear']
