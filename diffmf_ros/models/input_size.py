# SPDX-License-Identifier: Apache-2.0
"""Sizes of the inputs that a network takes. Needs no torch: an exported network has them too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
