# SPDX-License-Identifier: Apache-2.0
"""Small Triton kernels of training: sums over parts and directions, and rates.

Imported only where triton is. Sums are taken in a fixed order, so a training can be repeated bit
by bit.
"""

import torch
import triton
import triton.language as tl

from .triton_rows import LOG2E

ADDED, ADDED_AT_ONCE = 32, 64  # values and parts of them that a program adds at once
BLOCK = 1024  # values of a program of the other kernels


@triton.jit(do_not_specialize=['parts'])
def add_parts(sums, first, second, parts, values, split, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over the parts of sums: parts x values, up to split in first, from there in second.
    """
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, parts, ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < parts)[:, None] & (column < values)[None, :]
        total += tl.sum(tl.load(sums + row[:, None] * values + column[None, :], mask=inside,
                                other=0.0), 0)
    tl.store(first + column, total.to(first.dtype.element_ty), mask=column < split)
    tl.store(second + column - split, total.to(second.dtype.element_ty),
             mask=(column >= split) & (column < values))


@triton.jit(do_not_specialize=['tokens'])
def add_directions(du, image, tokens, channels, SCANS: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over the directions of du: tokens x SCANS x channels."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token, channel = at // channels, at % channels
    total = tl.zeros([BLOCK], tl.float32)
    for scan in tl.static_range(SCANS):
        total += tl.load(du + (token * SCANS + scan) * channels + channel, mask=token < tokens,
                         other=0.0)
    tl.store(image + at, total.to(image.dtype.element_ty), mask=token < tokens)


@triton.jit
def negative_exponentials(logs, rates, values, BLOCK: tl.constexpr):
    """-exp(logs)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = -tl.exp2(tl.load(logs + at, mask=at < values, other=0.0) * LOG2E)
    tl.store(rates + at, found, mask=at < values)


def added(sums, split, kind):
    """Return the sum of the rows of sums: float32 up to split, of kind from there."""
    parts, values = sums.shape
    first, second = sums.new_empty(split), sums.new_empty(values - split, dtype=kind)
    with torch.cuda.device_of(sums):
        add_parts[(triton.cdiv(values, ADDED),)](sums, first, second, parts, values, split,
                                                 ROWS=ADDED_AT_ONCE, BLOCK=ADDED, num_warps=4)
    return first, second


def directions_added(du, u):
    """Return the sum over the scans of du, b x tokens x scans x e float32, like the image u."""
    image = torch.empty_like(u, memory_format=torch.contiguous_format)
    scans, channels = du.shape[2:]
    with torch.cuda.device_of(u):
        add_directions[(triton.cdiv(u.numel(), BLOCK),)](du, image, u.numel() // channels,
                                                         channels, SCANS=scans, BLOCK=BLOCK,
                                                         num_warps=4)
    return image


def rates(logs):
    """Return -exp(logs) of float32 logs."""
    logs = logs.contiguous()
    found = torch.empty_like(logs)
    with torch.cuda.device_of(logs):
        negative_exponentials[(triton.cdiv(logs.numel(), BLOCK),)](logs, found, logs.numel(),
                                                                   BLOCK=BLOCK, num_warps=4)
    return found
