# SPDX-License-Identifier: Apache-2.0
"""Options that several sub-commands share, and how they become settings; an option for every
setting of the node (`takes_settings`)."""

import inspect
import json
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ..core.parameter_spec import ParameterSpec, read_params
from ..core.settings import (
    DEFAULTS,
    LIVE_ONLY,
    SYNTHETIC,
    Settings,
    SettingsError,
    iter_specs,
    with_changes,
)
from ..io.paths import FILE_SUFFIXES
from ..io.writing import WriteError, require_output, require_result_output, write_text
from ..tools.batch.spreading import cores

if TYPE_CHECKING:
    from ..tools.evaluation.detector import Detector as OnnxDetector

SCREEN = Path('-')
TOPICS = '/rgb/image_raw', '/thermal/image_raw'
_described = {item.name: item for item in iter_specs(DEFAULTS)}
# Of the load average over the CPUs. At 13, one thread took a quarter of the time of two.
BUSY = 2.0
_WIDEST = 1000  # columns of a terminal


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
ThermalOffset = _option('sync.thermal_offset_ms', float)
HoldLast = _option('sync.hold_last_ms', float)
# Where not given, that of a rendered drive.
ThermalOffsetOrTruth = _option('sync.thermal_offset_ms', float | None)
RgbCrop = _option('input.rgb_crop', str)
ThermalCrop = _option('input.thermal_crop', str)
RgbOrientation = _option('input.rgb_orientation', str)
ThermalOrientation = _option('input.thermal_orientation', str)
Polarity = _option('thermal.polarity', str)
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
Detector = Annotated[
    Path | None,
    typer.Option(help='your own detector, an ONNX file, for each camera and the fused image'),
]
DetectorLayout = Annotated[
    str, typer.Option(help='what its output means: auto | yolox | yolov5 | yolov8 | nanodet')
]
DetectClass = Annotated[str, typer.Option(help='name or number of the class to look for')]
Classes = Annotated[
    str | None,
    typer.Option(help='names of its classes: a file, one a line, or a list with commas'),
]
PATHS = ('weights', 'alignment.file')
NAMES = {'alignment.file': 'alignment'}  # others are called as the last part of their name
PARAMS = Annotated[
    Path | None,
    typer.Option(
        '--params',
        metavar='FILE',
        help='parameters of the node, as config/fusion.yaml; options win over them',
    ),
]


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


def show_table(console: Console, table: Table) -> None:
    """Print a table; where the terminal is too narrow for it, each of its rows as lines.

    Args:
        console: where to.
        table: whose cells are texts.
    """
    whole = console.options.update(max_width=_WIDEST)
    if Measurement.get(console, whole, table).maximum <= console.width:
        console.print(table)
        return
    names = [str(column.header) for column in table.columns]
    console.print(f'{table.title or ""}', style='bold', highlight=False)
    for first, *cells in zip(*(column.cells for column in table.columns)):
        console.print(str(first))
        for name, cell in zip(names[1:], cells, strict=True):
            console.print(f'  {name}: {cell}', highlight=False)
    if table.caption:
        console.print(table.caption, style='dim', highlight=False)


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


class Chosen(NamedTuple):
    """A detector and the number of the class to look for."""

    detector: 'OnnxDetector'
    class_number: int


def detector_from(
    path: Path | None, *, layout: str, wanted: str, classes: str | None
) -> Chosen | None:
    """Return the detector that the options name, or None without one.

    Raises:
        DetectorError: a file, layout or class that cannot be used.
    """
    if path is None:
        return None
    from ..tools.evaluation.detector import (
        Detector,
        DetectorError,
        class_number,
        read_classes,
    )

    names = read_classes(classes) if classes else None
    detector = Detector(path, layout=layout, classes=len(names) if names else None)
    number = class_number(wanted, names)
    if number >= detector.class_count:
        raise DetectorError(
            f'{path} has {detector.class_count} classes, from 0 on; there is no class {number}'
        )
    return Chosen(detector, number)


def hint_threads(settings: Settings, device: str) -> None:
    """Say on the standard error that one thread may be faster, where that is likely.

    Args:
        settings: those of the run; a number of threads that the user chose stays.
        device: where the network runs, as FusionPipeline.device says.
    """
    load, cpus = os.getloadavg()[0], cores()
    if settings.threads or settings.model == 'classical' or not device.startswith('cpu'):
        return
    if load > BUSY * cpus:
        typer.echo(f'note: {load:.0f} processes want the {cpus} CPUs of this machine, and the '
                   'threads of a network wait for each other then: --threads 1 can be several '
                   'times as fast', err=True)


def takes_settings(*, but: tuple[str, ...] = (), **defaults: Any) -> Callable:
    """Return a decorator: --params, and an option for every setting that counts without a node.

    The command gets `settings` (a Settings) and `params` (the path or None) in place of them.

    Args:
        but: names of settings, or beginnings of names, that mean nothing to the command.
        **defaults: other defaults than those of the settings, by the name of the option.
    """
    offered = {
        _option_name(item): item
        for item in iter_specs(DEFAULTS)
        if not item.name.startswith((*LIVE_ONLY, *but))
    }

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True)
        parameters = [p for p in own.parameters.values() if p.name not in ('settings', 'params')]
        parameters += [_parameter('params', PARAMS, None)]
        parameters += [
            _parameter(name, _annotation(item, defaults.get(name)), None)
            for name, item in offered.items()
        ]

        @wraps(command)
        def run(**values):
            params = values.pop('params')
            given = {item.name: values.pop(name) for name, item in offered.items()}
            base = {offered[name].name: value for name, value in defaults.items()}
            return command(**values, params=params, settings=_settings(base, params, given))

        vars(run)['__signature__'] = own.replace(parameters=parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def files_of(settings: Settings, params: Path | None = None) -> tuple[str | Path | None, ...]:
    """Return the files that settings name: no command writes to what it reads."""
    return params, settings.weights_file or None, settings.alignment.file or None


def _settings(base: dict[str, Any], params: Path | None, given: dict[str, Any]) -> Settings:
    """Return the defaults, changed by the file, then by the options. Raises SettingsError."""
    settings = with_changes(DEFAULTS, base)
    if params is not None:
        try:
            settings = with_changes(settings, read_params(params))
        except SettingsError as error:
            raise SettingsError(
                str(error) if str(params) in str(error) else f'{params}: {error}'
            ) from error
    return with_changes(
        settings,
        {
            name: str(value) if isinstance(value, Path) else value
            for name, value in given.items()
            if value is not None
        },
    )


def _option_name(item: ParameterSpec) -> str:
    return NAMES.get(item.name, item.name.rpartition('.')[2])


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _annotation(item: ParameterSpec, default: Any) -> Any:
    """Return what typer makes an option of; the settings check the values, as in the node."""
    shown = item.value if default is None else default
    allowed = f' ({" | ".join(item.choices)})' if item.choices else ''
    group = item.name.rpartition('.')[0] or 'fusion'
    return Annotated[
        (Path if item.name in PATHS else type(item.value)) | None,
        typer.Option(
            help=item.description + allowed,
            show_default=False
            if shown == ''
            else str(shown).lower()
            if isinstance(shown, bool)
            else f'{shown}',
            rich_help_panel=f'Settings: {group}',
            autocompletion=completed(item.choices),
        ),
    ]
