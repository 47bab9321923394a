# SPDX-License-Identifier: Apache-2.0
"""Runs `diffmf` as a user does, for tests of its commands."""

import contextlib
import io
import subprocess
import sys

from diffmf_ros.cli.main import run


def diffmf(*arguments):
    """Run the command in this process, which has loaded the libraries; bugs are raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def diffmf_process(*arguments):
    """Run the command in a process of its own."""
    return subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)
