# SPDX-License-Identifier: Apache-2.0
"""Fuse a bag live: ros2 launch diffmf_ros replay.launch.py bag:=PATH [argument:=value ...].

Every argument of fusion.launch.py works too: rgb_image, thermal_image and rgb_camera_info name the
topics of the bag that the node reads. The launch ends when the bag does.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

FUSION = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'launch', 'fusion.launch.py'])
WAIT_S = '30'


def bag_player(context: LaunchContext) -> list[Node]:
    """Return the player; it starts once somebody subscribes to every image topic that it plays."""
    arguments = [LaunchConfiguration('bag'), '--rate', LaunchConfiguration('rate'),
                 '--loop', LaunchConfiguration('loop'), '--clock', '--wait-for-subscribers',
                 WAIT_S]
    if topics := LaunchConfiguration('topics').perform(context).split():
        arguments += ['--topics', *topics]
    return [Node(package='diffmf_ros', executable='bag_player', output='screen',
                 arguments=arguments, on_exit=Shutdown())]


def generate_launch_description() -> LaunchDescription:
    """Return the fusion node on simulated time, and the bag player that makes this time."""
    fusion = IncludeLaunchDescription(PythonLaunchDescriptionSource(FUSION),
                                      launch_arguments={'use_sim_time': 'true'}.items())
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='a rosbag2 folder, or a .db3 or .mcap file'),
        DeclareLaunchArgument('rate', default_value='1.0', description='bag seconds per second'),
        DeclareLaunchArgument('loop', default_value='1',
                              description='how often to play; 0: until stopped'),
        DeclareLaunchArgument('topics', default_value='',
                              description='play these only, separated by spaces; empty: all of '
                              'the bag'),
        fusion, OpaqueFunction(function=bag_player)])
