# SPDX-License-Identifier: Apache-2.0
"""What a training run is: one YAML file."""

import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...core.file_kinds import explained
from ...core.frames import DiffmfError
from ...core.parameter_spec import meant
from ...inference.weights_header import require_network
from .data import Degradations
from .losses import PRESETS, LossWeights

CHOICES = {'device': ('auto', 'cpu', 'cuda'), 'precision': ('float32', 'bfloat16', 'float16')}


class Range(NamedTuple):
    """Numbers from low to high, and how they are called."""

    text: str
    low: float
    high: float = sys.float_info.max  # no infinity


FROM_0, FROM_1 = Range('from 0', 0), Range('from 1', 1)
ABOVE_0 = Range('above 0', math.nextafter(0, 1))
CHANCE = Range('from 0 to 1', 0, 1)
# Of the numbers for which FROM_0 is not right.
RANGES = {'iterations': FROM_1, 'batch': FROM_1, 'crop': FROM_1, 'learning_rate': ABOVE_0,
          'ema': Range('from 0 to below 1', 0, math.nextafter(1, 0)), 'clip': ABOVE_0,
          'seed': Range('from 0 to 2^63 - 1', 0, 2 ** 63 - 1), 'temperature': ABOVE_0,
          **{chance.name: CHANCE for chance in fields(Degradations)}}
KINDS = {int: 'a whole number', float: 'a number', str: 'a text'}
# What may differ between the runs of one training: where it runs, where its files are, how its
# weights are written.
NOT_PART_OF_RESULT = ('data', 'out', 'device', 'threads', 'checkpoint_minutes')


