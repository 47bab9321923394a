# SPDX-License-Identifier: Apache-2.0
"""Every setting of the product, once: default, range, choices and description.

The node declares its parameters from here, `config/fusion.yaml` and the README table show them, and
a test compares all of them. Nested groups become dotted names: `sync.max_distance_ms`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from .frames import DiffmfError


class SettingsError(DiffmfError):
    """A setting is unknown, of the wrong type, or out of range."""


def _setting(default: Any, description: str, *, low=None, high=None, choices=None):
    meta = {'description': description, 'low': low, 'high': high, 'choices': choices}
    return field(default=default, metadata=meta)


def _group(cls):
    return field(default_factory=cls)


@dataclass(frozen=True)
class SyncSettings:
    """Which frames belong together."""

    max_distance_ms: float = _setting(
        25.0, 'largest distance of the two stamps of a pair, after the offsets', low=0.0, high=1000.0)
    rgb_offset_ms: float = _setting(
        0.0, 'added to every RGB stamp before pairing', low=-1000.0, high=1000.0)
    thermal_offset_ms: float = _setting(
        0.0, 'added to every thermal stamp before pairing', low=-1000.0, high=1000.0)


@dataclass(frozen=True)
class ThermalSettings:
    """How raw thermal values become a 0..1 image."""

    low_percentile: float = _setting(
        0.5, 'gain control of 16-bit and float thermal: this percentile becomes black', low=0.0, high=50.0)
    high_percentile: float = _setting(
        99.5, 'gain control of 16-bit and float thermal: this percentile becomes white', low=50.0, high=100.0)


@dataclass(frozen=True)
class QosSettings:
    """How images travel."""

    reliability: str = _setting(
        'auto', 'of the subscriptions; auto: reliable when every publisher of the topic offers it',
        choices=('auto', 'reliable', 'best_effort'))
    depth: int = _setting(1, 'keep-last depth of the subscriptions', low=1, high=10)


@dataclass(frozen=True)
class Settings:
    """Everything a user can set. Frozen: a change makes a new, validated one."""

    model: str = _setting(
        'diffmf', 'what fuses: the network, or the weight-free classical method',
        choices=('diffmf', 'classical'))
    preset: str = _setting('light', 'size of the network', choices=('light', 'base', 'light-s4', 'nano'))
    weights: str = _setting('', 'path of a .safetensors file; empty: the shipped weights of the preset')
    engine: str = _setting(
        'torch', 'what runs the network; onnx: onnxruntime, with weights naming a file of `diffmf export`',
        choices=('torch', 'onnx'))
    device: str = _setting('auto', 'auto: cuda when there is one, else cpu', choices=('auto', 'cpu', 'cuda'))
    precision: str = _setting(
        'auto', 'auto: float16 on cuda, bfloat16 on a CPU that multiplies it natively, else float32',
        choices=('auto', 'float32', 'float16', 'bfloat16'))
    scale: float = _setting(
        1.0, 'working size of the network relative to the RGB image; below 1 is faster and softer',
        low=0.125, high=1.0)
    adaptive_scale: bool = _setting(
        False, 'lower the working size while fusing takes longer than the time between pairs, raise it again after')
    max_pixels: int = _setting(
        9_000_000, 'an image with more pixels is refused', low=1, high=1_000_000_000)
    scan_backend: str = _setting(
        'auto', 'selective-scan implementation',
        choices=('auto', 'triton', 'mamba_ssm', 'cpu', 'portable', 'reference'))
    threads: int = _setting(0, 'CPU threads of the network; 0: one per core', low=0, high=256)
    alignment: str = _setting(
        '', 'path of an alignment YAML (homography from thermal to RGB); empty: thermal is resized')
    autostart: bool = _setting(True, 'configure and activate the node by itself')
    sync: SyncSettings = _group(SyncSettings)
    thermal: ThermalSettings = _group(ThermalSettings)
    qos: QosSettings = _group(QosSettings)

    def __post_init__(self):
        for item in describe(self):
            item.check(item.value)
        if self.thermal.low_percentile >= self.thermal.high_percentile:
            raise SettingsError('thermal.low_percentile must be below thermal.high_percentile, got '
                                f'{self.thermal.low_percentile} and {self.thermal.high_percentile}')


@dataclass(frozen=True)
class Item:
    """One setting: dotted name, value, and what is allowed."""

    name: str
    value: Any
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None

    def check(self, value: Any) -> None:
        """Raise SettingsError unless value fits this setting."""
        if type(value) is not type(self.value):
            raise SettingsError(f'{self.name} must be of type {type(self.value).__name__}, got {value!r}')
        if self.choices is not None and value not in self.choices:
            raise SettingsError(f'{self.name} must be one of {", ".join(self.choices)}; got {value!r}')
        if self.low is not None and not self.low <= value <= self.high:
            raise SettingsError(f'{self.name} must lie in {self.low} to {self.high}, got {value}')


def describe(settings: Any = None, prefix: str = '') -> Iterator[Item]:
    """Yield every setting with its current value (default: the defaults), groups dotted."""
    settings = DEFAULTS if settings is None else settings
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            yield from describe(value, f'{prefix}{f.name}.')
        else:
            yield Item(prefix + f.name, value, **f.metadata)


def updated(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with the dotted names in changes replaced, all or nothing.

    An int is accepted where a float is expected. Raises SettingsError for an unknown name (it lists
    the known ones), a wrong type, or a value out of range.
    """
    known = {item.name: item for item in describe(settings)}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in known:
            raise SettingsError(f'unknown setting {name!r}; known: {", ".join(known)}')
        if type(value) is int and type(known[name].value) is float:
            value = float(value)
        known[name].check(value)
        group, _, leaf = name.rpartition('.')
        groups.setdefault(group, {})[leaf] = value
    top = groups.pop('', {})
    nested = {group: replace(getattr(settings, group), **leaves) for group, leaves in groups.items()}
    return replace(settings, **top, **nested)


DEFAULTS = Settings()
