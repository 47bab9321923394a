# SPDX-License-Identifier: Apache-2.0
"""`diffmf demo`: the real node on a bag, then a picture, a video and a table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import options
from .sample_bag import sample_bag

SHEET_ROWS = 5


def demo(
    bag: Annotated[Path | None, typer.Option(help='a rosbag2; default: a rendered night drive')] = None,
    out: Annotated[Path, typer.Option(help='folder for the bag, the picture, the video and the logs')]
    = Path('out/demo'),
    scene: Annotated[str, typer.Option(help='of the rendered drive: night | smoke')] = 'night',
    rate: Annotated[float, typer.Option(help='bag seconds per second; 1 is real time')] = 0.3,
    model: options.Model = 'diffmf',
    preset: options.Preset = 'light',
    weights: options.Weights = None,
    scale: options.Scale = 0.5,
    device: options.Device = 'auto',
    alignment: options.AlignmentFile = None,
    thermal_offset_ms: options.ThermalOffset = 0.0,
) -> None:
    """Play a bag through the real node over DDS and show what it fused."""
    from .. import demo as product

    if bag is None:
        bag = out / 'drive'
        sample_bag(bag, scene=scene, overwrite=True)
    if alignment is None:
        alignment, thermal_offset_ms = product.truth_of(bag) or (None, thermal_offset_ms)
    settings = options.settings_from(model=model, preset=preset, weights=weights, scale=scale, device=device,
                                     alignment__file=alignment, sync__thermal_offset_ms=thermal_offset_ms)
    run = product.DemoRun(bag=bag, fused=out / 'fused', logs=out / 'log', rate=rate, settings=settings)
    typer.echo(f'playing {bag} at {rate:g} of real time through the node, on a ROS domain of its own')
    values = product.run(run)
    typer.echo(f'bag: {run.fused}')
    for path in _draw(product, run, int(values['fused'])):
        typer.echo(f'see: {path}')
    Console().print(_table(values))


def _draw(product, run, total: int) -> list[Path]:
    """Write fused.mp4 and fused.png beside the fused bag, while reading it once."""
    from ..media import write_contact_sheet, write_video

    sheet_at = {round((i + 0.5) * total / SHEET_ROWS) for i in range(SHEET_ROWS)}
    rows, video, sheet = [], run.fused.with_suffix('.mp4'), run.fused.with_suffix('.png')

    def triples():
        for index, triple in enumerate(product.pictures(run)):
            if index in sheet_at:
                rows.append(triple)
            yield triple

    for _ in track(write_video(video, triples(), fps=product.frame_rate(run.fused)), 'drawing', total=total):
        pass
    write_contact_sheet(sheet, rows)
    return [video, sheet]


def _table(values: dict[str, str]) -> Table:
    table = Table('what', 'value', title="the node's own report")
    dropped = {key.removeprefix('dropped.'): value for key, value in values.items() if key.startswith('dropped.')}
    rows = {'frames in': f'{values["rgb_in"]} RGB, {values["thermal_in"]} thermal', 'pairs': values['pairs'],
            'fused': values['fused'],
            'dropped': ', '.join(f'{count} {reason}' for reason, count in dropped.items()) or 'nothing',
            'latency p50 / p99': f'{values["latency_p50_ms"]} / {values["latency_p99_ms"]} ms',
            'mode': values['mode'], 'model': values['model'], 'device': values['device']}
    for what, value in rows.items():
        table.add_row(what, value)
    return table
