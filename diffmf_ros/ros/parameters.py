# SPDX-License-Identifier: Apache-2.0
"""The settings as ROS parameters.

Declared from core.settings, read back, and changed while the node runs.

A change of several parameters counts as a whole or not at all, and what cannot be done is refused
with the reason.
"""

from collections.abc import Callable

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..core.frames import DiffmfError
from ..core.settings import DEFAULTS, ParameterSpec, Settings, iter_specs, with_changes


def declare(node: Node) -> None:
    """Declare every setting on node.

    Raises rclpy's ParameterException when an override lies outside the range of its setting.
    """
    for item in iter_specs():
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
    given = {item.name: node.get_parameter(item.name).value for item in iter_specs()}
    return with_changes(DEFAULTS, given | (changes or {}))


def is_kept(node: Node, parameter: Parameter) -> bool:
    """Whether a parameter is read-only and has this value already."""
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
    names = {item.name for item in iter_specs()}

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
