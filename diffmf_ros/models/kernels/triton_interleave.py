# SPDX-License-Identifier: Apache-2.0
"""Triton kernels around a scan through two images whose tokens take turns.

Imported only where triton is.

`interleave` lays both images out in the four orders of SS2D, with step sizes, and `separate` adds
the directions up again, each in one launch. Orders are computed, no index is read from memory.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _token(step, direction, height, width):
    """The token, row by row, that a direction visits at a step."""
    step = tl.where(direction >= 2, height * width - 1 - step, step)
    return tl.where(direction % 2 == 1, step % height * width + step // height, step)


@triton.jit(do_not_specialize=['height', 'width'])
def interleaved(x, y, x_proj, y_proj, weight, u, delta, records, height, width, channels,
                RANK: tl.constexpr, RECORD: tl.constexpr, ROWS: tl.constexpr,
                CHANNELS: tl.constexpr,
                WIDTH: tl.constexpr):
    """Tokens u, step sizes before their bias, and B and C of one direction: b x 2l x 4 x their
    width."""
    direction, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tokens = height * width
    of_x = place < tl.where(place % 2 == 0, 2 * tokens, 0)
    of_y = place < tl.where(place % 2 == 1, 2 * tokens, 0)
    at = batch * tokens + _token(place // 2, direction, height, width)
    to = (batch * 2 * tokens + place) * 4 + direction
    low = (at * 4 + direction) * (RANK + RECORD)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        here = (channel < channels)[None, :]
        source, goal = at[:, None] * channels + channel[None, :], to[:,
                                                                     None] * channels + channel[
                                                                         None, :]
        value = tl.load(x + source, mask=of_x[:, None] & here, other=0.0)
        value += tl.load(y + source, mask=of_y[:, None] & here, other=0.0)
        inside = (place < 2 * tokens)[:, None] & here
        tl.store(u + goal, value, mask=inside)
        step = tl.zeros([ROWS, CHANNELS], tl.float32)
        for r in tl.static_range(RANK):
            part = tl.load(x_proj + low + r, mask=of_x,
                           other=0.0) + tl.load(y_proj + low + r, mask=of_y, other=0.0)
            by = tl.load(weight + (direction * channels + channel) * RANK + r,
                         mask=channel < channels, other=0.0)
            step += part.to(tl.float32)[:, None] * by.to(tl.float32)[None, :]
        tl.store(delta + goal, step, mask=inside)
    column = tl.arange(0, WIDTH)
    here = (column < RECORD)[None, :]
    source = low[:, None] + RANK + column[None, :]
    record = tl.load(x_proj + source, mask=of_x[:, None] & here, other=0.0)
    record += tl.load(y_proj + source, mask=of_y[:, None] & here, other=0.0)
    tl.store(records + to[:, None] * RECORD + column[None, :], record,
             mask=(place < 2 * tokens)[:, None] & here)


@triton.jit(do_not_specialize=['height', 'width', 'batch'])
def separated(scanned, y, height, width, batch, channels, ROWS: tl.constexpr,
              CHANNELS: tl.constexpr):
    """The sum of the four directions of scanned: b x 2l x 4 x d, for both images: 2b x l x d."""
    second, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token, tokens = tl.program_id(0) * ROWS + tl.arange(0, ROWS), height * width
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (token < tokens)[:, None] & (channel < channels)[None, :]
        sums = tl.zeros([ROWS, CHANNELS], tl.float32)
        for direction in tl.static_range(4):
            step = token
            if direction % 2 == 1:
                step = token % width * height + token // width
            if direction >= 2:
                step = tokens - 1 - step
            at = ((image * tokens + step) * 2 + second) * 4 + direction
            sums += tl.load(scanned + at[:, None] * channels + channel[None, :], mask=inside,
                            other=0.0).to(tl.float32)
        to = ((second * batch + image) * tokens + token)[:, None] * channels + channel[None, :]
        tl.store(y + to, sums.to(y.dtype.element_ty), mask=inside)


def _tile(channels):
    """(tokens, channels) of a program."""
    width = min(64, max(16, triton.next_power_of_2(channels)))
    return 1024 // width, width


@torch.library.custom_op('diffmf_ros::interleave', mutates_args=())
def interleave(us: list[torch.Tensor], projs: list[torch.Tensor],
               weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `composed.interleave`, B and C in one: b x 2l x 4 x 2n; without gradients."""
    made, (batch, height, width, channels) = _laid_out(us, projs, weight), us[0].shape
    us, projs = ([t.contiguous() for t in both] for both in (us, projs))
    rows, block = _tile(channels)
    rank, record = weight.shape[2], projs[0].shape[-1] - weight.shape[2]
    with torch.cuda.device_of(us[0]):
        interleaved[(triton.cdiv(2 * height * width, rows), 4, batch)](
            *us, *projs, weight.contiguous(), *made, height, width, channels, RANK=rank,
            RECORD=record,
            ROWS=rows, CHANNELS=block, WIDTH=triton.next_power_of_2(record), num_warps=4,
            num_stages=1, enable_fp_fusion=True)
    return made


def _laid_out(us, projs, weight):
    (batch, height, width, channels), record = us[0].shape, projs[0].shape[-1] - weight.shape[2]
    tokens = batch, 2 * height * width, 4
    return (us[0].new_empty((*tokens, channels)),
            us[0].new_empty((*tokens, channels), dtype=torch.float32),
            projs[0].new_empty((*tokens, record)))


@interleave.register_fake
def _(us, projs, weight):
    return _laid_out(us, projs, weight)


@torch.library.custom_op('diffmf_ros::separate', mutates_args=())
def separate(scanned: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """As `composed.separate`, both images in one: 2b x h x w x d; without gradients."""
    scanned = scanned.contiguous()
    batch, _, _, channels = scanned.shape
    y = scanned.new_empty((2 * batch, height, width, channels))
    rows, block = _tile(channels)
    with torch.cuda.device_of(scanned):
        separated[(triton.cdiv(height * width, rows), 2, batch)](
            scanned, y, height, width, batch, channels, ROWS=rows, CHANNELS=block, num_warps=4,
            num_stages=1, enable_fp_fusion=True)
    return y


@separate.register_fake
def _(scanned, height, width):
    return scanned.new_empty((2 * len(scanned), height, width, scanned.shape[3]))
