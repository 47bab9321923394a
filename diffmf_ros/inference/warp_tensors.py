# SPDX-License-Identifier: Apache-2.0
"""core/alignment/warp.py on tensors, for a device: the same picture, with tables that can be replaced between pairs."""

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from ..core.alignment.warp import Size, Warp, shrinks
from .scaled_tensors import AreaResize


class TensorWarp:
    """One image brought to the grid as a Warp does. The values of its tables come with load().

    Its tensors stay where they are, so that a captured CUDA graph goes on with other tables.
    """

    def __init__(self, source: Size, size: Size, *, mapped: bool = False, averaged: Size | None = None, device: str):
        """source, size (width, height) and averaged are those of the warps to come; mapped: they have tables."""
        self._size = size[::-1]
        target = averaged or size
        self._resizes = source != target and (averaged is not None or not mapped)
        self._area = AreaResize(source[::-1], target[::-1], device=device) if shrinks(source, target) else None
        self._by_two = source == (2 * target[0], 2 * target[1])
        self._sampled = averaged or source
        # As grid_sample takes it: 1 x H x W x 2, or None.
        self.grid = torch.zeros((1, *self._size, 2), device=device) if mapped else None

    def load(self, warp: Warp) -> None:
        """Use the tables of a warp."""
        if self.grid is not None:
            # With align_corners=False -1 and 1 are the outer edges of the image: -0.5 and width - 0.5 in the tables.
            unit = [(2 * values + 1) / side - 1 for values, side in zip(warp.tables, self._sampled)]
            self.grid[0].copy_(torch.from_numpy(np.stack(unit, axis=-1)))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """C x H x W -> C x h x w, float32 of whole numbers; undefined where it comes from nowhere."""
        if self._resizes:
            image = self._resized(image)
        if self.grid is None:
            return image
        return grid_sample(image[None], self.grid, padding_mode='border', align_corners=False)[0].round()

    def _resized(self, image):
        if self._area is None:
            return interpolate(image[None], self._size, mode='bilinear', align_corners=False)[0].round()
        # OpenCV rounds halves up where it averages 2 x 2 pixels, and to even numbers elsewhere.
        return (self._area(image) + 0.5).floor() if self._by_two else self._area(image).round()