class ConfigError(DiffmfError):
    """A training configuration with an unknown, missing or impossible entry."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run; every entry of the YAML file.

    Raises ConfigError for a device or precision not in CHOICES, WeightsError for a network that
    there is not.
    """

    data: str  # folder with ir/ and vi/ below it
    out: str  # folder of checkpoints, log and weights
    model: str = 'diffmf'
    preset: str = 'light'
    iterations: int = 10_000
    batch: int = 4  # images, over all processes
    crop: int = 96
    learning_rate: float = 4e-4
    warmup: int = 300  # iterations of linear warm-up, then a cosine to 0
    ema: float = 0.999
    clip: float = 1.0  # gradient norm
    precision: str = 'float32'  # of the layers; parameters, scans and the loss are float32
    seed: int = 0
    checkpoint_minutes: float = 3.0
    device: str = 'auto'  # cuda when there is one, else cpu
    threads: int = 0  # 0: torch's own choice
    # ImageNet weights of a ResNet-50, for S4Fusion's saliency and uncertainty
    perception: str = ''
    start: str = ''  # weights of the same network to start from; empty: fresh ones
    teacher: str = ''  # weights of a larger network whose result this one learns too (loss distil)
    loss: LossWeights = field(default_factory=LossWeights)
    degradations: Degradations = field(default_factory=Degradations)

    def __post_init__(self):
        require_network(self.model, self.preset)
        for entry, allowed in CHOICES.items():
            if getattr(self, entry) not in allowed:
                raise ConfigError(f'{entry} must be one of {", ".join(allowed)}, not '
                                  f'{getattr(self, entry)!r}')
        if bool(self.teacher) != bool(self.loss.distil):
            raise ConfigError('distillation needs both a teacher (a weights file) and a loss '
                              'distil above 0; '
                              f'got teacher {self.teacher!r} and distil {self.loss.distil}')
        if self.loss.uncertainty and not self.perception:
            raise ConfigError("loss uncertainty needs perception: a file with torchvision's "
                              "ImageNet weights of "
                              'ResNet-50')

    def as_dict(self) -> dict:
        """Return plain types, for the checkpoint and the model card."""
        return asdict(self)


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file. Raises ConfigError naming the file, the entry and what is allowed."""
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(explained(f'{path} cannot be read as YAML: {error}', path)) from error
    if not isinstance(entries, dict):
        raise ConfigError(explained(f'{path} must hold a mapping of entries such as data: and '
                                    f'out:', path))
    entries['loss'] = _loss(path, entries.get('loss') or {})
    entries['degradations'] = _degradations(path, entries.get('degradations') or {})
    config = _known(path, entries, TrainConfig)
    if missing := {'data', 'out'} - config.keys():
        raise ConfigError(f'{path} lacks {", ".join(sorted(missing))}')
    return TrainConfig(**config)


def differences(before: dict, now: dict) -> list[str]:
    """Return 'entry: before there, now here' for what changes the result of a training.

    Both are as TrainConfig.as_dict returns them; an entry that before lacks had its default.
    """
    before, now, defaults = (_flat(entries)
                             for entries in (before, now, TrainConfig(data='', out='').as_dict()))
    before = {**defaults, **before}
    return [f'{name}: {before.get(name)} there, {now.get(name)} here'
            for name in sorted(before.keys() | now.keys()) if name not in NOT_PART_OF_RESULT
            and before.get(name) != now.get(name)]


def _flat(entries: dict, prefix: str = '') -> dict:
    """{'loss': {'ssim': 1}} -> {'loss.ssim': 1}."""
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= _flat(value, f'{prefix}{name}.') if isinstance(value,
                                                               dict) else {prefix + name: value}
    return flat


def _loss(path, entries) -> LossWeights:
    """Return the factors of a preset (the ancestors' without one) with those that are named beside
    it."""
    if not isinstance(entries, dict):
        raise ConfigError(f'{path}: loss must hold a mapping such as {{preset: target, share: '
                          f'1}}, not {entries!r}')
    factors = {name: value for name, value in entries.items() if name != 'preset'}
    preset = entries.get('preset', 'swinfusion')
    if preset not in tuple(PRESETS):  # a list is in no dict
        raise ConfigError(f'{path}: unknown loss preset {preset!r}; known: {", ".join(PRESETS)}')
    return replace(PRESETS[preset], **_known(path, factors, LossWeights, 'loss.'))


def _degradations(path, entries) -> Degradations:
    """Return the chances that are named, the others as they are by default."""
    if not isinstance(entries, dict):
        raise ConfigError(f'{path}: degradations must hold a mapping such as {{veil: 0.2}}, not '
                          f'{entries!r}')
    return replace(Degradations(), **_known(path, entries, Degradations, 'degradations.'))


def _known(path, entries, cls, group: str = '') -> dict[str, Any]:
    """Return entries with the numbers that YAML takes for texts, such as 1e-3, as numbers.

    Raises ConfigError, naming all of them, for unknown names and for values that do not fit.
    """
    kinds: dict[str, Any] = {f.name: f.type for f in fields(cls)}
    if unknown := sorted(str(name) for name in entries.keys() - kinds.keys()):
        named = ' and '.join(f'{name}{meant(name, kinds)}' for name in unknown)
        raise ConfigError(f'{path}: unknown {named}; known: {", ".join(sorted(kinds))}')
    read = {name: _number(value, kinds[name]) for name, value in entries.items()}
    wrong = [f'{group}{name} must be {KINDS[kinds[name]]}'
             + f' {RANGES.get(name, FROM_0).text}' * (kinds[name] is not str)
             + f', got {entries[name]!r}' + ': leave it out for its default' * (value is None)
             for name, value in read.items() if not _fits(value, kinds[name], name)]
    if wrong:
        raise ConfigError(f'{path}: {"; ".join(wrong)}')
    return read


def _number(value: Any, kind: Any) -> Any:
    """Return the number that a text spells where kind is one of numbers; others as they are."""
    if kind in (int, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    whole = kind is int and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def _fits(value: Any, kind: Any, name: str) -> bool:
    """Whether a value is of the kind of an entry, and in its range."""
    if kind not in KINDS:  # a group, which has been checked
        return True
    if kind is str or isinstance(value, bool):
        return kind is type(value)
    least = RANGES.get(name, FROM_0)
    return isinstance(value, (int, kind)) and least.low <= value <= least.high
