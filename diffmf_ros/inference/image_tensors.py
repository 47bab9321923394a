# SPDX-License-Identifier: Apache-2.0
"""Operations on images in torch: gray range, luminance, trust in color, warp, up-sampling.

Each has its NumPy form elsewhere, with which the tests compare it: to_gray in
core/imaging/thermal.py; split_luma, join_luma and trusted_chroma (chroma_map) in
core/imaging/color.py; TensorWarp in core/alignment/warp.py; ScaledFusion (fuse_scaled) in
working_size.py.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from ..core.alignment.warp import Size, Warp, shrinks
from ..core.imaging.color import NEUTRAL, WINDOW_PX, output_encoding, weights
from ..core.imaging.thermal import STRETCHED
from .working_size import WINDOW, guided, solve


def split_luma(pixels: torch.Tensor, encoding: str):
    """Return (y H x W, (cr, cb) or None for mono8), float32 of whole numbers 0..255, of a uint8
    image."""
    if encoding == 'mono8':
        return pixels.float(), None
    channels = pixels.float().unbind(-1)[:3]
    r, g, b = reversed(channels) if encoding.startswith('bgr') else channels
    y = _fixed(4899 * r + 9617 * g + 1868 * b)
    differences = (11682, r), (9241, b)
    return y, tuple((_fixed(gain * (c - y)) + 128).clamp(0, 255) for gain, c in differences)


def _fixed(values: torch.Tensor) -> torch.Tensor:
    """Round 14-bit fixed-point numbers as OpenCV does: ties fall as on the host."""
    return ((values + 8192) / 16384).floor()


def join_luma(y: torch.Tensor, chroma, encoding: str) -> torch.Tensor:
    """Return H x W x 3 uint8 in output_encoding(encoding) of what split_luma gives, y possibly
    replaced."""
    if chroma is None:
        return y.to(torch.uint8)[..., None].expand(-1, -1, 3)
    cr, cb = (c - 128 for c in chroma)
    rgb = y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb
    planes = rgb[::-1] if output_encoding(encoding) == 'bgr8' else rgb
    return torch.stack(planes, dim=-1).round().clamp(0, 255).to(torch.uint8)


def to_gray(pixels: torch.Tensor, encoding: str, stretch: torch.Tensor) -> torch.Tensor:
    """Return thermal as H x W float32 of whole numbers 0..255; stretch: low, high, their
    span, and 1 for black-hot or else 0.

    The values are those of core.imaging.thermal.to_gray.
    """
    low, high, span, black_hot = stretch
    if encoding not in STRETCHED:
        gray = split_luma(pixels, encoding)[0]
    else:
        values = pixels if encoding == '32FC1' else (pixels.int() & 0xFFFF).float()
        cold = torch.where(black_hot > 0, high, low)
        values = torch.where(values.isnan(), cold, values).clamp(low, high)
        gray = ((values - low) / span * 255).round()
    return black_hot * 255 + (1 - 2 * black_hot) * gray


def trusted_chroma(luma: torch.Tensor, y: torch.Tensor,
                   chroma: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the chroma that suits a fused luminance, as core.imaging.color.chroma_map describes
    it.

    Args:
        luma, y: fused and visible luminance, H x W float32 of whole numbers 0..255.
        chroma: Cr and Cb of the visible image, H x W, of the same kind.

    Returns:
        Cr and Cb, 2 x H x W float32, not rounded.
    """
    height, width = luma.shape
    planes = torch.stack(chroma)
    half = _halved(torch.cat((torch.stack((luma, y)), planes)))
    half[1:] = (half[1:] + 0.5).floor()  # images of 8 bit on the host
    fused, y = _mean(half[:2])
    clean = _median(half[2:]) - NEUTRAL
    gain, share = weights(fused, y, *clean)  # type: ignore[arg-type]
    factors = torch.cat((gain[None], share * clean))
    factors = interpolate(factors[None], scale_factor=2, mode='bilinear', align_corners=False)
    factors = factors[0, :, :height, :width]
    return factors[0] * (planes - NEUTRAL) + factors[1:] + NEUTRAL


