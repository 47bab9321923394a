# SPDX-License-Identifier: Apache-2.0
"""`diffmf sample-bag`: render the synthetic drive into a bag."""

from pathlib import Path
from typing import Annotated

import typer

from ..tools.synthetic.environments import ENVIRONMENTS, scene_list
from . import options
from .progress import tracked


def sample_bag(
    out: Annotated[Path, typer.Argument(help='the bag folder to make')],
    seconds: Annotated[float, typer.Option(help='length of the drive')] = 6.0,
    seed: Annotated[int, typer.Option(help='the same seed gives the same drive')] = 0,
    scene: Annotated[str, typer.Option(help=scene_list(),
                                       autocompletion=options.completed(ENVIRONMENTS))] = 'night',
    thermal_rate: Annotated[int, typer.Option(help='thermal frames a second: 9 | 30')] = 9,
    thermal_bits: Annotated[int,
                            typer.Option(help='8 (mono8) | 16 (14-bit counts in mono16)')] = 8,
    storage: Annotated[str, typer.Option(help='sqlite3 | mcap')] = 'sqlite3',
    overwrite: options.OverwriteBag = False,
    json: options.Json = None,
) -> None:
    """Render a synthetic drive with known alignment, clock offset and ground truth into a bag."""
    from ..tools.synthetic.drive import Drive, DriveSettings
    from ..tools.synthetic.record import ALIGNMENT_FILE, TRUTH_FILE, record

    options.require_json(json, overwrite=overwrite, own=(out / TRUTH_FILE,))
    drive = Drive(DriveSettings(scene=scene, seed=seed, seconds=seconds,
                                thermal_rate_hz=thermal_rate,
                                thermal_bits=thermal_bits))
    total = len(drive.order())
    for _ in tracked(record(drive, out, storage=storage, overwrite=overwrite), 'rendering',
                     total=total):
        pass
    options.write_json(json, {
        'out': str(out), 'frames': total, 'alignment': str(out / ALIGNMENT_FILE),
        'thermal_offset_ms': drive.rig.thermal_offset_ms})
    options.say(f'{out}: {total} frames; alignment {out / ALIGNMENT_FILE}, '
                f'sync.thermal_offset_ms {drive.rig.thermal_offset_ms:g}', json=json)
