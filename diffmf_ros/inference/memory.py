# SPDX-License-Identifier: Apache-2.0
"""Keep freed memory in the process, so that a frame reuses the pages of the one before it."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tell glibc not to give freed memory back to the system; return whether it took that.

    torch and OpenCV allocate every intermediate afresh. Above 32 MB (less in a new process) glibc maps
    and unmaps each of them, and the page faults cost more than the arithmetic: without this a 640x480
    pair takes two to three times as long (benchmarks/memory.py). It holds for the whole process, whose
    memory stays at its peak. Elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # One arena: those of other threads cannot grow beyond 64 MB without mapping.
    return all(mallopt(parameter, value) for parameter, value in
               ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1)))
