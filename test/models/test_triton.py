# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: its cases in Triton's interpreter on the CPU, and on a GPU where there is
one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import bytes_spilled, compiled, needs_gpu, run_cases  # noqa: E402, F401

from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import triton  # noqa: E402

pytestmark = pytest.mark.slow

CASES = Path(__file__).with_name('triton_cases.py')


def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


@pytest.mark.parametrize('capability, dtype',
                         [(80, torch.float16), (90, torch.bfloat16), (120, torch.float32)])
def test_kernels_keep_state_in_registers(compiled, capability, dtype):  # noqa: F811
    """Kernels compile for GPUs and keep the state in registers."""
    # The interpreter takes what the compiler refuses. Given the sizes of a network,
    from diffmf_ros.models.kernels import triton_scan, triton_ssd

    set_capability, kernels = compiled
    set_capability(capability)

    def zeros(*shape):
        return torch.zeros(*shape, dtype=dtype)

    # when the scans are launched,
    parameters = (torch.zeros(s) for s in ((4, 128, 4), (4, 128), (4, 128, 1), (4, 128)))
    triton_scan.ss2d(zeros(1, 4, 6, 128), zeros(1, 4, 6, 4, 6), *parameters)
    triton_scan.selective_scan(zeros(2, 6, 9), zeros(2, 6, 9), torch.zeros(6, 3),
                               zeros(2, 2, 3, 9), zeros(2, 2, 3, 9), torch.zeros(6), None, True)
    triton_ssd.ssd(zeros(1, 70, 4, 32), zeros(1, 70, 4), torch.zeros(4), zeros(1, 70, 64),
                   zeros(1, 70, 64), 2)
    # then each kernel compiles, and only carry and ssd exchange values between threads.
    assert [kernel.name for kernel in kernels] == [
        'chunk_states', 'carry', 'outputs', 'outputs', 'chunk_states', 'carry', 'outputs',
        'span_states', 'carry', 'outputs']
    assert all(kernel.asm['cubin'] for kernel in kernels)
    assert [kernels[i].metadata.shared for i in (0, 2, 3, 4, 6)] == [0] * 5
    # what every GPU since Ampere has
    assert max(kernel.metadata.shared for kernel in kernels) <= 99 * 1024


@needs_gpu
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET='0')


@needs_gpu
def test_calls_capture_in_graph():
    """Calls can be captured in a graph."""
    # Given a call that has run once,
    inputs = [torch.randn(s, device='cuda') for s in
              [(1, 9, 13, 32), (1, 9, 13, 4, 4), (4, 32, 2), (4, 32), (4, 32, 1), (4, 32)]]
    inputs[4] = -inputs[4].abs()
    expected = scan.ss2d(*inputs, backend='triton')
    torch.cuda.synchronize()
    # when it is captured and replayed on other values,
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = scan.ss2d(*inputs, backend='triton')
    inputs[0].mul_(2)
    graph.replay()
    # then it gives what the call gives; the scan is linear in u.
    assert torch.allclose(found, 2 * expected, rtol=1e-6, atol=0)


def test_without_a_gpu_it_says_why(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(torch.version, 'cuda', '12.8')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(scan.ScanError, match="'triton' cannot run: there is no CUDA device"):
        scan.backend_for(torch.zeros(1, 1, 1, 1), 'ss2d', 'triton')


def test_import_failure_is_a_reason(monkeypatch):
    """Kernels that cannot be imported are a reason not an error."""
    # Given a triton whose import fails as half installed libraries do,
    class Broken:
        __version__ = '3.4.0'

        @staticmethod
        def jit(*_, **__):
            raise RuntimeError('0 active drivers')

    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.setitem(sys.modules, 'triton', Broken)
    for name in ('triton_scan', 'triton_ssd'):
        monkeypatch.delitem(sys.modules, f'diffmf_ros.models.kernels.{name}', raising=False)
    triton._kernels.cache_clear()
    # when it is asked for, then it gives the reason.
    try:
        assert 'cannot be imported' in triton.unavailable()
        Broken.__version__ = '2.3.1'
        triton._kernels.cache_clear()
        assert triton.unavailable() == 'it needs triton 3.4 or newer, not 2.3.1'
    finally:
        triton._kernels.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_benchmark_without_gpu():
    """The benchmark without a GPU says so."""
    command = [sys.executable, str(CASES.parents[2] / 'benchmarks' / 'gpu_scan.py')]
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': str(CASES.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr == 'no CUDA device: nothing is measured\n'


@pytest.mark.parametrize(
    'capability, dtype',
    [
        (80, torch.bfloat16),
        (86, torch.float16),
        (87, torch.float16),
        (89, torch.bfloat16),
        (90, torch.bfloat16),
        (120, torch.float32),
    ],
)
def test_gradient_kernels_fit_registers(compiled, capability, dtype, tmp_path):  # noqa: F811
    """Kernels of gradients compile and fit in registers."""
    # Given a GPU and the sizes of base, when the gradients of SS2D are computed,
    from diffmf_ros.models.kernels import triton_autograd

    set_capability, kernels = compiled
    set_capability(capability)
    shapes = (1, 4, 6, 128), (1, 4, 6, 4, 6), (4, 128, 4), (4, 128), (4, 128, 1), (4, 128)
    inputs = [
        torch.zeros(shape, dtype=dtype if len(shape) > 3 else torch.float32) for shape in shapes
    ]
    saved = torch.zeros(1, 4, 6, 1, 128), *inputs  # states at the ends of six chunks
    triton_autograd._Ss2d.backward(SimpleNamespace(saved_tensors=saved), inputs[0])
    # then all kernels compile, and no thread keeps values outside of its registers.
    assert [kernel.name for kernel in kernels] == [
        'chunk_adjoints',
        'carry',
        'gradients',
        'add_parts',
        'add_directions',
    ]
    assert [bytes_spilled(kernel, tmp_path) for kernel in kernels] == [0] * 5
