# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: its cases in Triton's interpreter on the CPU, and on a GPU where there is
one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import needs_gpu, run_cases  # noqa: E402

from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import triton  # noqa: E402

pytestmark = pytest.mark.slow

CASES = Path(__file__).with_name('triton_cases.py')


def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


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
