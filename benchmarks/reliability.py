# SPDX-License-Identifier: Apache-2.0
"""Runs the fault matrix (test/faults) several times and writes what was measured as a table.

python benchmarks/reliability.py [--repeat 5] [--write docs/reliability.md]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from diffmf_ros.tools.machine import this_machine

ROOT = Path(__file__).parents[1]
BEGIN, END = ('<!-- begin of benchmarks/reliability.py -->',
              '<!-- end of benchmarks/reliability.py -->')
HEADER = ('fault', 'answer', 'answered by frame', 'after ms', 'fused again by frame', 'after ms',
          'longest silence, ms', '`/diagnostics` says')

Cells = dict[str, list[dict]]  # by name, what test/faults/matrix.py measured in each run


def run(repeat: int) -> tuple[Cells, int]:
    """Run the matrix so often; return the measurements, and how many tests failed."""
    cells, failed = defaultdict(list), 0
    for number in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'report.xml'
            print(f'run {number + 1} of {repeat}', flush=True)
            subprocess.run([sys.executable, '-m', 'pytest', 'test/faults/test_matrix.py', '-q',
                            f'--junitxml={file}',
                            # xunit2 has no place for what was measured
                            '-o', 'junit_family=xunit1'], cwd=ROOT)
            suite = ElementTree.parse(file).getroot().find('testsuite')
        failed += sum(int(suite.get(kind)) for kind in ('failures', 'errors', 'skipped'))
        for measured in suite.iterfind(".//property[@name='measured']"):
            cell = json.loads(measured.get('value'))
            cells[cell['name']].append(cell)
    return cells, failed


def table(cells: Cells, *, repeat: int, failed: int) -> list[str]:
    """Return the lines of the table in Markdown, and of what it was measured on."""
    tests = repeat * len(cells)
    lines = [f'{this_machine()}; {repeat} runs, {tests - failed} of {tests} cells as required. '
             f'Medians, and in '
             'brackets the worst run where it differs.', '',
             '| ' + ' | '.join(HEADER) + ' |', '|---' * len(HEADER) + '|']
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


def write(file: Path, lines: list[str]) -> None:
    """Put lines between the marks in file."""
    before, begin, rest = file.read_text(encoding='utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f'{file} lacks {BEGIN} and {END}')
    file.write_text('\n'.join((before + BEGIN, '', *lines, '', END + after)), encoding='utf-8')


def main() -> int:
    """Return the exit code: 1 when a cell was not as required, or gave no numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeat', type=int, default=5, help='so many runs')
    parser.add_argument('--write', type=Path,
                        help='file with the marks between which the table goes')
    options = parser.parse_args()
    cells, failed = run(options.repeat)
    lines = table(cells, repeat=options.repeat, failed=failed)
    print('\n'.join(lines))
    if options.write:
        write(options.write, lines)
    return 1 if failed or not cells else 0


if __name__ == '__main__':
    sys.exit(main())
