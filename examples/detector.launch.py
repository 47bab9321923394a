# SPDX-License-Identifier: Apache-2.0
"""The fusion node with an unchanged detector behind it, people counted on RGB, thermal and fused.

ros2 launch examples/detector.launch.py detector:=yolox_nano.onnx rgb_image:=/camera/image_raw
"""

import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

IMAGES = 'rgb_image', 'thermal_image', 'fused_image'
ARGUMENTS = (
    DeclareLaunchArgument('detector', description='ONNX file of a YOLO-style detector'),
    DeclareLaunchArgument('rgb_image', default_value='rgb/image_raw'),
    DeclareLaunchArgument('thermal_image', default_value='thermal/image_raw'),
    DeclareLaunchArgument('fused_image', default_value='fused/image'),
    DeclareLaunchArgument('compare', default_value='true',
                          description='true: all three images; false: the fused image only'),
    DeclareLaunchArgument('classes', default_value='', description='names of the classes'),
    DeclareLaunchArgument('wanted', default_value='person', description='the class to count'),
)


def detector_node(context: LaunchContext) -> list[ExecuteProcess]:
    """Return the example node, run by the Python that runs this launch."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context)
             for argument in ARGUMENTS}
    topics = [value['rgb_image'], value['thermal_image']] if value['compare'] == 'true' else []
    topics = f'[{", ".join([*topics, value["fused_image"]])}]'
    parameters = {'detector': value['detector'], 'topics': topics,
                  'classes': value['classes'], 'wanted': value['wanted']}
    given = [text for name, text in parameters.items() if text
             for text in ('-p', f'{name}:={text}')]
    script = Path(__file__).with_name('detector_node.py')
    command = [sys.executable, str(script), '--ros-args', *given]
    return [ExecuteProcess(cmd=command, output='screen')]


def generate_launch_description() -> LaunchDescription:
    """Return fusion.launch.py and the detector."""
    fusion = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'launch', 'fusion.launch.py'])
    return LaunchDescription([
        *ARGUMENTS,
        IncludeLaunchDescription(PythonLaunchDescriptionSource(fusion), launch_arguments={
            name: LaunchConfiguration(name) for name in IMAGES}.items()),
        OpaqueFunction(function=detector_node)])
