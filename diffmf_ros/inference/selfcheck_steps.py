# SPDX-License-Identifier: Apache-2.0
"""Cases of the self-check for the steps between the scans (`models.fused`), which Triton fuses.

Each is a small call with fixed random values. What is expected is what plain torch makes of the
same values in float64; what is allowed follows from the sum of the absolute values of the terms of
each result, as for the scans.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import conv2d, linear, silu

from ..models import scan
from ..models.blocks import SLOPE, LayerNorm, Linear, RMSNorm, TokenConv2d, depthwise
from ..models.kernels import plain, portable
from .golden import allowed_errors

PIXELS = 'seen', 'mix'  # float32 in every network
SEED = 21
HEIGHT, WIDTH, CHANNELS, OUT = 5, 7, 48, 24  # no powers of two but the images' sides
IMAGE = 1, 1, 48, 64
LARGEST_PIXEL_TERMS = 16.0  # of the first layer's inputs, and of what is mixed


@dataclass(frozen=True)
class Step:
    """A call of an operation of OPERATIONS with tensors and modules, and its terms' magnitude."""

    name: str
    operation: str
    inputs: tuple = field(repr=False)
    magnitude: torch.Tensor = field(repr=False)
    states: int = 1

    @property
    def expected(self) -> torch.Tensor:
        """All results in float64, flat."""
        return _flat(_called(portable, self.operation, map(_exact, self.inputs)))

    def allowed(self, layers: torch.dtype) -> torch.Tensor:
        """Return the error allowed for each result.

        Layers: the type they compute in, pixels in float32.
        """
        layers = torch.float32 if self.operation in PIXELS else layers
        return allowed_errors(self.expected, self.magnitude, steps=CHANNELS, dtype=layers)

    def run(self, backend: str, *, device: str, dtype: torch.dtype) -> torch.Tensor:
        """Run it; dtype is that of the inputs as they are."""
        inputs = (_moved(x, device) for x in self.inputs)
        return _flat(_called(scan.BACKENDS[backend], self.operation, inputs))


def _called(module, operation: str, inputs):
    """What an operation of a backend returns; of `interleave` also what `separate` makes of it."""
    inputs = list(inputs)
    results = getattr(module, operation)(*inputs)
    if operation == 'interleave':
        return *results, *module.separate(results[0], inputs[0][0])
    return results


def cases(operation: str, features: torch.dtype, layers: torch.dtype) -> list[Step]:
    """Return the cases of an operation, with features and layers of these types.

    The features of a network are float32 where every block adds to them, its layers in half
    precision.
    """
    make = _Values(features, layers)
    with torch.no_grad():
        found: Callable[[_Values], Iterator] = CASES[operation]
        return [Step(f'{operation} {i}', operation, inputs, _flat(magnitude))
                for i, (inputs, magnitude) in enumerate(found(make))]


class _Values:
    """Random tensors and modules of the types of a case."""

    def __init__(self, features: torch.dtype, layers: torch.dtype):
        self.features, self.layers = features, layers
        self._random = torch.Generator().manual_seed(SEED)

    def tensor(self, *shape, dtype=None):
        """Normally distributed values."""
        return torch.randn(*shape, generator=self._random).to(dtype or self.features)

    def tokens(self, channels=CHANNELS, dtype=None):
        """B x H x W x C."""
        return self.tensor(1, HEIGHT, WIDTH, channels, dtype=dtype)

    def module(self, made: nn.Module, *, norm: bool = False) -> nn.Module:
        """A layer in the type of the layers, or a norm that gives that type."""
        for parameter in made.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=self._random) * fan_in ** -0.5)
        if norm:
            made.dtype = self.layers  # type: ignore[assignment]
            return made
        return made.to(self.layers)

    def norm(self):
        """A layer norm before layers."""
        return self.module(LayerNorm(CHANNELS, before_layers=True), norm=True)

    def linear(self, channels=CHANNELS, out=OUT):
        """A linear layer."""
        return self.module(Linear(channels, out))


