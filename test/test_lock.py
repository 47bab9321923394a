# SPDX-License-Identifier: Apache-2.0
"""requirements/lock.txt pins what the other requirements pin, each file by its hash."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / 'requirements'
PIN = re.compile(r'^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([^\s;]+)', re.MULTILINE)


def pins(text):
    """Return {(name, version)} of a requirements file; names as indexes normalize them."""
    return {(re.sub('[-_.]+', '-', name).lower(), version) for name, version in PIN.findall(text)}


@pytest.fixture(scope='module')
def lock():
    """Return the text of the lock."""
    return (FOLDER / 'lock.txt').read_text()


@pytest.mark.parametrize('name', ['run', 'ros', 'torch'])
def test_lock_has_every_pin(name, lock):
    """The lock has each requirement in the same version."""
    wanted = pins((FOLDER / f'{name}.txt').read_text())

    assert wanted and wanted <= pins(lock)


def test_lock_has_hashes(lock):
    """Every requirement of the lock is exact and has a SHA-256."""
    entries = re.split(r'\n(?=[a-z])', re.sub('^#.*\n', '', lock, flags=re.MULTILINE).strip())

    assert len(entries) > 80
    for entry in entries:
        assert PIN.match(entry) and '--hash=sha256:' in entry, entry.splitlines()[0]
