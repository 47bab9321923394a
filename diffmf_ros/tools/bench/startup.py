# SPDX-License-Identifier: Apache-2.0
"""From the start of a process to its first fused frame, and the memory that takes.

A process of its own for each configuration: memory that one has used stays with its process, and
imports are paid once.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ...core.frames import DiffmfError
from ...core.settings import DEFAULTS, iter_specs, with_changes
from .benchmark import Configuration, fuse_messages, raw_images

TIMEOUT_S = 600
PAIRS = 2  # the second one may need memory that the first did not


@dataclass(frozen=True)
class Startup:
    """first_frame_s: from the start of the process, imports included; memory: the peaks in MB."""

    first_frame_s: float
    peak_memory_mb: float
    device_memory_mb: float | None


def measure_startup(configuration: Configuration) -> Startup:
    """Start a process that fuses with configuration.

    Raises DiffmfError, with what it said, when it fails.
    """
    job = {'settings': {item.name: item.value for item in iter_specs(configuration.settings)},
           'size': configuration.size, 'started_s': time.monotonic()}
    done = subprocess.run([sys.executable, '-m', __name__, json.dumps(job)], capture_output=True,
                          text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition('\n')[2]  # of a traceback the error
        raise DiffmfError(f'the start of {configuration.name} could not be measured: {reason}')
    return Startup(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Be that process: fuse, and print the measurements."""
    from ...inference.pipeline import FusionPipeline

    job = json.loads(sys.argv[1])
    pipeline = FusionPipeline(with_changes(DEFAULTS, job['settings']))
    messages = raw_images(job['size'])
    fuse_messages(pipeline, messages)
    first_frame_s = time.monotonic() - job['started_s']  # this clock is the same in every process
    for _ in range(PAIRS - 1):
        fuse_messages(pipeline, messages)
    device_mb = None
    if pipeline.device.startswith('cuda'):
        import torch
        device_mb = torch.cuda.max_memory_reserved() / 2 ** 20
    print(json.dumps({'first_frame_s': first_frame_s, 'peak_memory_mb': peak_memory_mb(),
                      'device_memory_mb': device_mb}))


def peak_memory_mb() -> float:
    """Peak resident memory of this process. Not ru_maxrss: that starts at what the parent used."""
    return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1]) / 1024


if __name__ == '__main__':
    main()
