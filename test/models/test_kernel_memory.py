# SPDX-License-Identifier: Apache-2.0
"""The compiled scans where memory is short: an error in Python, and the process lives on."""

import subprocess
import sys

import pytest

pytest.importorskip('torch', reason='torch is not installed')
from diffmf_ros.models.kernels import cpu  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cpu.unavailable() is not None, reason='the compiled kernel was not built'),
    pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs RLIMIT_AS and /proc'),
]

# A scan whose states need far more memory than its images, in a process that may not grow by more
# than 64 MB.
PROGRAM = r"""
import re
import resource
import sys
import torch
from diffmf_ros.models.kernels import cpu, portable

torch.set_num_threads(2)
tokens = 1 << 20
calls = {
    'ss2d': lambda backend, n: backend.ss2d(
        torch.ones(2, n, 1, 1), torch.ones(2, n, 1, 4, 3), torch.ones(4, 1, 1), torch.ones(4, 1),
        -torch.ones(4, 1, 1), torch.ones(4, 1)),
    'ssd': lambda backend, n: backend.ssd(
        torch.ones(2, n, 1, 1), torch.ones(2, n, 1), -torch.ones(1), torch.ones(2, n, 1),
        torch.ones(2, n, 1), 2),
    'selective_scan': lambda backend, n: backend.selective_scan(
        torch.ones(2, 1, 1), torch.ones(2, 1, 1), -torch.ones(1, n), torch.ones(2, 1, n, 1),
        torch.ones(2, 1, n, 1),
        None, None, False),
}
with torch.inference_mode():
    for name, size in zip(sys.argv[1::2], sys.argv[2::2]):
        call = calls[name]
        call(cpu, 4)  # the threads exist from here on: the library cannot go on without them
        status = open('/proc/self/status').read()
        address_space = int(re.search(r'VmSize:\s*(\d+)', status)[1]) * 1024
        limits = resource.getrlimit(resource.RLIMIT_AS)
        allowed = address_space + int(size) + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, limits[1]))
        try:
            call(cpu, tokens)
        except MemoryError as error:
            print(name, error)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        torch.testing.assert_close(call(cpu, 100), call(portable, 100))
        print(name, 'still right')
"""
# Bytes of inputs and result of the calls: 2 x 2^20 tokens of so many floats.
INPUTS = {'ss2d': (1 + 12 + 1) << 23, 'ssd': (4 + 1) << 23, 'selective_scan': 3 << 23}


@pytest.fixture(scope='module')
def done():
    """The process, which has made one call after another."""
    sizes = (str(part) for item in INPUTS.items() for part in item)
    return subprocess.run([sys.executable, '-c', PROGRAM, *sizes], capture_output=True, text=True,
                          timeout=100, check=False)


@pytest.mark.parametrize('name', INPUTS)
def test_scan_recovers_after_no_memory(name, done):
    """A scan without memory raises and works again when there is some."""
    assert done.returncode == 0, done.stderr
    error, after = (line for line in done.stdout.splitlines() if line.split()[0] == name)
    assert 'got no memory for its states; use a smaller image or working size' in error
    assert after == f'{name} still right'
