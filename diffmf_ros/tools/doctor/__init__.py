# SPDX-License-Identifier: Apache-2.0
"""What this machine can do: `examine` looks, without being harmed by a library, `diffmf doctor`
shows it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of looking."""

    findings: tuple[Finding, ...]

    @property
    def node_can_run(self) -> bool:
        """Whether the node can start here with its default settings."""
        return all(finding.state is not Severity.FAIL for finding in self.findings)

    def advice(self) -> list[str]:
        """Return what to do, the blocking first, then errors, without doubles."""
        urgency = {Severity.FAIL: 0, Severity.ERROR: 1}
        ordered = sorted(self.findings, key=lambda finding: urgency.get(finding.state, 2))
        return list(dict.fromkeys(finding.advice for finding in ordered if finding.advice))

    def as_dict(self) -> dict:
        """For JSON."""
        return {'node_can_run': self.node_can_run, 'advice': self.advice(),
                'findings': [asdict(finding) for finding in self.findings]}


def examine() -> Diagnosis:
    """Look at everything; takes some seconds, because libraries are imported in processes of their
    own."""
    from . import network, ros, system
    looks = (system.machine, system.libraries, network.examine, system.jetson, ros.libraries,
             ros.transport, system.energy)
    return Diagnosis(tuple(finding for look in looks for finding in look()))
