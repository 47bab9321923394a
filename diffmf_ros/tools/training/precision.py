# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: layers compute in half precision, the parameters that learn stay float32.

torch.autocast is not used: it would also run the matrix products inside the scans in half
precision, and the layers would convert their inputs twice. What is rounded here is what inference
rounds (`models.blocks.cast_layers`), so that a network learns with the rounding that it will run
with.
"""

import copy

import torch
from torch import nn
from torch.func import functional_call

from ...core.frames import DiffmfError
from ...models.blocks import cast_layers


class TrainingError(DiffmfError):
    """A training that cannot start, resume or go on as asked."""


class MixedPrecision(nn.Module):
    """network, called with its layers rounded to dtype.

    Its gradients are float32, as its parameters are.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network = network
        # In a list, so that it is no submodule: it lends its structure and never has parameters of
        # its own.
        self._rounded = [cast_layers(copy.deepcopy(network).to('meta'), dtype)]

    def forward(self, *images, **options):
        """As network.forward; the results are float32."""
        rounded, = self._rounded
        dtypes = {name: parameter.dtype for name, parameter in rounded.named_parameters()}
        parameters = {name: value.to(dtypes[name]) for name,
                      value in self.network.named_parameters()}
        result = functional_call(rounded, parameters, images, options)
        return tuple(part.float() for part in result) if isinstance(result,
                                                                    tuple) else result.float()


def in_precision(network: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """Return what to call instead of network.

    Raises TrainingError for float16 where there is no GPU.
    """
    if precision == 'float32':
        return network
    if precision == 'float16' and device.type != 'cuda':
        raise TrainingError(f'precision float16 needs a CUDA device, this training runs on '
                            f'{device.type}: '
                            'use bfloat16 or float32')
    return MixedPrecision(network, getattr(torch, precision))


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler that lifts small gradients into the range of float16.

    It does nothing for other precisions.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == 'float16')
