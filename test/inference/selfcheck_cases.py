# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels pass the self-check in Triton's interpreter, with products in TF32 as a
tensor core has them.

`test_selfcheck.py` runs this file in a process of its own, because the interpreter must be chosen
before triton is imported.
"""

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from diffmf_ros.inference import selfcheck, selfcheck_steps
from diffmf_ros.models.scan import Use


def cut(block):
    """A float32 block of the interpreter with the 10 fractional bits of TF32."""
    if block.data.dtype != np.float32:
        return block
    bits = np.ascontiguousarray(block.data).view(np.int32) & np.int32(~0x1FFF)
    return TensorHandle(bits.view(np.float32), block.dtype)


@pytest.fixture
def tensor_core(monkeypatch):
    """Let products truncate their factors; return a list with the number of those that did."""
    counted, create_dot = [0], InterpreterBuilder.create_dot

    def truncated(self, a, b, d, input_precision, *others):
        if 'TF32' in str(input_precision):
            counted[0] += 1
            a, b = cut(a), cut(b)
        return create_dot(self, a, b, d, input_precision, *others)

    monkeypatch.setattr(InterpreterBuilder, 'create_dot', truncated)
    return counted


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_ssd(tensor_core, dtype):
    # given the golden case with the step sizes of a trained network
    use = Use('ssd', dtype, states=16, directions=1)
    (case, allowed), = (pair for pair in selfcheck._cases(use, dtype) if 'trained' in pair[0].name)
    # when the kernel runs, then its errors are well within the limit, and it truncates only in
    # half precision
    found = case.run('triton', device='cpu', dtype=dtype).double()
    assert ((found - case.expected.double()).abs() / allowed).max() < 0.6
    assert bool(tensor_core[0]) == (dtype != torch.float32)


@pytest.mark.parametrize('operation', selfcheck_steps.OPERATIONS)
def test_steps(tensor_core, operation):
    features = torch.float32 if operation in selfcheck_steps.PIXELS else torch.float16
    use = Use(operation, features)
    assert selfcheck.check_use('triton', use, device='cpu', layers=torch.float16) is None
