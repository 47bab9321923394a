# SPDX-License-Identifier: Apache-2.0
"""The fusion node with yolo_ros behind it, whose detector reads the fused image.

ros2 launch examples/yolo.launch.py model:=yolov8n.pt rgb_image:=/camera/image_raw
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

IMAGES = {'rgb_image': 'rgb/image_raw', 'thermal_image': 'thermal/image_raw',
          'fused_image': '/fused/image'}  # with a slash: yolo_ros has a namespace of its own
RELIABLE = '1'


def included(package: str, file: str, **arguments) -> GroupAction:
    """Return a launch file of a package; what it declares stays there, `namespace` above all."""
    path = PathJoinSubstitution([FindPackageShare(package), 'launch', file])
    return GroupAction([IncludeLaunchDescription(PythonLaunchDescriptionSource(path),
                                                 launch_arguments=arguments.items())])


def generate_launch_description() -> LaunchDescription:
    """Return fusion.launch.py and the yolo.launch.py of yolo_ros."""
    images = {name: LaunchConfiguration(name) for name in IMAGES}
    return LaunchDescription([
        DeclareLaunchArgument('model', description='weights of the detector, as yolo_ros has it'),
        *(DeclareLaunchArgument(name, default_value=topic) for name, topic in IMAGES.items()),
        included('diffmf_ros', 'fusion.launch.py', **images),
        included('yolo_bringup', 'yolo.launch.py', model=LaunchConfiguration('model'),
                 input_image_topic=images['fused_image'], image_reliability=RELIABLE)])
