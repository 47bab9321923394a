# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the pixels around a network, in the interpreter."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import needs_gpu, run_cases  # noqa: E402

CASES = Path(__file__).with_name('pixel_cases.py')


@pytest.mark.slow
def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


@needs_gpu
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET='0')
