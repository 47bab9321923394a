# SPDX-License-Identifier: Apache-2.0
"""Measurements that need ROS run as modules of their own, which print one JSON object."""

import json
import subprocess
import sys

from ..core.frames import DiffmfError


def run_probe(module: str, *arguments: object, timeout_s: float) -> dict:
    """Run a module of diffmf_ros.ros in a process of its own and return the JSON that it prints last.

    Raises DiffmfError, with what it wrote, when it fails or takes longer than timeout_s.
    """
    command = [sys.executable, '-m', f'diffmf_ros.ros.{module}', *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise DiffmfError(f'{module} took longer than {timeout_s:g} s; is the machine busy?') from error
    if done.returncode:
        raise DiffmfError(f'{module} could not measure:\n{done.stderr.strip()}')
    return json.loads(done.stdout.splitlines()[-1])
