# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the pixels before and behind a network. Imported only where triton is.

`sources` makes both luminances of the bytes of both images. Behind the network, `halved` and
`color_factors` decide at half size how much chroma a pixel gets, and `painted` makes the bytes of
the fused image. The plain forms are in cuda_backend.py and image_tensors.py.
"""

import torch
import triton
import triton.language as tl

from ..core.alignment.warp import shrinks
from ..core.frames import RGB
from ..core.imaging import color
from ..models.kernels.triton_mixing import between

PIXELS = 256  # of a program
AS_IT_IS, RESIZED, MAPPED = 0, 1, 2  # how thermal comes to the grid
BYTES, COUNTS, FLOATS = 0, 1, 2  # what a thermal image consists of
THERMAL_KINDS = {'mono16': COUNTS, '32FC1': FLOATS}

NEUTRAL = tl.constexpr(float(color.NEUTRAL))
UNTRUSTED, RAMP = tl.constexpr(color.UNTRUSTED_LEVELS), tl.constexpr(color.RAMP_LEVELS)
LIFT, LARGEST_GAIN = tl.constexpr(color.LIFT_LEVELS), tl.constexpr(color.LARGEST_GAIN)
ROUNDING = tl.constexpr(12582912.0)  # 1.5 * 2^23: behind its point a float32 has no digits
UNIT = tl.constexpr(0.003921568859368563)  # 1 / 255 as a float32


@triton.jit
def _rounded(x):
    """Whole numbers, ties to even, of |x| < 2^22."""
    return (x + ROUNDING) - ROUNDING


@triton.jit
def _clamped(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _red_green_blue(pixels, at, inside, CHANNELS: tl.constexpr, BGR: tl.constexpr):
    """Three float32 of 8-bit pixels; of gray ones three times the same."""
    first = tl.load(pixels + at * CHANNELS, mask=inside, other=0).to(tl.float32)
    if CHANNELS == 1:
        red, green, blue = first, first, first
    else:
        green = tl.load(pixels + at * CHANNELS + 1, mask=inside, other=0).to(tl.float32)
        third = tl.load(pixels + at * CHANNELS + 2, mask=inside, other=0).to(tl.float32)
        if BGR:
            red, blue = third, first
        else:
            red, blue = first, third
    return red, green, blue


@triton.jit
def _fixed(values):
    """14-bit fixed-point numbers rounded as OpenCV does."""
    return tl.floor((values + 8192.0) / 16384.0)


@triton.jit
def _luma(red, green, blue, CHANNELS: tl.constexpr):
    if CHANNELS == 1:
        y = red
    else:
        y = _fixed(4899.0 * red + 9617.0 * green + 1868.0 * blue)
    return y


@triton.jit
def _chroma(red, blue, y):
    """(Cr, Cb), neutral at 128."""
    return (_clamped(_fixed(11682.0 * (red - y)) + NEUTRAL, 0.0, 255.0),
            _clamped(_fixed(9241.0 * (blue - y)) + NEUTRAL, 0.0, 255.0))


@triton.jit
def _gray(thermal, stretch, row, column, inside, wide, KIND: tl.constexpr, CHANNELS: tl.constexpr,
          BGR: tl.constexpr):
    """White-hot thermal pixels, whole numbers 0..255; see image_tensors.to_gray."""
    black_hot, at = tl.load(stretch + 3), row * wide + column
    if KIND == 0:
        red, green, blue = _red_green_blue(thermal, at, inside, CHANNELS, BGR)
        gray = _luma(red, green, blue, CHANNELS)
    else:
        low, high, span = tl.load(stretch), tl.load(stretch + 1), tl.load(stretch + 2)
        values = tl.load(thermal + at, mask=inside, other=0)
        if KIND == 1:
            values = values.to(tl.int32) & 0xFFFF
        values = values.to(tl.float32)
        values = tl.where(values != values, tl.where(black_hot > 0, high, low), values)
        gray = _rounded(tl.div_rn(_clamped(values, low, high) - low, span) * 255.0)
    return black_hot * 255.0 + (1.0 - 2.0 * black_hot) * gray


@triton.jit(do_not_specialize=['height', 'width', 'high', 'wide', 'down', 'across'])
def sources(rgb, thermal, stretch, grid, seen, ir, vi, height, width, high, wide, down, across,
            SAMPLING: tl.constexpr, SEEN: tl.constexpr, CHANNELS: tl.constexpr, BGR: tl.constexpr,
            KIND: tl.constexpr, THERMAL_CHANNELS: tl.constexpr, THERMAL_BGR: tl.constexpr,
            PIXELS: tl.constexpr):
    """Both luminances in 0..1, height x width; where not both cameras see, visible for both.

    thermal: high x wide; down, across: its sides over those of the grid.
    """
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside, row, column = at < height * width, at // width, at % width
    red, green, blue = _red_green_blue(rgb, at, inside, CHANNELS, BGR)
    luma = _luma(red, green, blue, CHANNELS)
    if SAMPLING == 0:
        gray = _gray(thermal, stretch, row, column, inside, wide, KIND, THERMAL_CHANNELS,
                     THERMAL_BGR)
    else:
        if SAMPLING == 1:
            y = tl.maximum(down * (row + 0.5) - 0.5, 0.0)
            x = tl.maximum(across * (column + 0.5) - 0.5, 0.0)
        else:
            x = tl.load(grid + 2 * at, mask=inside, other=0.0)
            y = tl.load(grid + 2 * at + 1, mask=inside, other=0.0)
            x = _clamped(((x + 1.0) * wide - 1.0) / 2.0, 0.0, wide - 1.0)
            y = _clamped(((y + 1.0) * high - 1.0) / 2.0, 0.0, high - 1.0)
        top, left = y.to(tl.int32), x.to(tl.int32)
        y, x, gray = y - top, x - left, tl.zeros([PIXELS], tl.float32)
        for i in tl.static_range(2):
            below = tl.minimum(top + i, high - 1)
            line = tl.zeros([PIXELS], tl.float32)
            for j in tl.static_range(2):
                right = tl.minimum(left + j, wide - 1)
                value = _gray(thermal, stretch, below, right, inside, wide, KIND, THERMAL_CHANNELS,
                              THERMAL_BGR)
                line += (x if j == 1 else 1.0 - x) * value
            gray += (y if i == 1 else 1.0 - y) * line
        gray = _rounded(gray)
    if SEEN:
        gray = tl.where(tl.load(seen + at, mask=inside, other=0) != 0, gray, luma)
    tl.store(ir + at, gray * UNIT, mask=inside)
    tl.store(vi + at, luma * UNIT, mask=inside)


@triton.jit
def _levels(fused, seen, at, inside, own, SEEN: tl.constexpr):
    """Fused luminance as whole numbers 0..255; the own one where not both cameras see."""
    luma = _rounded(tl.load(fused + at, mask=inside, other=0.0) * 255.0)
    if SEEN:
        luma = tl.where(tl.load(seen + at, mask=inside, other=0) != 0, luma, own)
    return _clamped(luma, 0.0, 255.0)


@triton.jit(do_not_specialize=['height', 'width'])
def halved(fused, rgb, seen, halves, height, width, SEEN: tl.constexpr, CHANNELS: tl.constexpr,
           BGR: tl.constexpr, PIXELS: tl.constexpr):
    """Means of 2 x 2 pixels of fused and visible luminance, Cr and Cb: four float32 images.

    All but the first are whole numbers, as the images of the CPU are.
    """
    high, wide = (height + 1) // 2, (width + 1) // 2
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside, row, column = at < high * wide, at // wide, at % wide
    levels, luma = tl.zeros([PIXELS], tl.float32), tl.zeros([PIXELS], tl.float32)
    reddish, bluish = tl.zeros([PIXELS], tl.float32), tl.zeros([PIXELS], tl.float32)
    for i in tl.static_range(4):
        y, x = tl.minimum(2 * row + i // 2, height - 1), tl.minimum(2 * column + i % 2, width - 1)
        red, green, blue = _red_green_blue(rgb, y * width + x, inside, CHANNELS, BGR)
        own = _luma(red, green, blue, CHANNELS)
        cr, cb = _chroma(red, blue, own)
        levels += _levels(fused, seen, y * width + x, inside, own, SEEN)
        luma += own
        reddish += cr
        bluish += cb
    tl.store(halves + at, levels / 4.0, mask=inside)
    tl.store(halves + high * wide + at, tl.floor(luma / 4.0 + 0.5), mask=inside)
    tl.store(halves + 2 * high * wide + at, tl.floor(reddish / 4.0 + 0.5), mask=inside)
    tl.store(halves + 3 * high * wide + at, tl.floor(bluish / 4.0 + 0.5), mask=inside)


@triton.jit
def _middle(a, b, c):
    return tl.maximum(tl.minimum(a, b), tl.minimum(tl.maximum(a, b), c))


@triton.jit
def _median(columns):
    """The median of three times three values."""
    lowest, middles, highest = (), (), ()
    for i in tl.static_range(3):
        a, b, c = columns[3 * i], columns[3 * i + 1], columns[3 * i + 2]
        lowest = lowest + (tl.minimum(tl.minimum(a, b), c),)
        middles = middles + (_middle(a, b, c),)
        highest = highest + (tl.maximum(tl.maximum(a, b), c),)
    low = tl.maximum(tl.maximum(lowest[0], lowest[1]), lowest[2])
    high = tl.minimum(tl.minimum(highest[0], highest[1]), highest[2])
    return _middle(low, _middle(middles[0], middles[1], middles[2]), high)


@triton.jit(do_not_specialize=['high', 'wide'])
def color_factors(halves, factors, high, wide, PIXELS: tl.constexpr):
    """Gain and what is added to Cr and Cb, three float32 images of half the size."""
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside, row, column = at < high * wide, at // wide, at % wide
    levels, luma = tl.zeros([PIXELS], tl.float32), tl.zeros([PIXELS], tl.float32)
    reddish, bluish = (), ()
    for i in tl.static_range(9):
        x = _clamped(column + i // 3 - 1, 0, wide - 1)
        y = _clamped(row + i % 3 - 1, 0, high - 1)
        near = halves + y * wide + x
        levels += tl.load(near, mask=inside, other=0.0)
        luma += tl.load(near + high * wide, mask=inside, other=0.0)
        reddish = reddish + (tl.load(near + 2 * high * wide, mask=inside, other=0.0),)
        bluish = bluish + (tl.load(near + 3 * high * wide, mask=inside, other=0.0),)
    levels, luma = tl.div_rn(levels, 9.0), tl.div_rn(luma, 9.0)
    cr, cb = _median(reddish) - NEUTRAL, _median(bluish) - NEUTRAL
    trust = _clamped(tl.div_rn(luma + tl.abs(cr) + tl.abs(cb) - UNTRUSTED, RAMP), 0.0, 1.0)
    doubt = (1.0 - trust) * _clamped(tl.div_rn(levels - luma, LIFT), 0.0, 1.0)
    lift = tl.div_rn(tl.maximum(levels, 1.0), tl.maximum(luma, 1.0))
    kept = _clamped(lift, 0.0, LARGEST_GAIN) * (1.0 - doubt)
    tl.store(factors + at, kept * (1.0 - doubt), mask=inside)
    tl.store(factors + high * wide + at, kept * doubt * cr, mask=inside)
    tl.store(factors + 2 * high * wide + at, kept * doubt * cb, mask=inside)


@triton.jit(do_not_specialize=['height', 'width'])
def painted(fused, rgb, seen, factors, packed, height, width, COLORED: tl.constexpr,
            TRUSTED: tl.constexpr, SEEN: tl.constexpr, CHANNELS: tl.constexpr, BGR: tl.constexpr,
            PIXELS: tl.constexpr):
    """The bytes of the fused image; the byte behind them becomes 0 if a value is not finite.

    COLORED: three channels in the order of rgb, else one; TRUSTED: chroma changed by factors.
    """
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside, row, column = at < height * width, at // width, at % width
    values = tl.load(fused + at, mask=inside, other=0.0)
    outputs: tl.constexpr = 3 if COLORED else 1
    behind = packed + height * width * outputs + tl.zeros([PIXELS], tl.int32)
    tl.store(behind, tl.zeros([PIXELS], tl.uint8), mask=(tl.abs(values) < float('inf')) == 0)
    red, green, blue = _red_green_blue(rgb, at, inside, CHANNELS, BGR)
    own = _luma(red, green, blue, CHANNELS)
    luma = _levels(fused, seen, at, inside, own, SEEN)
    if COLORED:
        red, green, blue = luma, luma, luma
        if CHANNELS > 1:
            first, _green, last = _red_green_blue(rgb, at, inside, CHANNELS, BGR)
            cr, cb = _chroma(first, last, own)
            cr, cb = cr - NEUTRAL, cb - NEUTRAL
            if TRUSTED:
                high, wide = (height + 1) // 2, (width + 1) // 2
                gain = between(factors, row, column, high, wide, inside, 2)
                reddish = between(factors + high * wide, row, column, high, wide, inside, 2)
                bluish = between(factors + 2 * high * wide, row, column, high, wide, inside, 2)
                trusted = inside
                if SEEN:
                    trusted = tl.load(seen + at, mask=inside, other=0) != 0
                cr = tl.where(trusted, gain * cr + reddish, cr)
                cb = tl.where(trusted, gain * cb + bluish, cb)
            red = luma + 1.403 * cr
            green = luma - 0.714 * cr - 0.344 * cb
            blue = luma + 1.773 * cb
        first, last = red, blue
        if BGR:
            first, last = blue, red
        tl.store(packed + 3 * at, _clamped(_rounded(first), 0.0, 255.0).to(tl.uint8), mask=inside)
        tl.store(packed + 3 * at + 1, _clamped(_rounded(green), 0.0, 255.0).to(tl.uint8),
                 mask=inside)
        tl.store(packed + 3 * at + 2, _clamped(_rounded(last), 0.0, 255.0).to(tl.uint8),
                 mask=inside)
    else:
        tl.store(packed + at, luma.to(tl.uint8), mask=inside)


class PixelKernels:
    """The pixels around a network on a GPU, for one cuda_backend.Plan."""

    def __init__(self, plan):
        """Raises ValueError for a plan that they do not know."""
        if not known(plan):
            raise ValueError(f'expected a plan with thermal enlarged to the grid of RGB, got '
                             f'{plan}')
        self._size, self._thermal_size = plan.size, plan.thermal_shape[:2]
        self._sampling = (MAPPED if plan.mapped else RESIZED if self._size != self._thermal_size
                          else AS_IT_IS)
        self._rgb = {'CHANNELS': _channels(plan.rgb_shape),
                     'BGR': plan.rgb_encoding.startswith('bgr')}
        self._thermal = {'KIND': THERMAL_KINDS.get(plan.thermal_encoding, BYTES),
                         'THERMAL_CHANNELS': _channels(plan.thermal_shape),
                         'THERMAL_BGR': plan.thermal_encoding.startswith('bgr')}
        self._colored, self._values = bool(plan.chroma), plan.values
        self._trusted = plan.chroma == 'keep_chroma' and self._rgb['CHANNELS'] > 1

    def prepare(self, rgb: torch.Tensor, thermal: torch.Tensor, stretch: torch.Tensor, *,
                grid: torch.Tensor | None, seen: torch.Tensor | None):
        """Return thermal and visible luminance, each 1 x 1 x H x W float32 in 0..1.

        Args:
            rgb, thermal: Bytes of the frames; mono16 as the bits of int16.
            stretch: Low, high, span and 1 for black-hot, float32.
            grid: 1 x H x W x 2 as grid_sample takes it, for a plan that is mapped.
            seen: H x W bool, where both cameras see, or None for everywhere.
        """
        ir, vi = (stretch.new_empty((1, 1, *self._size)) for _ in range(2))
        scales = [small / large for small, large in zip(self._thermal_size, self._size)]
        sources[self._programs(*self._size)](
            rgb, thermal, stretch, stretch if grid is None else grid, _bytes(seen, rgb), ir, vi,
            *self._size, *self._thermal_size, *scales, SAMPLING=self._sampling,
            SEEN=seen is not None, PIXELS=PIXELS, **self._rgb, **self._thermal, **_OPTIONS)
        return ir, vi

    def finish(self, fused: torch.Tensor, rgb: torch.Tensor, *, seen: torch.Tensor | None):
        """Return the bytes of the fused image and a 1, or a 0 if it is not finite, flat.

        Args:
            fused: H x W float32 in 0..1.
            rgb, seen: As in prepare().
        """
        fused, seen_bytes, factors = fused.contiguous(), _bytes(seen, rgb), fused
        options = {'SEEN': seen is not None, 'PIXELS': PIXELS, **self._rgb, **_OPTIONS}
        if self._trusted:
            half = [(side + 1) // 2 for side in self._size]
            halves, factors = fused.new_empty((4, *half)), fused.new_empty((3, *half))
            halved[self._programs(*half)](fused, rgb, seen_bytes, halves, *self._size, **options)
            color_factors[self._programs(*half)](halves, factors, *half, PIXELS=PIXELS, **_OPTIONS)
        packed = rgb.new_ones(self._values + 1)
        painted[self._programs(*self._size)](
            fused, rgb, seen_bytes, factors, packed, *self._size, COLORED=self._colored,
            TRUSTED=self._trusted, **options)
        return packed

    @staticmethod
    def _programs(height: int, width: int) -> tuple[int]:
        return (triton.cdiv(height * width, PIXELS),)


# Rounding happens where the plain forms round.
_OPTIONS = {'num_warps': 4, 'enable_fp_fusion': False}


def known(plan) -> bool:
    """Return whether the kernels know a plan.

    Thermal comes to the grid of RGB, and is not averaged.
    """
    thermal, rgb = plan.thermal_shape[1::-1], plan.rgb_shape[1::-1]
    return (plan.grid == RGB and plan.averaged is None
            and (plan.mapped or not shrinks(thermal, rgb)))


def _channels(shape: tuple[int, ...]) -> int:
    return shape[2] if len(shape) == 3 else 1


def _bytes(seen, other):
    return other if seen is None else seen.view(torch.uint8)
