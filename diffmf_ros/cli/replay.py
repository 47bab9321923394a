# SPDX-License-Identifier: Apache-2.0
"""`diffmf replay`: fuse a recorded bag without ROS."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..core.settings import DEFAULTS
from . import options


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
    overwrite: Annotated[bool, typer.Option(help='replace an existing bag')] = False,
) -> None:
    """Fuse every pair of a recorded bag into a new bag; the same input gives the same bytes."""
    from ..bags import BagReader, BagWriter
    from ..inference.pipeline import FusionPipeline
    from ..replay import fuse_bag

    settings = options.settings_from(
        model=model, preset=preset, weights=weights, engine=engine, alignment__file=alignment,
        alignment__plane_depth_m=plane_depth_m, alignment__output_grid=output_grid, scale=scale, device=device,
        sync__thermal_offset_ms=thermal_offset_ms)
    with BagReader(bag) as reader:
        reader.require(rgb_topic, thermal_topic)
        pipeline = FusionPipeline(settings)
        with BagWriter(out, overwrite=overwrite) as writer, Progress() as progress:
            task = progress.add_task('fusing', total=reader.duration_ns)
            counts = fuse_bag(
                reader, writer, pipeline, settings.sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic,
                report=lambda pair: progress.update(task, completed=pair.rgb.arrival_ns - reader.start_ns))
            progress.update(task, completed=reader.duration_ns)
    for problem in sorted(counts.problems):
        typer.echo(problem, err=True)
    modes = ', '.join(f'{count} {mode}' for mode, count in counts.modes.items())
    dropped = ', '.join(f'{count} {reason}' for reason, count in counts.dropped.items()) or 'nothing'
    typer.echo(f'{out}: {counts.frames} frames, {counts.pairs} pairs, {modes}; dropped: {dropped}')
