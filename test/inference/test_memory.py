# SPDX-License-Identifier: Apache-2.0
"""Memory in use can be asked for while torch is imported, and when a device has failed."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from diffmf_ros.inference.memory import bound_kernel_caches, give_back_memory, memory_in_use


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


def test_kernel_caches_are_bounded(monkeypatch):
    """Far fewer kernels are kept than oneDNN would; what the user has set stays."""
    monkeypatch.delenv('ONEDNN_PRIMITIVE_CACHE_CAPACITY', raising=False)
    monkeypatch.setenv('LRU_CACHE_CAPACITY', '7')

    bound_kernel_caches()

    assert 64 <= int(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY']) <= 256
    assert os.environ['LRU_CACHE_CAPACITY'] == '7'
