# SPDX-License-Identifier: Apache-2.0
"""What a training run is: one YAML file."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ...core.file_kinds import explained
from ...core.frames import DiffmfError
from ...inference.weights_header import require_network
from .data import Degradations
from .losses import PRESETS, LossWeights

CHOICES = {'device': ('auto', 'cpu', 'cuda'), 'precision': ('float32', 'bfloat16', 'float16')}
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
        for name, chance in asdict(self.degradations).items():
            if not isinstance(chance, (int, float)) or not 0 <= chance <= 1:
                raise ConfigError(f'degradations: {name} must be a chance from 0 to 1, not '
                                  f'{chance!r}')
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
    if preset not in PRESETS:
        raise ConfigError(f'{path}: unknown loss preset {preset!r}; known: {", ".join(PRESETS)}')
    return replace(PRESETS[preset], **_known(path, factors, LossWeights))


def _degradations(path, entries) -> Degradations:
    """Return the chances that are named, the others as they are by default."""
    if not isinstance(entries, dict):
        raise ConfigError(f'{path}: degradations must hold a mapping such as {{veil: 0.2}}, not '
                          f'{entries!r}')
    return replace(Degradations(), **_known(path, entries, Degradations))


def _known(path, entries, cls):
    names = {f.name for f in fields(cls)}
    if unknown := entries.keys() - names:
        raise ConfigError(f'{path}: unknown {", ".join(sorted(unknown))}; known: '
                          f'{", ".join(sorted(names))}')
    return entries
