# SPDX-License-Identifier: Apache-2.0
"""Start the fusion node: ros2 launch diffmf_ros fusion.launch.py [argument:=value ...]."""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from diffmf_ros.resources import fastdds_environment

PARAMS_FILE = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'config', 'fusion.yaml'])
ARGUMENTS = (
    DeclareLaunchArgument('params_file', default_value=PARAMS_FILE, description='YAML of node parameters'),
    DeclareLaunchArgument('namespace', default_value='', description='namespace of the node and its topics'),
    DeclareLaunchArgument('use_sim_time', default_value='false', description='take the time from /clock'),
    DeclareLaunchArgument('autostart', default_value='true',
                          description='configure and activate; false: wait for lifecycle transitions'),
    DeclareLaunchArgument('use_respawn', default_value='false',
                          description='start the node again 2 s after it has ended'),
    DeclareLaunchArgument('shutdown_on_exit', default_value='false',
                          description='end the launch with the node; 1 when it has died'),
    DeclareLaunchArgument('log_level', default_value='info', description='debug, info, warn, error or fatal'),
    DeclareLaunchArgument('model', default_value='',
                          description='diffmf, s4fusion, refinefuse, classical; empty: as params_file'),
    DeclareLaunchArgument('preset', default_value='',
                          description='auto, light, base, light-s4, nano; empty: as params_file'),
    DeclareLaunchArgument('weights', default_value='', description='.safetensors; empty: as params_file'),
    DeclareLaunchArgument('rgb_image', default_value='rgb/image_raw', description='topic of the RGB camera'),
    DeclareLaunchArgument('rgb_camera_info', default_value='rgb/camera_info',
                          description='topic of its calibration'),
    DeclareLaunchArgument('thermal_image', default_value='thermal/image_raw',
                          description='topic of the thermal camera'),
    DeclareLaunchArgument('thermal_camera_info', default_value='thermal/camera_info',
                          description='topic of its calibration'),
)
# A node that cannot start shall not load the machine with trying.
RESPAWN_DELAY_S = 2.0


def environment(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Give every process of this launch the shipped Fast DDS profile and torch's huge pages, unless the user chose."""
    variables = fastdds_environment(os.environ)
    if 'THP_MEM_ALLOC_ENABLE' not in os.environ:
        variables['THP_MEM_ALLOC_ENABLE'] = '1'
    return [SetEnvironmentVariable(*item) for item in variables.items()]


def fusion_node(context: LaunchContext) -> list[Node]:
    """Return the node. The parameters of the launch line win over params_file; empty ones are left out."""
    chosen = {name: LaunchConfiguration(name) for name in ('model', 'preset', 'weights')}
    overrides = {name: ParameterValue(value, value_type=str)
                 for name, value in chosen.items() if value.perform(context)}
    for name in ('use_sim_time', 'autostart'):
        overrides[name] = ParameterValue(LaunchConfiguration(name), value_type=bool)
    return [Node(
        package='diffmf_ros', executable='fusion_node', name='fusion_node',
        namespace=LaunchConfiguration('namespace'),
        parameters=[LaunchConfiguration('params_file'), overrides],
        remappings=[('rgb/image_raw', LaunchConfiguration('rgb_image')),
                    ('rgb/image_raw/compressed', [LaunchConfiguration('rgb_image'), '/compressed']),
                    ('rgb/camera_info', LaunchConfiguration('rgb_camera_info')),
                    ('thermal/image_raw', LaunchConfiguration('thermal_image')),
                    ('thermal/image_raw/compressed', [LaunchConfiguration('thermal_image'), '/compressed']),
                    ('thermal/camera_info', LaunchConfiguration('thermal_camera_info'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=LaunchConfiguration('use_respawn'), respawn_delay=RESPAWN_DELAY_S,
        on_exit=end_launch if chosen_true(context, 'shutdown_on_exit') else None,
        output='screen')]


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
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=environment),
                              OpaqueFunction(function=fusion_node)])
