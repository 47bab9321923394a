# SPDX-License-Identifier: Apache-2.0
"""What operations of torch launch on a GPU: kernels, bytes, operations, exponentials.

An operation is one kernel that reads its inputs and writes its outputs once, but for those named
in `plan_operations`. Views and allocations launch nothing. Sizes come from shapes; no value is
needed, so tensors may be on the meta device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kernel:
    """One launch on a GPU.

    Args:
        name: Operation of torch, or name of the Triton kernel.
        bytes_read: Each input once, wherever it comes from.
        bytes_written: Each output once.
        operations: Of matrix products and convolutions; a multiply-add is two.
        exact: Those are products of float32 numbers.
        exponentials: exp, sigmoid, tanh or erf of one value.
        kind: 'plain', or a kind whose rate was measured by itself: see plan_devices.Gpu.
        units: Of that kind: elements, or steps of a scan.
        serial: Tokens that a program of a scan walks one after the other.
    """

    name: str
    bytes_read: int = 0
    bytes_written: int = 0
    operations: int = 0
    exact: bool = False
    exponentials: int = 0
    kind: str = 'plain'
    units: int = 0
    serial: int = 0

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


# Exponentials for each element of the output.
EXPONENTIALS = dict.fromkeys(('exp', 'sigmoid', 'silu', 'gelu', 'tanh', '_softmax', 'expm1',
                              'silu_backward', 'softplus_backward'), 1)
EXPONENTIALS |= {'softplus': 2, 'log_sigmoid_forward': 2, 'gelu_backward': 2}


def plain(name: str, inputs: list, outputs: list, **changes) -> Kernel:
    """Return one kernel that reads every input and writes every output once."""
    base = name.rstrip('_')
    written = sum(map(moved_bytes, outputs))
    overwritten = name in ('copy_', 'fill_', 'zero_', 'normal_', 'uniform_')
    read = sum(moved_bytes(t) for t in unique(inputs[1:] if overwritten else inputs))
    exponentials = EXPONENTIALS.get(base, 0) * sum(t.numel() for t in outputs)
    return Kernel(name, read, written, **{'exponentials': exponentials} | changes)


def is_view(operation) -> bool:
    """Return whether an operation returns views of its inputs and writes nothing."""
    returned = operation._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write
                                  for r in returned)


def tensors_in(values) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested lists and mappings."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)


def unique(tensors: list) -> list:
    """Return the tensors without doubles of the same object."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def moved_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor, an element that it repeats (stride 0) counted once."""
    sides = (side for side, stride in zip(tensor.shape, tensor.stride()) if stride or side == 0)
    return math.prod(sides) * tensor.element_size()


def is_channels_last(tensor) -> bool:
    """Return whether channels of B x C x H x W are neighbors in memory, tokens maybe apart."""
    return (tensor.dim() == 4 and tensor.shape[1] > 1 and tensor.stride(1) == 1
            and tensor.stride(3) >= tensor.shape[1])
