# SPDX-License-Identifier: Apache-2.0
"""The plan of one training step: forward, loss, backward, clipping, Adam and the running average.

It follows `training.loop.Trainer.step`, without reading the loss back and without checking
gradients. Adam is counted as torch's multi-tensor kernels, which are more than the fused ones of a
GPU: these do not run on tensors without values.
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
    kernels = recorded(_Step(network, batch, crop, dtype))
    return WorkPlan(name, f'step {batch} x {crop}x{crop}', kernels,
                    goal=KERNELS_AIMED_AT.get(name))


class _Step:
    """One iteration, with an optimizer that has run before."""

    def __init__(self, network: torch.nn.Module, batch: int, crop: int, dtype: torch.dtype):
        self._network, self._shape = network, (batch, 1, crop, crop)
        self._fuse = MixedPrecision(network, dtype)
        self._loss = PRESETS['target'] if network.mixing else LossWeights()
        self._optimizer = torch.optim.Adam(network.parameters(), foreach=True)
        self._average = {name: value.detach().clone()
                         for name, value in network.state_dict().items()}
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        self._optimizer.step()  # makes its state

    def __call__(self) -> None:
        """Run it."""
        batch = Batch(*(torch.empty(self._shape, device='meta') for _ in range(7)))
        fused, share = self._fuse(batch.ir, batch.vi_y, with_share=True)
        terms = fusion_loss(fused, batch.ir, batch.vi_y, self._loss, batch=batch, share=share)
        self._optimizer.zero_grad(set_to_none=True)
        terms['total'].backward()
        self._clip()
        self._optimizer.step()
        torch._foreach_lerp_(list(self._average.values()),
                             list(self._network.state_dict().values()), 0.001)

    @torch.no_grad()
    def _clip(self) -> None:
        """Do as clip_grad_norm_ does on a GPU; on meta tensors it would take them one by one."""
        gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp(max=1))
