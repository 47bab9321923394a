# SPDX-License-Identifier: Apache-2.0
"""What tests of Triton kernels share.

Running cases in their own process, compiling for GPUs that are not here.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def run_cases(cases, **environment):
    """Run a file of cases in a process of its own and fail with its output."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)]
    done = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Have launches compile for a GPU that need not be here, and launch nothing.

    Return set_capability and kernels.
    """
    pytest.importorskip('triton', reason='triton is not installed')
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    kernels, compile_or_run = [], JITFunction.run

    def compile_only(self, *args, **options):
        kernels.append(compile_or_run(self, *args, **{**options, 'warmup': True}))

    def set_capability(number):
        # A device number of its own: what a kernel has been compiled for is remembered by it.
        driver.set_active(SimpleNamespace(get_current_device=lambda: number,
                                          get_current_stream=lambda device: 0,
                                          get_current_target=lambda: GPUTarget(
                                              'cuda', number, 32)))

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(JITFunction, 'run', compile_only)
    yield set_capability, kernels
    if torch.cuda.is_available():
        driver.reset_active()


def bytes_spilled(kernel, folder):
    """Bytes of stack of a thread, by the tool that comes with triton; 0 where it does not come."""
    import triton

    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.exists():
        return 0
    file = folder / 'kernel.cubin'
    file.write_bytes(kernel.asm['cubin'])
    said = subprocess.run([tool, '-res-usage', file], capture_output=True, text=True,
                          check=True).stdout
    return int(said.partition('STACK:')[2].split()[0])
