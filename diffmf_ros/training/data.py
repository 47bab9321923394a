# SPDX-License-Identifier: Apache-2.0
"""Random crops of registered pairs."""

import numpy as np

from ..core.frames import DiffmfError
from ..folders import LumaPair


class DataError(DiffmfError):
    """Training data that cannot be used as asked."""


class CropSampler:
    """Random square crops with the eight flips and turns; a pure function of (seed, iteration).

    That makes an interrupted training resume exactly: there is no sampler state to save.
    """

    def __init__(self, pairs: list[LumaPair], *, crop: int, batch: int, seed: int):
        usable = [p for p in pairs if min(p.ir.shape) >= crop]
        if not usable:
            raise DataError(f'every image is smaller than the crop of {crop} pixels; choose a smaller crop')
        self._pairs, self._crop, self._batch, self._seed = usable, crop, batch, seed

    def batch(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ir, vi_y) of iteration: batch x 1 x crop x crop float32 in [0, 1]."""
        random = np.random.default_rng((self._seed, iteration))
        crops = [self._crop_of(self._pairs[i], random) for i in random.integers(len(self._pairs), size=self._batch)]
        stacked = np.stack(crops).astype(np.float32) / 255
        return stacked[:, :1], stacked[:, 1:]

    def _crop_of(self, pair, random):
        height, width = pair.ir.shape
        top, left = random.integers(height - self._crop + 1), random.integers(width - self._crop + 1)
        window = slice(top, top + self._crop), slice(left, left + self._crop)
        crop = np.rot90(np.stack((pair.ir[window], pair.vi_y[window])), random.integers(4), axes=(1, 2))
        return crop[:, :, ::-1] if random.integers(2) else crop
