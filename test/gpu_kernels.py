# SPDX-License-Identifier: Apache-2.0
"""What tests of Triton kernels share: cases run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def run_cases(cases, **environment):
    """Run a file of cases in a process of its own, with this module as a plugin, and fail with its
    output."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', __name__,
               str(cases)]
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')))
    done = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path,
                                        **environment},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def pytest_configure():
    """Let Triton's interpreter exchange its language once a launch.

    It does so again, to no effect, for every call of a function of a kernel, which takes a fifth
    of the time.
    """
    if os.environ.get('TRITON_INTERPRET') != '1':
        return
    from triton import language
    from triton.runtime import interpreter

    # Private names: with a Triton that lacks them it takes its time.
    exchange = getattr(interpreter, '_patch_lang', None)
    if exchange is None or not hasattr(interpreter, '_LangPatchScope'):
        return

    def exchange_once(function):
        used = [value for value in function.__globals__.values()
                if value is language or value is language.core]
        if any(language.core.is_builtin(module.load) for module in used):
            return exchange(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = exchange_once
