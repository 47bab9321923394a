# SPDX-License-Identifier: Apache-2.0
"""The plan of one training step: forward, loss, backward, clipping, Adam and the running average.

It follows `training.loop.Trainer.step`, without reading the loss back and without checking
gradients.
"""

import torch

from ... import models
from ..training.data import Batch
from ..training.losses import PRESETS, LossWeights, fusion_loss
from ..training.precision import MixedPrecision
from .plan import WorkPlan, recorded

KERNELS_AIMED_AT = {'diffmf base': 1500}


def plan_step(model: str, preset: str, *, batch: int = 12, crop: int = 128,
              dtype: torch.dtype = torch.bfloat16) -> WorkPlan:
    """Plan one step on batch crops of crop x crop pixels, or the next side that fits."""
    with torch.device('meta'):
        network = models.build(model, preset)
    crop, name = network.sides.padded(crop), f'{model} {preset}'
    step = _Step(network, batch, crop, dtype)
    recorded(step)  # what is kept from the first step on
    kernels = recorded(step)
    return WorkPlan(name, f'step {batch} x {crop}x{crop}', kernels,
                    goal=KERNELS_AIMED_AT.get(name))


class _Step:
    """One iteration, with Adam that has run before."""

    def __init__(self, network: torch.nn.Module, batch: int, crop: int, dtype: torch.dtype):
        self._network, self._shape = network, (batch, 1, crop, crop)
        self._fuse = MixedPrecision(network, dtype)
        self._loss = PRESETS['target'] if network.mixing else LossWeights()
        self._moments = [[torch.zeros_like(p) for p in network.parameters()] for _ in range(2)]
        self._steps = [torch.empty((), device='meta') for _ in network.parameters()]
        self._average = {name: value.detach().clone()
                         for name, value in network.state_dict().items()}

    def __call__(self) -> None:
        """Run it."""
        batch = Batch(*(torch.empty(self._shape, device='meta') for _ in range(7)))
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
        """Do as clip_grad_norm_ does on a GPU; on meta tensors it would take them one by one."""
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp(max=1))

    @torch.no_grad()
    def _adam(self) -> None:
        """Do as torch.optim.Adam(fused=True) does, which does not take meta tensors."""
        parameters = list(self._network.parameters())
        gradients = [p.grad for p in parameters]
        torch._foreach_add_(self._steps, 1)
        torch._fused_adam_(parameters, gradients, *self._moments, [], self._steps, lr=1e-4,
                           beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
                           maximize=False)
