# SPDX-License-Identifier: Apache-2.0
"""Runs `diffmf` as a user does, for tests of its commands."""

import subprocess
import sys


def diffmf(*arguments):
    """Run the command in a process of its own."""
    return subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)
