# SPDX-License-Identifier: Apache-2.0
"""Weight files: safetensors with what they are for, and a checksum, in their header.

Never a pickle.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save

from .weights_header import FORMAT, WeightsError, not_whole, number_text, read_header

MOST_LISTED = 8  # problems of the tensors of a file; those of another network have hundreds

KEEP_FLOAT32 = 'A_log', 'A_logs'  # rounding a decay is repeated at every step of a scan


@dataclass(frozen=True)
class Weights:
    """The tensors of a trained network and what they are for. None: not known."""

    path: Path
    model: str
    preset: str
    iterations: int | None
    seed: int | None
    tensors: dict[str, torch.Tensor] = field(repr=False)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        sha.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim()
                   else tensor.numpy().tobytes())
    return sha.hexdigest()


def save_weights(path: str | Path, tensors: dict[str, torch.Tensor], *, model: str, preset: str,
                 iterations: int | None, seed: int | None, exact: bool = False) -> None:
    """Write trained tensors in half precision (decay rates in float32), or exact: all in float32.

    iterations and seed of a training that is not ours are None. Raises OSError, such as of a full
    disk, which the writer around it explains.
    """
    stored = {name: tensor.detach().cpu().to(
        torch.float32 if exact or name.endswith(KEEP_FLOAT32) else torch.float16).contiguous()
        for name, tensor in tensors.items()}
    Path(path).write_bytes(save(stored, metadata={
        'format': FORMAT, 'model': model, 'preset': preset, 'iterations': number_text(iterations),
        'seed': number_text(seed), 'sha256': digest(stored)}))


def load_weights(path: str | Path) -> Weights:
    """Read and verify a weights file.

    Raises WeightsError: no such file, not safetensors or truncated, without the header of this
    package, never trained, or with a checksum that does not match.
    """
    header = read_header(path)
    try:
        # safe_open (0.8.0) keeps two objects of each tensor for ever, at every load.
        tensors = load(Path(header.path).read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        raise not_whole(header.path, error) from error
    if digest(tensors) != header.sha256:
        raise WeightsError(f'{header.path} is damaged: its checksum does not match its tensors; '
                           f'get it again')
    return Weights(header.path, header.model, header.preset, header.iterations, header.seed,
                   tensors)


def state_dict_mismatches(wanted: dict[str, torch.Tensor],
                          found: dict[str, torch.Tensor]) -> list[str]:
    """Return one text for every tensor of found that is missing, unexpected or of another shape
    than wanted."""
    right, here = ({name: tuple(t.shape) for name, t in tensors.items()}
                   for tensors in (wanted, found))
    return [
        *(f'missing {name} {right[name]}' for name in sorted(right.keys() - here.keys())),
        *(f'unexpected {name} {here[name]}' for name in sorted(here.keys() - right.keys())),
        *(f'{name} has shape {here[name]}, expected {right[name]}'
          for name in sorted(right.keys() & here.keys()) if right[name] != here[name])]


def listed(problems: list[str], *, between: str = '; ') -> str:
    """Return problems in one line, the first of many with the number of the others."""
    rest = len(problems) - MOST_LISTED
    return between.join((*problems[:MOST_LISTED], *([f'and {rest} more'] if rest > 0 else [])))


def load_into(network: torch.nn.Module, weights: Weights) -> None:
    """Copy weights into network, strictly.

    Raises WeightsError listing every tensor that does not fit.
    """
    problems = state_dict_mismatches(network.state_dict(), weights.tensors)
    if problems:
        raise WeightsError(f'{weights.path} ({weights.model} {weights.preset}) does not fit the '
                           f'network: ' + listed(problems))
    network.load_state_dict(weights.tensors)
