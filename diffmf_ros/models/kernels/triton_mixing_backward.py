# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the gradients of `triton_mixing.mix` for its maps. Imported only where triton
is."""

import torch
import triton
import triton.language as tl

from ..mixing import BASE, LARGEST_GAIN
from .triton_mixing import PIXELS, between, sigmoid


@triton.jit(do_not_specialize=['height', 'width', 'high', 'wide'])
def mixed_gradients(ir, vi, maps, ir_means, vi_means, dfused, dmaps, height, width, high, wide,
                    maps_image, maps_map, maps_row, maps_column, GAIN: tl.constexpr,
                    STEP: tl.constexpr, PIXELS: tl.constexpr):
    """The gradients dmaps, in the storage of maps, of a fused image whose gradient is dfused.

    The gain of visible detail is its own or, where that is larger, its share of the base, which it
    teaches nothing; where both are equal it learns half.
    """
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column, size = at // width, at % width, height * width
    inside = at < size
    offset = image * maps_image + row.to(tl.int64) * maps_row + column * maps_column
    from_maps, to_maps = maps + offset, dmaps + offset
    share = sigmoid(tl.load(from_maps, mask=inside, other=0.0).to(tl.float32))
    of_visible = sigmoid(tl.load(from_maps + maps_map, mask=inside, other=0.0).to(tl.float32))
    of_thermal = sigmoid(tl.load(from_maps + 2 * maps_map, mask=inside, other=0.0).to(tl.float32))
    thermal = tl.load(ir + image * size + at, mask=inside, other=0.0).to(tl.float32)
    visible = tl.load(vi + image * size + at, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(dfused + image * size + at, mask=inside, other=0.0).to(tl.float32)
    offset = image * high * wide
    thermal_base = between(ir_means + offset, row, column, high, wide, inside, STEP)
    visible_base = between(vi_means + offset, row, column, high, wide, inside, STEP)
    own, least = GAIN * of_visible, 1 - share
    learns = tl.where(own > least, 1.0, tl.where(own == least, 0.5, 0.0))
    kind = dmaps.dtype.element_ty
    tl.store(to_maps, (given * (thermal_base - visible_base) * share * least).to(kind),
             mask=inside)
    result = given * (visible - visible_base) * own * (1 - of_visible) * learns
    tl.store(to_maps + maps_map, result.to(kind), mask=inside)
    result = given * (thermal - thermal_base) * GAIN * of_thermal * (1 - of_thermal)
    tl.store(to_maps + 2 * maps_map, result.to(kind), mask=inside)
    tl.store(to_maps + 3 * maps_map, given.to(kind), mask=inside)


def mix_backward(ir, vi, maps, ir_means, vi_means, dfused):
    """Return the gradient of maps, in their storage; ir, vi and dfused: B x 1 x H x W."""
    batch, _, height, width = ir.shape
    dmaps = torch.empty_strided(maps.shape, maps.stride(), dtype=maps.dtype, device=maps.device)
    with torch.cuda.device_of(ir):
        mixed_gradients[(triton.cdiv(height * width, PIXELS), batch)](
            ir, vi, maps, ir_means, vi_means, dfused.contiguous(), dmaps, height, width,
            *ir_means.shape[1:], *maps.stride(), GAIN=LARGEST_GAIN, STEP=BASE[1], PIXELS=PIXELS,
            num_warps=4, enable_fp_fusion=True)
    return dmaps
