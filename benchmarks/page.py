# SPDX-License-Identifier: Apache-2.0
"""Looks at the web page with a headless Chromium for minutes, and counts what it draws.

    python benchmarks/page.py [--minutes 5] [--size 160x120] [--rate 30] [--panels fused]

Two cameras, a `classical` node, `diffmf view` and Chromium are processes of their own. It prints
when the first fused image was drawn, counted from the request for the page, and for every half a
minute the fused images that the server received and those that the page drew, in images a second,
with the memory of the server and of the page. The exit code is 1 when the first image takes
longer than 2 s, when fewer than nine tenths of the fused images that the server received are
drawn, or when memory grows by more than a twentieth. The plots, which show five minutes, are
filled first.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / 'test'))

from browser import CHROMIUM, Browser  # noqa: E402
from conftest import Child, Peer, ros_domain  # noqa: E402

from diffmf_ros.tools.machine import this_machine  # noqa: E402
from diffmf_ros.tools.view.board import PANELS  # noqa: E402

FIRST_IMAGE_S, DRAWN_SHARE, GROWTH = 2.0, 0.9, 1.05
STEP_S = 30.0
WINDOW = {'width': 500, 'height': 700}  # Chromium draws without a GPU here
WARM_UP_STEPS = 1
NODE = 'diffmf_ros.ros.fusion_node'
# Fills the plots, and counts what the page draws: draw() of the page, with a count behind it.
PREPARE = """(() => {
    moments.push(...Array.from(
        {length: MOMENTS}, () => ({modes: {CLASSICAL: 30}, p50_ms: 10, p99_ms: 20})));
    const before = draw;
    window.counts = {};
    draw = async (name, ...rest) => {
        await before(name, ...rest);
        counts[name] = (counts[name] || 0) + 1;
    };
    return true;
})()"""
FIRST = 'Number(document.body.dataset.fused) > 0 && performance.now()'
SEEN = '({...counts, received: Number(document.body.dataset.fused), now: performance.now()})'


def resident_mb(pid: int) -> float:
    """Return the memory of a process in MB."""
    return int(re.search(r'VmRSS:\s*(\d+)', Path(f'/proc/{pid}/status').read_text())[1]) / 1e3


def watched(page: Browser, pid: int, minutes: float) -> list[dict[str, float]]:
    """Return what was received and drawn, and the memory, for every STEP_S of the time."""
    rows, before = [], page.value(SEEN)
    for step in range(1, 1 + round(60 * minutes / STEP_S)):
        time.sleep(STEP_S)
        seen = page.value(SEEN)
        seconds = (seen['now'] - before['now']) / 1e3
        row = {name: (seen[name] - before[name]) / seconds for name in ('received', *PANELS)}
        rows.append(row | {'heap_mb': page.heap_bytes() / 1e6, 'server_mb': resident_mb(pid),
                           'load': os.getloadavg()[0]})
        print(f'{step * STEP_S:.0f} s:', *(f'{name} {value:.2f}' if name == 'heap_mb' else
                                           f'{name} {value:.1f}'
                                           for name, value in rows[-1].items()), flush=True)
        before = seen
    return rows


def faults(first_s: float, rows: list[dict[str, float]]) -> list[str]:
    """Return what is wrong."""
    drawn, received = (sum(row[name] for row in rows) for name in ('fused', 'received'))
    wrong = []
    if first_s > FIRST_IMAGE_S:
        wrong.append(f'the first fused image came after {first_s:.2f} s')
    if drawn < DRAWN_SHARE * received:
        wrong.append(f'{100 * drawn / received:.0f} % of the fused images were drawn')
    rows = rows[WARM_UP_STEPS:]
    for name in ('heap_mb', 'server_mb'):  # the least: what lies between two collections varies
        first, last = (min((row[name] for row in half), default=0.0)
                       for half in (rows[:len(rows) // 2], rows[len(rows) // 2:]))
        if last > GROWTH * first > 0:
            wrong.append(f'{name} grew from {first:.2f} to {last:.2f}')
    return wrong


def run(folder: Path, peer: Peer, options: argparse.Namespace) -> list[str]:
    """Start everything, print what is seen and return what is wrong."""
    children = [Child(NODE, '--ros-args', '-p', 'model:=classical', log=folder / 'node.log')]
    children += [Child('camera_process', f'/{name}/image_raw', 'Image', 'reliable', options.size,
                       options.rate, log=folder / f'{name}.log') for name in ('rgb', 'thermal')]
    viewer = Child('diffmf_ros.cli.main', 'view', '--port', 0, log=folder / 'view.log')
    children.append(viewer)
    try:
        peer.wait_for(lambda: 'active: ' in children[0].output, 'the node')
        peer.wait_for(lambda: 'open http' in viewer.output, 'the viewer')
        url = re.search(r'open (http\S+)', viewer.output)[1]
        with Browser(url, profile=folder / 'profile', **WINDOW) as page:
            first_s = page.wait_for(FIRST) / 1e3
            print(f'first fused image drawn after {first_s:.2f} s')
            page.value(PREPARE)
            for name in PANELS:
                page.value(f'counts.{name} = 0')
                if name not in options.panels:
                    page.value(f'panels.{name}.section.querySelector("button").click()')
            rows = watched(page, viewer.process.pid, options.minutes)
            if options.picture:
                page.picture(options.picture)
    finally:
        for child in reversed(children):
            child.stop()
    return faults(first_s, rows)


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=5)
    parser.add_argument('--size', default='160x120')
    parser.add_argument('--rate', default='30', help='of the cameras, in Hz')
    parser.add_argument('--panels', nargs='+', choices=PANELS, default=PANELS,
                        help='the others are hidden')
    parser.add_argument('--picture', type=Path, help='PNG of the page at the end')
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error('no Chromium is installed (apt install chromium-headless-shell)')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'test'), str(ROOT)])
    print(f'{this_machine()}; classical, {options.size} at {options.rate} Hz')
    with tempfile.TemporaryDirectory() as name, ros_domain(Path(name)) as domain:
        peer = Peer(domain)
        wrong = run(Path(name), peer, options)
        peer.close()
    print(*(wrong or ['follows without growing']), sep='\n')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
