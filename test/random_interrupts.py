# SPDX-License-Identifier: Apache-2.0
"""Interrupts a command, by Ctrl-C or SIGTERM, and looks at what it says and leaves.

`python test/random_interrupts.py 60` does so 60 times, at random moments, and counts how the
commands ended.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bad_inputs import furnish, state

CLASSICAL = ('--model', 'classical')
COMMANDS = {
    'fuse': ('fuse', 'rgb.png', 'thermal.png', '-o', 'new/a.png', *CLASSICAL),
    'fuse DIR': ('fuse', 'vi', 'ir', '-o', 'new', *CLASSICAL),
    'fuse --jobs': ('fuse', 'vi', 'ir', '-o', 'new', '--jobs', '2', *CLASSICAL),
    'fuse, network': ('fuse', 'rgb.png', 'thermal.png', '-o', 'new/a.png', '--preset', 'nano'),
    'replay': ('replay', 'bag', 'new', *CLASSICAL),
    'replay PNG': ('replay', 'bag', 'new/{}.png', *CLASSICAL),
    'train': ('train', 'config.yaml', '--data', '.', '--out', 'new'),
    'model-card': ('model-card', 'config.yaml', '.'),
    'export': ('export', '--preset', 'nano', '--size', '64x48', '--onnx', 'new/a.onnx'),
    'align': ('align', 'fine.png', 'half.png', '-o', 'new/a.yaml'),
    'make-bag': ('make-bag', '.', 'new', '--rate', '10'),
    'sample-bag': ('sample-bag', 'new', '--seconds', '1'),
    'sample-pairs': ('sample-pairs', 'new', '--scene', 'night', '--count', '2', '--seconds', '1'),
    'eval': ('eval', '--pairs', '.', '--model', 'average', '--html', 'new/a.html'),
    'models': ('models', '--model', 'diffmf', '--json', 'new/a.json'),
    'doctor': ('doctor',),
}
DONE, FAILED = 0, 1


class Wrong(Exception):
    """A command that was interrupted did not end as it should."""


@contextmanager
def started(arguments: Sequence[object], **options) -> Iterator[subprocess.Popen]:
    """Start a command in a session of its own, which hears Ctrl-C also where these tests, as a job
    in the background, do not; yield its process, which ends with the block."""
    with subprocess.Popen(
            [sys.executable, '-m', 'diffmf_ros.cli', *map(str, arguments)], text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(name: str, after_s: float, number: int = signal.SIGINT) -> str:
    """Run a command and interrupt it by a signal after a time; return how it ended.

    Raises:
        Wrong: it did not end in one line with the right exit code, or left a half file.
    """
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        before = state(Path(folder))
        with started(COMMANDS[name], cwd=folder) as process:
            time.sleep(after_s)
            # To the group, as a terminal does
            os.killpg(process.pid, number)
            said = process.communicate(timeout=120)[1]
        after = state(Path(folder))
    ended = 128 + number
    if process.returncode == -number or 'init_import_site' in said:
        return 'before Python was there'
    lines = [line for line in said.splitlines() if 'interrupted' in line]
    if process.returncode not in (ended, DONE, FAILED) or 'Traceback' in said:
        raise Wrong(f'{name} after {after_s:.2f} s: exit code {process.returncode}: {said}')
    if process.returncode == ended and len(lines) != 1:
        raise Wrong(f'{name} after {after_s:.2f} s says: {said}')
    half = [path for path in after if 'partial' in path]
    if half or any(after.get(path) != digest for path, digest in before.items()):
        raise Wrong(f'{name} after {after_s:.2f} s left {half}')
    return 'interrupted' if process.returncode == ended else 'done before'


def main(count: int, longest_s: float) -> int:
    """Interrupt `count` commands in turn; print how they ended. Returns 1 if one ended wrongly."""
    found: Counter = Counter()
    chance = random.Random(1)
    for turn in range(count):
        name = list(COMMANDS)[turn % len(COMMANDS)]
        try:
            # Not before the interpreter is there
            number = chance.choice((signal.SIGINT, signal.SIGTERM))
            found[interrupted(name, 0.2 + chance.uniform(0, longest_s), number)] += 1
        except Wrong as error:
            found['wrong'] += 1
            print(error, flush=True)
    print(', '.join(f'{number} {what}' for what, number in found.items()))
    return int(found['wrong'] > 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('count', type=int, nargs='?', default=60, help='interrupts')
    parser.add_argument('longest_s', type=float, nargs='?', default=4.0, help='latest one')
    sys.exit(main(**vars(parser.parse_args())))
