# SPDX-License-Identifier: Apache-2.0
"""Memory of the process: kept from frame to frame, given back when it runs out, measured."""

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

# How libraries say that there was no memory, where their exception has no type of its own.
_SHORT_OF_MEMORY = ('out of memory', 'outofmemory', "can't allocate memory", 'bad allocation',
                    'bad_alloc', 'failed to allocate memory', 'insufficient memory')

# Shapes of layers whose compiled kernels are kept, of all networks and sizes.
KERNELS = 128

# Parameters of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tell glibc not to give freed memory back to the system; return whether it took that.

    torch and OpenCV allocate every intermediate afresh. Above 32 MB (less in a new process) glibc
    maps and unmaps each of them, and the page faults cost more than the arithmetic: without this a
    640x480 pair takes two to three times as long (benchmarks/memory.py). It holds for the whole
    process, whose memory stays at its peak. Elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # One arena: those of other threads cannot grow beyond 64 MB without mapping.
    return all(mallopt(parameter, value) for parameter, value in
               ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1)))


def bound_kernel_caches() -> None:
    """Keep torch's CPU kernels of KERNELS shapes of layers, unless the user has said how many.

    oneDNN compiles a kernel for every shape that it meets and keeps 1024 of them. A node whose
    working size, model or grid changes meets new ones for hours, and grows by 100 to 200 MB
    meanwhile. With 128 a pair takes as long as with 1024; with 32, too few for one network, up to
    twice as long. It counts when it comes before the first convolution of the process.
    """
    for variable in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'):
        os.environ.setdefault(variable, str(KERNELS))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether error, or what caused it, says that memory ran out: of the process or of a device.
    """
    while error is not None:
        text = f'{type(error).__name__}: {error}'.lower()
        if isinstance(error, MemoryError) or any(words in text for words in _SHORT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def give_back_memory() -> None:
    """Free what nothing refers to any more, and give it back to the system and to the device.

    Takes some 0.1 s.
    """
    gc.collect()
    torch = _torch_with_cuda()
    if torch is not None:
        with suppress(RuntimeError):  # after some errors a device answers nothing but that error
            torch.cuda.empty_cache()
    if sys.platform.startswith('linux') and hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
        libc.malloc_trim(0)


def memory_in_use() -> dict[str, int]:
    """Return bytes: rss, the resident memory of the process (on Linux), and cuda, what torch has
    allocated there."""
    found = {}
    if sys.platform.startswith('linux'):
        resident_pages = int(Path('/proc/self/statm').read_text().split()[1])
        found['rss'] = resident_pages * os.sysconf('SC_PAGE_SIZE')
    torch = _torch_with_cuda()
    if torch is not None:
        with suppress(RuntimeError):  # as above
            found['cuda'] = torch.cuda.memory_allocated()
    return found


def _torch_with_cuda():
    """Return torch if this process uses a CUDA device, else None. Imports and initializes nothing.

    While another thread imports torch, the module is known before it has any content.
    """
    torch = sys.modules.get('torch')
    is_initialized = getattr(getattr(torch, 'cuda', None), 'is_initialized', None)
    return torch if is_initialized is not None and is_initialized() else None
