# SPDX-License-Identifier: Apache-2.0
"""Start the fusion node: ros2 launch diffmf_ros fusion.launch.py [argument:=value ...].

Names that other packages are likely to have too begin with fusion_: a launch file that includes
this one hands its arguments down by name. Started by itself it refuses arguments that it does not
have; included, it warns of those that look like misspelled ones of its own.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from diffmf_ros.core.parameter_spec import nearest
from diffmf_ros.io.resources import fastdds_environment

CONFIG = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'config'])
PARAMS_FILE = PathJoinSubstitution([CONFIG, 'fusion.yaml'])
# Names of config/profiles.
PROFILES = ('vehicle', 'uav')
# Argument: the parameter that it sets, its type, and what it is. Those that are empty leave
# params_file as it is.
PARAMETERS = {
    'fusion_model': ('model', str, 'diffmf, s4fusion, refinefuse, classical'),
    'fusion_preset': ('preset', str, 'auto, light, base, light-s4, nano'),
    'fusion_weights': ('weights', str, 'path of a .safetensors file'),
    'fusion_device': ('device', str, 'auto, cpu, cuda'),
    'alignment_file': ('alignment.file', str, 'path of an alignment YAML'),
    'rgb_transport': ('input.rgb_transport', str, 'raw or compressed'),
    'thermal_transport': ('input.thermal_transport', str, 'raw or compressed'),
    'rgb_offset_ms': ('sync.rgb_offset_ms', float, 'added to every RGB stamp'),
    'thermal_offset_ms': ('sync.thermal_offset_ms', float, 'added to every thermal stamp'),
    'hold_last_ms': ('sync.hold_last_ms', float,
                     'how old a thermal frame may be that is used again'),
}
ARGUMENTS = (
    DeclareLaunchArgument('fusion_params_file', default_value=PARAMS_FILE,
                          description='YAML of node parameters'),
    DeclareLaunchArgument('fusion_profile', default_value='', choices=['', *PROFILES],
                          description='values for this kind of platform; what fusion_params_file '
                          'says wins'),
    DeclareLaunchArgument('namespace', default_value='',
                          description='namespace of the node and its topics'),
    DeclareLaunchArgument('use_sim_time', default_value='false',
                          description='take the time from /clock'),
    DeclareLaunchArgument('autostart', default_value='true',
                          description='configure and activate; false: wait for lifecycle '
                          'transitions'),
    DeclareLaunchArgument('use_respawn', default_value='false',
                          description='start the node again 2 s after it has ended'),
    DeclareLaunchArgument('shutdown_on_exit', default_value='false',
                          description='end the launch with the node; 1 when it has died'),
    DeclareLaunchArgument('log_level', default_value='info',
                          description='debug, info, warn, error or fatal'),
    DeclareLaunchArgument('rgb_image', default_value='rgb/image_raw',
                          description='topic of the RGB images'),
    DeclareLaunchArgument('rgb_camera_info', default_value='',
                          description='topic of its calibration; empty: camera_info beside the '
                          'images'),
    DeclareLaunchArgument('thermal_image', default_value='thermal/image_raw',
                          description='topic of the thermal images'),
    DeclareLaunchArgument('thermal_camera_info', default_value='',
                          description='topic of its calibration; empty: camera_info beside the '
                          'images'),
    DeclareLaunchArgument('fused_image', default_value='fused/image',
                          description='topic of the fused images; their camera_info is beside it'),
    DeclareLaunchArgument('record', default_value='',
                          description='folder of a bag to make of the fused images; empty: none'),
    *(DeclareLaunchArgument(name, default_value='',
                            description=f'{text}; empty: as fusion_params_file')
      for name, (_, _, text) in PARAMETERS.items()),
)
NAME = 'fusion.launch.py'
NAMES = tuple(argument.name for argument in ARGUMENTS)
# A node that cannot start shall not load the machine with trying.
RESPAWN_DELAY_S = 2.0


def environment(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Return the variables that large images and large matrices need, unless the user chose."""
    variables = fastdds_environment(os.environ)
    if 'THP_MEM_ALLOC_ENABLE' not in os.environ:
        variables['THP_MEM_ALLOC_ENABLE'] = '1'
    return [SetEnvironmentVariable(*item) for item in variables.items()]


def started_by_itself(arguments: Sequence[str]) -> bool:
    """Return whether `ros2 launch` was told to start this file, not one that includes it.

    That one may have the same name.
    """
    here = Path(__file__).resolve()
    return ('diffmf_ros', NAME) in zip(arguments, arguments[1:]) or any(
        Path(argument).resolve() == here for argument in arguments)


