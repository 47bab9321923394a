# SPDX-License-Identifier: Apache-2.0
"""`diffmf sample-pairs`: aligned pictures of the synthetic drive, with the boxes of its people."""

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import tracked


def sample_pairs(
    out: Annotated[Path,
                   typer.Argument(help='folder to write OUT/SCENE/{vi,ir}/NAME.png and '
                                  'OUT/boxes.json to')],
    scene: Annotated[list[str] | None,
                     typer.Option(help='a scene; repeat it for several; default: every '
                                  'one')] = None,
    count: Annotated[int,
                     typer.Option(help='pairs of each scene, evenly spaced over the drive')] = 40,
    seconds: Annotated[float, typer.Option(help='length of each drive')] = 20.0,
    seed: Annotated[int, typer.Option(help='the same seed gives the same drive')] = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Render aligned pairs with boxes of people, for `diffmf eval --detector`."""
    from ..io.paths import require_folder_name
    from ..io.writing import require_output, write_text
    from ..tools.synthetic.drive import Drive, DriveSettings
    from ..tools.synthetic.environments import ENVIRONMENTS
    from ..tools.synthetic.record import require_pairs_output, write_pairs

    require_folder_name(out, of='pairs of images')
    path = out / 'boxes.json'
    require_output(path, overwrite=overwrite)
    options.require_json(json, overwrite=overwrite, own=(path,))
    drives = [Drive(DriveSettings(scene=name, seed=seed, seconds=seconds, thermal_rate_hz=30))
              for name in dict.fromkeys(scene or ENVIRONMENTS)]
    require_pairs_output(drives, out, count=count, overwrite=overwrite)
    boxes: dict[str, dict] = {}
    for drive in drives:
        name = drive.settings.scene
        pairs = write_pairs(drive, out / name, count=count)
        boxes.update(tracked(pairs, f'rendering {name}', total=count))
    write_text(path, dumps(boxes, indent=1) + '\n', overwrite=overwrite)
    people = sum(len(found['people']) for found in boxes.values())
    options.write_json(json, {'out': str(out), 'pairs': len(boxes), 'boxes': str(path),
                              'people': people})
    options.say(f'{out}: {len(boxes)} pairs; {path}: {people} people', json=json)
