# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels stay within their tensors, by AddressSanitizer."""

import sys
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='torch is not installed')
sys.path.append(str(Path(__file__).parents[1]))

import sanitized_kernels  # noqa: E402
import torch  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(sanitized_kernels.runtime() is None, reason='g++ with libasan is missing')
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ('AVX2', 'AVX512'),
                    reason='the kernel of AVX2 cannot run on this processor')
def test_no_access_beyond_tensors():
    """Odd sizes and strides give no report; a row too many, on purpose, gives one."""
    done = sanitized_kernels.run('AVX2')

    assert done.returncode == 0, done.stderr
    calls, _, overrun = done.stdout.partition(' calls, overrun ')
    assert int(calls) > 100
    assert overrun.strip() == 'found'
