# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the first and the last step of a network, and of the gradients of `mix` for
its maps. Imported only where triton is.

`seen` makes what the first layers take and `mix` mixes the sources, both as in `models.mixing`.
Means of blocks are small images of their own; one program of the last kernel of either makes some
pixels and interpolates between the means where it needs them.
"""

import torch
import triton
import triton.language as tl

from ..mixing import BASE, BLOCK, GROUND, LARGEST_GAIN, SURROUND

PIXELS = 256  # of a program
MEANS = 32


LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp2(x * -LOG2E))


@triton.jit
def between(means, row, column, height, width, inside, STEP: tl.constexpr):
    """Means that stand STEP pixels apart, bilinear at the pixels (row, column)."""
    y = tl.maximum((row + 0.5) / STEP - 0.5, 0.0)
    x = tl.maximum((column + 0.5) / STEP - 0.5, 0.0)
    top, left = y.to(tl.int32), x.to(tl.int32)
    down, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    y, x = y - top, x - left
    upper = (1 - x) * tl.load(means + top * width + left, mask=inside, other=0.0)
    upper += x * tl.load(means + top * width + right, mask=inside, other=0.0)
    lower = (1 - x) * tl.load(means + down * width + left, mask=inside, other=0.0)
    lower += x * tl.load(means + down * width + right, mask=inside, other=0.0)
    return (1 - y) * upper + y * lower


@triton.jit(do_not_specialize=['height', 'width', 'high', 'wide'])
def means_of_pixels(ir, vi, ir_means, vi_means, height, width, high, wide, WINDOW: tl.constexpr,
                    STEP: tl.constexpr, MEANS: tl.constexpr):
    """Means of WINDOW x WINDOW pixels around every STEP-th place, of those that are there."""
    blocks = tl.cdiv(wide, MEANS)
    line = tl.program_id(0) // blocks
    mean = tl.program_id(0) % blocks * MEANS + tl.arange(0, MEANS)
    image = (line // high).to(tl.int64)
    column = (mean * STEP - (WINDOW - STEP) // 2)[:, None] + tl.arange(0, WINDOW)[None, :]
    across = (column >= 0) & (column < width) & (mean < wide)[:, None]
    first = line % high * STEP - (WINDOW - STEP) // 2
    of_ir, of_vi = tl.zeros([MEANS], tl.float32), tl.zeros([MEANS], tl.float32)
    for i in tl.static_range(WINDOW):
        row = first + i
        inside = across & (column < tl.where((row >= 0) & (row < height), width, 0))
        at = (image * height + row) * width + column
        of_ir += tl.sum(tl.load(ir + at, mask=inside, other=0.0).to(tl.float32), 1)
        of_vi += tl.sum(tl.load(vi + at, mask=inside, other=0.0).to(tl.float32), 1)
    rows = tl.minimum(first + WINDOW, height) - tl.maximum(first, 0)
    count = rows * tl.sum(across.to(tl.int32), 1)
    count = tl.maximum(count, 1).to(tl.float32)
    at = line.to(tl.int64) * wide + mean
    tl.store(ir_means + at, of_ir / count, mask=mean < wide)
    tl.store(vi_means + at, of_vi / count, mask=mean < wide)


@triton.jit
def _extreme(blocks, row, column, high, wide, inside, SIGN: tl.constexpr, SIDE: tl.constexpr):
    """The largest of SIGN * blocks in a square around (row, column)."""
    most = tl.full(row.shape, float('-inf'), tl.float32)
    for down in range(-(SIDE // 2), SIDE // 2 + 1):
        for right in tl.static_range(-(SIDE // 2), SIDE // 2 + 1):
            there = inside & (row + down >= 0) & (row + down < high)
            there = there & (column + right >= 0) & (column + right < wide)
            value = tl.load(blocks + (row + down) * wide + column + right, mask=there,
                            other=-SIGN * float('inf'))
            most = tl.maximum(most, SIGN * value)
    return most


@triton.jit(do_not_specialize=['high', 'wide', 'far_high', 'far_wide'])
def eroded_and_surround(ir_blocks, vi_blocks, eroded, surround, high, wide, far_high, far_wide,
                        SIDE: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr,
                        BLOCK: tl.constexpr):
    """The least of SIDE x SIDE blocks of ir around each, and means of WINDOW x WINDOW of vi."""
    image = tl.program_id(1).to(tl.int64)
    ir_blocks += image * high * wide
    vi_blocks += image * high * wide
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < high * wide
    least = -_extreme(ir_blocks, at // wide, at % wide, high, wide, inside, -1, SIDE)
    tl.store(eroded + image * high * wide + at, least, mask=inside)
    row, column = at // far_wide * STEP, at % far_wide * STEP
    inside = at < far_high * far_wide
    total, count = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for down in range(-((WINDOW - STEP) // 2), WINDOW - (WINDOW - STEP) // 2):
        for right in tl.static_range(-((WINDOW - STEP) // 2), WINDOW - (WINDOW - STEP) // 2):
            there = inside & (row + down >= 0) & (row + down < high)
            there = there & (column + right >= 0) & (column + right < wide)
            total += tl.load(vi_blocks + (row + down) * wide + column + right, mask=there,
                             other=0.0)
            count += there.to(tl.float32)
    tl.store(surround + image * far_high * far_wide + at, total / tl.maximum(count, 1),
             mask=inside)


@triton.jit(do_not_specialize=['high', 'wide'])
def dilated(eroded, ground, high, wide, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The largest of SIDE x SIDE blocks around each."""
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < high * wide
    most = _extreme(eroded + image * high * wide, at // wide, at % wide, high, wide, inside, 1,
                    SIDE)
    tl.store(ground + image * high * wide + at, most, mask=inside)