def _norm_linear(make: _Values):
    x, gate = make.tokens(), make.tokens(dtype=make.layers)
    residual, scale = make.tokens(OUT), make.tensor(1, 1, 1, OUT, dtype=make.layers)
    rms = make.module(RMSNorm(CHANNELS, eps=1e-5), norm=True)
    inner = x.to(make.layers)
    for inputs in ((x, make.norm(), make.linear(), None, False, None, None),
                   (inner, make.norm(), make.linear(), gate, False, None, residual),
                   (inner, rms, make.linear(), gate, True, scale, residual)):
        yield inputs, _linear_terms(*map(_exact, inputs))


def _linear_terms(x, norm, layer, gate, gate_first, scale, residual):
    if gate is not None and gate_first:
        x = x * silu(gate)
    x = norm(x)
    if gate is not None and not gate_first:
        x = x * silu(gate)
    y = linear(x.abs(), layer.weight.abs(), layer.bias.abs())
    y = y if scale is None else y * scale.abs()
    return y if residual is None else y + residual.abs()


def _mlp(make: _Values):
    inputs = make.tokens(), make.norm(), make.linear(out=2 * CHANNELS), make.linear(
        2 * CHANNELS, CHANNELS)
    x, norm, widen, narrow = map(_exact, inputs)
    # GELU makes nothing larger
    hidden = linear(norm(x).abs(), widen.weight.abs(), widen.bias.abs())
    yield inputs, x.abs() + linear(hidden, narrow.weight.abs(), narrow.bias.abs())


def _norm_linear_mlp(make: _Values):
    layer = make.module(Linear(CHANNELS, OUT, bias=False))
    inputs = (make.tokens(dtype=make.layers), make.norm(), layer, make.tokens(dtype=make.layers),
              make.tokens(OUT), make.module(LayerNorm(OUT, before_layers=True), norm=True),
              make.linear(OUT, 2 * OUT), make.linear(2 * OUT, OUT))
    x, norm, layer, gate, residual, mlp_norm, widen, narrow = map(_exact, inputs)
    terms = linear((norm(x) * silu(gate)).abs(), layer.weight.abs()) + residual.abs()
    y = plain.norm_linear(x, norm, layer, gate, False, None, residual)
    # What an error of y becomes in the normalization and the layers behind it.
    spread = y.std(-1, unbiased=False, keepdim=True)
    hidden = linear(mlp_norm(y).abs() + terms / spread, widen.weight.abs(), widen.bias.abs())
    yield inputs, terms + linear(hidden, narrow.weight.abs(), narrow.bias.abs())


def _depthwise(make: _Values):
    x, other, conv = make.tokens(), make.tokens(), make.module(depthwise(CHANNELS, bias=True))
    for minus, with_silu in ((None, True), (other, False)):
        yield (x, minus, conv, with_silu), _depthwise_terms(x, minus, conv)


def _depthwise_terms(x, minus, conv):
    x = _exact(x).abs() + (0 if minus is None else _exact(minus).abs())
    conv = _exact(conv)
    bias = None if conv.bias is None else conv.bias.abs()
    return conv2d(x.permute(0, 3, 1, 2), conv.weight.abs(), bias, padding=1,
                  groups=len(conv.weight)).permute(0, 2, 3, 1)


def _depthwise_records(make: _Values):
    x, conv = make.tokens(), make.module(depthwise(CHANNELS))
    weight = make.tensor(4, 5, CHANNELS, dtype=make.layers) * CHANNELS ** -0.5
    terms = _depthwise_terms(x, None, conv)
    records = linear(terms, _exact(weight).abs().flatten(0, 1))
    yield (x, conv, weight), (terms, records)


def _conv(make: _Values):
    layer = make.module(TokenConv2d(CHANNELS, OUT, 3, padding=1))
    halving = make.module(TokenConv2d(CHANNELS, OUT, 3, padding=1, stride=2))
    x, residual = make.tokens(), make.tokens(OUT)
    terms = _absolute(layer)(_exact(x).abs())
    yield (x, layer, SLOPE, None, None), terms
    yield (x, layer, SLOPE, residual, residual.dtype), terms + _exact(residual).abs()
    yield (x, halving, None, None, None), _absolute(halving)(_exact(x).abs())


