# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay`: fuse a recorded bag without ROS."""

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..core.frames import FusionResult, Pair
from ..core.settings import Settings
from . import options
from .options import files_of, takes_settings
from .progress import hint_threads, progress


@takes_settings()
def replay(
    context: typer.Context,
    bags: Annotated[list[Path],
                    typer.Argument(metavar='BAG...', help='rosbag2 folders, .db3 or .mcap files')],
    out: Annotated[Path,
                   typer.Argument(help='what to make: the folder of a bag, NAME.mp4, or files '
                                  'such as FOLDER/{}.png; of several bags a folder for theirs')],
    settings: Settings,
    params: Path | None,
    topics: options.Topics = options.TOPICS,
    jobs: Annotated[int, typer.Option('--jobs', '-j', min=0, help=(
        'processes that fuse bags at the same time; 0: one for each core'))] = 1,
    ray: options.Ray = None,
    overwrite: options.OverwriteBag = False,
    json: options.Json = None,
    rrd: Annotated[Path | None, options.output(endings=('.rrd',), help=(
        'also write a recording for the viewer of Rerun (.rrd)'))] = None,
    detector: options.Detector = None,
    detector_layout: options.DetectorLayout = 'auto',
    detect_class: options.DetectClass = 'person',
    classes: options.Classes = None,
    detect_every: Annotated[int, typer.Option(min=1, help='look at every n-th pair')] = 10,
    detect_json: Annotated[Path | None, options.output(endings=('.json',), help=(
        'file to write with the counts of every pair'))] = None,
) -> None:
    """Fuse every pair of a recorded bag into a new bag, a video or PNG files.

    The same input gives the same bytes. Every image goes on from the ones before, so a run that
    was interrupted begins anew; of several bags those that are done are kept.

    Exit code 1 when some frames could not be read or fused, or some of several bags failed; frames
    without a partner are counted and are no failure. A topic that the bag has compressed alone is
    read from there.
    """
    from ..inference.pipeline import FusionPipeline
    from ..io.bags import BagReader, image_topic
    from ..io.paths import require_inputs
    from ..io.writing import require_output
    from ..tools.evaluation.detector_trial import DetectorCounts, chosen_detector
    from ..tools.replay import fuse_bag
    from ..tools.replay_outputs import output, require_free, rerun_recording

    if detector is None:
        options.refuse(context, options.OF_DETECTOR, 'only with --detector')
    if ray is not None:
        options.refuse(context, ('jobs',), 'not with --ray')
    if len(bags) > 1 or ray is not None:
        if rrd or detector:
            raise typer.BadParameter('--rrd and --detector take one bag, here, without --ray')
        from .replay_many import replay_many
        for each in bags:
            _hint_alignment(each, settings)
        failed = replay_many(bags, out, settings, topics=topics, jobs=jobs,
                             ray=ray, overwrite=overwrite, json=json,
                             inputs=files_of(settings, params))
        if failed:
            raise typer.Exit(1)
        return
    options.refuse(context, ('jobs',), 'only with several bags')
    bag = bags[0]
    inputs = (bag, detector, classes, *files_of(settings, params))
    require_inputs(bag, detector, *files_of(settings, params))
    require_free(out, overwrite=overwrite, inputs=inputs)
    require_output(detect_json, overwrite=overwrite, inputs=inputs)
    require_output(rrd, overwrite=overwrite, inputs=inputs)
    options.require_json(json, overwrite=overwrite, inputs=inputs)
    _hint_alignment(bag, settings)
    chosen = chosen_detector(detector, layout=detector_layout, wanted=detect_class,
                             classes=classes)
    judge = chosen and DetectorCounts(chosen.detector, thermal=settings.thermal,
                                      class_number=chosen.class_number,
                                      every=detect_every)
    judges: list[Callable[[Pair, FusionResult], object]] = [judge] if judge else []
    with ExitStack() as stack, BagReader(bag) as reader:
        recorded = [image_topic(reader, topic) for topic in topics]
        reader.require(*recorded)
        rate_hz = reader.rate_hz(recorded[0])
        pipeline = FusionPipeline(settings)
        hint_threads(settings, pipeline.device)
        if rrd is not None:
            judges.append(stack.enter_context(rerun_recording(rrd, settings.thermal,
                                                              overwrite=overwrite)))
        with output(out, rate_hz=rate_hz, overwrite=overwrite, inputs=inputs) as written, \
                progress('fusing', reader.duration_ns / 1e9, unit='s') as done:
            counts = fuse_bag(
                reader, written, pipeline, settings.sync, from_tf=settings.alignment.from_tf,
                rgb_topic=topics[0], thermal_topic=topics[1],
                judge=lambda pair, result: [look(pair, result) for look in judges],
                report=lambda pair: done((pair.rgb.arrival_ns - reader.start_ns) / 1e9))
    options.write_json(json, {'out': str(out), **counts.as_dict()})
    _say(out, counts, json)
    if judge:
        Console(stderr=json == options.SCREEN).print(judge.table())
        if detect_json:
            judge.write_json(detect_json)
    options.say_wrote(rrd, detect_json)
    if counts.refused:
        raise typer.Exit(1)


def _hint_alignment(bag: Path, settings: Settings) -> None:
    """Say on the standard error that a bag has an alignment beside it which is not used."""
    from ..tools.synthetic.record import ALIGNMENT_FILE

    beside = bag / ALIGNMENT_FILE
    if beside.is_file() and not (settings.alignment.file or settings.alignment.from_tf):
        typer.echo(f'note: {beside} is not used; to align the cameras by it: '
                   f'--alignment {shlex.quote(str(beside))}', err=True)


def _say(out: Path, counts, json: Path | None) -> None:
    """Print what became of the frames of a bag."""
    for problem in sorted(counts.problems):
        typer.echo(problem, err=True)
    modes = ', '.join(f'{count} {mode}' for mode, count in counts.modes.items())
    came = ', '.join(f'{count} {camera}' for camera, count in sorted(counts.by_camera.items()))
    options.say(f'{out}: {counts.frames} frames ({came}), {counts.pairs} pairs, {modes}',
                json=json)
    for line in counts.lines():
        options.say(f'left out: {line}', json=json)