@triton.jit(do_not_specialize=['height', 'width', 'high', 'wide', 'far_high', 'far_wide'])
def first_layers(ir, vi, ground, surround, seen_ir, seen_vi, height, width, high, wide, far_high,
                 far_wide, NEAR: tl.constexpr, FAR: tl.constexpr, PIXELS: tl.constexpr):
    """Value and difference from the surround of either image, B x 2 x H x W."""
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column, size = at // width, at % width, height * width
    inside = at < size
    thermal = tl.load(ir + image * size + at, mask=inside, other=0.0).to(tl.float32)
    visible = tl.load(vi + image * size + at, mask=inside, other=0.0).to(tl.float32)
    below = between(ground + image * high * wide, row, column, high, wide, inside, NEAR)
    around = between(surround + image * far_high * far_wide, row, column, far_high, far_wide,
                     inside, FAR)
    kind = seen_ir.dtype.element_ty
    to = 2 * image * size + at
    tl.store(seen_ir + to, (4 * thermal - 2).to(kind), mask=inside)
    tl.store(seen_ir + to + size, (8 * (thermal - below)).to(kind), mask=inside)
    tl.store(seen_vi + to, (4 * visible - 2).to(kind), mask=inside)
    tl.store(seen_vi + to + size, (4 * (visible - around)).to(kind), mask=inside)


@triton.jit(do_not_specialize=['height', 'width', 'high', 'wide'])
def mixed(ir, vi, maps, ir_means, vi_means, fused, height, width, high, wide, maps_image, maps_map,
          maps_row, maps_column, GAIN: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr):
    """The fused image; see `models.mixing.mix`."""
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row, column, size = at // width, at % width, height * width
    inside = at < size
    from_maps = maps + image * maps_image + row.to(tl.int64) * maps_row + column * maps_column
    share = sigmoid(tl.load(from_maps, mask=inside, other=0.0).to(tl.float32))
    of_visible = sigmoid(tl.load(from_maps + maps_map, mask=inside, other=0.0).to(tl.float32))
    of_thermal = sigmoid(tl.load(from_maps + 2 * maps_map, mask=inside, other=0.0).to(tl.float32))
    result = tl.load(from_maps + 3 * maps_map, mask=inside, other=0.0).to(tl.float32)
    of_visible = tl.maximum(GAIN * of_visible, 1 - share)
    of_thermal = GAIN * of_thermal
    thermal = tl.load(ir + image * size + at, mask=inside, other=0.0).to(tl.float32)
    visible = tl.load(vi + image * size + at, mask=inside, other=0.0).to(tl.float32)
    offset = image * high * wide
    thermal_base = between(ir_means + offset, row, column, high, wide, inside, STEP)
    visible_base = between(vi_means + offset, row, column, high, wide, inside, STEP)
    result += of_visible * visible + of_thermal * thermal
    result += (1 - share - of_visible) * visible_base + (share - of_thermal) * thermal_base
    tl.store(fused + image * size + at, result.to(fused.dtype.element_ty), mask=inside)


