# SPDX-License-Identifier: Apache-2.0
"""What tests of Triton kernels share: cases run in a process of their own."""

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def run_cases(cases, **environment):
    """Run a file of cases in a process of its own and fail with its output."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)]
    done = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
