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
        parameters = dict(self.network.named_parameters())
        kinds = {name: parameter.dtype for name, parameter in rounded.named_parameters()
                 if parameter.dtype != parameters[name].dtype}
        values = [parameters[name] for name in kinds]
        parameters |= zip(kinds, _Rounded.apply(tuple(kinds.values()), *values))
        result = functional_call(rounded, parameters, images, options)
        return tuple(part.float() for part in result) if isinstance(result,
                                                                    tuple) else result.float()


class _Rounded(torch.autograd.Function):
    """Tensors in other types, all in a few launches of a GPU, and their gradients back."""

    @staticmethod
    def forward(ctx, dtypes, *tensors):
        """Return each tensor in its dtype."""
        ctx.set_materialize_grads(False)
        rounded = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes)]
        torch._foreach_copy_(rounded, tensors)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return tuple(rounded)

    @staticmethod
    def backward(ctx, *gradients):
        """Return the gradients in the types of the parameters; None for what was not used."""
        given = [gradient for gradient in gradients if gradient is not None]
        wide = [torch.empty_like(gradient, dtype=dtype)
                for gradient, dtype in zip(gradients, ctx.dtypes) if gradient is not None]
        torch._foreach_copy_(wide, given)
        back = iter(wide)
        return None, *(None if gradient is None else next(back) for gradient in gradients)


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


def computing(fuse: nn.Module) -> nn.Module:
    """Return the module that computes for what in_precision returned, whose backends count."""
    return fuse._rounded[0] if isinstance(fuse, MixedPrecision) else fuse


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler that lifts small gradients into the range of float16.

    It does nothing for other precisions.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == 'float16')
