# SPDX-License-Identifier: Apache-2.0
"""Time of the network by how long threads that wait spin, alone and beside busy processes.

    python benchmarks/spinning.py [--busy 0 --busy 2 ...] [--rounds 3]

Spins are GOMP_SPINCOUNT of libgomp, with which torch computes; 'default' is its own choice, 'one'
one thread. Each round runs every case in a process of its own, in turn, all with `nano` on a CPU.
Prints medians over the rounds in ms as a table in Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

CASES = 'default', '100000', '10000', '1000', '0', 'one'
SIZES = {'96x72': 20, '320x240': 8, '640x480': 4}  # frames of each
BUSY = 'while True: pass'


def measure(threads: int) -> dict[str, float]:
    """Return the median time of a pair by size, in ms, in this process."""
    from diffmf_ros.core.settings import DEFAULTS, with_changes
    from diffmf_ros.inference.engine import Engine

    engine = Engine(with_changes(DEFAULTS, {'preset': 'nano', 'device': 'cpu',
                                            'threads': threads}))
    random, found = np.random.default_rng(0), {}
    for size, frames in SIZES.items():
        width, height = map(int, size.split('x'))
        pair = random.random((2, height, width), np.float32)
        times = []
        for _ in range(frames + 2):
            begin_s = time.perf_counter()
            engine(*pair)
            times.append(1e3 * (time.perf_counter() - begin_s))
        found[size] = statistics.median(times[2:])
    return found


def measured(case: str) -> dict[str, float]:
    """Return what measure returns in a process of its own."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS')}
    if case == 'default':
        environment['GOMP_SPINCOUNT'] = ''  # libgomp ignores it, and the package leaves it alone
    elif case != 'one':
        environment['GOMP_SPINCOUNT'] = case
    threads = 1 if case == 'one' else len(os.sched_getaffinity(0))
    said = subprocess.run([sys.executable, __file__, '--threads', str(threads)], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=True).stdout
    return json.loads(said)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--busy', type=int, action='append', help='busy processes; several')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        print(json.dumps(measure(options.threads)))
        return
    print('| busy processes | spins |', ' | '.join(SIZES), '|')
    print('|---|---' + '|---' * len(SIZES) + '|')
    for busy in options.busy or (0, len(os.sched_getaffinity(0))):
        others = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(busy)]
        try:
            rounds = [{case: measured(case) for case in CASES} for _ in range(options.rounds)]
        finally:
            for other in others:
                other.kill()
        for case in CASES:
            medians = (statistics.median(each[case][size] for each in rounds) for size in SIZES)
            print(f'| {busy} | {case} |', ' | '.join(f'{ms:.0f}' for ms in medians), '|',
                  flush=True)


if __name__ == '__main__':
    main()
