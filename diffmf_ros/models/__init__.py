# SPDX-License-Identifier: Apache-2.0
"""The networks: torch only, no ROS and no file formats. `build` makes one by name and preset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mixing import MixingNetwork

# By network, which is a module here with a function `network(**sizes)`, and preset.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    'diffmf': {
        'base': {},
        'light': {'width': 32, 'depth': 1, 'mlp_ratio': 2.0},
        'light-s4': {'width': 32, 'depth': 1, 'mlp_ratio': 2.0, 'stride': 4},
        'nano': {'width': 16, 'depth': 1, 'mlp_ratio': 2.0, 'stride': 4, 'rounds': 1},
    },
    's4fusion': {
        'base': {},
        'light': {'width': 32, 'states': 4, 'cross_states': 6, 'cross_blocks': 1, 'mixing': True,
                  'unused': False},
    },
    'refinefuse': {
        'base': {},
        'light': {'widths': (32, 32, 64, 64)},
    },
}


def build(name: str, preset: str) -> 'MixingNetwork':
    """Return a network with fresh, untrained parameters.

    Args:
        name: Network, a key of PRESETS.
        preset: Size of that network.

    Returns:
        A module called as net(ir, vi_y) -> fused_y on B x 1 x H x W in [0, 1], with sides that
        fit `net.sides`. The result is linear: clamp it.

    Raises:
        ValueError: Unknown name or preset; the message lists the known ones.
    """
    if name not in PRESETS or preset not in PRESETS[name]:
        known = ', '.join(f'{n} {p}' for n, presets in PRESETS.items() for p in presets)
        raise ValueError(f'unknown network {name!r} with preset {preset!r}; known: {known}')
    return import_module(f'.{name}', __package__).network(**PRESETS[name][preset])
