# SPDX-License-Identifier: Apache-2.0
"""The networks: torch only, no ROS and no file formats. `build` makes one by name and preset."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True)
class SizeRule:
    """Divisibility rule of a network's input: sides are multiple * n + remainder, n at least 1.

    An image is padded to the next such size.

    Attributes:
        multiple, remainder: Of a side, in pixels.
        centered: Half of the padding goes before the image, rounded down, as S4Fusion's authors do
            it; else all of it goes behind.
    """

    multiple: int
    remainder: int = 0
    centered: bool = False

    def __str__(self) -> str:
        plus = f' plus {self.remainder}' if self.remainder else ''
        return f'a multiple of {self.multiple}{plus}'

    def padded(self, side: int) -> int:
        """Return the least side that fits and is at least as long.

        Args:
            side: in pixels.

        Returns:
            In pixels.
        """
        return self.multiple * max(1,
                                   -(-(side - self.remainder) // self.multiple)) + self.remainder

    def padding(self, side: int) -> tuple[int, int]:
        """Return the padding of a side.

        Args:
            side: in pixels.

        Returns:
            (before, behind) in pixels.
        """
        missing = self.padded(side) - side
        before = missing // 2 if self.centered else 0
        return before, missing - before

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """Return where an image lies in its padded form.

        Args:
            height, width: of the image in pixels.

        Returns:
            Its rows and columns.
        """
        top, left = (self.padding(side)[0] for side in (height, width))
        return slice(top, top + height), slice(left, left + width)

    def require(self, ir: 'torch.Tensor', vi_y: 'torch.Tensor') -> None:
        """Check the inputs of a network.

        Args:
            ir, vi_y: B x 1 x H x W.

        Raises:
            ValueError: Their shapes differ, or a side does not fit.
        """
        if ir.shape != vi_y.shape or any(self.padded(side) != side for side in ir.shape[2:]):
            raise ValueError(f'expected two B x 1 x H x W with sides of {self} pixels; '
                             f'got {tuple(ir.shape)} and {tuple(vi_y.shape)}: pad them')
