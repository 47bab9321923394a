# SPDX-License-Identifier: Apache-2.0
"""What a GPU can do at most: bytes copied a second, and exponentials a second."""

import torch
import triton
import triton.language as tl
from gpu_timing import milliseconds

COPIED_BYTES = 2 ** 30
CHAINS, STEPS = 2 ** 24, 256


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy between two buffers far larger than any cache."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device='cuda')
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / (1e-3 * milliseconds({'copy': lambda: target.copy_(source)})['copy'])


@triton.jit
def _exponentials(x, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    at = x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(at)
    for _step in range(STEPS // 16):
        for _unrolled in tl.static_range(16):
            value = tl.exp2(-value)
    tl.store(at, value)


def exponential_rate() -> float:
    """Exponentials a second: chains of exp2 in registers."""
    x = torch.rand(CHAINS, device='cuda')
    run = {'exp2': lambda: _exponentials[(CHAINS // 1024,)](x, STEPS=STEPS, BLOCK=1024)}
    return CHAINS * STEPS / (1e-3 * milliseconds(run)['exp2'])
