# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the pixels around a network.

In the interpreter, and compiled for six GPUs.
"""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import bytes_spilled, compiled, needs_gpu, run_cases  # noqa: E402, F401

from diffmf_ros.inference.cuda_backend import Plan  # noqa: E402

CASES = Path(__file__).with_name('pixel_cases.py')


@pytest.mark.slow
def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


@needs_gpu
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET='0')


@pytest.mark.parametrize('capability', [80, 86, 87, 89, 90, 120])
def test_kernels_compile_and_fit_in_registers(compiled, capability, tmp_path):  # noqa: F811
    # Given a GPU and a plan with tables and trusted color, when a pair is fused,
    from diffmf_ros.inference.triton_pixels import PixelKernels

    set_capability, kernels = compiled
    set_capability(capability)
    made = PixelKernels(Plan((4, 6, 3), 'rgb8', (2, 3), 'mono16', 1.0, mapped=True))
    rgb, seen = torch.zeros(4, 6, 3, dtype=torch.uint8), torch.ones(4, 6, dtype=torch.bool)
    ir, _ = made.prepare(rgb, torch.zeros(2, 3, dtype=torch.int16), torch.ones(4),
                         grid=torch.zeros(1, 4, 6, 2), seen=seen)
    made.finish(ir[0, 0], rgb, seen=seen)
    # then the four kernels compile, and no thread keeps values outside of its registers.
    assert [kernel.name for kernel in kernels] == ['sources', 'halved', 'color_factors', 'painted']
    assert [bytes_spilled(kernel, tmp_path) for kernel in kernels] == [0, 0, 0, 0]
