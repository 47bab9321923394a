# SPDX-License-Identifier: Apache-2.0
"""An option for every setting of the node, made from the table of settings."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.params_file import read_params
from ..core.settings import (
    DEFAULTS,
    LIVE_ONLY,
    ParameterSpec,
    Settings,
    SettingsError,
    iter_specs,
    with_changes,
)
from .options import completed

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


def takes_settings(*, but: tuple[str, ...] = (), **defaults: Any) -> Callable:
    """Return a decorator: --params, and an option for every setting that counts without a node.

    The command gets `settings` (a Settings) and `params` (the path or None) in place of them.

    Args:
        but: names of settings, or beginnings of names, that mean nothing to the command.
        **defaults: other defaults than those of the settings, by the name of the option.
    """
    offered = {
        _option_name(item): item
        for item in iter_specs()
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
