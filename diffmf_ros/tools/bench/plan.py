# SPDX-License-Identifier: Apache-2.0
"""What one pair would launch, move and take on a GPU, found out without one.

`plan_pair` runs the whole graph of a pair, from the bytes of both images to those of the fused
one, on torch's meta device; `plan_step` does so with a training step: forward, loss, backward,
clipping, Adam and the running average, as `training.loop.Trainer.step` without reading the loss
back and without checking gradients. The kernels come from `plan_recorder`, the times, which are
predictions, from `plan_operations`. Reading back and what the CPU does around the graph are not
part of it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ... import models
from ...core.frames import DiffmfError
from ...inference.cuda_backend import Plan as DevicePlan
from ...inference.cuda_backend import Program
from ...inference.engine import fuse_padded, use_backend
from ...models.blocks import cast_layers
from ...models.kernels import meta_stands_for_cuda
from ..training.data import Batch
from ..training.losses import PRESETS, LossWeights, fusion_loss
from ..training.precision import MixedPrecision
from .plan_operations import GPUS, Kernel
from .plan_recorder import record
from .roofs import Work, work_of_preset

FORMAT = 'diffmf_ros plan 1'
HALF_BYTES = 2
# At most so many launches are aimed at, for one pair at any size.
KERNELS_AIMED_AT = {'diffmf base': 320, 'diffmf light': 200, 's4fusion base': 400,
                    's4fusion light': 400, 'refinefuse base': 400, 'refinefuse light': 400}
STEP_KERNELS_AIMED_AT = {'diffmf base': 1500}


class PlanError(DiffmfError):
    """A plan that cannot be made here."""


@dataclass(frozen=True)
class WorkPlan:
    """The kernels of one pair or one training step.

    Args:
        network: Such as 'diffmf light'.
        of: 'pair 640x480' or 'step 12 x 128x128'.
        kernels: In the order of their launches.
        work: What has to be done at least (roofs.py); None for a training step.
        goal: Launches that are aimed at, or None.
    """

    network: str
    of: str
    kernels: list[Kernel] = field(repr=False)
    work: Work | None = None
    goal: int | None = None

    @property
    def bytes_read(self) -> int:
        """Inputs of all kernels."""
        return sum(kernel.bytes_read for kernel in self.kernels)

    @property
    def bytes_written(self) -> int:
        """Outputs of all kernels."""
        return sum(kernel.bytes_written for kernel in self.kernels)

    @property
    def exponentials(self) -> int:
        """Of all kernels."""
        return sum(kernel.exponentials for kernel in self.kernels)

    @property
    def fused_bytes(self) -> float | None:
        """Bytes that move if every layer reads its input and writes its output once, in half."""
        return None if self.work is None else HALF_BYTES * self.work.elements

    def as_dict(self) -> dict:
        """Return everything; instead of single kernels launches and bytes of each kind."""
        kinds = {name: {'launches': launches, 'bytes': moved}
                 for name, launches, moved in self.by_kind()}
        return {'network': self.network, 'of': self.of, 'kernels': len(self.kernels),
                'goal': self.goal, 'bytes_read': self.bytes_read,
                'bytes_written': self.bytes_written, 'fused_bytes': self.fused_bytes,
                'exponentials': self.exponentials,
                'gpus': {gpu.name: self.times_ms(gpu) for gpu in GPUS}, 'by_kind': kinds}

    def times_ms(self, gpu) -> dict:
        """Return predicted milliseconds on one GPU, and the floor of the fused work."""
        floor_ms = None
        if self.work is not None:
            floor_ms = gpu.floor_ms(bytes_moved=self.fused_bytes, operations=self.work.operations)
        return {'predicted_ms': gpu.replay_ms(self.kernels),
                'launched_singly_ms': gpu.eager_ms(self.kernels),
                'floor_ms': floor_ms, 'rates_measured': gpu.measured}

    def by_kind(self) -> list[tuple[str, int, int]]:
        """Return (name, launches, bytes) of each kind of kernel, most bytes first."""
        found: dict[str, list[int]] = {}
        for kernel in self.kernels:
            launches, moved = found.get(kernel.name, (0, 0))
            found[kernel.name] = [launches + 1, moved + kernel.bytes_moved]
        return sorted(((name, launches, moved) for name, (launches, moved) in found.items()),
                      key=lambda row: -row[2])


def as_json(plans: list[WorkPlan]) -> str:
    """Return the plans and the rates that they assume."""
    gpus = [{**asdict(gpu), 'exponentials_per_s': gpu.exponentials_per_s} for gpu in GPUS]
    return json.dumps({'format': FORMAT, 'gpus': gpus,
                       'plans': [plan.as_dict() for plan in plans]}, indent=1)


def plan_pair(model: str, preset: str, size: tuple[int, int] = (640, 480), *, scale: float = 1.0,
              precision: str = 'float16', scan_backend: str = 'triton') -> WorkPlan:
    """Plan one pair: rgb8 of size (width, height), mono16 of half its sides, fused with color.

    Args:
        model, preset: A network of models.PRESETS.
        size: Of the RGB image.
        scale: Working size of the network.
        precision: Of the layers.
        scan_backend: 'triton', or 'portable': what a GPU falls to when its kernels fail.

    Raises:
        PlanError: Without triton, or for a backend that cannot be planned.
    """
    with torch.device('meta'):
        network = models.build(model, preset)
    prepare(network, precision=precision, scan_backend=scan_backend)
    name = f'{model} {preset}'
    kernels = pair_kernels(network, size, scale=scale)
    work = work_of_preset(model, preset, size, scale=scale)
    return WorkPlan(name, 'pair {}x{}'.format(*size), kernels, work, KERNELS_AIMED_AT.get(name))


def pair_kernels(network: torch.nn.Module, size: tuple[int, int], *,
                 scale: float = 1.0) -> list[Kernel]:
    """Return the kernels of one pair of size (width, height); network: see prepare()."""
    program, inputs = _program(network, size, scale)
    recorded(program, *inputs)  # what is kept from the first pair on
    return recorded(program, *inputs)


def prepare(network: torch.nn.Module, *, precision: str, scan_backend: str) -> None:
    """Change a network on the meta device as `inference.engine.prepare` changes one for a GPU."""
    if scan_backend not in ('triton', 'portable'):
        raise PlanError(f'a plan is made for scan triton or portable, not {scan_backend!r}')
    use_backend(network, scan_backend)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    cast_layers(network, getattr(torch, precision))


def _program(network, size: tuple[int, int], scale: float) -> tuple[Callable, list[torch.Tensor]]:
    """The function that a CUDA graph would be captured of, and its inputs."""
    width, height = size
    plan = DevicePlan((height, width, 3), 'rgb8', (height // 2, width // 2), 'mono16', scale)
    with meta_stands_for_cuda():
        program = Program(plan, fuse=lambda ir, y: fuse_padded(network, ir, y), device='meta')
    inputs = ((plan.rgb_shape, torch.uint8), (plan.thermal_shape, torch.int16), (4, torch.float32))
    return program, [torch.empty(shape, dtype=dtype, device='meta') for shape, dtype in inputs]


def recorded(function: Callable, *arguments) -> list[Kernel]:
    """Return what record() returns. Raises PlanError without triton."""
    try:
        return record(function, *arguments)
    except ImportError as error:
        raise PlanError(f'a plan needs triton, which cannot be imported ({error}): '
                        'pip install triton') from error


def plan_step(model: str, preset: str, *, batch: int = 12, crop: int = 128) -> WorkPlan:
    """Plan one step on batch crops of crop x crop pixels, or the next side that fits."""
    with torch.device('meta'):
        network = models.build(model, preset)
    crop, name = network.sides.padded(crop), f'{model} {preset}'
    step = _Step(network, batch, crop)
    recorded(step)  # what is kept from the first step on
    kernels = recorded(step)
    return WorkPlan(name, f'step {batch} x {crop}x{crop}', kernels,
                    goal=STEP_KERNELS_AIMED_AT.get(name))


class _Step:
    """One iteration, with Adam that has run before."""

    def __init__(self, network: torch.nn.Module, batch: int, crop: int):
        self._network, self._shape = network, (batch, 1, crop, crop)
        self._fuse = MixedPrecision(network, torch.bfloat16)
        self._loss = PRESETS['target'] if network.mixing else LossWeights()
        self._moments = [[torch.zeros_like(p) for p in network.parameters()] for _ in range(2)]
        self._steps = [torch.empty((), device='meta') for _ in network.parameters()]
        self._average = {name: value.detach().clone()
                         for name, value in network.state_dict().items()}

    def __call__(self) -> None:
        """Run one training step, with the update of the weights and of their average."""
        images: list[Any] = [torch.empty(self._shape, device='meta') for _ in range(7)]
        batch = Batch(*images)
        fused, share = self._fuse(batch.ir, batch.vi_y, with_share=True)
        terms = fusion_loss(fused, batch.ir, batch.vi_y, self._loss, batch=batch, share=share)
        self._network.zero_grad(set_to_none=True)
        terms['total'].backward()
        self._clip()
        self._adam()
        torch._foreach_lerp_(list(self._average.values()),
                             list(self._network.state_dict().values()), 0.001)

    @torch.no_grad()
    def _clip(self) -> None:
        """Clip the gradients with the operations of clip_grad_norm_ on a GPU.

        On meta tensors that would take them one by one.
        """
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp(max=1))

    @torch.no_grad()
    def _adam(self) -> None:
        """Update the weights as torch.optim.Adam(fused=True), which does not take meta tensors."""
        parameters: list[torch.Tensor] = list(self._network.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_add_(self._steps, 1)
        means, squares = self._moments
        torch._fused_adam_(parameters, gradients, means, squares, [], self._steps, lr=1e-4,
                           beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
                           maximize=False)
