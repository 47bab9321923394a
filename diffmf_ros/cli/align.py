# SPDX-License-Identifier: Apache-2.0
"""`diffmf align`: measure the homography between the two cameras."""

from dataclasses import asdict
from pathlib import Path
from shlex import join
from shutil import which
from typing import Annotated

import typer

from ..core.settings import DEFAULTS, InputSettings
from ..io.paths import PICTURES
from . import options

# Settings of the images that an alignment is for.
_PICTURES = 'rgb_crop', 'thermal_crop', 'rgb_orientation', 'thermal_orientation'


def align(
    context: typer.Context,
    rgb: Annotated[Path | None, typer.Argument(help='visible image, or a folder of them')] = None,
    thermal: Annotated[Path | None,
                       typer.Argument(help='thermal image, or a folder with files of equal '
                                      'names')] = None,
    bag: Annotated[Path | None, typer.Option(help='take the pairs from this bag instead')] = None,
    topics: options.Topics = options.TOPICS,
    thermal_offset_ms: options.ThermalOffset = DEFAULTS.sync.thermal_offset_ms,
    rgb_crop: options.RgbCrop = DEFAULTS.input.rgb_crop,
    thermal_crop: options.ThermalCrop = DEFAULTS.input.thermal_crop,
    rgb_orientation: options.RgbOrientation = DEFAULTS.input.rgb_orientation,
    thermal_orientation: options.ThermalOrientation = DEFAULTS.input.thermal_orientation,
    out: Annotated[Path, options.output('--out', '-o', endings=('.yaml', '.yml'),
                                        help='file to write')] = Path('align.yaml'),
    init: Annotated[Path | None, typer.Option(
        help='rough alignment to start from: a YAML of align, or a calibration')] = None,
    fov_ratio: Annotated[float | None, typer.Option(
        min=0.2, max=5.0, help='width of the thermal field of view over that of RGB, if '
        'known')] = None,
    max_pairs: Annotated[int,
                         typer.Option(min=1, max=100, help='pairs to use, spread evenly')] = 10,
    time_offset: Annotated[bool, typer.Option(
        help='measure the time offset between the cameras of a bag, too')] = True,
    overlay: Annotated[Path | None, options.output(
        endings=PICTURES, help='picture to write: thermal edges on the RGB image')] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Measure how thermal pixels map to RGB pixels. Exit code 1 when the images do not tell."""
    from ..core.registration.registration import RegistrationError, register
    from ..io.images import write_image
    from ..io.paths import require_inputs
    from ..io.writing import replacing, require_output
    from ..tools.alignment_pairs import (
        bag_pairs,
        file_pairs,
        grays,
        picture,
        pictures,
        rough_alignment,
    )

    if (bag is None) == (rgb is None) or (rgb is None) != (thermal is None):
        raise typer.BadParameter('expected RGB and THERMAL (two images or two folders), or --bag')
    if init is not None and fov_ratio is not None:
        raise typer.BadParameter('--init and --fov-ratio exclude each other')
    if bag is None:
        options.refuse(context, ('topics', 'thermal_offset_ms', 'time_offset'), 'only with --bag')
    inputs = rgb, thermal, bag, init
    require_inputs(*inputs)
    for path in (out, overlay):
        require_output(path, overwrite=overwrite, inputs=inputs)
    options.require_json(json, overwrite=overwrite, inputs=inputs)
    settings = options.settings_from(
        sync__thermal_offset_ms=thermal_offset_ms, input__rgb_crop=rgb_crop,
        input__thermal_crop=thermal_crop, input__rgb_orientation=rgb_orientation,
        input__thermal_orientation=thermal_orientation)
    if bag is not None:
        pairs, left_out = bag_pairs(bag, settings.sync, topics=topics, most=max_pairs)
        pairs = pictures(pairs, settings)
        for line in left_out:
            typer.echo(line, err=True)
    elif rgb is not None and thermal is not None:
        pairs = file_pairs(rgb, thermal, settings, most=max_pairs)
    start = rough_alignment(init, pairs[0],
                            plane_depth_m=DEFAULTS.alignment.plane_depth_m) if init else None
    try:
        found = register([grays(pair) for pair in pairs], start=start, field_ratio=fov_ratio)
    except RegistrationError as error:
        typer.echo(f'error: {error}', err=True)
        raise typer.Exit(1) from error
    measured, said = None, ''
    if bag is not None and time_offset:
        from ..tools import alignment_pairs
        try:
            measured = alignment_pairs.time_offset(bag, settings, found.alignment, topics=topics)
            said = measured.summary
        except RegistrationError as error:
            said = str(error)
    # last, so that an interruption leaves no half of the result
    with replacing(out, overwrite=overwrite) as partial:
        found.alignment.save(partial)
    if overlay:
        write_image(overlay, picture(pairs[0], found.alignment), 'rgb8', overwrite=overwrite)
    options.write_json(json, {'out': str(out), **asdict(found),
                              'time_offset': measured and asdict(measured)})
    options.say(f'{out}: {found.summary}', json=json)
    options.say_wrote(overlay)
    if said:
        options.say(said, json=json)
    offset_ms = measured.offset_ms if measured else thermal_offset_ms
    options.say(_use(out, bag, topics, settings.input, offset_ms), json=json)


def _use(file: Path, bag: Path | None, topics: tuple[str, str], pictures: InputSettings,
         offset_ms: float) -> str:
    """Return the line that uses an alignment: with ROS where it is installed, else without.

    What differs from the defaults is in it: the file is for that alone.
    """
    own = {name: getattr(pictures, name) for name in _PICTURES
           if getattr(pictures, name) != getattr(DEFAULTS.input, name)}
    late = f'{offset_ms:.1f}' if bag and offset_ms != DEFAULTS.sync.thermal_offset_ms else ''
    named = topics if bag and topics != options.TOPICS else ()
    if which('ros2'):
        words = [f'alignment_file:={file.resolve()}', *([f'thermal_offset_ms:={late}'] if late
                                                        else []),
                 *map(':='.join, zip(('rgb_image', 'thermal_image'), named))]
        return f'use it: ros2 launch diffmf_ros fusion.launch.py {join(words)}' + (
            ' (parameters of the node: ' + ', '.join(
                f'input.{name}: {value}' for name, value in own.items()) + ')' if own else '')
    words = ['fuse', 'RGB', 'THERMAL'] if bag is None else ['replay', str(bag), 'OUT']
    words += ['--alignment', str(file), *(['--thermal-offset-ms', late] if late else []),
              *(['--topics', *named] if named else [])]
    for name, value in own.items():
        words += [f'--{name.replace("_", "-")}', value]
    return (f'use it: diffmf {join(words)} (parameters of the node: '
            + ', '.join(['alignment.file', *['sync.thermal_offset_ms'] * (bag is not None),
                         *(f'input.{name}' for name in own)]) + ')')
