# SPDX-License-Identifier: Apache-2.0
"""What this machine is, and what memory a process took. Read from Linux' own files."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

# Extensions that decide which kernel or precision is fast, as /proc/cpuinfo spells them (x86, then
# ARM).
EXTENSIONS = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16', 'asimd', 'sve', 'bf16')


@dataclass(frozen=True)
class Machine:
    """cores: that this process may use; extensions: those of EXTENSIONS that the processor has."""

    cpu: str
    cores: int
    extensions: tuple[str, ...]
    memory_gb: float
    board: str
    os: str

    def __str__(self):
        where = f' ({self.board})' if self.board else ''
        return f'{self.cpu}{where}, {self.cores} cores'


def this_machine(root: Path = Path('/')) -> Machine:
    """Return what the files under root (proc, etc) say; what they do not say is '' or 0."""
    cpuinfo = _text(root / 'proc/cpuinfo')
    kilobytes = re.search(r'^MemTotal:\s*(\d+)', _text(root / 'proc/meminfo'), re.M)
    flags = set(_entry(cpuinfo, 'flags|Features').split())
    return Machine(
        cpu=_entry(cpuinfo, 'model name|Model') or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        extensions=tuple(name for name in EXTENSIONS if name in flags),
        memory_gb=int(kilobytes[1]) / 2 ** 20 if kilobytes else 0.0,
        board=_text(root / 'proc/device-tree/model').strip('\0\n '),
        os=_system(_text(root / 'etc/os-release')))


def peak_memory_mb(pid: int | str = 'self') -> float:
    """Return the peak resident memory of a process in MiB.

    Not ru_maxrss: that starts at what the parent used.
    """
    status = Path(f'/proc/{pid}/status').read_text()
    return int(re.findall(r'VmHWM:\s*(\d+)', status)[0]) / 1024


def _text(path: Path) -> str:
    try:
        return path.read_text(errors='replace')
    except OSError:
        return ''


def _entry(text: str, names: str) -> str:
    found = re.search(rf'^(?:{names})\s*:\s*(.*)$', text, re.M)
    return found[1].strip() if found else ''


def _system(os_release: str) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', os_release, re.M)
    return f'{name[1] if name else platform.system()}, {platform.machine()}'
