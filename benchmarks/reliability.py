# SPDX-License-Identifier: Apache-2.0
"""Runs the fault matrix (test/faults) several times and writes what was measured as a table.

python benchmarks/reliability.py [--repeat 5] [--write docs/reliability.md]

The promises of promises.csv, each with the test that keeps it, become a table too; --repeat 0
writes that alone.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from diffmf_ros.tools.machine import this_machine

ROOT = Path(__file__).parents[1]
PROMISES = Path(__file__).with_name('promises.csv')
BEGIN, END = ('<!-- begin of benchmarks/reliability.py -->',
              '<!-- end of benchmarks/reliability.py -->')
BEGIN_PROMISES, END_PROMISES = ('<!-- begin of benchmarks/promises.csv -->',
                                '<!-- end of benchmarks/promises.csv -->')
FAILED = 'failure', 'error', 'skipped'
HEADER = ('fault', 'answer', 'answered by frame', 'after ms', 'fused again by frame', 'after ms',
          'longest silence, ms', '`/diagnostics` says')

Cells = dict[str, list[dict]]  # by name, what test/faults/matrix.py measured in each run


def run(repeat: int) -> tuple[Cells, Counter[str]]:
    """Run the matrix so often; return the measurements, and how often each test failed."""
    cells, failed = defaultdict(list), Counter()
    for number in range(repeat):
        begin_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'report.xml'
            print(f'run {number + 1} of {repeat}', flush=True)
            subprocess.run([sys.executable, '-m', 'pytest', 'test/faults/test_matrix.py', '-q',
                            f'--junitxml={file}',
                            # xunit2 has no place for what was measured
                            '-o', 'junit_family=xunit1'], cwd=ROOT)
            suite = ElementTree.parse(file).getroot().find('testsuite')
        print(f'took {(time.monotonic() - begin_s) / 60:.1f} minutes', flush=True)
        failed.update(test.get('name').partition('[')[2].rstrip(']') or test.get('name')
                      for test in suite.iter('testcase')
                      if any(test.find(kind) is not None for kind in FAILED))
        for measured in suite.iterfind(".//property[@name='measured']"):
            cell = json.loads(measured.get('value'))
            cells[cell['name']].append(cell)
    return cells, failed


def table(cells: Cells, failed: Counter[str], *, repeat: int) -> list[str]:
    """Return the lines of the table in Markdown, and of what it was measured on."""
    tests = repeat * len(cells.keys() | failed.keys())
    lines = [f'{this_machine()}, load {os.getloadavg()[0]:.1f} at the end; {repeat} runs, '
             f'{tests - failed.total()} of {tests} cells as required.',
             'Medians, and in brackets the worst run where it differs.', '',
             '| ' + ' | '.join(HEADER) + ' |', '|---' * len(HEADER) + '|']
    if failed:
        lines.insert(1, 'Not as required (so often): ' + ', '.join(
            f'{name} ({count})' for name, count in failed.items()) + '.')
    for name, runs in cells.items():
        numbers = [summary(cell[key] for cell in runs) for key in (
            'found_frames', 'found_ms', 'recovered_frames', 'recovered_ms', 'silence_ms')]
        message = textwrap.shorten(max((cell['message'] for cell in runs), key=len) or '-', 100,
                                   placeholder=' ...')
        lines.append(f'| {" | ".join((name, runs[0]["answer"], *numbers, message))} |')
    return lines


def summary(values: Iterable[float | None]) -> str:
    """Median and worst of whole numbers; '-' without any."""
    found = [value for value in values if value is not None]
    if not found:
        return '-'
    median, worst = f'{statistics.median(found):.0f}', f'{max(found):.0f}'
    return median if worst == median else f'{median} ({worst})'


def promises() -> list[dict[str, str]]:
    """Return the rows of promises.csv: promise, test (file or file::function) and measured."""
    with PROMISES.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def promises_table() -> list[str]:
    """Return the lines of the table of promises in Markdown."""
    return ['| promise | kept by | last measured |', '|---|---|---|',
            *(f'| {row["promise"]} | `{row["test"]}` | {row["measured"] or "by the test"} |'
              for row in promises())]


def write(file: Path, lines: list[str], begin: str = BEGIN, end: str = END) -> None:
    """Put lines between the marks begin and end in file."""
    before, found_begin, rest = file.read_text(encoding='utf-8').partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        sys.exit(f'{file} lacks {begin} and {end}')
    file.write_text('\n'.join((before + begin, '', *lines, '', end + after)), encoding='utf-8')


def main() -> int:
    """Return the exit code: 1 when a cell was not as required, or gave no numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeat', type=int, default=5, help='so many runs')
    parser.add_argument('--write', type=Path,
                        help='file with the marks between which the table goes')
    options = parser.parse_args()
    if options.write:
        write(options.write, promises_table(), BEGIN_PROMISES, END_PROMISES)
    if not options.repeat:
        return 0
    cells, failed = run(options.repeat)
    lines = table(cells, failed, repeat=options.repeat)
    print('\n'.join(lines))
    if options.write:
        write(options.write, lines)
    return 1 if failed or not cells else 0


if __name__ == '__main__':
    sys.exit(main())
