# SPDX-License-Identifier: Apache-2.0
"""Several camera pairs at once: ros2 launch diffmf_ros rigs.launch.py rigs:=PATH.

PATH is a YAML list like config/rigs.yaml. Each entry is one fusion node: its keys are arguments of
fusion.launch.py, and it must have a namespace of its own.
"""

from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from diffmf_ros.core.parameter_spec import meant

FUSION = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'launch', 'fusion.launch.py'])
RIGS = PathJoinSubstitution([FindPackageShare('diffmf_ros'), 'config', 'rigs.yaml'])


def read_rigs(path: Path, known: set[str]) -> list[dict[str, str]]:
    """Return the launch arguments of each rig.

    Raises ValueError naming what is wrong in the file.
    """
    rigs = yaml.safe_load(path.read_text(encoding='utf-8'))
    if not isinstance(rigs, list) or not rigs or not all(isinstance(rig, dict) for rig in rigs):
        raise ValueError(f'{path}: expected a list of rigs, each with a namespace and arguments '
                         f'of fusion.launch.py')
    namespaces = [rig.get('namespace') for rig in rigs]
    if not all(namespaces) or len(set(namespaces)) < len(namespaces):
        raise ValueError(f'{path}: every rig needs a namespace of its own, got {namespaces}')
    for rig in rigs:
        if unknown := set(rig) - known:
            named = ', '.join(f'{name}{meant(name, known)}' for name in sorted(unknown))
            raise ValueError(f'{path}: rig {rig["namespace"]} has the unknown arguments {named}; '
                             f'known: {", ".join(sorted(known))}')
    return [{name: str(value).lower() if isinstance(value, bool) else str(value) for name,
             value in rig.items()}
            for rig in rigs]


def nodes(context: LaunchContext) -> list[GroupAction]:
    """Return one group for each rig, so that the arguments of one do not become those of the next.
    """
    source = PythonLaunchDescriptionSource(FUSION)
    known = {argument.name
             for argument in source.get_launch_description(context).get_launch_arguments()}
    path = Path(LaunchConfiguration('rigs').perform(context))
    return [GroupAction([IncludeLaunchDescription(source, launch_arguments=rig.items())])
            for rig in read_rigs(path, known)]


def generate_launch_description() -> LaunchDescription:
    """Return the argument and the nodes."""
    return LaunchDescription([
        DeclareLaunchArgument('rigs', default_value=RIGS, description='YAML list of camera pairs'),
        OpaqueFunction(function=nodes)])
