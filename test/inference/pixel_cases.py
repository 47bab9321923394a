# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the pixels around a network against plain torch, bytes against bytes.

`test_device_path.py` runs this file in a process of its own, because the interpreter must be
chosen before triton is imported; on a GPU it runs as it is.
"""

import os

import numpy as np
import pytest
import torch

from diffmf_ros.inference.cuda_backend import Plan, Program

DEVICE = 'cpu' if os.environ.get('TRITON_INTERPRET') == '1' else 'cuda'
STRETCH = torch.tensor((30100.0, 34900.0, 4800.0, 0.0))


def fuse(ir, y):
    """Stands for a network: brighter and darker than the visible image in places."""
    return 0.8 * torch.maximum(ir, y) + 0.1 * torch.minimum(ir, y)


def frames(rgb_shape, thermal_shape, thermal_encoding):
    """(bytes of RGB, of thermal, levels), seeded; thermal with values beyond the levels."""
    random = np.random.default_rng(3)
    rgb = random.integers(0, 256, rgb_shape, dtype=np.uint8)
    rgb[::2] //= 6  # dark parts, whose chroma is not trusted
    thermal, stretch = random.integers(29000, 36000, thermal_shape), STRETCH.clone()
    if thermal_encoding == 'mono16':
        thermal = thermal.astype(np.uint16).view(np.int16)
    elif thermal_encoding == '32FC1':
        thermal = thermal.astype(np.float32)
        thermal[0, :3] = np.nan, np.inf, -np.inf
        stretch[3] = 1  # black-hot
    else:
        thermal = random.integers(0, 256, thermal_shape, dtype=np.uint8)
    return [torch.from_numpy(array).to(DEVICE) for array in (rgb, thermal)] + [stretch.to(DEVICE)]


def both_forms(plan, *, fuse=fuse):
    """(bytes that the kernels make, bytes of plain torch) of one pair, with random tables where it
    is mapped."""
    program = Program(plan, fuse=fuse, device=DEVICE)
    if plan.mapped:
        generator = torch.Generator().manual_seed(4)
        program._warp.grid.copy_(2.2 * torch.rand(program._warp.grid.shape, generator=generator)
                                 - 1.1)
        program._seen.copy_(torch.rand(plan.size, generator=generator) > 0.3)
    assert program._kernels is not None
    inputs = frames(plan.rgb_shape, plan.thermal_shape, plan.thermal_encoding)
    with torch.inference_mode():
        return [form(*inputs).cpu().int() for form in (program, program.in_torch)]


@pytest.mark.parametrize('rgb, thermal, mapped, chroma', [
    (((24, 33, 3), 'rgb8'), ((12, 16), 'mono16'), False, 'keep_chroma'),  # resized
    (((24, 33, 3), 'bgr8'), ((24, 33), '32FC1'), False, 'raw_chroma'),  # of one size
    (((21, 40, 4), 'bgra8'), ((11, 15, 3), 'bgr8'), True, 'keep_chroma'),
    (((17, 20), 'mono8'), ((9, 31), 'mono8'), True, 'keep_chroma'),
    (((20, 17, 4), 'rgba8'), ((9, 7), 'mono16'), True, ''),  # gray
    (((1, 1, 3), 'rgb8'), ((1, 1), 'mono8'), False, 'keep_chroma'),
])
def test_the_bytes_of_both_forms(rgb, thermal, mapped, chroma):
    found, expected = both_forms(Plan(*rgb, *thermal, 1.0, mapped=mapped, chroma=chroma))

    assert found.shape == expected.shape and found[-1] == expected[-1] == 1
    # Bilinear weights add up in another order: a tie may fall to the other side.
    assert (found - expected).abs().max() <= 1
    assert (found == expected).double().mean() >= 0.995


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_not_finite_is_told(value):
    def broken(ir, y):
        y = y.clone()
        y[..., 5, 7] = value
        return y

    found, expected = both_forms(Plan((8, 9, 3), 'rgb8', (4, 5), 'mono16', 1.0), fuse=broken)

    assert found[-1] == expected[-1] == 0


def test_the_kernels_check_themselves(monkeypatch):
    # Given a plan whose kernels are right, then they stay
    plan = Plan((8, 9, 3), 'rgb8', (4, 5), 'mono16', 1.0)
    program = Program(plan, fuse=fuse, device=DEVICE)
    assert program.check_kernels() is None and program._kernels is not None
    # and given wrong ones, they are told and left out.
    monkeypatch.setattr(type(program._kernels), 'prepare', lambda self, *images, **about: 2 * [
        torch.zeros(1, 1, 8, 9, device=DEVICE)])
    assert 'wrong values' in program.check_kernels()
    assert program._kernels is None
