# SPDX-License-Identifier: Apache-2.0
"""Whether the fused kernels of a GPU are compiled and checked already, or the next start does it.
"""

import os
from pathlib import Path

from .finding import Finding, Severity

COMMAND = 'diffmf bench --preset light --size 640x480 --frames 10'


def compiled_kernels() -> Path:
    """Return the folder where Triton keeps what it has compiled."""
    home = Path(os.environ.get('TRITON_HOME') or Path.home())
    return Path(os.environ.get('TRITON_CACHE_DIR') or home / '.triton' / 'cache')


def kernel_cache() -> Finding:
    """Return whether this GPU's kernels are kept from an earlier start, and how to do it ahead."""
    from ...inference import selfcheck_cache

    checks = len(selfcheck_cache.known())
    folder = compiled_kernels()
    compiled = sum(1 for _ in folder.glob('*/*.cubin')) if folder.is_dir() else 0
    if checks and compiled:
        return Finding('network', 'kernel cache',
                       f'warm: {compiled} compiled kernels in {folder}, {checks} checks passed; '
                       'another network, size or precision may need more')
    missing = 'no compiled kernel' if not compiled else 'no passed check of these versions'
    return Finding('network', 'kernel cache',
                   f'cold: {missing} on this GPU, so the first pair waits for the compiler',
                   Severity.WARN, f'compile ahead, with the preset, size and precision that you '
                   f'use: {COMMAND}')
