# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one, and stop together at a signal or when the time is up."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .precision import TrainingError


class Stop(IntEnum):
    """Why a training ends early; a number, for the processes to agree on.

    Signals have their own.
    """

    NO = 0
    TIME_IS_UP = 1
    INTERRUPTED = int(signal.SIGINT)
    TERMINATED = int(signal.SIGTERM)


class StopRequests:
    """While this context is open, SIGINT and SIGTERM are requests, and minutes after it opened is
    one too.

    A second signal does what it did before. Outside the main thread signals are left alone.
    """

    def __init__(self, minutes: float):
        self._signal, self._end = Stop.NO, time.monotonic() + 60 * minutes
        self._handlers: dict = {}

    @property
    def current(self) -> Stop:
        """What is requested now; a signal rather than the time."""
        return self._signal or (Stop.TIME_IS_UP if time.monotonic() >= self._end else Stop.NO)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._request)
                              for number in (Stop.INTERRUPTED, Stop.TERMINATED)}
        return self

    def __exit__(self, *error):
        self._restore()

    def _request(self, number, frame):
        self._signal = Stop(number)
        self._restore()

    def _restore(self):
        while self._handlers:
            signal.signal(*self._handlers.popitem())


@dataclass(frozen=True)
class Processes:
    """The processes of a training as one of them sees them: its rank of count, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return which images of a batch are computed here.

        Raises TrainingError when it cannot be divided.
        """
        if batch % self.count:
            raise TrainingError(f'batch {batch} cannot be divided by {self.count} processes: '
                                f'choose a multiple of {self.count}, or other --nproc-per-node')
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return network so that its gradients become the mean over the processes."""
        if self.count == 1:
            return network
        # It says once that copying the gradients of depth-wise convolutions could be faster: they
        # are a few kB.
        warnings.filterwarnings('ignore', 'Grad strides do not match bucket view strides')
        return DistributedDataParallel(network, device_ids=[self.device]
                                       if self.device.type == 'cuda' else None)

    def whole(self, own: torch.Tensor) -> torch.Tensor:
        """Join what every process computed of its share, B / count x ..., to B x ....

        The gradient stays here.
        """
        if self.count == 1:
            return own
        shares = [torch.empty_like(own, memory_format=torch.contiguous_format)
                  for _ in range(self.count)]
        dist.all_gather(shares, own.detach().contiguous())
        shares[self.rank] = own
        return torch.cat(shares)

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes pass."""
        if self.count == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared.item())

    def in_any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag, of which every process passes as many, whether it is set in any.
        """
        if self.count == 1:
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.bool().tolist()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did; device is auto, cpu or cuda.

    They talk through nccl on GPUs, one each, and through gloo on CPUs. Raises TrainingError
    without the GPUs that were asked for. After an error nothing is said to the others, which may
    be waiting for something else: torchrun ends them when this process ends.
    """
    rank, count, local = (int(os.environ.get(name, default)) for name, default in
                          (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0)))
    processes = Processes(device_of(device, local), rank, count)
    if count == 1:
        yield processes
        return
    dist.init_process_group('nccl' if processes.device.type == 'cuda' else 'gloo')
    yield processes
    dist.destroy_process_group()


def is_first() -> bool:
    """Return whether this process, started by torchrun or alone, is the one that reports."""
    return os.environ.get('RANK', '0') == '0'


def device_of(device: str, local_rank: int = 0) -> torch.device:
    """Return the device that auto, cpu or cuda means for a process of this machine, and make it
    current."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == 'cpu' or (device == 'auto' and not gpus):
        return torch.device('cpu')
    if not gpus:
        raise TrainingError(f'device cuda was asked for, but torch {torch.__version__} sees no '
                            f'CUDA device: '
                            'use device auto or cpu')
    if local_rank >= gpus:
        raise TrainingError(f'each process needs a GPU of its own and this machine has {gpus}: '
                            f'use --nproc-per-node={gpus}')
    torch.cuda.set_device(local_rank)
    return torch.device('cuda', local_rank)
