# SPDX-License-Identifier: Apache-2.0
"""`diffmf demo`: the real node on a bag or on rendered drives, then a picture, a video and a
table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..core.settings import DEFAULTS
from ..tools.synthetic.environments import ENVIRONMENTS, scene_list
from . import options
from .progress import tracked

if TYPE_CHECKING:
    from ..tools.demo import DemoRun

FOLDER = Path('out/demo')
SCENES = ('night', 'smoke')
ONE_S, EACH_S = 6.0, 3.0  # length of a drive that is shown alone, and of one beside others
# When those that are shown together begin: people are near by then.
BEGIN_S = 2.0


def demo(
    context: typer.Context,
    bag: Annotated[Path | None, typer.Option(help='a rosbag2; default: rendered drives')] = None,
    topics: options.Topics = options.TOPICS,
    out: Annotated[Path | None, typer.Option(
        show_default='out/demo, or out/demo-2 and so on beside an earlier demo',
        help='folder for the bags, the picture, the video and the logs')] = None,
    scene: Annotated[list[str] | None, typer.Option(
        autocompletion=options.completed(ENVIRONMENTS),
        help=f'of the rendered drive; repeat it for several; default: {" and ".join(SCENES)}. '
        f'There are '
             f'{scene_list()}')] = None,
    rate: Annotated[float, typer.Option(min=0.001, max=1000, help=(
        'bag seconds per second; 1 is real time'))] = 0.3,
    model: options.Model = 'diffmf',
    preset: options.Preset = DEFAULTS.preset,
    weights: options.Weights = None,
    scale: options.Scale = 0.5,
    device: options.Device = 'auto',
    alignment: options.AlignmentFile = None,
    thermal_offset_ms: options.ThermalOffsetOrTruth = None,
    hold_last_ms: options.HoldLast = DEFAULTS.sync.hold_last_ms,
    overwrite: Annotated[bool,
                         typer.Option('--overwrite',
                                      help='replace the bags, the picture and the video of an '
                                            'earlier demo')] = False,
    json: options.Json = None,
) -> None:
    """Play a bag through the real node over DDS and show what it fused.

    The ROS domain is a free one, which it prints, and not that of ROS_DOMAIN_ID: other nodes are
    not disturbed.
    """
    from ..tools import demo as product
    from ..tools.demo import draw
    from ..tools.synthetic.record import TRUTH_FILE, recorded_drive

    if bag is not None and scene:
        raise typer.BadParameter('--scene is of a rendered drive, and --bag names another one')
    if bag is None:
        options.refuse(context, ('topics',), 'only with --bag')
    options.note_idle(options.settings_from(model=model), options.given(context))
    scenes = () if bag is not None else tuple(dict.fromkeys(scene or SCENES))
    out = out or (FOLDER if overwrite else _fresh(FOLDER))
    inputs = bag, options.weights_file(weights), alignment
    options.require_json(json, overwrite=overwrite, inputs=inputs,
                         own=(out / f'drive_{name}' / TRUTH_FILE for name in scenes))
    _require_outputs(out, scenes, bag, overwrite=overwrite, inputs=inputs)
    with _saying_what_is_left(out):
        bags = (bag,) if bag is not None else _render(scenes, out)
    recorded = recorded_drive(bags[0])
    if recorded is not None and alignment is None:
        alignment = recorded.alignment
    if recorded is not None and thermal_offset_ms is None:
        thermal_offset_ms = recorded.thermal_offset_ms
    settings = options.settings_from(model=model, preset=preset, weights=weights, scale=scale,
                                     device=device, alignment__file=alignment,
                                     sync__thermal_offset_ms=thermal_offset_ms,
                                     sync__hold_last_ms=hold_last_ms)
    run = product.DemoRun(bags=bags, fused=out / 'fused', logs=out / 'log', rate=rate,
                          settings=settings, topics=topics)
    options.say(f'playing {", ".join(map(str, bags))} at {rate:g} of real time through the node, '
                f'into {out}\nwatch it: ROS_DOMAIN_ID={product.domain()} diffmf view', json=json)
    counts: list = []
    with _saying_what_is_left(out):
        values = product.run(run)
        total = int(values['fused']) // len(bags)
        for _ in tracked(draw(run, counts, total), 'drawing', total=total):
            pass
        why = product.why_unpaired(run) if 'dropped.unpaired' in values else []
    _tell(run, values, counts, why, json)


def _fresh(folder: Path) -> Path:
    """Return folder, or the first of folder-2, folder-3 ... in which no demo has been."""
    names = (folder.with_name(f'{folder.name}-{number}') for number in count(2))
    return next(place for place in chain([folder], names) if not _used(place))


def _used(folder: Path) -> bool:
    """Tell whether a folder holds files of a demo, perhaps of an interrupted one."""
    made = ('drive_*', 'fused', 'fused.unfinished*', 'fused.mp4', 'fused.png')
    return any(any(folder.glob(name)) for name in made)


@contextmanager
def _saying_what_is_left(out: Path) -> Iterator[None]:
    """Say, when the block is interrupted, what is there and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if _used(out):
            typer.echo(f'{out} has what was made until then: the same command with --out {out} '
                       f'--overwrite (make: OUT={out} OVERWRITE=1) makes it again', err=True)
        raise