def _means(ir, vi, window, step):
    """Launch means_of_pixels on B x 1 x H x W twice; two B x h x w in float32."""
    batch, _, height, width = ir.shape
    high, wide = (_places(side, window, step) for side in (height, width))
    made = [ir.new_empty((batch, high, wide), dtype=torch.float32) for _ in range(2)]
    means_of_pixels[(batch * high * triton.cdiv(wide, MEANS),)](
        ir, vi, *made, height, width, high, wide, WINDOW=window, STEP=step, MEANS=MEANS,
        num_warps=4,
        enable_fp_fusion=True)
    return made


def _places(side, window, step):
    """Means of window pixels, step apart, along a side; as avg_pool2d with ceil_mode counts."""
    padding = (window - step) // 2
    count = triton.cdiv(side + 2 * padding - window, step) + 1
    return count - 1 if (count - 1) * step >= side + padding else count


@torch.library.custom_op('diffmf_ros::seen', mutates_args=())
def seen(ir: torch.Tensor, vi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `mixing.seen`, without gradients."""
    (batch, _, height, width), (ir, vi) = ir.shape, (ir.contiguous(), vi.contiguous())
    with torch.cuda.device_of(ir):
        ir_blocks, vi_blocks = _means(ir, vi, BLOCK, BLOCK)
        high, wide = ir_blocks.shape[1:]
        far_high, far_wide = (_places(side, *SURROUND) for side in (high, wide))
        eroded, ground = torch.empty_like(ir_blocks), torch.empty_like(ir_blocks)
        surround = ir_blocks.new_empty((batch, far_high, far_wide))
        grid = triton.cdiv(high * wide, 64), batch
        eroded_and_surround[grid](
            ir_blocks, vi_blocks, eroded, surround, high, wide, far_high, far_wide, SIDE=GROUND,
            WINDOW=SURROUND[0], STEP=SURROUND[1], BLOCK=64, num_warps=2)
        dilated[grid](eroded, ground, high, wide, SIDE=GROUND, BLOCK=64, num_warps=2)
        made = [ir.new_empty((batch, 2, height, width)) for _ in range(2)]
        first_layers[(triton.cdiv(height * width, PIXELS), batch)](
            ir, vi, ground, surround, *made, height, width, high, wide, far_high, far_wide,
            NEAR=BLOCK, FAR=SURROUND[1] * BLOCK, PIXELS=PIXELS, num_warps=4, enable_fp_fusion=True)
    return tuple(made)


@seen.register_fake
def _(ir, vi):
    batch, _, height, width = ir.shape
    return ir.new_empty((batch, 2, height, width)), ir.new_empty((batch, 2, height, width))


@torch.library.custom_op('diffmf_ros::mix', mutates_args=())
def mix(ir: torch.Tensor, vi: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """As `mixing.mix`, without gradients."""
    return run_mix(ir.contiguous(), vi.contiguous(), maps)[0]


def run_mix(ir, vi, maps):
    """Return the fused image and the means of both contiguous sources that it was made with."""
    (batch, _, height, width), fused = ir.shape, torch.empty_like(ir)
    with torch.cuda.device_of(ir):
        ir_means, vi_means = _means(ir, vi, *BASE)
        mixed[(triton.cdiv(height * width, PIXELS), batch)](
            ir, vi, maps, ir_means, vi_means, fused, height, width, *ir_means.shape[1:],
            *maps.stride(), GAIN=LARGEST_GAIN, STEP=BASE[1], PIXELS=PIXELS, num_warps=4,
            enable_fp_fusion=True)
    return fused, ir_means, vi_means


@mix.register_fake
def _(ir, vi, maps):
    return torch.empty_like(ir, memory_format=torch.contiguous_format)


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
