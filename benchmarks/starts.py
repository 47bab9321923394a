# SPDX-License-Identifier: Apache-2.0
"""Starts and stops the launch file many times and counts what is left over.

python benchmarks/starts.py [--starts 20] [--load 2]

Needs a ROS installation that holds the package. Each start waits for the node to be configured, is
interrupted as by Ctrl-C, and is then asked what of it still lives: processes, by a mark in their
environment, and files of shared memory that they had made. Exit code 1 when anything is, or when a
start made no such files.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from real_time import busy_command

from diffmf_ros.ros.process import shared_memory

MARK = 'DIFFMF_STARTS'
LAUNCH = """
import runpy, sys
from launch import LaunchService
from ament_index_python.packages import get_package_share_directory
service = LaunchService(argv=sys.argv[1:])
service.context.launch_configurations.update(item.split(':=', 1) for item in sys.argv[1:])
path = get_package_share_directory('diffmf_ros') + '/launch/fusion.launch.py'
service.include_launch_description(runpy.run_path(path)['generate_launch_description']())
sys.exit(service.run())
"""


def marked(mark: str) -> list[int]:
    """Return the process ids that carry a mark in their environment."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            dead = (folder / 'stat').read_text().rpartition(')')[2].split()[0] == 'Z'
            if not dead and f'{MARK}={mark}'.encode() in (folder / 'environ').read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def start_and_stop(mark: str, arguments: list[str], deadline_s: float) -> dict:
    """Return the seconds until configured and until ended, the exit code, and what is left."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, '-c', LAUNCH, *arguments],
                               env=os.environ | {MARK: mark}, start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    killer = threading.Timer(deadline_s, lambda: os.killpg(process.pid, signal.SIGKILL))
    killer.start()
    for line in process.stdout:  # type: ignore[union-attr]
        if 'configured: ' in line:
            break
    ready_s = time.monotonic() - begin
    made = [file for process_id in marked(mark) for file in shared_memory(process_id)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: launch leaves its nodes to it
    process.stdout.read()  # type: ignore[union-attr]
    code = process.wait()
    killer.cancel()
    return {'ready_s': ready_s, 'end_s': time.monotonic() - begin - ready_s, 'code': code,
            'processes': marked(mark), 'made': len(made),
            'files': [file.name for file in made if file.exists()]}


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--starts', type=int, default=20)
    parser.add_argument('--load', type=int, default=2, help='busy processes beside it')
    parser.add_argument('--deadline', type=float, default=120.0, help='seconds for one of them')
    parser.add_argument('arguments', nargs='*', help='of fusion.launch.py, name:=value')
    options = parser.parse_args()
    busy = [subprocess.Popen(busy_command()) for _ in range(options.load)]
    wrong = 0
    try:
        for number in range(1, options.starts + 1):
            seen = start_and_stop(f'{os.getpid()}-{number}', options.arguments, options.deadline)
            # One that made no files was not seen: it says nothing of what is left.
            wrong += bool(seen['processes'] or seen['files'] or seen['code'] or not seen['made'])
            print(f'{number}: configured after {seen["ready_s"]:.1f} s, ended after '
                  f'{seen["end_s"]:.1f} s with {seen["code"]}; left over: processes '
                  f'{seen["processes"]}, {len(seen["files"])} of {seen["made"]} files; '
                  f'load {os.getloadavg()[0]:.0f}', flush=True)
    finally:
        for process in busy:
            process.kill()
    print(f'{options.starts - wrong} of {options.starts} left nothing')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
