# SPDX-License-Identifier: Apache-2.0
"""Scores of the networks and the baselines beside published networks, and which bars they reach.

python benchmarks/quality.py VAL_DIR [--weights FILE ...] [--sequences DIR] [--detector FILE.onnx
--boxes FILE.json]
    [--drives DIR] [--write docs/quality.md]; the drives are what `diffmf sample-pairs DIR` writes.
"""

import argparse
import multiprocessing
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from quality_bars import Bar, Measured, bars, read_peers
from quality_detector import finds_in_clips, look_at, look_at_placed, look_at_shifted
from quality_flat import first_pictures, measure_flat, passes_rgb_on
from quality_tables import (
    bar_lines,
    detector_lines,
    find_lines,
    flat_lines,
    flicker_lines,
    placed_lines,
    score_lines,
)

from diffmf_ros.core.imaging.stream_filters import TemporalFilter
from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.inference.weights import load_weights
from diffmf_ros.inference.weights_header import SHIPPED
from diffmf_ros.io.folders import pair_files
from diffmf_ros.tools.batch.spreading import end_with_parent
from diffmf_ros.tools.evaluation.detection_scores import Boxes, read_boxes
from diffmf_ros.tools.evaluation.detector import Detector
from diffmf_ros.tools.evaluation.metrics import ImageScores
from diffmf_ros.tools.evaluation.perception import Flicker, FlickerMeter
from diffmf_ros.tools.evaluation.scoring import (
    BASELINES,
    Fuse,
    NodeFusion,
    by_set,
    fused_levels,
    fused_pairs,
    luminance,
    means,
    method,
    read_luma,
    score_fused,
)

WORKERS = 2
SHIFT_PX = 8
FRAME_NS = 1_000_000_000 // 15  # between two images of a clip
FILTERED = DEFAULTS.output.temporal_filter  # of the rows that are marked so
BEGIN, END = '<!-- begin of benchmarks/quality.py -->', '<!-- end of benchmarks/quality.py -->'

ScoresBySet = dict[str, dict[str, list[ImageScores]]]  # by data set and method


def networks(files: list[Path]) -> dict[str, Fuse]:
    """The networks of weights files by their names.

    Two of one preset are told apart by their files.
    """
    found: dict[str, Fuse] = {}
    for file in files:
        name, fuse = method(load_weights(file).model, weights=file)
        found[f'{name} ({file.stem})' if name in found else name] = fuse
    return found


def _start_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)


def measure(methods: dict[str, Fuse], folder: Path, boxes: Boxes | None = None) -> ScoresBySet:
    """Score every method on every pair below folder, with two processes for the metrics."""
    spawn = multiprocessing.get_context('spawn')  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(WORKERS, mp_context=spawn, initializer=_start_worker)
    try:
        jobs = []
        for dataset, name, images in fused_pairs(methods, folder):
            truth = boxes.of(dataset, images[0].name) if boxes else None
            known = {'boxes': truth.people, 'ignore': truth.ignore} if truth else {}
            jobs.append((dataset, name, pool.submit(score_fused, *images, **known)))
        return by_set((dataset, name, job.result()) for dataset, name, job in jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def measure_flicker(methods: dict[str, Fuse], folder: Path) -> dict[str, dict[str, Flicker]]:
    """By clip and method, over all frames of every clip below folder.

    Rows of trained networks are followed by one with the node's temporal filter at FILTERED.
    """
    clips = defaultdict(list)
    for visible, infrared in pair_files(folder):
        clips[infrared.parent.parent.name].append((visible, infrared))
    result = {}
    for clip, files in clips.items():
        filters = {f'{name}, filtered': TemporalFilter() for name in methods
                   if name not in BASELINES}
        meters = {name: FlickerMeter() for name in (*methods, *filters)}
        for number, pair in enumerate((read_luma(*frame) for frame in files), start=1):
            for name, fuse in methods.items():
                if isinstance(fuse, NodeFusion):
                    fuse = partial(fuse, stamp_ns=number * FRAME_NS)
                levels = fused_levels(fuse, pair.ir, pair.vi_y)
                meters[name].add(pair.ir, pair.vi_y, levels)
                if (filtered := f'{name}, filtered') in filters:
                    calm = filters[filtered](
                        levels, stamp_ns=number * FRAME_NS, keep=FILTERED)
                    meters[filtered].add(pair.ir, pair.vi_y, calm)
        result[clip] = {name: meter.result() for name, meter in meters.items()}
    return result


def measure_all(trained: dict[str, Fuse],
                options: argparse.Namespace) -> tuple[Measured, list[str]]:
    """Measure what the options ask for; returns it and the tables."""
    methods = BASELINES | trained
    boxes = read_boxes(options.boxes) if options.boxes else None
    placed: dict[str, dict[str, float]] = {}
    scored = measure(methods, options.folder, boxes)
    clips = measure_flicker(methods, options.sequences) if options.sequences else {}
    pictures = first_pictures(options.folder)
    found: dict = {
        'scores': {dataset: {name: means(scores) for name, scores in rows.items()} for dataset,
                   rows in scored.items()},
        'flat_thermal': measure_flat(methods, [luminance(picture) for picture in pictures]),
        'flat_is_rgb': passes_rgb_on(pictures),
        'flicker': {clip: {name: {'ratio': one.ratio} for name, one in rows.items()} for clip,
                    rows in clips.items()}}
    if options.detector:
        detector = Detector(options.detector, threads=1)
        found['detector'] = look_at(methods, options.folder, detector, boxes or Boxes({}))
        if boxes:
            found['shifted'] = look_at_shifted(methods, options.folder, detector, boxes,
                                               shift_px=SHIFT_PX)
            placed = look_at_placed(methods, options.folder, detector, boxes)
        if options.drives:
            found['drives'] = look_at(methods, options.drives, detector,
                                      read_boxes(options.drives / 'boxes.json'))
        if options.sequences:
            found['finds'] = finds_in_clips(methods, options.sequences, detector)
    measured = Measured(**found)
    lines = [*score_lines(scored, read_peers()), *flat_lines(measured.flat_thermal)]
    lines += detector_lines('An unchanged detector', measured.detector) + placed_lines(placed)
    lines += detector_lines('The same on rendered drives',
                            measured.drives) + find_lines(measured.finds)
    return measured, lines + (flicker_lines(clips, read_peers()) if clips else [])


def verdicts(trained: dict[str, Fuse], measured: Measured) -> list[str]:
    """Tables of the bars, one for each network."""
    lines = []
    for name in trained:
        found: list[Bar] = bars(name, measured, read_peers())
        lines += bar_lines(name, found)
    return lines


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
    parser.add_argument('--weights', type=Path, nargs='+',
                        default=sorted(SHIPPED.glob('*.safetensors')))
    parser.add_argument('--sequences', type=Path, help='clips: folders vi and ir somewhere below')
    parser.add_argument('--detector', type=Path, help='a detector as an ONNX file')
    parser.add_argument('--boxes', type=Path, help='JSON with the boxes of people in the pairs')
    parser.add_argument('--drives', type=Path,
                        help='rendered pairs and their boxes.json, for the detector')
    parser.add_argument('--write', type=Path,
                        help='page to write the tables to, between its marks')
    options = parser.parse_args()
    keep_freed_memory()
    trained = networks(options.weights)
    measured, tables = measure_all(trained, options)
    used = '; '.join(f'{name} on {fuse.description}' for name, fuse in trained.items())
    text = '\n'.join([f'{used}.', '', *tables, *verdicts(trained, measured)])
    print(text)
    if options.write:
        write_between_marks(options.write, text)


if __name__ == '__main__':
    main()
