# SPDX-License-Identifier: Apache-2.0
"""What a weight file says about itself, read without torch: a look at a file costs a millisecond.
"""

from dataclasses import dataclass
from pathlib import Path

from ..core.file_kinds import explained, looked_in, utf8_name
from ..core.frames import DiffmfError
from ..core.settings import Settings
from ..models import PRESETS, SizeRule

UNKNOWN = 'unknown'  # what was trained elsewhere does not say how long


def number_text(number: int | None) -> str:
    """Return the entry for a number, or for None, which is not known."""
    return UNKNOWN if number is None else str(number)


def number_of(text: str) -> int | None:
    """Undo number_text."""
    return None if text == UNKNOWN else int(text)


def sides_text(sides: SizeRule) -> str:
    """Return the entry for the sides of a network: multiple, remainder, and 1 if centered."""
    return f'{sides.multiple} {sides.remainder} {int(sides.centered)}'


def sides_of(text: str) -> SizeRule:
    """Undo sides_text."""
    multiple, remainder, centered = map(int, text.split())
    return SizeRule(multiple, remainder, centered=bool(centered))


# 1: networks painted the whole image; 2: other names of tensors; 3: networks corrected the
# maximum.
FORMAT = 'diffmf_ros 4'
KEYS = ('format', 'model', 'preset', 'iterations', 'seed', 'sha256')
SHIPPED = Path(__file__).resolve().parents[1] / 'weights'


class WeightsError(DiffmfError):
    """Weights are missing, damaged, untrained, or made for another network."""


@dataclass(frozen=True)
class WeightsHeader:
    """What a weight file is for; sha256 is that of its tensors. None: not known."""

    path: Path
    model: str
    preset: str
    iterations: int | None
    seed: int | None
    sha256: str


def require_network(model: str, preset: str) -> None:
    """Raise WeightsError, with those there are, unless there is such a network."""
    if model not in PRESETS:
        raise WeightsError(f'{model} is no network and has no weights: expected one of '
                           f'{", ".join(PRESETS)}')
    if preset not in PRESETS[model]:
        raise WeightsError(f'there is no {model} {preset}: {model} has '
                           f'{", ".join(PRESETS[model])}; set preset to one of those')


def shipped(model: str, preset: str, kind: str = '') -> Path:
    """Return the path of the weights that come with the package.

    Args:
        model, preset: of the network.
        kind: core.settings.SYNTHETIC, or empty for those trained on research data.

    Raises:
        WeightsError: there are none, listing those there are, or there is no such network.
    """
    require_network(model, preset)
    path = SHIPPED / f'{"_".join(filter(None, (model, preset, kind)))}.safetensors'
    if not path.exists():
        there = ', '.join(
            sorted(p.stem.replace('_', ' ') for p in SHIPPED.glob('*.safetensors'))) or 'none'
        raise WeightsError(f'no {kind or "trained"} weights for {model} {preset} come with this '
                           f'package (there: {there}); '
                           'choose one of those, or set `weights` to a file of your own')
    return path


def read_header(path: str | Path) -> WeightsHeader:
    """Read what a weights file is for.

    Raises WeightsError: no such file, not safetensors or truncated, without the header of this
    package, or never trained.
    """
    import safetensors  # which a machine that fuses classically may lack
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f'weights file {path} does not exist{looked_in(path)}; leave `weights` '
                           'empty to use the shipped ones')
    try:
        with utf8_name(path) as name, safetensors.safe_open(name, framework='numpy') as file:
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise not_whole(path, error) from error
    if header.get('format') != FORMAT or any(key not in header for key in KEYS):
        raise WeightsError(f'{path} does not say what it is for: expected the header entries '
                           f'{", ".join(KEYS)} with format {FORMAT!r}, got format '
                           f'{header.get("format")!r} and '
                           f'{sorted(header)}; '
                           'train it again with this version')
    try:
        iterations, seed = number_of(header['iterations']), number_of(header['seed'])
    except ValueError as error:
        raise WeightsError(f'{path}: expected whole numbers as iterations and seed in the header: '
                           f'{error}; get it '
                           'again') from error
    if iterations is not None and iterations < 1:
        raise WeightsError(f'{path} holds untrained weights (0 iterations); they would fuse noise')
    return WeightsHeader(path, header['model'], header['preset'], iterations, seed,
                         header['sha256'])


def not_whole(path: Path, error: Exception) -> WeightsError:
    """Return the error of a file that safetensors cannot read."""
    return WeightsError(explained(f'{path} is not a whole safetensors file ({error})', path)
                        + '; get it again')


def weights_path(settings: Settings) -> Path:
    """Return the path of the weights that settings name. Raises WeightsError as shipped does."""
    if settings.weights_file:
        return Path(settings.weights_file)
    return shipped(settings.model, settings.network_preset, settings.weights)


def weights_for(settings: Settings) -> Path:
    """Return the weights file that settings name, or the shipped one of their network.

    Raises WeightsError when it is not to be had, is not usable, or is for another network.
    """
    header = read_header(weights_path(settings))
    if (header.model, header.preset) != (settings.model, settings.network_preset):
        raise WeightsError(f'{header.path} is for {header.model} {header.preset}, but '
                           f'{settings.model} {settings.network_preset} was asked for; set model '
                           f'and preset to '
                           f'match')
    return header.path
