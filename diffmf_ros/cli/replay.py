# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay`: fuse a recorded bag without ROS."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ..core.settings import DEFAULTS
from . import detector_options, options


def replay(
    bag: Annotated[Path, typer.Argument(help='a rosbag2 folder, or a .db3 or .mcap file')],
    out: Annotated[Path, typer.Argument(help='the bag folder to make')],
    rgb_topic: Annotated[str, typer.Option()] = '/rgb/image_raw',
    thermal_topic: Annotated[str, typer.Option()] = '/thermal/image_raw',
    model: options.Model = DEFAULTS.model,
    preset: options.Preset = DEFAULTS.preset,
    weights: options.Weights = None,
    engine: options.Engine = DEFAULTS.engine,
    alignment: options.AlignmentFile = None,
    plane_depth_m: options.PlaneDepth = DEFAULTS.alignment.plane_depth_m,
    output_grid: options.OutputGrid = DEFAULTS.alignment.output_grid,
    thermal_offset_ms: options.ThermalOffset = DEFAULTS.sync.thermal_offset_ms,
    scale: options.Scale = DEFAULTS.scale,
    device: options.Device = DEFAULTS.device,
    overwrite: options.OverwriteBag = False,
    json: options.Json = None,
    detector: detector_options.Detector = None,
    detector_layout: detector_options.DetectorLayout = 'auto',
    detect_class: detector_options.DetectClass = 'person',
    classes: detector_options.Classes = None,
    detect_every: Annotated[int, typer.Option(min=1, help='look at every n-th pair')] = 10,
    detect_json: Annotated[Path | None, typer.Option(help='file to write with the counts of every pair')] = None,
) -> None:
    """Fuse every pair of a recorded bag into a new bag; the same input gives the same bytes.

    Exit code 1 when some frames could not be used. A topic that the bag has compressed alone is read from there.
    """
    from ..inference.pipeline import FusionPipeline
    from ..io.bag_files import require_bag_output
    from ..io.bags import BagReader, BagWriter, image_topic
    from ..io.writing import require_output
    from ..tools.evaluation.detector_counts import DetectorCounts
    from ..tools.replay import fuse_bag

    settings = options.settings_from(
        model=model, preset=preset, weights=weights, engine=engine, alignment__file=alignment,
        alignment__plane_depth_m=plane_depth_m, alignment__output_grid=output_grid, scale=scale, device=device,
        sync__thermal_offset_ms=thermal_offset_ms)
    inputs = (bag, weights, alignment, detector, classes)
    require_bag_output(out, overwrite=overwrite, inputs=inputs)
    require_output(detect_json, overwrite=overwrite, inputs=inputs)
    options.require_json(json, overwrite=overwrite, inputs=inputs)
    chosen = detector_options.detector_from(detector, layout=detector_layout, wanted=detect_class, classes=classes)
    judge = chosen and DetectorCounts(chosen.detector, thermal=settings.thermal, class_number=chosen.class_number,
                                      every=detect_every)
    with BagReader(bag) as reader:
        reader.require(*(image_topic(reader, topic) for topic in (rgb_topic, thermal_topic)))
        pipeline = FusionPipeline(settings)
        with BagWriter(out, overwrite=overwrite, inputs=inputs) as writer, _progress() as progress:
            task = progress.add_task('fusing', total=reader.duration_ns)
            counts = fuse_bag(
                reader, writer, pipeline, settings.sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic,
                **({'judge': judge} if judge else {}),
                report=lambda pair: progress.update(task, completed=pair.rgb.arrival_ns - reader.start_ns))
            progress.update(task, completed=reader.duration_ns)
    options.write_json(json, {'out': str(out), **counts.as_dict()})
    _say(out, counts, json)
    if judge:
        Console(stderr=json == options.SCREEN).print(judge.table())
        if detect_json:
            judge.write_json(detect_json)
    if counts.refused:
        raise typer.Exit(1)


def _progress() -> Progress:
    return Progress(console=Console(stderr=True))


def _say(out: Path, counts, json: Path | None) -> None:
    """Print what became of the frames of a bag."""
    for problem in sorted(counts.problems):
        typer.echo(problem, err=True)
    modes = ', '.join(f'{count} {mode}' for mode, count in counts.modes.items())
    came = ', '.join(f'{count} {camera}' for camera, count in sorted(counts.by_camera.items()))
    options.say(f'{out}: {counts.frames} frames ({came}), {counts.pairs} pairs, {modes}', json=json)
    for line in counts.lines():
        options.say(f'left out: {line}', json=json)
