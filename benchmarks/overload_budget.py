# SPDX-License-Identifier: Apache-2.0
"""Measures where the time of a pair goes while cameras send more than the network can fuse.

    python benchmarks/overload_budget.py [--compute-ms 50] [--seconds 60]

The probe of `diffmf bench --shell`, whose node reads the clock as well where a pair enters or
leaves a part. What lies between two calls of the network bounds the throughput; what lies between
sending and receiving is the age.
"""

import argparse
import atexit
import functools
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from diffmf_ros.core.checks.image_checks import ImageChecks
from diffmf_ros.inference.prepare import Preparation
from diffmf_ros.ros.frame_loop import FrameFuser, Job
from diffmf_ros.tools.bench.probes import overload
from diffmf_ros.tools.bench.probes.shared import StubNetwork
from diffmf_ros.tools.bench.shell_bench import Overload
from diffmf_ros.tools.machine import this_machine

FILE = 'BUDGET_FILE'
SETTLED = 20  # pairs: what comes before is left out
PARTS = ((FrameFuser, 'handle'), (Preparation, 'pair'), (ImageChecks, 'before'),
         (StubNetwork, '_fuse'), (FrameFuser, '_finish'))


def note_times(rows: list[dict[str, float]]) -> None:
    """Let the node append a row for every job, with the seconds at which its parts began and
    ended."""
    for owner, name in PARTS:
        setattr(owner, name, _noted(rows, getattr(owner, name), name))


def _noted(rows: list[dict[str, float]], part, name: str):
    @functools.wraps(part)
    def timed(self, *args, **options):
        if name == 'handle':
            rows.append(_sent(args[0]))
        row = rows[-1] if rows else {}
        row[f'{name} begins'] = time.time()
        try:
            return part(self, *args, **options)
        finally:
            row[f'{name} ends'] = time.time()
    return timed


def _sent(job: Job) -> dict[str, float]:
    frames = [job.work.rgb, job.work.thermal] if hasattr(job.work, 'rgb') else [job.work]
    arrived_s = time.time() - (time.monotonic_ns() - max(f.arrival_ns for f in frames)) / 1e9
    return {'sent': frames[0].stamp_ns / 1e9, 'arrived': arrived_s}


def budget(rows: list[dict[str, float]]) -> list[tuple[str, list[float]]]:
    """Return the parts of a pair's way with their times in ms, in order."""
    whole = [row for row in rows[SETTLED:-1] if '_fuse ends' in row and '_finish ends' in row]

    def between(start: str, end: str) -> list[float]:
        return [1e3 * (row[end] - row[start]) for row in whole]

    periods = [1e3 * (after['handle begins'] - row['handle begins'])
               for row, after in zip(rows[SETTLED:], rows[SETTLED + 1:])]
    return [
        ('from sending RGB to the arrival of both', between('sent', 'arrived')),
        ('waiting for the network to be free', between('arrived', 'handle begins')),
        ('*gray range and mapping', between('handle begins', 'pair ends')),
        ('*checks of both images', between('pair ends', 'before ends')),
        ('*gray, warp, luma, hand-over', between('before ends', '_fuse begins')),
        ('*the network', between('_fuse begins', '_fuse ends')),
        ('*back to the worker', between('_fuse ends', 'handle ends')),
        ('one pair to the next (sum of *)', periods),
        ('waiting for the preparation of the next pair (sum of the first three *)',
         between('handle begins', '_fuse begins')),
        ('finishing and publishing the pair before, meanwhile',
         between('_finish begins', '_finish ends'))]


def _child(options, role: str) -> subprocess.Popen:
    arguments = ['--role', role, '--namespace', options.namespace, '--size', options.size,
                 '--compute-ms', str(options.compute_ms), '--seconds', str(options.seconds)]
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE,
                            text=True)


def main() -> int:
    """Measure and print the table; with --role be one of the probe's processes."""
    if '--role' in sys.argv:
        if sys.argv[sys.argv.index('--role') + 1] == 'node':
            rows: list[dict[str, float]] = []
            note_times(rows)
            atexit.register(lambda: Path(os.environ[FILE]).write_text(json.dumps(rows)))
        return overload.main()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--compute-ms', type=float, default=50.0, help='of the network')
    parser.add_argument('--seconds', type=float, default=60.0)
    options = parser.parse_args()
    print(f'{this_machine()}, load {os.getloadavg()[0]:.1f} before')
    overload._child = _child
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()) as printed:
        os.environ[FILE] = str(Path(folder) / 'rows.json')
        overload.main()
        parts = budget(json.loads(Path(os.environ[FILE]).read_text()))
    images = Overload(options.compute_ms, **json.loads(printed.getvalue().splitlines()[-1]))
    print(f'throughput {100 * images.throughput:.1f} %, age p50 {images.age_quantile_ms(0.5):.0f} '
          f'and p99 {images.age_quantile_ms(0.99):.0f} ms\n')
    print('| part | p50 ms | p99 ms |\n|---|---|---|')
    for what, times_ms in parts:
        p50, p99 = np.quantile(times_ms, (0.5, 0.99))
        print(f'| {what} | {p50:.1f} | {p99:.1f} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
