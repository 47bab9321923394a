# SPDX-License-Identifier: Apache-2.0
"""`diffmf fuse`: image files, folders of them, or two videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..core.settings import Settings
from . import options
from .options import files_of, takes_settings

PICTURE, FILM = Path('fused.png'), Path('fused.mp4')
_IMAGES = ('two images; two folders; two patterns such as "rgb/*.png"; two videos; or all visible '
           'images and then all thermal ones. Thermal of 8 or 16 bit, or floats; where only the '
           'second image of a pair is in color, it is taken for the visible one')
_OUT = 'what to write: an image for a pair, a folder for several, an .mp4 for two videos'
_MATCH = ("file names in the folders, or in one: 'rgb_{}.png thermal_{}.png'; default: equal "
          'stems')


@dataclass(frozen=True)
class Asked:
    """What all kinds of inputs are fused with; inputs are files that must not be written to."""

    settings: Settings
    inputs: tuple[str | Path | None, ...]
    overwrite: bool
    json: Path | None
    keep_order: bool = False


Out = Annotated[Path | None, typer.Option(
    '--out', '-o', show_default='fused.png, fused or fused.mp4', help=_OUT)]
Recursive = Annotated[bool, typer.Option('--recursive', '-r', help='look in folders below, too')]
KeepOrder = Annotated[bool, typer.Option('--keep-order', help=(
    'the first image is the visible one, even where only the second one is in color'))]
Jobs = Annotated[int, typer.Option('--jobs', '-j', min=0, help=(
    'processes that fuse pairs at the same time; 0: one for each core'))]


# What bags alone have: stamps of two clocks, camera infos, TF, frame ids.
@takes_settings(but=('sync.', 'alignment.from_tf', 'alignment.rgb_rectified',
                     'alignment.thermal_rectified', 'output.frame_id'))
def fuse(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(metavar='RGB THERMAL', help=_IMAGES)],
    settings: Settings,
    params: Path | None,
    out: Out = None,
    match: Annotated[str | None, typer.Option(metavar='NAMES', help=_MATCH)] = None,
    recursive: Recursive = False,
    keep_order: KeepOrder = False,
    jobs: Jobs = 1,
    ray: options.Ray = None,
    overwrite: options.Overwrite = False,
    json: options.Json = None,
) -> None:
    """Fuse visible and thermal images: one pair, folders, patterns or two videos.

    What an earlier run of the same command has made with the same settings is not made again.
    Exit code 1 when some pairs could not be fused; each is named.
    """
    from ..io.paths import require_inputs
    from ..tools.batch.films import is_film
    from ..tools.batch.matching_files import is_pattern
    from .fuse_many import fuse_files, fuse_films

    files = files_of(settings, params)
    require_inputs(*(place for place in images if not is_pattern(place)), *files)
    options.require_json(json, overwrite=overwrite, inputs=(*images, *files))
    read = *(place for place in images if not place.is_dir()), *files
    asked = Asked(settings, read, overwrite, json, keep_order)
    folders = any(place.is_dir() for place in images)
    many = folders or len(images) != 2 or match is not None or any(map(is_pattern, images))
    films = [place for place in images if is_film(place) and not is_pattern(place)]
    if films and (many or len(films) == 1):
        raise typer.BadParameter(f'{films[0]} is a video, which goes with one other video alone: '
                                 'diffmf fuse RGB.mp4 THERMAL.mp4')
    for effective, names, why in (
            (folders, ('recursive',), 'only with folders'),
            (many, ('ray', 'jobs'), 'only with folders, patterns or lists of images'),
            (ray is None, ('jobs',), 'not with --ray'),
            (not films, ('keep_order',), 'only with images')):
        options.refuse(context, () if effective else names, why)
    if films:
        failed = fuse_films(images[0], images[1], out or FILM, asked)
    else:
        options.say_idle({'temporal_filter', 'time_constant_s', 'max_change'}.intersection(
            options.given(context)), 'images are fused each by itself')
        failed = many and fuse_files(images, out, asked, match=match, recursive=recursive,
                                     jobs=jobs, ray=ray)
        if not many:
            _fuse_pair(images[0], images[1], out or PICTURE, asked)
    if failed:
        raise typer.Exit(1)


def _fuse_pair(rgb: Path, thermal: Path, out: Path, asked: Asked) -> None:
    """Fuse two images, and say how."""
    from ..inference.pipeline import FusionPipeline
    from ..io.images import naming, read_image_pair, write_image
    from ..io.paths import PICTURES, require_different
    from ..io.writing import require_ending, require_output

    require_different(rgb, thermal)
    pair, note = read_image_pair(rgb, thermal, keep_order=asked.keep_order)
    require_ending(out, PICTURES, what='an image')
    require_output(out, overwrite=asked.overwrite, inputs=asked.inputs)
    if note:
        typer.echo(note, err=True)
    pipeline = FusionPipeline(asked.settings)
    with naming(rgb, thermal):
        result = pipeline.fuse(pair)
    write_image(out, result.pixels, result.encoding, overwrite=asked.overwrite)
    for warning in result.warnings:
        typer.echo(f'warning: {warning}', err=True)
    height, width = result.pixels.shape[:2]
    options.write_json(asked.json, {
        'out': str(out), 'mode': result.mode.value, 'by': pipeline.description,
        'device': pipeline.device, 'size': [width, height], 'trim_px': result.trim_px,
        'note': note,
        'warnings': result.warnings, 'timings_ms': result.timings_ms})
    moved = ('; thermal was moved by ({}, {}) pixels (right, down) onto the edges of RGB '
             '(--no-auto-trim: left where it is)').format(*result.trim_px)
    options.say(f'{out}: {result.mode.value} by {pipeline.description} on {pipeline.device}'
                + moved * any(result.trim_px), json=asked.json)
