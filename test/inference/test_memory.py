# SPDX-License-Identifier: Apache-2.0
"""Memory in use can be asked for while torch is imported, and when a device has failed."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from diffmf_ros.inference.memory import (
    KERNELS,
    bound_kernel_caches,
    give_back_memory,
    memory_in_use,
)

# One layer on images of 201 widths, and on the first one again.
CONVOLUTIONS = """
from diffmf_ros.inference.memory import bound_kernel_caches
{}
import torch
layer = torch.nn.Conv2d(8, 8, 3)
with torch.inference_mode():
    for width in (*range(5, 206), 5):
        print('width', width, flush=True)
        layer(torch.zeros(2, 8, 5, width))
"""


def half_imported(**content) -> ModuleType:
    """Return torch as another thread sees it while it is imported: with what was made so far."""
    module = ModuleType('torch')
    module.__spec__ = SimpleNamespace(name='torch', _initializing=True)
    vars(module).update(content)
    return module


@pytest.mark.parametrize('torch', [
    None, half_imported(), half_imported(cuda=ModuleType('torch.cuda'))],
    ids=['refused', 'empty', 'cuda empty'])
def test_importing_torch_has_no_memory(monkeypatch, torch):
    """A torch that is still being imported has no memory on a device."""
    monkeypatch.setitem(sys.modules, 'torch', torch)

    found = memory_in_use()
    give_back_memory()

    assert 'cuda' not in found
    assert found.get('rss', os.sysconf('SC_PAGE_SIZE')) > 0


def test_device_memory_is_reported():
    """The memory of a device is reported."""
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_allocated=lambda: 123_456_789)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, 'torch', SimpleNamespace(cuda=cuda))
        assert memory_in_use()['cuda'] == 123_456_789


def test_failed_device_is_left_out():
    """A device that has failed is left out."""
    def fail():
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    cuda = SimpleNamespace(is_initialized=lambda: True, memory_allocated=fail, empty_cache=fail)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, 'torch', SimpleNamespace(cuda=cuda))
        give_back_memory()
        assert 'cuda' not in memory_in_use()


def test_kernel_caches_follow_user(monkeypatch):
    """What the user has set stays."""
    monkeypatch.delenv('ONEDNN_PRIMITIVE_CACHE_CAPACITY', raising=False)
    monkeypatch.setenv('LRU_CACHE_CAPACITY', '7')

    bound_kernel_caches()

    assert os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] == str(KERNELS)
    assert os.environ['LRU_CACHE_CAPACITY'] == '7'


def compiled_again(bound: str) -> bool:
    """Return whether oneDNN compiles for the first width again, after 200 others."""
    unset = {name: value for name, value in os.environ.items()
             if name not in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY')}
    environment = {**unset, 'ONEDNN_VERBOSE': '2', 'OMP_NUM_THREADS': '1',
                   'PYTHONPATH': str(Path(__file__).parents[2])}
    output = subprocess.run([sys.executable, '-c', CONVOLUTIONS.format(bound)], env=environment,
                            capture_output=True, text=True, check=True, timeout=120).stdout
    first, *_, last = output.split('width ')[1:]
    if 'cache_miss,cpu,convolution' not in first:
        pytest.skip('this torch does not say what oneDNN compiles')
    return 'cache_miss,cpu,convolution' in last


@pytest.mark.slow
def test_kernel_caches_are_bounded():
    """Of 201 shapes oneDNN no longer has the first, which it keeps when no bound is asked for."""
    pytest.importorskip('torch', reason='torch is not installed')

    assert compiled_again('bound_kernel_caches()')
    assert not compiled_again('')


# The node, ended at once, with what glibc tells of its arenas once threads have allocated memory.
ARENAS = """
import ctypes, threading
from importlib import import_module
from diffmf_ros import executables

def run(life, args):
    threads = [threading.Thread(target=bytearray, args=(100_000,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b'w')))
    libc.fflush(None)
    return 0

def imported(name, package):
    module = import_module(name, package)
    if hasattr(module, 'run'): module.run = run
    return module

executables.import_module = imported
executables.fusion_node()
"""


@pytest.mark.skipif(not sys.platform.startswith('linux')
                    or not hasattr(ctypes.CDLL(None), 'malloc_info'),
                    reason='arenas are of glibc')
def test_node_has_one_arena():
    """Threads share it: what networks leave in pieces in several of them would add up."""
    told = subprocess.run([sys.executable, '-c', ARENAS], capture_output=True, text=True,
                          timeout=60)
    assert told.stdout.count('<heap nr=') == 1, told.stderr
