# SPDX-License-Identifier: Apache-2.0
"""The file that a training goes on from: its state, and what it is a training of."""

import hashlib
import io
from pathlib import Path

import torch

from ...io.folders import LumaPair
from ...io.writing import write_bytes
from .config import TrainConfig, differences
from .errors import TrainingError


def write_checkpoint(path: Path, state: dict, config: TrainConfig, *, data: str) -> None:
    """Write state; data is the fingerprint of the pairs. A crash while writing leaves the previous file.

    Raises WriteError when it cannot be written.
    """
    content = io.BytesIO()  # torch raises a RuntimeError without a reason when a disk is full
    torch.save({**state, 'config': config.as_dict(), 'data': data}, content)
    write_bytes(path, content.getbuffer())


def read_checkpoint(path: Path, config: TrainConfig, *, data: str) -> dict:
    """Return the state, on the CPU. Raises TrainingError when it is that of another training, saying how."""
    state = torch.load(path, map_location='cpu', weights_only=True)
    if 'config' not in state:
        raise TrainingError(f'{path} does not say which configuration it is of, an earlier version wrote it: '
                            'choose another folder (--out), or delete it to start anew')
    found = differences(state['config'], config.as_dict())
    found += [f'training pairs: {state["data"]} there, {data} here'] if state['data'] != data else []
    if not found:
        return state
    if any(line.startswith('iterations:') for line in found):
        found.append('the learning rate at every iteration depends on the number of iterations')
    raise TrainingError(f'{path}, at iteration {state["iteration"]}, is of another training: {"; ".join(found)}. '
                        'Undo the change, choose another folder (--out), or delete the checkpoint to start anew')


def fingerprint(pairs: list[LumaPair]) -> str:
    """Return how many pairs there are and a checksum of their names and sizes, in their order."""
    listed = '\n'.join(f'{pair.name} {pair.ir.shape}' for pair in pairs)
    return f'{len(pairs)} ({hashlib.sha256(listed.encode()).hexdigest()[:8]})'
