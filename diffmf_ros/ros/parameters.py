# SPDX-License-Identifier: Apache-2.0
"""The settings as ROS parameters.

Declared from core.settings, read back, and changed while the node runs.

A change of several parameters counts as a whole or not at all, and what cannot be done is refused
with the reason. Parameters that no part of the node reads ROS itself ignores in silence: unused()
names them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..core.frames import DiffmfError
from ..core.parameter_spec import OF_ROS, PARAMETERS, ParameterSpec, meant
from ..core.settings import DEFAULTS, Settings, iter_specs, with_changes


def declare(node: Node) -> None:
    """Declare every setting on node.

    Raises rclpy's ParameterException when an override lies outside the range of its setting.
    """
    for item in iter_specs(DEFAULTS):
        node.declare_parameter(item.name, item.value, descriptor(item))


def descriptor(item: ParameterSpec) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows of one setting.

    Typing is dynamic because `scale:=1` is an integer to ROS; the settings check the type
    themselves.
    """
    result = ParameterDescriptor(description=item.description, dynamic_typing=True)
    if item.choices is not None:
        result.additional_constraints = 'one of: ' + ', '.join(item.choices)
    if isinstance(item.value, float) and item.low is not None:
        result.floating_point_range = [FloatingPointRange(from_value=item.low, to_value=item.high)]
    elif item.low is not None:
        result.integer_range = [IntegerRange(from_value=item.low, to_value=item.high, step=1)]
    return result


def read(node: Node, changes: dict | None = None) -> Settings:
    """Return the settings that the parameters of node describe, with changes on top.

    Raises SettingsError.
    """
    given = {item.name: node.get_parameter(item.name).value for item in iter_specs(DEFAULTS)}
    return with_changes(DEFAULTS, given | (changes or {}))


def is_kept(node: Node, parameter: Parameter) -> bool:
    """Return whether a parameter is read-only and has this value already."""
    if not node.has_parameter(parameter.name) or not node.describe_parameter(
            parameter.name).read_only:
        return False
    return node.get_parameter(parameter.name).value == parameter.value


def write(node: Node, settings: Settings) -> None:
    """Set the parameters of node to settings, where they differ."""
    different = [Parameter(item.name, value=item.value) for item in iter_specs(settings)
                 if node.get_parameter(item.name).value != item.value]
    if different:
        node.set_parameters_atomically(different)


def guard(node: Node, apply: Callable[[Settings], None]) -> None:
    """Have every later change of settings on node checked and applied, or refused with the reason.

    apply(settings) puts the settings into effect; what it raises (a DiffmfError) is the reason of
    a refusal. Parameters that are not settings, such as use_sim_time, are left alone.
    """
    names = {item.name for item in iter_specs(DEFAULTS)}

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters if p.name in names}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            apply(read(node, changes))
        except DiffmfError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def unused(node: Node, arguments: Sequence[str]) -> list[str]:
    """Return a sentence for each parameter, and each file of parameters, that has no effect on
    node.

    Args:
        node: with all its parameters declared.
        arguments: the command line of the process.
    """
    known = [item.name for item in iter_specs(DEFAULTS)]
    said = [f'unknown parameter {name}{meant(name, known)}'
            # what was given; rclpy has no public name for it
            for name in sorted(node._parameter_overrides)
            if not node.has_parameter(name) and not name.startswith(OF_ROS)]
    for path in _files(arguments):
        names = list(_nodes_of(path))
        if names and not any(_means(name, node.get_fully_qualified_name()) for name in names):
            said.append(f'nothing of {path} is used: its parameters are for {", ".join(names)}, '
                        f'and this node is {node.get_fully_qualified_name()} (/** means every '
                        f'node)')
    return said


def _files(arguments: Sequence[str]) -> Iterator[str]:
    for option, value in zip(arguments, arguments[1:]):
        if option == '--params-file':
            yield value


def _nodes_of(path: str) -> Iterator[str]:
    """The names of the nodes that a file has parameters for.

    Nothing for one that cannot be read.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # rclpy has refused it already
    open_ends = [('', content)]
    while open_ends:
        name, block = open_ends.pop()
        if not isinstance(block, dict):
            continue
        if PARAMETERS in block:
            yield name
        open_ends += [(f'{name}/{key.strip("/")}', value) for key, value in block.items()
                      if isinstance(key, str) and key != PARAMETERS]


def _means(pattern: str, node_name: str) -> bool:
    """Whether a name of a file, in which * stands for one part and ** for any number, is that of a
    node."""
    parts = [{'**': r'(/\w+)*', '*': r'/\w+'}.get(part, '/' + re.escape(part))
             for part in pattern.strip('/').split('/')]
    return re.fullmatch(''.join(parts), node_name) is not None