def check(context: LaunchContext) -> None:
    """Warn of arguments of the command line that look like misspelled ones of this file.

    Others may belong to a launch file that includes this one. Raises RuntimeError for any unknown
    one where none does, and for a params file that does not exist.
    """
    known = {name.removeprefix('fusion_'): name for name in NAMES}
    given = [argument.partition(':=')[0] for argument in context.argv if ':=' in argument]
    unknown = {name: known.get(nearest(name.removeprefix('fusion_'), known), '') for name in given
               if name not in NAMES}
    said = [f'{name} is not an argument of {NAME}' + (f', did you mean {meant}?' if meant else '')
            for name, meant in unknown.items() if meant or started_by_itself(sys.argv)]
    if said and started_by_itself(sys.argv):
        raise RuntimeError('; '.join(said) + f'; it has {", ".join(sorted(NAMES))}')
    for sentence in said:
        get_logger(NAME).warning(sentence)
    path = LaunchConfiguration('fusion_params_file').perform(context)
    if not Path(path).is_file():
        raise RuntimeError(f'fusion_params_file: there is no file {path}')


def params_files(context: LaunchContext) -> list[Path]:
    """Return the files of parameters; each wins over those before it."""
    chosen = Path(LaunchConfiguration('fusion_params_file').perform(context))
    profile = LaunchConfiguration('fusion_profile').perform(context)
    if not profile:
        return [chosen]
    beneath = Path(CONFIG.perform(context)) / 'profiles' / f'{profile}.yaml'
    is_default = chosen == Path(PARAMS_FILE.perform(context))
    return [chosen, beneath] if is_default else [beneath, chosen]


def remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return the topics that the arguments name. The node looks for the rest beside the images."""
    chosen = {name: LaunchConfiguration(name).perform(context) for name in (
        'rgb_image', 'thermal_image', 'rgb_camera_info', 'thermal_camera_info', 'fused_image')}
    fused, beside = chosen['fused_image'], chosen['fused_image'].rpartition('/')[0]
    rules = {'rgb/image_raw': chosen['rgb_image'], 'thermal/image_raw': chosen['thermal_image'],
             'rgb/camera_info': chosen['rgb_camera_info'],
             'thermal/camera_info': chosen['thermal_camera_info'],
             'fused/image': fused, 'fused/image/compressed': f'{fused}/compressed',
             'fused/camera_info': f'{beside}/camera_info' if beside else 'camera_info'}
    return [rule for rule in rules.items() if rule[1] and rule[0] != rule[1]]


def fusion_node(context: LaunchContext) -> list[Node]:
    """Return the node. The arguments win over the params file; empty ones are left out."""
    overrides = {parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
                 for name, (parameter, kind, _) in PARAMETERS.items()
                 if LaunchConfiguration(name).perform(context)}
    for name in ('use_sim_time', 'autostart'):
        overrides[name] = ParameterValue(LaunchConfiguration(name), value_type=bool)
    return [Node(
        package='diffmf_ros', executable='fusion_node', name='fusion_node',
        namespace=LaunchConfiguration('namespace'),
        parameters=[*map(str, params_files(context)), overrides],
        remappings=remappings(context),
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=LaunchConfiguration('use_respawn'), respawn_delay=RESPAWN_DELAY_S,
        on_exit=end_launch if chosen_true(context, 'shutdown_on_exit') else None,
        output='screen')]


def recorder(context: LaunchContext) -> list[Node]:
    """Return the recorder of the fused images, where one is asked for."""
    path = LaunchConfiguration('record').perform(context)
    topics = ['fused/image', 'fused/camera_info', 'fused/status']
    return [Node(package='diffmf_ros', executable='recorder', name='fusion_recorder',
                 namespace=LaunchConfiguration('namespace'), remappings=remappings(context),
                 arguments=[path, *topics], output='screen')] if path else []


def chosen_true(context: LaunchContext, name: str) -> bool:
    """Return whether an argument is true. Launch refuses what is neither true nor false."""
    return IfCondition(LaunchConfiguration(name)).evaluate(context)


def end_launch(exited: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """End the launch. Raises RuntimeError for a node that has died: that makes the exit code 1."""
    if context.is_shutdown:
        return None
    if exited.returncode:
        raise RuntimeError(f'{exited.process_name} has died with exit code {exited.returncode}')
    return Shutdown(reason=f'{exited.process_name} has ended')


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the environment and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=check),
                              OpaqueFunction(function=environment),
                              OpaqueFunction(function=fusion_node),
                              OpaqueFunction(function=recorder)])
