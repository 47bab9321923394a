# SPDX-License-Identifier: Apache-2.0
"""One thing that was looked at, and how to look at a library without being harmed by it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

TIMEOUT_S = 120
VERSION = 'import {0} as module; answer = getattr(module, "__version__", "")'
MARK = 'answer:'  # libraries print at import
_MISSING = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")


class Severity(str, Enum):
    """Good; something is not there but the node runs; it runs far too slowly; it cannot run."""

    GOOD = 'good'
    WARN = 'warn'
    ERROR = 'error'
    FAIL = 'fail'


@dataclass(frozen=True)
class Finding:
    """name and what was found about it; advice says what to do where there is something to do."""

    section: str
    name: str
    text: str
    state: Severity = Severity.GOOD
    advice: str = ''


@dataclass(frozen=True)
class Imported:
    """version of a library that can be imported, or the reason why it cannot."""

    version: str = ''
    reason: str = ''

    @property
    def text(self) -> str:
        """One of the two."""
        return self.reason or self.version or 'there'


def try_imports(names: Iterable[str]) -> dict[str, Imported]:
    """Import each library in a process of its own.

    A wrong ABI may raise anything, or kill its process.
    """
    names = list(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: try_code(VERSION.format(name)), names)))


def try_code(code: str) -> Imported:
    """Run Python code in a process of its own; what it leaves in `answer` is the version."""
    try:
        done = subprocess.run([sys.executable, '-c', f'{code}; print({MARK!r}, answer)'],
                              capture_output=True, text=True, errors='replace', timeout=TIMEOUT_S,
                              check=False)
    except subprocess.TimeoutExpired:
        return Imported(reason=f'importing it took more than {TIMEOUT_S} s')
    if done.returncode < 0:
        return Imported(reason=f'importing it ends the process with '
                        f'{signal.Signals(-done.returncode).name}')
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        missing = _MISSING.match(said)
        return Imported(reason=f'{missing[1]} is not installed' if missing else said)
    return Imported(version=done.stdout.rpartition(MARK)[2].strip())
