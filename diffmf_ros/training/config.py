# SPDX-License-Identifier: Apache-2.0
"""What a training run is: one YAML file."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import yaml

from ..core.frames import DiffmfError
from .losses import LossWeights


class ConfigError(DiffmfError):
    """A training configuration with an unknown, missing or impossible entry."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run; every entry of the YAML file."""

    data: str  # folder with ir/ and vi/ below it
    out: str  # folder of checkpoints, log and weights
    model: str = 'diffmf'
    preset: str = 'light'
    iterations: int = 10_000
    batch: int = 4
    crop: int = 96
    learning_rate: float = 4e-4
    warmup: int = 300  # iterations of linear warm-up, then a cosine to 0
    ema: float = 0.999
    clip: float = 1.0  # gradient norm
    seed: int = 0
    checkpoint_minutes: float = 3.0
    device: str = 'cpu'
    threads: int = 0  # 0: torch's own choice
    loss: LossWeights = field(default_factory=LossWeights)

    def as_dict(self) -> dict:
        """Return plain types, for the checkpoint and the model card."""
        return asdict(self)


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file. Raises ConfigError naming the file, the entry and what is allowed."""
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f'{path} cannot be read as YAML: {error}') from error
    if not isinstance(entries, dict):
        raise ConfigError(f'{path} must hold a mapping of entries such as data: and out:')
    entries['loss'] = LossWeights(**_known(path, entries.get('loss') or {}, LossWeights))
    config = _known(path, entries, TrainConfig)
    if missing := {'data', 'out'} - config.keys():
        raise ConfigError(f'{path} lacks {", ".join(sorted(missing))}')
    return TrainConfig(**config)


def _known(path, entries, cls):
    names = {f.name for f in fields(cls)}
    if unknown := entries.keys() - names:
        raise ConfigError(f'{path}: unknown {", ".join(sorted(unknown))}; known: {", ".join(sorted(names))}')
    return entries
