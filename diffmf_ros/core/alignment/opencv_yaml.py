# SPDX-License-Identifier: Apache-2.0
"""YAML as OpenCV's FileStorage writes it, and any other YAML."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows OpenCV's matrices, which become {rows, cols, dt, data}."""


def _matrix(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node, deep=True)


for kind in ('opencv-matrix', 'opencv-nd-matrix'):
    _Loader.add_constructor(f'tag:yaml.org,2002:{kind}', _matrix)


def load(text: str) -> Any:
    """Return the content of a YAML text, also of OpenCV's.

    Args:
        text: the text of the file.

    Returns:
        What it holds; OpenCV's matrices become {rows, cols, dt, data}.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    if text.startswith('%YAML:'):  # OpenCV's own first line, which YAML has no such form of
        text = text.partition('\n')[2]
    return yaml.load(text, Loader=_Loader)
