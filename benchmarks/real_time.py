# SPDX-License-Identifier: Apache-2.0
"""Latency p50, p99 and p99.9 of the node at 30 Hz, its jitter, and what garbage collection takes.

    python benchmarks/real_time.py [--frames 10000] [--model classical] [--case NAME ...]

Cases: as it is; with a process that burns on every core (stress-ng, where it is installed); under
that load with SCHED_FIFO, and with the objects of the start frozen (gc.freeze). Latency is from
publishing a pair to receiving its image, over DDS, by `diffmf_ros.tools.bench.probes.live`.
"""

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffmf_ros.tools.machine import this_machine

SIZE, RATE_HZ, PRIORITY, SETTLED_S = (320, 240), 30.0, 10, 10.0
# name -> (load, what the node does besides)
CASES = {'as it is': (False, ''), 'load': (True, ''), 'load, SCHED_FIFO': (True, 'fifo'),
         'load, gc.freeze': (True, 'freeze')}


def node(file: str, how: str) -> None:
    """Run the node in this process; every garbage collection adds a line to file."""
    from diffmf_ros.ros import fusion_node

    began_s, born_s, out = 0.0, time.monotonic(), open(file, 'w', buffering=1)

    def on_collection(phase: str, info: dict) -> None:
        nonlocal began_s, how
        if phase == 'start':
            began_s = time.perf_counter()
            return
        out.write(f'{info["generation"]} {(time.perf_counter() - began_s) * 1e3}\n')
        if how == 'freeze' and time.monotonic() - born_s > SETTLED_S:
            how = ''
            gc.freeze()

    gc.callbacks.append(on_collection)
    if how == 'fifo':
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    fusion_node.main(sys.argv[4:])


def busy_command() -> list[str]:
    """Return a command that keeps one core busy until this process ends, however it ends."""
    return [sys.executable, '-c', f'import os\nwhile os.getppid() == {os.getpid()}:\n'
            '    for _ in range(10**6): pass']


@contextmanager
def burning(on: bool) -> Iterator[None]:
    """Keep every core busy in this block."""
    commands = [busy_command()] * (os.cpu_count() or 1)
    if shutil.which('stress-ng'):  # it does not notice that this process has ended
        commands = [['stress-ng', '--cpu', '0', '--vm', '1', '--timeout', '3600']]
    burners = [subprocess.Popen(command) for command in commands if on]
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.wait()


def measure(case: str, *, frames: int, model: str) -> dict:
    """Return latencies and intervals in ms of one case, and its garbage collections.

    Raises:
        RuntimeError: The node fused nothing, or ended.
    """
    from diffmf_ros.tools.bench.probes import live

    load, how = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'collections'
        child = subprocess.Popen([sys.executable, __file__, 'node', str(file), how, '--ros-args',
                                  '-p', f'model:={model}'])
        bench = live.Bench(SIZE)
        try:
            live.warm_up(bench, child)
            bench.receive_until(time.monotonic() + SETTLED_S)
            before = len(file.read_text().splitlines())
            with burning(load):
                run = live.run(bench, child, rate_hz=RATE_HZ, seconds=frames / RATE_HZ)
            collections = file.read_text().splitlines()[before:]
        finally:
            bench.destroy_node()
            child.terminate()
            child.wait()
    times_ns = [received for _, received in run['received']]
    return {'latency_ms': sorted((at - stamp) / 1e6 for stamp, at in run['received']),
            'interval_ms': [(b - a) / 1e6 for a, b in zip(times_ns, times_ns[1:])],
            'sent': len(run['sent_ns']), 'gc_ms': [float(line.split()[1]) for line in collections],
            'wall_s': run['wall_s']}


def row(case: str, found: dict) -> str:
    """Return the line of a case in Markdown."""
    latency, collections = found['latency_ms'], found['gc_ms']
    p50, p99, p999 = (latency[min(int(q * len(latency)), len(latency) - 1)]
                      for q in (0.5, 0.99, 0.999))
    return (f'| {case} | {found["sent"]} | {len(latency)} | {p50:.1f} | {p99:.1f} | {p999:.1f} | '
            f'{latency[-1]:.1f} | {statistics.stdev(found["interval_ms"]):.1f} | '
            f'{len(collections)}, {sum(collections) / found["wall_s"] / 10:.2f} % | '
            f'{max(collections, default=0):.1f} |')


def main() -> int:
    if sys.argv[1:2] == ['node']:
        node(sys.argv[2], sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--model', default='classical')
    parser.add_argument('--case', nargs='+', choices=CASES, default=list(CASES))
    options = parser.parse_args()
    from diffmf_ros.ros import process
    process.use_camera_transports()
    process.init(None)
    print(f'{this_machine()}, load {os.getloadavg()[0]:.0f} before; {options.model}, '
          f'{SIZE[0]}x{SIZE[1]} at {RATE_HZ:g} Hz\n\n'
          '| case | sent | received | p50 ms | p99 ms | p99.9 ms | longest ms | jitter ms | '
          'collections, share of time | longest collection ms |\n' + '|---' * 10 + '|')
    for case in options.case:
        print(row(case, measure(case, frames=options.frames, model=options.model)), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
