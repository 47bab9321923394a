# SPDX-License-Identifier: Apache-2.0
"""Options that several sub-commands share, and how they become settings."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..core.settings import DEFAULTS, SYNTHETIC, Settings, iter_specs, with_changes
from ..io.paths import FILE_SUFFIXES
from ..io.writing import WriteError, require_output, require_result_output, write_text

SCREEN = Path('-')
TOPICS = '/rgb/image_raw', '/thermal/image_raw'
_described = {item.name: item for item in iter_specs()}


def completed(choices: Iterable[str] | None) -> Callable[[str], list[str]] | None:
    """Return what gives a shell the choices that begin as a word does, None without choices."""
    if not choices:
        return None
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def _option(setting: str, type_):
    item = _described[setting]
    allowed = f' ({" | ".join(item.choices)})' if item.choices else ''
    return Annotated[type_, typer.Option(help=item.description + allowed,
                                         autocompletion=completed(item.choices))]


Model = _option('model', str)
Preset = _option('preset', str)
# Where not given, those of the file of weights.
ModelOfFile = _option('model', str | None)
PresetOfFile = _option('preset', str | None)
Engine = _option('engine', str)
Device = _option('device', str)
Precision = _option('precision', str)
Scale = _option('scale', float)
Threads = _option('threads', int)
ScanBackend = _option('scan_backend', str)
ThermalOffset = _option('sync.thermal_offset_ms', float)
RgbCrop = _option('input.rgb_crop', str)
ThermalCrop = _option('input.thermal_crop', str)
RgbOrientation = _option('input.rgb_orientation', str)
ThermalOrientation = _option('input.thermal_orientation', str)
OutputGrid = _option('alignment.output_grid', str)
PlaneDepth = _option('alignment.plane_depth_m', float)
Weights = Annotated[Path | None, typer.Option(help=_described['weights'].description)]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='replace files that exist')]
Json = Annotated[Path | None,
                 typer.Option('--json',
                              help='also write the result to this file, as JSON; - for the '
                                            'screen, in place of the text')]
Topics = Annotated[tuple[str, str], typer.Option(
    '--topics', metavar='RGB THERMAL', help='topics of the images of both cameras in the bag')]
OverwriteBag = Annotated[bool, typer.Option('--overwrite', help='replace the bag that exists')]
Ray = Annotated[str | None, typer.Option('--ray', metavar='ADDRESS', help=(
    'work on the machines of this Ray cluster, on which files have the same paths; auto: one that '
    'runs here'))]
AlignmentFile = Annotated[Path | None, typer.Option(help=_described['alignment.file'].description)]


def settings_from(**options) -> Settings:
    """Return the default settings with options changed.

    A path becomes text, None keeps the default.

    A double underscore stands for the dot of a group: sync__thermal_offset_ms.
    """
    changes = {name.replace('__', '.'): str(value) if isinstance(value, Path) else value
               for name, value in options.items() if value is not None}
    return with_changes(DEFAULTS, changes)


def weights_file(weights: Path | None) -> Path | None:
    """Return the file that --weights names; None for weights of the package."""
    return None if str(weights) == SYNTHETIC else weights


def require_json(path: Path | None, *, overwrite: bool, inputs: Iterable = ()) -> None:
    """Raise WriteError, before long work begins, unless the file of --json can be written.

    One that has the ending of another kind of file may be what the command writes beside it.
    """
    if path is None or path == SCREEN:
        return
    require_output(path, overwrite=overwrite, inputs=inputs)
    if path.suffix.lower() in set(FILE_SUFFIXES) - {'.json'}:
        raise WriteError(f'--json writes JSON, and {path} has the ending of another kind of file: '
                         f'write {path.with_suffix(".json")}')


def require_own_json(path: Path | None, keys: Iterable[str], *, inputs: Iterable = ()) -> None:
    """Raise WriteError as require_json(), but let a command replace what it wrote itself."""
    if path != SCREEN:
        require_result_output(path, keys, inputs=inputs)


def write_json(path: Path | None, content: dict | str) -> None:
    """Write content, or what is JSON already, to the file of --json, the screen, or nowhere.

    Raises WriteError.
    """
    if path is None:
        return
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    if path == SCREEN:
        typer.echo(text)
    else:
        write_text(path, text + '\n')


def table_console(json: Path | None, *, width: int) -> Console:
    """Return where tables are printed: the standard error where the screen gets JSON.

    Args:
        json: the path of --json, or None.
        width: in columns, where the output is not a terminal.
    """
    console = Console(stderr=json == SCREEN)
    return console if console.is_terminal else Console(stderr=json == SCREEN, width=width)


def say(text: str, *, json: Path | None) -> None:
    """Print what a command did; to the standard error where the screen gets JSON."""
    typer.echo(text, err=json == SCREEN)


def say_already(done: int, total: int) -> None:
    """Say on the standard error how many results of an earlier run are not made again."""
    if done:
        typer.echo(f'{done} of {total} are there already, made with the same settings: not made '
                   'again', err=True)


def image_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 640x480. Raises BadParameter for others."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f'expected WIDTHxHEIGHT such as 640x480, got {text!r}',
                                 param_hint='--size')
    return int(width), int(height)
