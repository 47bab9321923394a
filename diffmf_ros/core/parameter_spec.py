# SPDX-License-Identifier: Apache-2.0
"""What describes and limits a setting, and what is said of a value or a name that does not fit."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from .frames import DiffmfError

# The share of letters in common from which on one name is taken for a misspelling of the other.
ALIKE = 0.7


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
            raise SettingsError(f'{self.name} must be of type {type(self.value).__name__}, got '
                                f'{value!r}')
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
        name: the name that is not known.
        known: the names that are.

    Returns:
        The end of a sentence.
    """
    found = nearest(name, known)
    return f', did you mean {found}?' if found else ''