def _halved(images: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 pixels of N x H x W; an odd last row or column counts twice."""
    height, width = images.shape[-2:]
    images = pad(images[None], (0, width % 2, 0, height % 2), mode='replicate')
    return avg_pool2d(images, 2)[0]


def _mean(images: torch.Tensor) -> torch.Tensor:
    """Average 3 x 3 pixels around each of N x h x w."""
    return avg_pool2d(_bordered(images), WINDOW_PX, stride=1)[0]


def _median(images: torch.Tensor) -> torch.Tensor:
    """Return the median of 3 x 3 pixels, N x h x w.

    With each column of three sorted it is the middle one of: the largest of the lowest, the middle
    one of the middle ones, the smallest of the highest.
    """
    bordered = _bordered(images)[0]
    above, here, below = bordered[:, :-2], bordered[:, 1:-1], bordered[:, 2:]
    small, large = torch.minimum(above, here), torch.maximum(above, here)
    lowest, highest = torch.minimum(small, below), torch.maximum(large, below)
    middle = torch.maximum(small, torch.minimum(large, below))
    return _middle(_across(lowest, torch.maximum), _middle(*_columns(middle)),
                   _across(highest, torch.minimum))


def _middle(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _across(images: torch.Tensor, choose) -> torch.Tensor:
    left, center, right = _columns(images)
    return choose(choose(left, center), right)


def _columns(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images[..., :-2], images[..., 1:-1], images[..., 2:]


def _bordered(images: torch.Tensor) -> torch.Tensor:
    return pad(images[None], (1, 1, 1, 1), mode='replicate')


FuseTensors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ScaledFusion:
    """fuse_scaled for images of one size, which keeps its tables on device."""

    def __init__(self, size: tuple[int, int], *, scale: float, device: str):
        """size is (height, width) of the images; scale below 1."""
        self._size = size
        small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        self._shrink = AreaResize(size, small, device=device)
        self._reflected = [_reflected(side, device) for side in small]

    def __call__(self, fuse: FuseTensors, ir: torch.Tensor, vi_y: torch.Tensor) -> torch.Tensor:
        """Run fuse on ir and vi_y, 1 x 1 x H x W in [0, 1], at the working size.

        Returns the full size.
        """
        small_ir, small_y = self._shrink(ir), self._shrink(vi_y)
        fitted = self._departure(fuse(small_ir, small_y), torch.maximum(small_ir, small_y),
                                 torch.minimum(small_ir, small_y))
        enlarged = interpolate(self._mean(fitted), self._size, mode='bilinear',
                               align_corners=False)
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
        rows, columns = (cv2.resize(np.eye(side, dtype=np.float32), (side, smaller),
                                    interpolation=cv2.INTER_AREA)
                         for side, smaller in zip(size, small))
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(
            columns.T.copy()).to(device)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """... x H x W float32 -> ... x h x w."""
        return self._rows @ image @ self._columns


def _reflected(side: int, device: str) -> torch.Tensor:
    """Indices of a row or column of `side` pixels with the window's reflected margins."""
    margin = WINDOW[0] // 2
    indices = cv2.copyMakeBorder(np.arange(side, dtype=np.float32)[None], 0, 0, margin, margin,
                                 cv2.BORDER_REFLECT_101)
    return torch.from_numpy(indices[0].astype(np.int64)).to(device)


class TensorWarp:
    """One image brought to the grid as a Warp does. The values of its tables come with load().

    Its tensors stay where they are, so that a captured CUDA graph goes on with other tables.
    """

    def __init__(self, source: Size, size: Size, *, mapped: bool = False,
                 averaged: Size | None = None, device: str):
        """source, size (width, height) and averaged are those of the warps to come; mapped: they
        have tables."""
        self._size = size[::-1]
        target = averaged or size
        self._resizes = source != target and (averaged is not None or not mapped)
        self._area = AreaResize(source[::-1], target[::-1],
                                device=device) if shrinks(source, target) else None
        self._by_two = source == (2 * target[0], 2 * target[1])
        self._sampled = averaged or source
        # As grid_sample takes it: 1 x H x W x 2, or None.
        self.grid = torch.zeros((1, *self._size, 2), device=device) if mapped else None

    def load(self, warp: Warp) -> None:
        """Use the tables of a warp."""
        if self.grid is not None:
            # With align_corners=False -1 and 1 are the outer edges of the image: -0.5 and width -
            # 0.5 in the tables.
            unit = [(2 * values + 1) / side - 1 for values,
                    side in zip(warp.tables or (), self._sampled)]
            self.grid[0].copy_(torch.from_numpy(np.stack(unit, axis=-1)))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """C x H x W -> C x h x w, float32 of whole numbers.

        Undefined where it comes from nowhere.
        """
        if self._resizes:
            image = self._resized(image)
        if self.grid is None:
            return image
        return grid_sample(image[None], self.grid, padding_mode='border',
                           align_corners=False)[0].round()

    def _resized(self, image):
        if self._area is None:
            return interpolate(image[None], self._size, mode='bilinear',
                               align_corners=False)[0].round()
        # OpenCV rounds halves up where it averages 2 x 2 pixels, and to even numbers elsewhere.
        return (self._area(image) + 0.5).floor() if self._by_two else self._area(image).round()
