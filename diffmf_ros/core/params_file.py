# SPDX-License-Identifier: Apache-2.0
"""The parameter file of the node, for commands that run without ROS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .file_kinds import explained
from .settings import SettingsError

PARAMETERS = 'ros__parameters'
NODE = 'fusion_node'
# Parameters of rclpy itself.
OF_ROS = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')


def read_params(path: str | Path) -> dict[str, Any]:
    """Return {dotted name: value} of what a file sets for the node, without parameters of rclpy.

    Args:
        path: a file such as config/fusion.yaml, or what `ros2 param dump` has written.

    Returns:
        Values by dotted name.

    Raises:
        SettingsError: the file cannot be read, is no parameter file, or has nothing for the node.
            core.settings.with_changes checks the names and the values.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise SettingsError(f'{path} cannot be read: {error.strerror}') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(explained(f'{path} is not readable as YAML: {error}', path)) from error
    found = dict(_blocks(content))
    ours = {
        name: block
        for name, block in found.items()
        if name.rpartition('/')[2] in ('*', '**', NODE)
    }
    if not ours:
        there = f'it has parameters for {", ".join(found)}' if found else f'it has no {PARAMETERS}'
        raise SettingsError(
            explained(
                f'expected in {path} a parameter file as config/fusion.yaml is, for {NODE} or '
                f'/** (every node); {there}',
                path,
            )
        )
    # As in rcl a name says more than a pattern.
    ordered = sorted(ours.items(), key=lambda item: item[0].endswith(NODE))
    values = {name: value for _, block in ordered for name, value in _flat(block)}
    return {name: value for name, value in values.items() if not name.startswith(OF_ROS)}


def _blocks(content: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the name of each node in a parameter file, and its parameters."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == PARAMETERS:
            yield name, value
        else:
            yield from _blocks(value, f'{name}/{str(key).strip("/")}')


def _flat(block: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in block.items() if isinstance(block, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value
