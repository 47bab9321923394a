# SPDX-License-Identifier: Apache-2.0
"""Weight files: safetensors with what they are for, and a checksum, in their header. Never a pickle."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from ..core.frames import DiffmfError

FORMAT = 'diffmf_ros 2'  # 1: networks that painted the whole image instead of correcting the maximum
KEYS = ('format', 'model', 'preset', 'iterations', 'seed', 'sha256')
SHIPPED = Path(__file__).resolve().parents[1] / 'weights'
KEEP_FLOAT32 = 'A_log'  # rounding a decay is repeated at every step of a scan


class WeightsError(DiffmfError):
    """Weights are missing, damaged, untrained, or made for another network."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a trained network and what they are for."""

    path: Path
    model: str
    preset: str
    iterations: int
    seed: int
    tensors: dict[str, torch.Tensor] = field(repr=False)


def shipped(model: str, preset: str) -> Path:
    """Return the path of the weights that come with the package.

    Raises WeightsError when there are none, listing those there are.
    """
    path = SHIPPED / f'{model}_{preset}.safetensors'
    if not path.exists():
        there = ', '.join(sorted(p.stem.replace('_', ' ') for p in SHIPPED.glob('*.safetensors'))) or 'none'
        raise WeightsError(f'no trained weights for {model} {preset} come with this package (there: {there}); '
                           'choose one of those, or set `weights` to a file of your own')
    return path


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        sha.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes())
    return sha.hexdigest()


def save_weights(path: str | Path, tensors: dict[str, torch.Tensor], *, model: str, preset: str,
                 iterations: int, seed: int) -> None:
    """Write trained tensors in half precision (decay rates in float32)."""
    stored = {name: tensor.detach().cpu().to(torch.float32 if name.endswith(KEEP_FLOAT32) else torch.float16)
              .contiguous() for name, tensor in tensors.items()}
    save_file(stored, path, metadata={
        'format': FORMAT, 'model': model, 'preset': preset, 'iterations': str(iterations), 'seed': str(seed),
        'sha256': digest(stored)})


def load_weights(path: str | Path) -> Weights:
    """Read and verify a weights file.

    Raises WeightsError: no such file, not safetensors or truncated, without the header of this
    package, never trained, or with a checksum that does not match.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f'weights file {path} does not exist; leave `weights` empty to use the shipped ones')
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f'{path} is not a whole safetensors file ({error}); get it again') from error
    if header.get('format') != FORMAT or any(key not in header for key in KEYS):
        raise WeightsError(f'{path} does not say what it is for: expected the header entries {", ".join(KEYS)} '
                           f'with format {FORMAT!r}, got format {header.get("format")!r} and {sorted(header)}; '
                           'train it again with this version')
    if int(header['iterations']) < 1:
        raise WeightsError(f'{path} holds untrained weights (0 iterations); they would fuse noise')
    if digest(tensors) != header['sha256']:
        raise WeightsError(f'{path} is damaged: its checksum does not match its tensors; get it again')
    return Weights(path, header['model'], header['preset'], int(header['iterations']), int(header['seed']),
                   tensors)


def load_into(network: torch.nn.Module, weights: Weights) -> None:
    """Copy weights into network, strictly. Raises WeightsError listing every tensor that does not fit."""
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in weights.tensors.items()}
    problems = [f'missing {name} {wanted[name]}' for name in sorted(wanted.keys() - found.keys())]
    problems += [f'unexpected {name} {found[name]}' for name in sorted(found.keys() - wanted.keys())]
    problems += [f'{name} has shape {found[name]}, expected {wanted[name]}'
                 for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]
    if problems:
        raise WeightsError(f'{weights.path} ({weights.model} {weights.preset}) does not fit the network: '
                           + '; '.join(problems))
    network.load_state_dict(weights.tensors)