def _layer_norm(make: _Values):
    x, norm = make.tokens(), make.norm()
    exact = _exact(norm)
    yield (x, norm), exact.in_torch(_exact(x)).abs() + exact.weight.abs() + exact.bias.abs()


def _concat_linear(make: _Values):
    maps = [make.tokens() for _ in range(3)]
    layer = make.linear(3 * CHANNELS)
    yield (maps, layer), _absolute(layer)(torch.cat([_exact(x).abs() for x in maps], dim=-1))


def _pair(make: _Values):
    a, b = make.tokens(), make.tokens()
    for pairing in ('batch', 'columns', 'row'):
        yield (a, b, pairing, make.layers), plain.pair(_exact(a), _exact(b), pairing,
                                                       torch.float64).abs()


def _guide(make: _Values):
    x, a, b = make.tokens(), make.tokens(OUT), make.tokens(OUT)
    layer = make.linear()
    gain = 2 + _absolute(layer)(_exact(x).abs()) / 4  # the slope of a sigmoid is at most a quarter
    yield (x, layer, a, b), (gain * _exact(a).abs(), gain * _exact(b).abs())


def _interleave(make: _Values):
    rank, states = 3, 4
    us = [make.tokens() for _ in range(2)]
    projs = [make.tensor(1, HEIGHT, WIDTH, 4, rank + 2 * states) for _ in range(2)]
    weight = make.tensor(4, CHANNELS, rank, dtype=torch.float32)
    absolute = [x.abs() for x in us], [x.abs() for x in projs], weight.abs()
    yield (us, projs, weight), _called(portable, 'interleave', map(_exact, absolute))


def _absolute(layer):
    """A layer in float64 with the absolute values of its parameters."""
    layer = _exact(layer)
    for parameter in layer.parameters():
        parameter.abs_()
    return layer


def _seen(make: _Values):
    images = [make.tensor(*IMAGE).sigmoid() for _ in range(2)]
    yield tuple(images), (torch.full((1, 2, *IMAGE[2:]), LARGEST_PIXEL_TERMS),) * 2


def _mix(make: _Values):
    images = [make.tensor(*IMAGE).sigmoid() for _ in range(2)]
    maps = make.tensor(1, 4, *IMAGE[2:], dtype=torch.float32)
    yield (*images, maps), LARGEST_PIXEL_TERMS + maps[:, 3:].abs()


CASES = {'norm_linear': _norm_linear, 'mlp': _mlp, 'norm_linear_mlp': _norm_linear_mlp,
         'depthwise': _depthwise,
         'depthwise_records': _depthwise_records, 'conv': _conv, 'layer_norm': _layer_norm,
         'concat_linear': _concat_linear, 'pair': _pair, 'guide': _guide,
         'interleave': _interleave, 'seen': _seen, 'mix': _mix}
OPERATIONS = tuple(CASES)


def _exact(thing):
    """A tensor or module in float64, of the same values."""
    if isinstance(thing, nn.Module):
        thing = copy.deepcopy(thing).double()
        if hasattr(thing, 'dtype'):
            thing.dtype = None
        return thing
    if isinstance(thing, (list, tuple)):
        return [_exact(part) for part in thing]
    if isinstance(thing, torch.dtype):
        return torch.float64
    return thing.double() if isinstance(thing, torch.Tensor) else thing


def _moved(thing, device: str):
    """A copy of a tensor, a module or a list of these on a device; anything else as it is."""
    if isinstance(thing, (list, tuple)):
        return [_moved(part, device) for part in thing]
    return copy.deepcopy(thing).to(device) if isinstance(thing,
                                                         (nn.Module, torch.Tensor)) else thing


def _flat(results) -> torch.Tensor:
    """One tensor or several as one float64 vector on the CPU."""
    results = [results] if isinstance(results, torch.Tensor) else results
    return torch.cat([result.double().cpu().flatten() for result in results])
