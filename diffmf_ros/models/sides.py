# SPDX-License-Identifier: Apache-2.0
"""The side lengths that a network takes. Needs no torch: an exported network has them too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sides:
    """Sides are multiple * n + remainder with n of at least 1; an image is extended to the next one.

    centred: half of what is missing goes before the image, rounded down, as S4Fusion's authors do it;
    else all of it goes behind.
    """

    multiple: int
    remainder: int = 0
    centred: bool = False

    def __str__(self) -> str:
        plus = f' plus {self.remainder}' if self.remainder else ''
        return f'a multiple of {self.multiple}{plus}'

    def fitting(self, side: int) -> int:
        """Return the least side of at least so many pixels."""
        return self.multiple * max(1, -(-(side - self.remainder) // self.multiple)) + self.remainder

    def missing(self, side: int) -> tuple[int, int]:
        """Return how many pixels are to be added before and behind a side."""
        missing = self.fitting(side) - side
        before = missing // 2 if self.centred else 0
        return before, missing - before

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Return where an image of height x width lies in what it was extended to."""
        top, left = (self.missing(side)[0] for side in (height, width))
        return slice(top, top + height), slice(left, left + width)

    def require(self, ir, vi_y) -> None:
        """Raise ValueError unless both, B x 1 x H x W, have one shape with sides that fit."""
        if ir.shape != vi_y.shape or any(self.fitting(side) != side for side in ir.shape[2:]):
            raise ValueError(f'expected two B x 1 x H x W with sides of {self} pixels; '
                             f'got {tuple(ir.shape)} and {tuple(vi_y.shape)}: pad them')
