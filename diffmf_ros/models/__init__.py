# SPDX-License-Identifier: Apache-2.0
"""The networks: torch only, no ROS and no file formats. `build` makes one by name and preset."""

PRESETS = {
    'diffmf': {
        'base': {},
        'light': {'width': 32, 'depth': 1, 'mlp_ratio': 2.0},
        'light-s4': {'width': 32, 'depth': 1, 'mlp_ratio': 2.0, 'stride': 4},
        'nano': {'width': 16, 'depth': 1, 'mlp_ratio': 2.0, 'stride': 4, 'rounds': 1},
    },
}


def build(name: str, preset: str):
    """Return a network with fresh, untrained parameters.

    It is called as net(ir, vi_y) -> fused_y on B x 1 x H x W in [0, 1]. Raises ValueError for an
    unknown name or preset, listing the known ones.
    """
    from .diffmf import DiffMF, DiffMFConfig

    if name not in PRESETS or preset not in PRESETS[name]:
        known = ', '.join(f'{n} {p}' for n, presets in PRESETS.items() for p in presets)
        raise ValueError(f'unknown network {name!r} with preset {preset!r}; known: {known}')
    return DiffMF(DiffMFConfig(**PRESETS[name][preset]))
