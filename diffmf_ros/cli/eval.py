# SPDX-License-Identifier: Apache-2.0
"""`diffmf eval`: score fused images, or a network, image by image beside the baselines."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.settings import DEFAULTS
from ..io.paths import PLOTS
from . import options
from .progress import hint_threads, progress

WIDTH = 260  # of the table where the output is not a terminal


def eval(
    context: typer.Context,
    rgb: Annotated[Path | None, typer.Option(help='folder of visible images')] = None,
    thermal: Annotated[Path | None,
                       typer.Option(help='folder of thermal images of the same names and '
                                    'sizes')] = None,
    pairs: Annotated[Path | None,
                     typer.Option(help='instead of both: a folder with vi and ir somewhere below, '
                                  'a '
                                               'data set each')] = None,
    fused: Annotated[Path | None,
                     typer.Option(help='folder of fused images of the same names; with --pairs it '
                                  'has '
                                               'a folder for each data set')] = None,
    model: Annotated[str | None,
                     typer.Option(help='what to fuse with instead: diffmf, s4fusion, refinefuse, '
                                              'classical, average, maximum, blend (0.85 thermal), '
                                              'rgb, thermal; all but the networks are scored '
                                              'bare, without the steps after them')] = None,
    preset: Annotated[str | None,
                      typer.Option(help='size of the network; default: that of the '
                                   'weights')] = None,
    weights: options.Weights = None,
    device: options.Device = DEFAULTS.device,
    threads: options.Threads = DEFAULTS.threads,
    polarity: options.Polarity = DEFAULTS.thermal.polarity,
    sequence: Annotated[bool, typer.Option('--sequence',
                                           help='the images are consecutive frames: measure '
                                           'flicker too')] = False,
    boxes: Annotated[Path | None,
                     typer.Option(help='JSON with the boxes of people (docs/quality.md)')] = None,
    detector: options.Detector = None,
    detector_layout: options.DetectorLayout = 'auto',
    detect_class: options.DetectClass = 'person',
    classes: options.Classes = None,
    json: options.Json = None,
    html: Annotated[Path | None, options.output(endings=('.html',), help=(
        'page to write with all pictures, sorted by any metric'))] = None,
    plot: Annotated[Path | None, options.output(endings=PLOTS, help=(
        'also draw the means beside the baselines (.png, .svg, .pdf)'))] = None,
    every: Annotated[bool, typer.Option('--all', help=(
        'print the metrics of the literature and salience, too; JSON and the page always have '
        'them'))] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Score fused images, or a way of fusing. Exit code 1 when some could not be scored."""
    from ..io.paths import require_inputs
    from ..io.writing import require_output
    from ..tools.bench.report import figure_class
    from ..tools.evaluation import eval_doubts, eval_files, eval_page, evaluate, scoring
    from ..tools.evaluation.detection_scores import read_boxes
    from ..tools.evaluation.detector_trial import DetectorTrial, chosen_detector
    from ..tools.evaluation.eval_page import Page

    if detector is None:
        options.refuse(context, options.OF_DETECTOR, 'only with --detector')
    if model is None or model in scoring.BASELINES:
        options.refuse(context, ('preset', 'weights', 'device', 'threads'),
                       'only with a network as --model')
    inputs = rgb, thermal, pairs, fused, options.weights_file(weights), boxes, detector, classes
    require_inputs(*inputs[:-1])
    evaluate.require_one_way(fused, model)
    options.require_json(json, overwrite=overwrite, inputs=inputs)
    for path in (html, plot):
        require_output(path, overwrite=overwrite, inputs=inputs)
    if plot is not None:
        figure_class()  # before minutes of scoring
    settings = options.settings_from(thermal__polarity=polarity, threads=threads)
    known = read_boxes(boxes) if boxes else None
    chosen = chosen_detector(detector, layout=detector_layout, wanted=detect_class,
                             classes=classes)
    trial = DetectorTrial(chosen.detector, boxes=known,
                          class_number=chosen.class_number) if chosen else None
    method = scoring.method(model, preset=preset, weights=weights, device=device,
                            threads=threads) if model else None
    hint_threads(settings, getattr(method and method[1], 'description', ''))
    sets = eval_files.data_sets(rgb=rgb, thermal=thermal, pairs=pairs, fused=fused)
    count = eval_files.image_count(sets)  # says what is missing before the bar begins
    found = eval_files.sources(sets)[0]
    if boxes and known:
        _note(eval_doubts.boxes_note(boxes, known, found))
    _note(eval_doubts.swapped_note(found))
    page = Page(html,
                count=count,
                method=method[0] if method else evaluate.FROM_FILES,
                class_number=chosen.class_number if chosen else 0,
                overwrite=overwrite) if html else None
    with progress('scoring', count) as done:
        evaluation = evaluate.evaluate(
            rgb, thermal, pairs=pairs, fused=fused, method=method, sequence=sequence, boxes=known,
            trial=trial, thermal_settings=settings.thermal,
            show=page.add if page else None,
            report=lambda number, total: done(number))
    options.write_json(json, eval_page.as_json(evaluation))
    older = page.write(evaluation) if page else ''
    if plot is not None and evaluation.images:
        eval_page.write_plot(plot, evaluation)
    _print(evaluation, every=every, json=json)
    _note(eval_doubts.flicker_note(evaluation), older)
    if moved := getattr(method and method[1], 'moved', 0):
        typer.echo(f'thermal of {moved} pairs was moved onto the edges of RGB before it was fused '
                   '(docs/alignment.md); it is scored where it was', err=True)
    options.say_wrote(html, page.folder if page else None, plot if evaluation.images else None)
    if evaluation.problems:
        raise typer.Exit(1)


def _note(*texts: str) -> None:
    for text in texts:
        if text:
            typer.echo(f'note: {text}', err=True)


def _print(evaluation, *, every: bool, json: Path | None) -> None:
    from ..tools.evaluation import eval_page

    console = options.table_console(json, width=WIDTH)
    if evaluation.images:
        for table in eval_page.tables(evaluation, width=console.width, every=every):
            console.print(table)
        for line in eval_page.below(evaluation, every=every):
            console.print(line, highlight=False, markup=False)
    if evaluation.detector:
        console.print(eval_page.detector_table(evaluation))
    for problem in evaluation.problems:
        typer.echo(f'not scored: {problem.file}: {problem.reason}', err=True)
    if evaluation.problems:
        typer.echo(f'{len(evaluation.images)} scored, {len(evaluation.problems)} problems',
                   err=True)
