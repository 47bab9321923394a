# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased views of long, periodic, textured planes: the road, and the house fronts beside it.

Seen from a camera that looks along the road, every image row of the ground (every column of a
wall) has one depth. So the exact box filter along the road is a difference of a running sum, and
only the filter across it needs a small pyramid. Without this the far lane markings flicker.
"""

import cv2
import numpy as np

_LEVELS = 4


class Strip:
    """A texture of shape length x across x channels that repeats along the road.

    Channels are premultiplied by alpha where the texture has one. step_m is (along, across) the
    size of a texel, across_m the position of the first texel's edge across the road.
    """

    def __init__(self, texels: np.ndarray, *, step_m: tuple[float, float], across_m: float):
        texels = np.ascontiguousarray(texels, np.float32)
        self._along_m, self._step_m = step_m
        self._across_m = across_m
        self._mean = texels.mean(axis=0)
        # Without its mean the running sum stays small (float32 is enough) and is itself periodic.
        self._sum = np.zeros((len(texels) + 1, *texels.shape[1:]), np.float32)
        self._sum[1:] = np.cumsum(texels - self._mean, axis=0, dtype=np.float64)

    def lines(self, edges_m: np.ndarray) -> np.ndarray:
        """Return the mean texels between neighboring edges along the road, (n - 1) x across x
        channels."""
        running = self._running(edges_m)
        extent = (np.diff(edges_m) / self._along_m).astype(np.float32)[:, None, None]
        return np.diff(running, axis=0) / extent + self._mean

    def _running(self, along_m: np.ndarray) -> np.ndarray:
        position = along_m / self._along_m
        index = np.floor(position).astype(int)
        fraction = (position - index).astype(np.float32)[:, None, None]
        index %= len(self._sum) - 1
        below = self._sum[index]
        return below + fraction * (self._sum[index + 1] - below)

    def view(self, edges_m: np.ndarray, across_m: np.ndarray) -> np.ndarray:
        """Return n x m x channels: line i covers edges_m[i]..edges_m[i + 1], its pixels lie at
        across_m[i].

        Positions across the road outside the texture give zero in every channel.
        """
        lines = self.lines(edges_m)
        # The footprint of a pixel across the road, in texels, picks the pyramid level of its line.
        footprint = np.abs(across_m[:, 1] - across_m[:, 0]) / self._step_m
        level = np.clip(np.log2(np.maximum(footprint, 1.0)).round().astype(int), 0, _LEVELS - 1)
        out = np.empty((*across_m.shape, lines.shape[2]), np.float32)
        for k in np.unique(level):
            rows = np.flatnonzero(level == k)
            source = _shrunk(lines[rows], 2 ** int(k))
            map_x = (across_m[rows] - self._across_m) / (self._step_m * 2**k) - 0.5
            map_y = np.broadcast_to(np.arange(len(rows), dtype=np.float32)[:, None], map_x.shape)
            out[rows] = _remap(source, map_x.astype(np.float32), np.ascontiguousarray(map_y))
        return out


def _shrunk(lines: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return lines
    rows, across, channels = lines.shape
    return lines[:, :across - across % factor].reshape(rows, -1, factor, channels).mean(axis=2)


def _remap(source: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    # OpenCV promises remap for up to four channels.
    parts = [cv2.remap(np.ascontiguousarray(source[..., i:i + 4]), map_x, map_y, cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_CONSTANT, borderValue=0)
             for i in range(0, source.shape[2], 4)]
    return np.concatenate([part.reshape(*map_x.shape, -1) for part in parts], axis=2)