def _tell(run: 'DemoRun', values: dict[str, str], counts: Sequence, why: Sequence[str],
          json: Path | None) -> None:
    """Print what was made and what the node reports, and write it as JSON where asked to."""
    made = {name: str(run.fused.with_suffix(suffix)) for name, suffix in (
        ('out', ''), ('video', '.mp4'), ('picture', '.png'))}
    options.write_json(json, {
        **made, 'bags': list(map(str, run.bags)), 'report': values, 'unpaired': why,
        'people': [{'scene': found.scene, 'people': found.people,
                    **dict(zip(('rgb', 'thermal', 'fused'), map(int, found.seen), strict=True))}
                   for found in counts]})
    console = Console(stderr=json == options.SCREEN)
    options.say('\n'.join(f'see: {path}' for path in made.values()), json=json)
    console.print(_table(values))
    for line in why:
        console.print(line, highlight=False, markup=False)
    if counts:
        console.print(_people_table(counts))


def _require_outputs(out: Path, scenes: Sequence[str], bag: Path | None, *, overwrite: bool,
                     inputs: Sequence[Path | None]) -> None:
    """Raise a DiffmfError, before minutes of work, when ROS is missing, the bag cannot be read or
    an output would replace what it must not."""
    from ..io.bag_recovery import BagError, require_bag_output
    from ..io.bags import BagReader
    from ..io.paths import require_folder_name, require_inputs
    from ..io.writing import require_output
    from ..tools.doctor.ros import require_rclpy
    from ..tools.synthetic.record import recorded_drive

    require_inputs(*inputs)
    require_folder_name(out, of='bags, pictures and logs')
    drives = [out / f'drive_{scene}' for scene in scenes]
    for made in (*drives, out / 'fused'):
        require_bag_output(made, overwrite=overwrite, inputs=inputs)
    for drive in drives:
        if drive.exists() and recorded_drive(drive) is None:
            raise BagError(f'{drive} is a bag but not a rendered drive, so it is not replaced: '
                           f'choose another --out')
    for kind in ('.mp4', '.png'):
        require_output(out / f'fused{kind}', overwrite=overwrite, inputs=inputs)
    if bag is not None:
        with BagReader(bag):  # raises what is wrong with it before the node starts
            pass
    require_rclpy('the demo runs the real node')


def _render(scenes: Sequence[str], out: Path) -> tuple[Path, ...]:
    """Render the scenes, one after the other on one clock; return their bags."""
    from ..tools.demo import drive_of
    from ..tools.synthetic.drive import DriveSettings
    from ..tools.synthetic.record import record

    begin_s, length_s = (0.0, ONE_S) if len(scenes) == 1 else (BEGIN_S, EACH_S)
    bags = []
    for number, scene in enumerate(scenes):
        from_s = begin_s + number * length_s
        drive = drive_of(DriveSettings(scene=scene, seconds=from_s + length_s))
        bag = out / f'drive_{scene}'
        total = len(drive.order(from_s=from_s))
        for _ in tracked(record(drive, bag, overwrite=True, from_s=from_s), f'rendering {scene}',
                         total=total):
            pass
        bags.append(bag)
    return tuple(bags)


def _table(values: dict[str, str]) -> Table:
    table = Table('what', 'value', title="the node's own report")
    dropped = {key.removeprefix('dropped.'): value for key,
               value in values.items() if key.startswith('dropped.')}
    rows = {'frames in': f'{values["rgb_in"]} RGB, {values["thermal_in"]} thermal',
            'pairs': values['pairs'], 'fused': values['fused'],
            'dropped': ', '.join(f'{count} {reason}' for reason, count in dropped.items())
            or 'nothing', 'latency p50 / p99': f'{values["latency_p50_ms"]} / '
            f'{values["latency_p99_ms"]} ms',
            'mode': values['mode'], 'model': values['model'], 'device': values['device']}
    for what, value in rows.items():
        table.add_row(what, value)
    return table


def _people_table(counts: Sequence) -> Table:
    from ..tools.synthetic.drive import MIN_HEIGHT_PX, VISIBLE_LEVELS

    table = Table('scene', 'people', 'RGB', 'thermal', 'fused',
                  title='people who stand out, over all fused pictures',
                  caption=f'from {VISIBLE_LEVELS:g} gray levels of contrast to the surround on, '
                  f'by the ground truth; '
                          f'people from {MIN_HEIGHT_PX} px height')
    for found in counts:
        table.add_row(found.scene, str(found.people), *map(str, found.seen))
    return table
