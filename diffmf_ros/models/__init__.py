# SPDX-License-Identifier: Apache-2.0
"""The networks: torch only, no ROS and no file formats. `build` makes one by name and preset."""

from importlib import import_module

# By network, which is a module here with a function `network(**sizes)`, and preset.
PRESETS = {
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


def build(name: str, preset: str):
    """Return a network with fresh, untrained parameters.

    It is called as net(ir, vi_y) -> fused_y on B x 1 x H x W in [0, 1], with sides that fit `net.sides`; the result is
    linear, clamp it. Raises ValueError for an unknown name or preset, listing the known ones.
    """
    if name not in PRESETS or preset not in PRESETS[name]:
        known = ', '.join(f'{n} {p}' for n, presets in PRESETS.items() for p in presets)
        raise ValueError(f'unknown network {name!r} with preset {preset!r}; known: {known}')
    return import_module(f'.{name}', __package__).network(**PRESETS[name][preset])
