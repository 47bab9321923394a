# SPDX-License-Identifier: Apache-2.0
"""Scores of the networks and the baselines beside published networks, and which bars they reach.

python benchmarks/quality.py VAL_DIR [--weights FILE ...] [--sequences DIR] [--write docs/quality.md]
"""

import argparse
import multiprocessing
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
from quality_bars import Bar, Scores, bars, read_peers

from diffmf_ros.evaluation.metric_names import METRICS, cells
from diffmf_ros.evaluation.perception import Flicker, FlickerMeter
from diffmf_ros.evaluation.scoring import (
    BASELINES,
    Fuse,
    by_set,
    fused_levels,
    fused_pairs,
    means,
    method,
    read_luma,
    score_fused,
)
from diffmf_ros.folders import pair_files
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.inference.weights import load_weights
from diffmf_ros.inference.weights_header import SHIPPED

WORKERS = 2
BEGIN, END = '<!-- begin of benchmarks/quality.py -->', '<!-- end of benchmarks/quality.py -->'
TWO_DIGITS = ('EN', 'SD', 'SF', 'AG', 'MI')

Table = dict[str, dict[str, list[Scores]]]  # by data set and method


def networks(files: list[Path]) -> dict[str, Fuse]:
    """The networks of weights files by their names; two of one preset are told apart by their files."""
    found: dict[str, Fuse] = {}
    for file in files:
        name, fuse = method(load_weights(file).model, weights=file)
        found[f'{name} ({file.stem})' if name in found else name] = fuse
    return found


def measure(methods: dict[str, Fuse], folder: Path) -> Table:
    """Score every method on every pair below folder, with two processes for the metrics."""
    spawn = multiprocessing.get_context('spawn')  # torch's threads do not survive a fork
    with ProcessPoolExecutor(WORKERS, mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        jobs = [(dataset, name, pool.submit(score_fused, *images))
                for dataset, name, images in fused_pairs(methods, folder)]
        return by_set((dataset, name, job.result()) for dataset, name, job in jobs)


def measure_flicker(methods: dict[str, Fuse], folder: Path) -> dict[str, dict[str, Flicker]]:
    """By clip and method, over all frames of every clip below folder."""
    clips = defaultdict(list)
    for visible, infrared in pair_files(folder):
        clips[infrared.parent.parent.name].append((visible, infrared))
    result = {}
    for clip, files in clips.items():
        meters = {name: FlickerMeter() for name in methods}
        for pair in (read_luma(*frame) for frame in files):
            for name, fuse in methods.items():
                meters[name].add(pair.ir, pair.vi_y, fused_levels(fuse, pair.ir, pair.vi_y))
        result[clip] = {name: meter.result() for name, meter in meters.items()}
    return result


def score_lines(table: Table, peers: dict[str, dict[str, Scores]]) -> list[str]:
    """Markdown tables of the means, one per data set; where peers were measured, theirs below ours."""
    lines = []
    for dataset, methods in table.items():
        count = len(next(iter(methods.values())))
        lines += [f'### {dataset} ({count} pairs)', '', '| method | ' + ' | '.join(METRICS) + ' |',
                  '|---' * (len(METRICS) + 1) + '|']
        rows = {name: cells(means(scores), METRICS) for name, scores in methods.items()}
        rows |= {name: published(scores) for name, scores in peers.get(dataset, {}).items()}
        lines += [*(f'| {name} | {" | ".join(row)} |' for name, row in rows.items()), '']
    return lines


def published(scores: Scores) -> list[str]:
    """As many digits as there are in the source."""
    return [f'{scores[name]:.{2 if name in TWO_DIGITS else 3}f}' if name in scores else '-' for name in METRICS]


def flicker_lines(clips: dict[str, dict[str, Flicker]]) -> list[str]:
    """Markdown table of the flicker of every clip and method."""
    columns = ('clip', 'method', 'flicker', 'to the noisier input', 'fused', 'infrared', 'visible', 'static')
    lines = ['### Flicker', '', f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for clip, methods in clips.items():
        lines += [f'| {clip} | {name} | {found.ratio:.2f} | {found.fused / max(found.ir, found.vi_y):.2f} | '
                  f'{found.fused:.2f} | {found.ir:.2f} | {found.vi_y:.2f} | {found.static_share:.0%} |'
                  for name, found in methods.items()]
    return [*lines, '']


def bar_lines(name: str, found: list[Bar]) -> list[str]:
    """Markdown table of the bars of one network."""
    rows = [f'| {bar.name} | {bar.asked} | {bar.reached} | {"yes" if bar.met else "**no**"} |' for bar in found]
    return [f'### Bars, {name}: {sum(bar.met for bar in found)} of {len(found)} met', '',
            '| bar | asked | reached | met |', '|---' * 4 + '|', *rows, '']


def write_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the two marks of a page. Exits when they are not there."""
    before, begin, rest = file.read_text(encoding='utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f'{file} lacks {BEGIN} and {END}')
    file.write_text(f'{before}{begin}\n\n{text}\n{end}{after}', encoding='utf-8')


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path, help='pairs: folders vi and ir somewhere below')
    parser.add_argument('--weights', type=Path, nargs='+', default=sorted(SHIPPED.glob('*.safetensors')))
    parser.add_argument('--sequences', type=Path, help='clips: folders vi and ir somewhere below')
    parser.add_argument('--write', type=Path, help='page to write the tables to, between its marks')
    options = parser.parse_args()
    keep_freed_memory()
    trained, peers = networks(options.weights), read_peers()
    table = measure(BASELINES | trained, options.folder)
    clips = measure_flicker(BASELINES | trained, options.sequences) if options.sequences else {}
    mean = {dataset: {name: means(scores) for name, scores in methods.items()} for dataset, methods in table.items()}
    verdicts = [line for name in trained for line in bar_lines(name, bars(
        {dataset: rows[name] for dataset, rows in mean.items()},
        {dataset: rows['maximum'] for dataset, rows in mean.items()}, peers,
        {clip: found[name].ratio for clip, found in clips.items()}, model=name.split()[0]))]
    used = '; '.join(f'{name} on {fuse.description}' for name, fuse in trained.items())
    text = '\n'.join([f'{used}.', '', *score_lines(table, peers), *(flicker_lines(clips) if clips else []), *verdicts])
    print(text)
    if options.write:
        write_between_marks(options.write, text)


if __name__ == '__main__':
    main()
