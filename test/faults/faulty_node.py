# SPDX-License-Identifier: Apache-2.0
"""The real node with a network, or classical fusion too, that fails when a file says so.

The file named by the environment variable FAULT_FILE is read at every call. It holds one of the
names in FAULTS, or nothing: then everything works. REPORTS_S, if set, are the
seconds between two reports. HEAP_FILE, if set, names a file that is told every 20 s how many bytes
of C's heap and how many blocks of Python's are in use, once no garbage is left.
"""

import ctypes
import gc
import os
import sys
import threading
import time
from pathlib import Path

from diffmf_ros.inference.memory import keep_freed_memory

keep_freed_memory()  # before there are threads, as the executable does

import torch  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.core.imaging import classical  # noqa: E402
from diffmf_ros.ros import fusion_node, session, status  # noqa: E402

FILE = Path(os.environ['FAULT_FILE'])
FULL_WIDTH = 96
STALL_S = 5.0


def _raise(network, inputs, output):
    raise RuntimeError('injected failure')


def _nan(network, inputs, output):
    return torch.full_like(output, torch.nan)


def _out_of_memory(network, inputs, output):
    raise torch.OutOfMemoryError('injected: out of memory')


def _out_of_memory_at_full_size(network, inputs, output):
    if output.shape[-1] > FULL_WIDTH // 2:
        raise torch.OutOfMemoryError('injected: out of memory at full size')
    return output


def _stall_once(network, inputs, output):
    FILE.write_text('')
    time.sleep(STALL_S)
    return output


FAULTS = {'raise': _raise, 'raise_everywhere': _raise, 'nan': _nan,
          'out_of_memory': _out_of_memory,
          'out_of_memory_at_full_size': _out_of_memory_at_full_size, 'stall': _stall_once}


def breakable_networks(build):
    """Return models.build, but with networks that fail as FILE says."""
    def build_breakable(*args, **options):
        network = build(*args, **options)
        network.register_forward_hook(lambda *call: FAULTS[fault](*call)
                                      if (fault := FILE.read_text()) else None)
        return network
    return build_breakable


def breakable_classical(fuse):
    """Return classical.fuse, but failing when FILE says that everything does."""
    def fuse_or_raise(*args, **options):
        if FILE.read_text() == 'raise_everywhere':
            raise RuntimeError('injected failure')
        return fuse(*args, **options)
    return fuse_or_raise


class Mallinfo(ctypes.Structure):
    """What glibc tells of all its arenas: struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
        'fordblks', 'keepcost')]


def tell_heap(file, period_s=20.0):
    """Write into file what is in use, for ever; whoever reads sees whole lines only."""
    glibc = ctypes.CDLL(None)
    glibc.mallinfo2.restype = Mallinfo
    new = Path(f'{file}.new')
    while True:
        gc.collect()
        info = glibc.mallinfo2()
        new.write_text(f'{info.uordblks + info.hblkhd} {sys.getallocatedblocks()}')
        new.replace(file)
        time.sleep(period_s)


if __name__ == '__main__':
    if 'HEAP_FILE' in os.environ:
        threading.Thread(target=tell_heap, args=(os.environ['HEAP_FILE'],), daemon=True).start()
    session.PERIOD_S = status.PERIOD_S = float(os.environ.get('REPORTS_S', status.PERIOD_S))
    models.build = breakable_networks(models.build)
    classical.fuse = breakable_classical(classical.fuse)
    raise SystemExit(fusion_node.main())
