# SPDX-License-Identifier: Apache-2.0
"""Parameters that somebody has given and that no part of the node reads: ROS itself ignores them
in silence."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from rclpy.node import Node

from ..core.params_file import OF_ROS, PARAMETERS
from ..core.settings import iter_specs
from ..core.spelling import meant


def unused(node: Node, arguments: Sequence[str]) -> list[str]:
    """Return a sentence for each parameter, and each file of parameters, that has no effect on
    node.

    Args:
        node: with all its parameters declared.
        arguments: the command line of the process.
    """
    known = [item.name for item in iter_specs()]
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
