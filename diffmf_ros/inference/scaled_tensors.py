# SPDX-License-Identifier: Apache-2.0
"""scaled.py on tensors, for a device: the same arithmetic, so that both give the same image."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate

from .scaled import WINDOW, guided, solve

FuseTensors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ScaledFusion:
    """fuse_scaled for images of one size, which keeps its tables on device."""

    def __init__(self, size: tuple[int, int], *, scale: float, device: str):
        """size is (height, width) of the images; scale below 1."""
        self._size = size
        small = [max(1, round(side * scale)) for side in size]
        self._shrink = AreaResize(size, small, device=device)
        self._reflected = [_reflected(side, device) for side in small]

    def __call__(self, fuse: FuseTensors, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """Run fuse on ir and vi_y, 1 x 1 x H x W in [0, 1], at the working size; returns the full size."""
        small_ir, small_y = self._shrink(ir), self._shrink(vi_y)
        fitted = self._departure(fuse(small_ir, small_y), torch.maximum(small_ir, small_y),
                                 torch.minimum(small_ir, small_y))
        enlarged = interpolate(self._mean(fitted), self._size, mode='bilinear', align_corners=False)
        of_high, of_low, offset = enlarged.split(1, dim=1)
        high, low = torch.maximum(ir, vi_y), torch.minimum(ir, vi_y)
        return (high * (1 + of_high) + low * of_low + offset).clamp(0, 1)

    def _departure(self, fused, high, low):
        """a, b, c of fused - high = a * high + b * low + c around each pixel, as 1 x 3 x h x w."""
        means = self._mean(torch.cat(guided(high, low, fused - high), dim=1))
        return torch.cat(solve(*means.split(1, dim=1)), dim=1)

    def _mean(self, images):
        """cv2.blur: the mean of the window around each pixel, the image reflected at its edges."""
        rows, columns = self._reflected
        return avg_pool2d(images[..., rows, :][..., columns], WINDOW[::-1], stride=1)


class AreaResize:
    """cv2.resize with INTER_AREA from one size to a smaller one, as two matrix products."""

    def __init__(self, size: tuple[int, int], small: tuple[int, int], *, device: str):
        """Both sizes are (height, width)."""
        # The weights along one axis are what the resizing makes of the unit vectors.
        rows, columns = (cv2.resize(np.eye(side, dtype=np.float32), (side, smaller), interpolation=cv2.INTER_AREA)
                         for side, smaller in zip(size, small))
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns.T.copy()).to(device)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """... x H x W float32 -> ... x h x w."""
        return self._rows @ image @ self._columns


def _reflected(side: int, device: str) -> torch.Tensor:
    """Indices of a row or column of `side` pixels with the window's reflected margins."""
    margin = WINDOW[0] // 2
    indices = cv2.copyMakeBorder(np.arange(side, dtype=np.float32)[None], 0, 0, margin, margin, cv2.BORDER_REFLECT_101)
    return torch.from_numpy(indices[0].astype(np.int64)).to(device)
