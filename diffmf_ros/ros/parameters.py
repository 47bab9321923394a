# SPDX-License-Identifier: Apache-2.0
"""The settings as ROS parameters: declared from core.settings, read back at configure.

The rule is one: every setting takes effect at configure. While the node is configured a change is
refused with that reason, instead of being accepted without any effect.
"""

from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..core.settings import DEFAULTS, Item, Settings, SettingsError, describe, updated


def declare(node: Node) -> None:
    """Declare every setting on node.

    Raises rclpy's ParameterException when an override lies outside the range of its setting.
    """
    for item in describe():
        node.declare_parameter(item.name, item.value, descriptor(item))


def descriptor(item: Item) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows of one setting.

    Typing is dynamic because `scale:=1` is an integer to ROS; the settings check the type themselves.
    """
    result = ParameterDescriptor(description=item.description, dynamic_typing=True)
    if item.choices is not None:
        result.additional_constraints = 'one of: ' + ', '.join(item.choices)
    if isinstance(item.value, float) and item.low is not None:
        result.floating_point_range = [FloatingPointRange(from_value=item.low, to_value=item.high)]
    elif item.low is not None:
        result.integer_range = [IntegerRange(from_value=item.low, to_value=item.high, step=1)]
    return result


def read(node: Node) -> Settings:
    """Return the settings that the parameters of node describe. Raises SettingsError."""
    return updated(DEFAULTS, {item.name: node.get_parameter(item.name).value for item in describe()})


def guard(node: Node, is_configured: Callable[[], bool]) -> None:
    """Check every later change of a setting on node; refuse all while it is configured.

    Parameters that are not settings, such as use_sim_time, are left alone.
    """
    names = {item.name for item in describe()}

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters if p.name in names}
        if changes and is_configured():
            return SetParametersResult(successful=False, reason=(
                f'{", ".join(changes)} takes effect at configure: deactivate and clean up the node first'))
        try:
            for name, value in changes.items():
                updated(DEFAULTS, {name: value})
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
