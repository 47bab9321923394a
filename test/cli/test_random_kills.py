# SPDX-License-Identifier: Apache-2.0
"""A process that is killed at any moment while it writes leaves whole results or none."""

import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 28  # four of each kind; `python test/random_kills.py 200` does more


@pytest.mark.slow
def test_files_are_whole_after_kill():
    """What is there after a kill is whole."""
    # In a process of its own, which has no threads when it forks
    done = subprocess.run([sys.executable, Path(__file__).parents[1] / 'random_kills.py',
                           str(COUNT)],
                          capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert 'unreadable' not in done.stdout
    # And the kills came while there was something to read
    assert done.stdout.count('whole') >= 3, done.stdout
