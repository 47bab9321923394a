# SPDX-License-Identifier: Apache-2.0
"""Options that several sub-commands share, and how they become settings; an option for every
setting of the node (`takes_settings`)."""

import inspect
import json
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

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
from ..io.paths import is_same
from ..io.writing import (
    WriteError,
    is_stream,
    require_ending,
    require_output,
    require_result_output,
    write_text,
)

SCREEN = Path('-')
TEXTS = '.json', '.html', '.yaml'  # the first endings of text files
TOPICS = '/rgb/image_raw', '/thermal/image_raw'
_described = {item.name: item for item in iter_specs(DEFAULTS)}
_WIDEST = 1000  # columns of a terminal


def completed(choices: Iterable[str] | None) -> Callable[[str], list[str]] | None:
    """Return what gives a shell the choices that begin as a word does, None without choices."""
    if not choices:
        return None
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def output(*names: str, endings: tuple[str, ...], help: str, **more: Any) -> Any:
    """Return a typer option for an output file, whose name is checked before any work begins.

    Refused are another ending, and the file of another such option, under whatever name.

    Args:
        *names: of the option; none: that of the parameter.
        endings: those allowed; the first one is proposed. Text goes to a device or a pipe, too.
        help: of the option.
        **more: as typer.Option takes it.
    """
    def check(context: typer.Context, parameter: typer.CallbackParam,
              path: Path | None) -> Path | None:
        if path is None or path == SCREEN or is_stream(path) and endings[0] in TEXTS:
            return path
        name, written = parameter.opts[0], context.meta.setdefault(__name__, {})
        require_ending(path, endings, what=f'a file of {name}')
        for other, there in written.items():
            if _is_one_file(path, there):
                raise WriteError(f'{other} {there} and {name} {path} are one file: give each a '
                                 'file of its own')
        written[name] = path
        return path

    return typer.Option(*names, metavar=f'NAME{endings[0]}', callback=check, help=help,
                        **more)


def _is_one_file(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other) or is_same(one, other)


def given(context: typer.Context) -> dict[str, str]:
    """Return the parameters of a command that are on its line, as {name: how it is written}."""
    return {parameter.name or '': parameter.opts[0] for parameter in context.command.params
            if (source := context.get_parameter_source(parameter.name or ''))
            and source.name == 'COMMANDLINE'}


def refuse(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise BadParameter when parameters are on the command line that mean nothing there.

    Args:
        context: of the command.
        names: of the parameters.
        why: they mean nothing, such as 'only with --detector'.
    """
    there = given(context)
    if wrong := [there[name] for name in there if name in set(names)]:
        raise typer.BadParameter(f'{why}: {", ".join(wrong)}')


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
Json = Annotated[Path | None, output('--json', endings=('.json',), help=(
    'also write the result to this file, as JSON; - for the screen, in place of the text'))]
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
# Options that mean nothing without a detector.
OF_DETECTOR = 'detector_layout', 'detect_class', 'classes', 'detect_every', 'detect_json'
# Settings that mean nothing with some values of others.
OF_NETWORKS = 'preset', 'weights', 'engine', 'precision', 'scale', 'scan_backend', 'threads'
OF_AGC = tuple(f'thermal.{name}' for name in (
    'low_percentile', 'high_percentile', 'max_tail_share', 'min_span_noise', 'min_span_k',
    'time_constant_s', 'max_change'))
OF_RADIOMETRIC = 'thermal.radiometric_low_k', 'thermal.radiometric_high_k'
OF_LINEAR = 'thermal.linear_low', 'thermal.linear_high'
OF_UNIT = 'thermal.kelvin_per_count', 'thermal.kelvin_at_zero'
OF_ROWS = 'thermal.extra_rows_top', 'thermal.extra_rows_bottom'
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


def require_json(path: Path | None, *, overwrite: bool, inputs: Iterable = (),
                 own: Iterable[Path] = ()) -> None:
    """Raise WriteError, before long work begins, unless the file of --json can be written.

    own: JSON files that the command writes without being told their names."""
    if path is None or path == SCREEN:
        return
    require_output(path, overwrite=overwrite, inputs=inputs)
    if any(_is_one_file(path, other) for other in own):
        raise WriteError(f'{path} is a file that the command writes itself: choose another --json')


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
        say_wrote(path)


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


def say_wrote(*paths: Path | None) -> None:
    """Say on the standard error which files a command wrote beside its result; None is none."""
    for path in paths:
        if path is not None and not is_stream(path):
            typer.echo(f'wrote {path}', err=True)


def image_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 640x480. Raises BadParameter for others."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f'expected WIDTHxHEIGHT such as 640x480, got {text!r}',
                                 param_hint='--size')
    return int(width), int(height)


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
            settings = _settings(base, params, given)
            note_idle(settings, (name for name, value in given.items() if value is not None))
            return command(**values, params=params, settings=settings)

        vars(run)['__signature__'] = own.replace(parameters=parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def note_idle(settings: Settings, names: Iterable[str]) -> None:
    """Say on the standard error which of the settings on a command line mean nothing with others.

    Args:
        settings: all of them.
        names: of those on the command line, in full.
    """
    thermal, there = settings.thermal, set(names)
    agc, radiometric, linear = (thermal.gain_control != kind
                                for kind in ('agc', 'radiometric', 'linear'))
    for idle, why, some in (
            (settings.model == 'classical', 'classical has no network', OF_NETWORKS),
            (agc, 'thermal.gain_control is not agc', OF_AGC),
            (radiometric, 'thermal.gain_control is not radiometric', OF_RADIOMETRIC),
            (linear, 'thermal.gain_control is not linear', OF_LINEAR),
            (thermal.radiometric_unit != 'custom', 'thermal.radiometric_unit is not custom',
             OF_UNIT),
            (bool(settings.input.thermal_crop), 'input.thermal_crop takes their place', OF_ROWS)):
        if idle:
            say_idle(there.intersection(some), why)


def say_idle(names: Iterable[str], why: str) -> None:
    """Say on the standard error that settings on the command line mean nothing, and why."""
    if flags := ', '.join(f'--{name.rpartition(".")[2].replace("_", "-")}'
                          for name in sorted(names)):
        typer.echo(f'note: without effect: {flags} ({why})', err=True)


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
