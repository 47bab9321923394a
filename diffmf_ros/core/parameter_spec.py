# SPDX-License-Identifier: Apache-2.0
"""Parameters: what describes and limits them, what is said of wrong ones, and their file.

The file is that of the node, read here for commands that run without ROS.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from .file_kinds import explained
from .frames import DiffmfError

# The share of letters in common from which on one name is taken for a misspelling of the other.
ALIKE = 0.7
PARAMETERS = 'ros__parameters'
NODE = 'fusion_node'
# Parameters of rclpy itself.
OF_ROS = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')


class SettingsError(DiffmfError):
    """A setting is unknown, of the wrong type, or out of range."""


def setting(default: Any, description: str, *, low: float | None = None,
            high: float | None = None, choices: tuple[str, ...] | None = None) -> Any:
    """Return a field of a dataclass with what describes and limits a setting."""
    meta = {'description': description, 'low': low, 'high': high, 'choices': choices}
    return field(default=default, metadata=meta)


def group(cls: type) -> Any:
    """Return a field for a group of settings."""
    return field(default_factory=cls)


def require_order(group: str, settings: Any, low: str, high: str) -> None:
    """Raise SettingsError unless the setting named low is below the one named high."""
    if not getattr(settings, low) < getattr(settings, high):
        raise SettingsError(f'{group}{low} must be below {group}{high}, got '
                            f'{getattr(settings, low)} and '
                            f'{getattr(settings, high)}')


@dataclass(frozen=True)
class ParameterSpec:
    """One setting: dotted name, value, and what is allowed."""

    name: str
    value: Any
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None

    def check(self, value: Any) -> None:
        """Refuse a value that does not fit this setting.

        Args:
            value: the value.

        Raises:
            SettingsError: it has another type, lies out of range, or is none of the choices.
        """
        if type(value) is not type(self.value):
            quoted = (f'; as text it is \'{value}\' in Python and YAML, "\'{value}\'" in a shell'
                      if isinstance(self.value, str) and type(value) is int else '')
            raise SettingsError(f'{self.name} must be of type {type(self.value).__name__}, got '
                                f'{value!r}{quoted}')
        if isinstance(value, str) and '\0' in value:
            raise SettingsError(f'{self.name} has a null character: {value!r}')
        if self.choices is not None and value not in self.choices:
            raise SettingsError(f'{self.name} must be one of {", ".join(self.choices)}; got '
                                f'{value!r}')
        if self.low is not None and not self.low <= value <= self.high:
            raise SettingsError(f'{self.name} must lie in {self.low} to {self.high}, got {value}')


def iter_specs(settings: Any, prefix: str = '') -> Iterator[ParameterSpec]:
    """Yield every setting with its current value, groups dotted.

    Args:
        settings: core.settings.Settings or a group of them.
        prefix: what stands before the names.

    Yields:
        One specification for each setting.
    """
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            yield from iter_specs(value, f'{prefix}{f.name}.')
        else:
            yield ParameterSpec(prefix + f.name, value, **f.metadata)


def faults(changes: Mapping[str, Any], known: Mapping[str, ParameterSpec]) -> Iterator[str]:
    """Yield what is wrong with each changed setting."""
    unknown = [name for name in changes if name not in known]
    for name in unknown:
        yield f'unknown setting {name!r}{meant(name, known)}'
    if unknown:
        yield 'docs/parameters.md lists all settings'
    for name in (name for name in changes if name in known):
        try:
            known[name].check(changes[name])
        except SettingsError as error:
            yield str(error)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like name, or ''.

    Args:
        name: the name that is not known.
        known: the names that are, with groups by dots; the last part of one counts as the name
            too.

    Returns:
        One of known, or ''.
    """
    whole = {item.lower(): item for item in known}
    last = {item.rpartition('.')[2]: known for item, known in whole.items()}
    for names, wanted in ((whole, name.lower()), (last, name.lower().rpartition('.')[2])):
        if found := get_close_matches(wanted, names, n=1, cutoff=ALIKE):
            return names[found[0]]
    return ''


def meant(name: str, known: Iterable[str]) -> str:
    """Return ', did you mean ...?' for the nearest known name, or ''.

    Args:
        name: the name that is not known; that of a group means the names in it.
        known: the names that are.

    Returns:
        The end of a sentence.
    """
    known, group_of = list(known), f'{name}.'
    if inside := [item[len(group_of):] for item in known if item.startswith(group_of)]:
        return f', which is a group: did you mean {group_of}({" | ".join(inside)})?'
    found = nearest(name, known)
    return f', did you mean {found}?' if found else ''


def read_params(path: str | Path) -> dict[str, Any]:
    """Return {dotted name: value} of what a file sets for the node, without parameters of rclpy.

    Args:
        path: a file such as config/fusion.yaml, or what `ros2 param dump` has written.

    Returns:
        Values by dotted name.

    Raises:
        SettingsError: the file cannot be read, is no parameter file, or has nothing for the node.
            core.settings.with_changes checks the names and the values.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise SettingsError(f'{path} cannot be read: {error.strerror}') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(explained(f'{path} is not readable as YAML: {error}', path)) from error
    found = dict(_blocks(content))
    ours = {
        name: block
        for name, block in found.items()
        if name.rpartition('/')[2] in ('*', '**', NODE)
    }
    if not ours:
        there = f'it has parameters for {", ".join(found)}' if found else f'it has no {PARAMETERS}'
        raise SettingsError(
            explained(
                f'expected in {path} a parameter file as config/fusion.yaml is, for {NODE} or '
                f'/** (every node); {there}',
                path,
            )
        )
    # As in rcl a name says more than a pattern.
    ordered = sorted(ours.items(), key=lambda item: item[0].endswith(NODE))
    values = {name: value for _, block in ordered for name, value in _flat(block)}
    return {name: value for name, value in values.items() if not name.startswith(OF_ROS)}


def _blocks(content: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the name of each node in a parameter file, and its parameters."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == PARAMETERS:
            yield name, value
        else:
            yield from _blocks(value, f'{name}/{str(key).strip("/")}')


def _flat(block: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in block.items() if isinstance(block, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value
