# SPDX-License-Identifier: Apache-2.0
"""The least time a network can take on a device: its work over the rates measured there.

Work is counted layer by layer:

* operations: two per multiply-add of every convolution and linear layer; per token, channel and
  direction of a scan 9 per state and 1 for the skip (the convention of VMamba), and 2 per rank of
  the step size of SS2D; four per query, key and channel of attention;
* elements moved: every convolution and linear layer reads its input and its parameters and writes
  its output once, as attention does. A scan reads its input and writes its output once per
  direction, because the directions visit the tokens in different orders, and reads the step sizes,
  B and C once.

Element-wise work (norms, activations, sums, concatenation, up-sampling) is taken to ride along for
nothing. Nothing moves from one layer to the next in a cache: an implementation that fuses layers,
or a cache that holds whole feature maps, can beat the bytes.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import nn

from ... import models
from ...models import SizeRule
from ...models.blocks import SS2D, SSDMixer
from ...models.refinefuse import CrossAttention
from ...models.s4fusion import OverlappingPatches

SCAN_OPERATIONS = 9
MATRIX_SIDE = {'cpu': 1024, 'cuda': 8192}
COPY_BYTES = {'cpu': 2 ** 27, 'cuda': 2 ** 30}
ROUNDS = 15


@dataclass(frozen=True)
class Work:
    """Operations (a multiply-add is two), elements of feature maps read or written, parameters
    read."""

    operations: float = 0.0
    features: float = 0.0
    parameters: float = 0.0

    def __add__(self, other: 'Work') -> 'Work':
        return Work(self.operations + other.operations, self.features + other.features,
                    self.parameters + other.parameters)

    @property
    def elements(self) -> float:
        """All that is moved."""
        return self.features + self.parameters


@dataclass(frozen=True)
class Roofs:
    """Measured rates of a device: matrix products in dtype, and a copy (bytes read and bytes
    written)."""

    device: str
    dtype: str
    operations_per_s: float
    bytes_per_s: float
    element_bytes: int

    def floor_ms(self, work: Work) -> float:
        """The larger of operations over their rate and bytes over theirs."""
        return 1e3 * max(work.operations / self.operations_per_s,
                         work.elements * self.element_bytes / self.bytes_per_s)


def measure_roofs(device: str, dtype: torch.dtype) -> Roofs:
    """Time matrix products and copies on device with torch's present number of threads.

    The best counts.
    """
    side = MATRIX_SIDE[device]
    a = torch.rand(side, side, device=device).to(dtype)
    product, source = torch.empty_like(a), torch.empty(COPY_BYTES[device], dtype=torch.uint8,
                                                       device=device).fill_(1)
    target = torch.empty_like(source).fill_(0)
    return Roofs(device, str(dtype).removeprefix('torch.'),
                 operations_per_s=2 * side ** 3
                 / _best_s(lambda: torch.mm(a, a, out=product), device),
                 bytes_per_s=2 * source.nbytes / _best_s(lambda: target.copy_(source), device),
                 element_bytes=dtype.itemsize)


def _best_s(call, device: str) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def work_of_preset(model: str, preset: str, size: tuple[int, int], *, scale: float = 1.0) -> Work:
    """Work of one pair of size (width, height) at a working scale, padded as the engine pads it.
    """
    sides = cast(SizeRule, _shape_of(model, preset).sides)
    width, height = (sides.padded(max(1, round(side * scale))) for side in size)
    return _counted(model, preset, height, width)


@lru_cache
def _shape_of(model: str, preset: str) -> nn.Module:
    with torch.device('meta'):
        return models.build(model, preset)


@lru_cache
def _counted(model: str, preset: str, height: int, width: int) -> Work:
    return count(_shape_of(model, preset), height, width)


def count(network: nn.Module, height: int, width: int) -> Work:
    """Work of network on one pair of height x width. network is on the meta device: nothing is
    computed."""
    parts: list[Work] = []
    hooks = []
    for module in network.modules():
        # its scan has no module of its own; in_proj sees the same tokens
        if isinstance(module, SSDMixer):
            hooks.append(module.in_proj.register_forward_hook(
                lambda layer, args, out, mixer=module: parts.append(_ssd(mixer, args[0]))))
        counter = next((c for kind, c in COUNTERS.items() if isinstance(module, kind)), None)
        if counter is not None:
            hooks.append(module.register_forward_hook(
                lambda layer, args, out, counter=counter: parts.append(counter(layer, args, out))))
    try:
        image = torch.empty(1, 1, height, width, device='meta')
        with torch.no_grad():
            network(image, image)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(parts, Work())


def _layer(layer, args, out) -> Work:
    """A convolution or a linear layer: each output is a sum over one filter."""
    parameters = sum(p.numel() for p in layer.parameters(recurse=False))
    return Work(2 * out.numel() * layer.weight[0].numel(), args[0].numel() + out.numel(),
                parameters)


def _ss2d(layer: SS2D, args, out) -> Work:
    """The scan of an image, or that of the tokens of two, with the layers that are no modules of
    their own."""
    tokens = sum(x.numel() // x.shape[-1] for x in args)
    records, work = 4 * (layer.rank + 2 * layer.states), Work()
    for image in args:
        work += _matrix(image.numel() // image.shape[-1], layer.inner, records)
    if len(args) == 2:  # the mark that both images get
        work += _matrix(tokens // 2, 2 * layer.inner, layer.inner)
    return work + _scan(tokens, layer.inner, layer.states, directions=4, records=records,
                        rank=layer.rank)


def _attention(layer: CrossAttention, args, out) -> Work:
    """Scores and weighted sums; fused, so that only queries, keys, values and the result are
    moved."""
    queries, keys = args[0].numel(), args[1].numel() // layer.reduce.stride[0] ** 2
    return Work(4 * queries * keys / args[1].shape[1], 2 * (queries + keys))


def _patches(layer: OverlappingPatches, args, out) -> Work:
    """A linear layer whose outputs are summed where they overlap."""
    return Work(2 * args[0].numel() * layer.expand.out_features, args[0].numel() + out.numel(),
                layer.expand.weight.numel())


def _matrix(tokens: int, channels: int, out: int) -> Work:
    return Work(2 * tokens * channels * out, tokens * (channels + out), channels * out)


def _ssd(mixer: SSDMixer, x) -> Work:
    tokens, (inner, states, _) = x.numel() // x.shape[-1], mixer.parts
    return _scan(tokens, inner, states, directions=mixer.directions,
                 records=2 * states + mixer.heads[0])


def _scan(tokens, channels, states, *, directions, records, rank=0) -> Work:
    steps = directions * tokens * channels
    return Work(steps * (SCAN_OPERATIONS * states + 1 + 2 * rank), 2 * steps + tokens * records)


COUNTERS = {nn.Conv2d: _layer, nn.Linear: _layer, SS2D: _ss2d, CrossAttention: _attention,
            OverlappingPatches: _patches}
