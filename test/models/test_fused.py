# SPDX-License-Identifier: Apache-2.0
"""Fused steps of the networks: their cases in Triton's interpreter."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import needs_gpu, run_cases  # noqa: E402

from diffmf_ros.models import fused  # noqa: E402
from diffmf_ros.models.kernels import plain, portable, triton  # noqa: E402

pytestmark = pytest.mark.slow

CASES = Path(__file__).with_name('fused_cases.py')


def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


@needs_gpu
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET='0')


def test_the_cpu_takes_the_plain_form(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    x = torch.zeros(1, 1, 1, 16)
    with torch.inference_mode():
        forms = {fused.form_of(operation, x) for operation in fused.OPERATIONS}
    assert forms <= {portable, plain}
    assert all(getattr(portable, operation) is getattr(plain, operation)
               for operation in fused.OPERATIONS)


def test_rates_learn_without_triton(monkeypatch):
    """Decay rates have their gradients where Triton takes the device but cannot be imported."""
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.setattr(triton, '_kernels', lambda: 'its kernels cannot be imported')
    logs = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
    assert triton.refuses(logs, states=1) is None

    rates = fused.rates(logs)
    rates.sum().backward()

    assert torch.equal(rates, -logs.exp()) and torch.equal(logs.grad, -logs.exp())
