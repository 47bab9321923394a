# SPDX-License-Identifier: Apache-2.0
"""Options that several sub-commands share, and how they become settings."""

from pathlib import Path
from typing import Annotated

import typer

from ..core.settings import DEFAULTS, Settings, describe, updated

_described = {item.name: item for item in describe()}


def _option(setting: str, type_):
    item = _described[setting]
    allowed = f' ({" | ".join(item.choices)})' if item.choices else ''
    return Annotated[type_, typer.Option(help=item.description + allowed)]


Model = _option('model', str)
Preset = _option('preset', str)
Engine = _option('engine', str)
Device = _option('device', str)
Precision = _option('precision', str)
Scale = _option('scale', float)
Threads = _option('threads', int)
ScanBackend = _option('scan_backend', str)
ThermalOffset = _option('sync.thermal_offset_ms', float)
OutputGrid = _option('alignment.output_grid', str)
PlaneDepth = _option('alignment.plane_depth_m', float)
Weights = Annotated[Path | None, typer.Option(help=_described['weights'].description)]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='replace files that exist')]
OverwriteBag = Annotated[bool, typer.Option('--overwrite', help='replace the bag that exists')]
AlignmentFile = Annotated[Path | None, typer.Option(help=_described['alignment.file'].description)]


def settings_from(**options) -> Settings:
    """Return the default settings with options changed; a path becomes text, None keeps the default.

    A double underscore stands for the dot of a group: sync__thermal_offset_ms.
    """
    changes = {name.replace('__', '.'): str(value) if isinstance(value, Path) else value
               for name, value in options.items() if value is not None}
    return updated(DEFAULTS, changes)


def image_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 640x480. Raises BadParameter for others."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise typer.BadParameter(f'expected WIDTHxHEIGHT such as 640x480, got {text!r}', param_hint='--size')
    return int(width), int(height)
