# SPDX-License-Identifier: Apache-2.0
"""Files of a training run: the checkpoint to resume from, the log of losses."""

import csv
import hashlib
import io
import time
from pathlib import Path

import numpy as np
import torch

from ...core.packages import pip_install
from ...io.folders import LumaPair
from ...io.writing import write_bytes
from .config import TrainConfig, differences
from .precision import TrainingError


def write_checkpoint(path: Path, state: dict, config: TrainConfig, *, data: str) -> None:
    """Write state; data is the fingerprint of the pairs.

    A crash while writing leaves the previous file.

    Raises WriteError when it cannot be written.
    """
    content = io.BytesIO()  # torch raises a RuntimeError without a reason when a disk is full
    torch.save({**state, 'config': config.as_dict(), 'data': data}, content)
    write_bytes(path, content.getbuffer())


def read_checkpoint(path: Path, config: TrainConfig, *, data: str) -> dict:
    """Return the state, on the CPU.

    Raises TrainingError when it is that of another training, saying how.
    """
    state = torch.load(path, map_location='cpu', weights_only=True)
    if 'config' not in state:
        raise TrainingError(f'{path} does not say which configuration it is of, an earlier '
                            f'version wrote it: '
                            'choose another folder (--out), or delete it to start anew')
    found = differences(state['config'], config.as_dict())
    found += [f'training pairs: {state["data"]} there, {data} '
              f'here'] if state['data'] != data else []
    if not found:
        return state
    if any(line.startswith('iterations:') for line in found):
        found.append('the learning rate at every iteration depends on the number of iterations')
    raise TrainingError(f'{path}, at iteration {state["iteration"]}, is of another training: '
                        f'{"; ".join(found)}. '
                        'Undo the change, choose another folder (--out), or delete the checkpoint '
                        'to start anew')


def fingerprint(pairs: list[LumaPair]) -> str:
    """Return how many pairs there are and a checksum of their names and sizes, in their order."""
    listed = '\n'.join(f'{pair.name} {pair.ir.shape}' for pair in pairs)
    return f'{len(pairs)} ({hashlib.sha256(listed.encode()).hexdigest()[:8]})'


EVERY = 20  # iterations in a row of the CSV
NOT_LOSS = ('iteration', 'gradient_norm', 'loss_scale', 'learning_rate', 'seconds')


class Log:
    """CSV of the mean of every EVERY iterations, its columns what the iterations return.

    A resumed run drops the rows that it will write again.
    """

    def __init__(self, path: Path, iteration: int):
        self._path, self._count, self._start = path, 0, time.monotonic()
        self._sums: dict[str, float] = {}
        self._rows = [row for row in read_log(path)
                      if int(row['iteration']) <= iteration] if path.exists() else []
        self._columns = list(self._rows[0]) if self._rows else []
        self._write_all()

    def add(self, iteration: int, terms: dict[str, float]) -> None:
        """Count the terms of one iteration in."""
        self._count += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if iteration % EVERY:
            return
        row = {'iteration': str(iteration),
               **{name: f'{value / self._count:.6g}' for name, value in self._sums.items()},
               'seconds': f'{(time.monotonic() - self._start) / self._count:.3f}'}
        self._sums, self._count, self._start = {}, 0, time.monotonic()
        self._rows.append(row)
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._write_all()
        else:
            self._write([row], 'a')

    def _write_all(self):
        self._write(self._rows, 'w')

    def _write(self, rows, mode):
        with self._path.open(mode, newline='') as file:
            writer = csv.DictWriter(file, self._columns, restval='')
            if mode == 'w' and self._columns:
                writer.writeheader()
            writer.writerows(rows)


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log."""
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def plot_log(log: Path, image: Path) -> str | None:
    """Draw the loss and each of its terms over the iterations.

    Every row, and the mean of a twentieth of them.

    An axis is logarithmic where its values are positive and span a factor of 3. Returns why
    nothing was drawn, or None.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        return f'no {image.name}: matplotlib cannot be imported ({error}): {pip_install("view")}'
    rows = read_log(log)
    names = [name for name in (rows[0] if rows else ()) if name not in NOT_LOSS]
    if not names:
        return None  # the first row is still to come
    iterations = np.array([int(row['iteration']) for row in rows])
    figure = Figure(figsize=(8, 2.2 * len(names)), layout='constrained')
    for axes, name in zip(np.atleast_1d(figure.subplots(len(names), sharex=True)), names):
        values = np.array([float(row[name] or 'nan') for row in rows])
        window = max(1, len(rows) // 20)
        axes.plot(iterations, values, linewidth=0.5, alpha=0.5)
        mean = np.convolve(values, np.full(window, 1 / window), 'valid')
        axes.plot(iterations[window // 2:][:len(mean)], mean)
        axes.set(ylabel=name, yscale='log' if 0 < 3 * np.nanmin(values) < np.nanmax(values)
                 else 'linear')
    axes.set_xlabel('iteration')
    figure.savefig(image)
    return None
