# SPDX-License-Identifier: Apache-2.0
"""Report of a soak: samples of the node's process, the judgement of their slopes, and a page."""

import os
import statistics
from pathlib import Path

import trends

from diffmf_ros.tools.bench.report import figure_class
from diffmf_ros.tools.machine import this_machine

# What may grow by the hour before it counts: name -> (unit, tolerance).
JUDGED = {'memory_mb': ('MB', 10.0), 'heap_mb': ('MB', 10.0), 'objects': ('', 10_000.0),
          'threads': ('', 1.0), 'handles': ('', 2.0), 'shm_files': ('', 2.0),
          'shm_mb': ('MB', 2.0), 'p50_ms': ('ms', 5.0)}
SHARED = '/dev/shm/'


class OwnFiles:
    """The files of /dev/shm that processes of a soak have made: what they map and was not there.

    A port of Fast DDS that a killed program left is taken by the next one that wants its number,
    and stays after it, as the counter in it never comes to zero. The wait files of LTTng belong to
    all programs of a user.
    """

    def __init__(self) -> None:
        self._own: set[tuple[str, int]] = set()
        self._others: set[tuple[str, int]] = set()

    def before_start(self) -> None:
        """Note what is there before a process of the soak starts: it is none of its own."""
        self._others |= _present() - self._own

    def note(self, pid: int) -> None:
        """Add what a process has mapped now."""
        self._own |= shared_files(pid) - self._others

    def count(self) -> int:
        """Return how many are still there."""
        return len(self._own & _present())


def usage(pid: int, own: OwnFiles, heap: Path) -> dict:
    """Return what a process uses: None for what is not known yet.

    memory_mb is what it has of the machine, shm_mb what it has mapped of /dev/shm.

    Args:
        pid: Id of the process.
        own: Files of /dev/shm to count as shm_files.
        heap: File with the bytes and blocks in use that test/faults/faulty_node.py writes.
    """
    process = Path('/proc', str(pid))
    status = dict(line.split(':', 1) for line in (process / 'status').read_text().splitlines())
    in_use = [int(number) for number in heap.read_text().split()] if heap.exists() else []
    return {'memory_mb': round(int(status['VmRSS'].split()[0]) / 1024, 2),
            'threads': int(status['Threads']), 'handles': len(os.listdir(process / 'fd')),
            'shm_files': own.count(),
            'shm_mb': round(_mapped_mb((process / 'maps').read_text()), 3),
            'heap_mb': round(in_use[0] / 1e6, 2) if in_use else None,
            'objects': in_use[1] if in_use else None}


def _present() -> set[tuple[str, int]]:
    return {(file.name, file.inode()) for file in os.scandir(SHARED)}


def shared_files(pid: int) -> set[tuple[str, int]]:
    """Return name and inode of the files in /dev/shm that a process has mapped now.

    The name alone is not enough: Fast DDS gives its ports the lowest number that is free on the
    machine, so another program soon has a file with the name of a port that this process closed.
    Semaphores, which come and go with their port, are mapped for a moment only and not counted.
    """
    try:
        maps = Path('/proc', str(pid), 'maps').read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return set()
    mapped = (line.split() for line in maps.splitlines() if SHARED in line)
    return {(fields[5].removeprefix(SHARED), int(fields[4])) for fields in mapped
            if not fields[5].startswith(f'{SHARED}sem.')}


def _mapped_mb(maps: str) -> float:
    """Return the size of what a process has mapped of /dev/shm, by its /proc/PID/maps."""
    ranges = [line.split()[0].split('-') for line in maps.splitlines() if SHARED in line]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges) / 1e6


def judge(samples: list[dict]) -> dict[str, tuple[trends.Slope, str]]:
    """Return the slope of every judged quantity in the second half of a run, and its verdict.

    Raises:
        ValueError: The run was too short.
    """
    half = [row for row in samples if row['seconds'] >= samples[-1]['seconds'] / 2]
    found = {}
    for name, (_, tolerance) in JUDGED.items():
        rows = [row for row in half if row[name] is not None]
        if not rows:
            raise ValueError(f'no samples of {name} in the second half: a longer run is needed')
        slope = trends.slope([row['seconds'] for row in rows], [row[name] for row in rows], min)
        found[name] = slope, slope.verdict(tolerance)
    return found


def table(samples: list[dict], judged: dict[str, tuple[trends.Slope, str]]) -> list[str]:
    """Return the quantities, their slopes and verdicts in Markdown."""
    lines = [f'{this_machine()}, load {statistics.fmean(row["load"] for row in samples):.1f} on '
             f'average; {samples[-1]["seconds"] / 60:.0f} minutes.', '',
             '| quantity | start | end | second half, by the hour (95 % interval) | may grow | '
             'verdict |', '|---|---|---|---|---|---|']
    for name, (slope, verdict) in judged.items():
        unit, tolerance = JUDGED[name]
        values = [row[name] for row in samples if row[name] is not None]
        lines.append(f'| `{name}` | {values[0]:g} | {values[-1]:g} | {slope.per_hour:+.2f} '
                     f'({slope.low:+.2f} to {slope.high:+.2f}) {unit} | {tolerance:g} {unit} | '
                     f'{verdict} |')
    return lines


def plot(samples: list[dict], file: Path) -> None:
    """Draw every judged quantity over the hours."""
    figure = figure_class()(figsize=(8, 9), layout='constrained')
    for number, name in enumerate(JUDGED, 1):
        rows = [row for row in samples if row[name] is not None]
        axes = figure.add_subplot(len(JUDGED), 1, number)
        axes.plot([row['seconds'] / 60 for row in rows], [row[name] for row in rows],
                  linewidth=0.8)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0, top=1.1 * max((row[name] for row in rows), default=1))
    axes.set_xlabel('minutes')
    figure.savefig(file)
