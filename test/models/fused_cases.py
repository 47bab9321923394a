# SPDX-License-Identifier: Apache-2.0
"""The fused steps of the networks in Triton against their plain form in float64.

`test_fused.py` runs
this file in a process of its own, because the interpreter must be chosen before triton is
imported; on a GPU it runs as it is.
"""

import copy
import os

import pytest
import torch
from torch import nn

from diffmf_ros.models import diffmf, fused, mixing, refinefuse, s4fusion
from diffmf_ros.models.blocks import Conv2d, LayerNorm, Linear, RMSNorm, TokenConv2d, depthwise
from diffmf_ros.models.kernels import composed, plain, triton

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
KINDS = torch.float32, torch.float16, torch.bfloat16


def values(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def module(made, *, dtype=torch.float32):
    """The module with random parameters of a size that keeps its output near 1."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(made.named_parameters()):
            inputs = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            of_norm = name == 'weight' and inputs == 1
            parameter.copy_(values(*parameter.shape, seed=50 + i) * inputs ** -0.5 + of_norm)
    return made.to(dtype).requires_grad_(False)


def exact(thing):
    """A tensor or module in float64, of the same values."""
    if isinstance(thing, nn.Module):
        return copy.deepcopy(thing).double()
    if isinstance(thing, tuple):
        return tuple(map(exact, thing))
    return thing.double() if isinstance(thing, torch.Tensor) else thing


def on_device(thing):
    if isinstance(thing, tuple):
        return tuple(map(on_device, thing))
    return copy.deepcopy(thing).to(DEVICE) if isinstance(thing,
                                                         (nn.Module, torch.Tensor)) else thing


def check(operation, inputs, *, half, like=None):
    """Compare an operation with its plain form in float64.

    half: the type in which the plain form rounds on the way. Its products have factors that are
    rounded once each; the result is rounded once more.
    """
    with torch.inference_mode():
        expected = getattr(plain, operation)(*map(exact, inputs))
        found = getattr(triton, operation)(*map(on_device, inputs))
    expected, found = ([t] if isinstance(t, torch.Tensor) else t for t in (expected, found))
    assert len(found) == len(expected)
    for one, right in zip(found, expected):
        assert one.shape == right.shape
        # The interpreter cuts off to bfloat16, a GPU rounds.
        steps = 2 if half == torch.bfloat16 and INTERPRETED else 1
        size = right.abs().mean().item()
        off = (one.double().cpu() - right).abs()
        limit = 2e-5 * size + 2.5 * steps * torch.finfo(half).eps * (size + right.abs())
        if half == torch.float32:
            limit = 2e-5 * (size + right.abs())
        assert (off <= limit).all(), f'{(off / limit).max().item():.2f} times the allowed error'
    return found


def open_by(blocks, monkeypatch):
    """Let the opening of thermal have so many blocks a side.

    The usual 17 take the interpreter long.
    """
    from diffmf_ros.models.kernels import triton_mixing

    for module_of in (mixing, triton_mixing):
        monkeypatch.setattr(module_of, 'GROUND', blocks)


def test_triton_runs_the_operations():
    with torch.inference_mode():
        x = torch.zeros(1, 1, 1, 16, device=DEVICE)
        assert {fused.form_of(operation, x) for operation in fused.OPERATIONS} == {triton}
    # while gradients are enabled
    assert {name for name in fused.OPERATIONS if fused.form_of(name, x) is triton} == set(
        triton.WITH_GRADIENTS)


@pytest.mark.parametrize('channels, outs, kind, norm, gate, bias, residual', [
    (32, 64, torch.float16, 'layer', None, False, False),  # into a scan
    (72, 48, torch.float16, 'layer', 'last', False, True),  # behind a scan
    (20, 40, torch.bfloat16, 'rms', 'first', True, True),
    (300, 24, torch.float16, 'layer', 'first', True, False),  # wider than a program
    (140, 70, torch.float32, 'rms', 'last', False, True),
    (24, 33, torch.float32, None, None, True, True),
])
def test_norm_linear(channels, outs, kind, norm, gate, bias, residual):
    shape = 2, 3, 7
    norms = {'layer': lambda: LayerNorm(channels), 'rms': lambda: RMSNorm(channels, eps=1e-5),
             None: lambda: None}
    made = norms[norm]()
    inputs = (values(*shape, channels, seed=1) + 0.5, made and module(made),
              module(Linear(channels, outs, bias=bias), dtype=kind),
              values(*shape, channels, seed=2, dtype=kind) if gate else None, gate == 'first',
              values(2, 1, 1, outs, seed=3, dtype=kind) if residual else None,
              values(*shape, outs, seed=4) if residual else None,
              (values(*shape, channels, seed=5, dtype=kind), values(4, seed=6), 2)
              if gate == 'first' else None)

    y, = check('norm_linear', inputs, half=kind)

    assert y.dtype == (torch.float32 if residual else kind)


@pytest.mark.parametrize('channels, outs, kind, stream, gate', [
    (40, 20, torch.float16, torch.float16, False),
    (32, 16, torch.bfloat16, torch.float32, True),
    (130, 24, torch.float16, torch.float32, False),  # wider than a program: in two kernels
    (24, 12, torch.float32, torch.float32, True),
])
def test_norm_linear_mlp(channels, outs, kind, stream, gate):
    shape, hidden = (2, 3, 7), 2 * outs
    layers = (module(Linear(*sizes), dtype=kind) for sizes in ((outs, hidden), (hidden, outs)))
    inputs = (values(*shape, channels, seed=1, dtype=kind), module(LayerNorm(channels)),
              module(Linear(channels, outs, bias=False), dtype=kind),
              values(*shape, channels, seed=2, dtype=kind) if gate else None,
              values(*shape, outs, seed=4, dtype=stream), module(LayerNorm(outs)), *layers)

    y, = check('norm_linear_mlp', inputs, half=kind)

    assert y.dtype == stream


@pytest.mark.parametrize('channels, hidden, kind, stream', [
    (32, 64, torch.float16, torch.float32),
    (20, 70, torch.bfloat16, torch.float32),
    (24, 48, torch.float32, torch.float32),
    (130, 20, torch.float16, torch.float16),  # wider than a program: in two kernels
])
def test_mlp(channels, hidden, kind, stream):
    layers = (module(Linear(*sizes), dtype=kind)
              for sizes in ((channels, hidden), (hidden, channels)))
    inputs = values(2, 3, 13, channels, dtype=stream), module(LayerNorm(channels)), *layers

    y, = check('mlp', inputs, half=kind)

    assert y.dtype == stream


@pytest.mark.parametrize('size, channels, kind, bias, silu', [
    ((2, 5, 7), 64, torch.float16, True, True),
    ((1, 1, 1), 20, torch.bfloat16, False, False),  # one pixel
    ((2, 9, 1), 24, torch.float32, True, False),  # one column
    ((2, 1, 9), 200, torch.float16, False, True),  # one line, wider than a program
])
@pytest.mark.parametrize('storage', ['slice', 'channels first', 'difference'])
def test_depthwise(size, channels, kind, bias, silu, storage):
    conv, minus = module(depthwise(channels, bias=bias), dtype=kind), None
    if storage == 'channels first':
        x = values(size[0], channels, *size[1:], dtype=kind).permute(0, 2, 3, 1)
    else:  # a part of a wider projection
        x = values(*size, 2 * channels + 3, dtype=kind)[..., 3:channels + 3]
    if storage == 'difference':
        x, minus = values(2 * size[0], *size[1:], channels, dtype=torch.float32).chunk(2)

    y, = check('depthwise', (x, minus, conv, silu), half=kind)

    assert y.dtype == kind and y.is_contiguous()


@pytest.mark.parametrize('size, channels, record, kind, weights', [
    ((1, 6, 11), 64, 4, torch.float16, 1),
    ((4, 3, 5), 20, 5, torch.bfloat16, 2),
    ((2, 7, 3), 24, 3, torch.float32, 2),
    ((1, 4, 3), 150, 36, torch.float16, 1),  # S4Fusion's records; wider than a program
])
def test_depthwise_records(size, channels, record, kind, weights):
    x = values(*size, 2 * channels, dtype=kind)[..., :channels]
    matrices = (values(4, record, channels, seed=i, dtype=kind) * channels ** -0.5
                for i in range(weights))
    inputs = x, module(depthwise(channels, bias=True), dtype=kind), *matrices

    y, *records = check('depthwise_records', inputs, half=kind)

    assert {t.dtype for t in (y, *records)} == {kind} and len(records) == weights


@pytest.mark.parametrize('size, channels, outs, kind, made, stride, mirror, slope', [
    ((2, 7, 9), 20, 40, torch.float16, TokenConv2d, 1, False, 0.2),
    ((2, 6, 10), 70, 24, torch.bfloat16, TokenConv2d, 2, False, None),  # wider than a program
    ((1, 5, 3), 2, 70, torch.float32, Conv2d, 1, True, 0.2),  # of pixels
    ((2, 8, 4), 24, 24, torch.float16, Conv2d, 2, True, 0.2),
])
@pytest.mark.parametrize('residual', [False, True])
def test_conv(size, channels, outs, kind, made, stride, mirror, slope, residual):
    layer = module(made(channels, outs, 3, stride=stride, padding=1,
                        padding_mode='reflect' if mirror else 'zeros'), dtype=kind)
    layer = layer.to(memory_format=torch.channels_last)
    x, more = values(*size, channels), values(size[0], *(-(-side // stride) for side in size[1:]),
                                              outs, seed=1)
    if made is Conv2d:
        x, more = (t.permute(0, 3, 1, 2) for t in (x, more))

    y, = check('conv', (x, layer, slope, more if residual else None, None), half=kind)

    assert y.dtype == (torch.float32 if residual else kind)


@pytest.mark.parametrize('channels, kind',
                         [(20, torch.float16), (64, torch.float32), (300, torch.bfloat16)])
def test_layer_norm(channels, kind):
    x = values(2, channels, 3, 5, dtype=kind).permute(0, 2, 3, 1) + 1

    y, = check('layer_norm', (x, module(LayerNorm(channels))), half=kind)

    assert y.dtype == kind


@pytest.mark.parametrize('channels, outs, kind',
                         [(20, 40, torch.float16), (150, 24, torch.bfloat16)])
def test_concat_linear(channels, outs, kind):
    """Maps that lie in wider ones, as the scans of two modalities give them."""
    columns, row = values(2, 3, 10, channels), values(2, 3, 10, channels, seed=1, dtype=kind)
    maps = columns[:, :, ::2], columns[:, :, 1::2], row[:, :, :5], row[:, :, 5:]

    check('concat_linear', (maps, module(Linear(4 * channels, outs), dtype=kind)), half=kind)


@pytest.mark.parametrize('pairing, dtype', [('batch', torch.float16), ('columns', torch.float32),
                                            ('row', torch.float32)])
def test_pair(pairing, dtype):
    a, b = values(2, 3, 5, 7), values(2, 7, 3, 5, seed=1).permute(0, 2, 3, 1)
    with torch.inference_mode():
        found = triton.pair(a.to(DEVICE), b.to(DEVICE), pairing, dtype)
    assert torch.equal(found.cpu(), plain.pair(a, b, pairing, dtype))


@pytest.mark.parametrize('channels, kind', [(20, torch.float16), (140, torch.float32)])
def test_guide(channels, kind):
    own = values(2, 2, 3, 5, channels, seed=1)

    found = check('guide', (values(2, 3, 5, channels),
                            module(Linear(channels, channels), dtype=kind), *own),
                  half=kind)

    assert [y.dtype for y in found] == [torch.float32] * 2


@pytest.mark.parametrize('make', [
    lambda: diffmf.network(width=16, rounds=1, depth=1, mlp_ratio=2.0, levels=2),
    lambda: s4fusion.network(width=16, states=2, cross_states=2, cross_blocks=1, mixing=True,
                             unused=False),
    lambda: refinefuse.network(widths=(8, 8, 32, 32))], ids=['diffmf', 's4fusion', 'refinefuse'])
def test_whole_networks(make, monkeypatch):
    """A network gives the same picture with and without fused steps.

    The scans, slow in the interpreter, are plain.
    """
    for scan in ('ss2d', 'ssd', 'selective_scan'):
        monkeypatch.delattr(triton, scan)
    open_by(3, monkeypatch)
    made = make().eval()
    sides = made.sides.padded(1), made.sides.padded(13)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):  # neutral starts would hide a branch
            parameter += 0.02 * values(*parameter.shape, seed=i)
    pair = values(1, 1, *sides, seed=1).sigmoid(), values(1, 1, *sides, seed=2).sigmoid()
    with torch.inference_mode():
        expected = exact(made)(*map(exact, pair))
        found = on_device(made)(*map(on_device, pair)).double().cpu()

    assert (found - expected).abs().max() <= 2e-5


@pytest.mark.parametrize('size, kind, opening', [
    ((13, 21), torch.float32, 3), ((40, 67), torch.float16, 5)])
def test_first_and_last_step(size, kind, opening, monkeypatch):
    """Sizes that are no multiple of a block, of fewer and of more blocks than the opening."""
    open_by(opening, monkeypatch)
    pair = [values(2, 1, *size, seed=i, dtype=kind).sigmoid() for i in (1, 2)]
    # channels-last, as a convolution's on a GPU
    maps = values(2, *size, 4, seed=3).permute(0, 3, 1, 2)

    check('seen', pair, half=kind)
    fused_image, = check('mix', (*pair, maps), half=kind)

    assert fused_image.dtype == kind and fused_image.is_contiguous()


def test_rates_follow_their_parameter():
    logs = nn.Parameter(torch.zeros(3, device=DEVICE))
    with torch.inference_mode():
        assert fused.rates(logs) is fused.rates(logs)
    with torch.no_grad():
        logs += 1
        assert torch.equal(fused.rates(logs), -logs.exp())


@pytest.mark.parametrize('size, channels, states, rank, kind', [
    ((1, 3, 5), 20, 2, 3, torch.float16), ((2, 4, 1), 70, 3, 1, torch.float32)])
def test_interleaving_and_back(size, channels, states, rank, kind):
    us = values(2, *size, channels, dtype=kind).unbind()
    projs = values(2, *size, 4, rank + 2 * states, seed=1, dtype=kind).unbind()
    weight = values(4, channels, rank, seed=2)
    u, delta, B, C = composed.interleave(us, projs, weight)
    with torch.inference_mode():
        found = triton.interleave([x.to(DEVICE) for x in us], [x.to(DEVICE) for x in projs],
                                  weight.to(DEVICE))
        back = triton.separate(found[0], found[0].new_empty((*size, channels)))
    for one, right in zip(found, (u, delta, B, C)):
        torch.testing.assert_close(one.cpu(), right, rtol=1e-5, atol=1e-5)
    for one, right in zip(back, composed.separate(u, us[0])):
        torch.testing.assert_close(one.cpu(), right)


def gradients(operation, inputs, *, of):
    """Gradients of all tensors and parameters among inputs, for results weighted at random."""
    tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
    for module in (m for m in inputs if isinstance(m, nn.Module)):
        tensors += list(module.parameters())
    for tensor in tensors:
        tensor.requires_grad_()
    results = getattr(of, operation)(*inputs)
    results = [results] if isinstance(results, torch.Tensor) else results
    upstream = [values(*y.shape, seed=40 + i).to(y.device, y.dtype) * y.shape[-1] ** -0.5
                for i, y in enumerate(results)]
    return torch.autograd.grad(results, tensors, upstream)


def check_gradients(operation, inputs, *, half):
    """Compare gradients in the type `half` of the layers with those of the plain form in float64.

    A gradient of a weight is a sum over all tokens of products of two factors that are rounded.
    """
    expected = gradients(operation, list(map(exact, inputs)), of=plain)
    found = gradients(operation, list(map(on_device, inputs)), of=triton)
    assert len(found) == len(expected)
    for i, (one, right) in enumerate(zip(found, expected)):
        assert one.shape == right.shape and one.isfinite().all()
        steps = 2 if half == torch.bfloat16 and INTERPRETED else 1
        size = right.square().mean().sqrt()
        relative = 2e-5 if half == torch.float32 else 4 * steps * torch.finfo(half).eps
        excess = ((one.double().cpu() - right).abs() / (relative * (size + right.abs()))).max()
        assert excess <= 1, f'gradient {i}: {excess:.2f} times the allowed error'


@pytest.mark.parametrize('channels, outs, kind, stream, bias, residual', [
    (32, 70, torch.float16, torch.float32, False, False),  # into a scan
    (72, 32, torch.bfloat16, torch.bfloat16, False, True),  # behind a scan
    (20, 24, torch.float32, torch.float32, True, True),
])
def test_gradients_of_norm_linear(channels, outs, kind, stream, bias, residual):
    inputs = (values(2, 5, 9, channels, seed=1, dtype=stream) + 0.5, module(LayerNorm(channels)),
              module(Linear(channels, outs, bias=bias), dtype=kind), None, False, None,
              values(2, 5, 9, outs, seed=4) if residual else None)
    check_gradients('norm_linear', inputs, half=kind)


@pytest.mark.parametrize('channels, hidden, kind', [
    (32, 64, torch.float16), (20, 70, torch.bfloat16), (24, 48, torch.float32)])
def test_gradients_of_mlp(channels, hidden, kind):
    layers = (module(Linear(*sizes), dtype=kind)
              for sizes in ((channels, hidden), (hidden, channels)))
    inputs = values(2, 3, 13, channels), module(LayerNorm(channels)), *layers
    check_gradients('mlp', inputs, half=kind)


@pytest.mark.parametrize('size, channels, kind, bias, silu, minus', [
    ((2, 5, 7), 70, torch.float16, True, True, False),
    ((1, 1, 1), 20, torch.bfloat16, False, False, False),  # one pixel
    ((2, 9, 1), 24, torch.float32, True, False, True),  # one column
    ((1, 6, 5), 24, torch.float32, False, True, True),
])
def test_gradients_of_depthwise(size, channels, kind, bias, silu, minus):
    wider = values(*size, 2 * channels + 3, dtype=kind)
    inputs = (wider[..., 3:channels + 3], wider[..., :channels] if minus else None,
              module(depthwise(channels, bias=bias), dtype=kind), silu)
    check_gradients('depthwise', inputs, half=kind)


@pytest.mark.parametrize('size, channels, record, kind', [
    ((2, 6, 5), 64, 4, torch.float16), ((1, 7, 3), 20, 3, torch.float32)])
def test_gradients_of_depthwise_records(size, channels, record, kind):
    weight = values(4, record, channels, seed=3, dtype=kind) * channels ** -0.5
    inputs = values(*size, channels, dtype=kind), module(depthwise(channels), dtype=kind), weight
    check_gradients('depthwise_records', inputs, half=kind)


@pytest.mark.parametrize('size, channels, outs, kind, made, stride, slope', [
    ((2, 5, 4), 20, 24, torch.float16, TokenConv2d, 1, 0.2),
    ((1, 4, 6), 2, 20, torch.float32, Conv2d, 2, None),
])
def test_gradients_of_conv(size, channels, outs, kind, made, stride, slope):
    layer = module(made(channels, outs, 3, stride=stride, padding=1), dtype=kind)
    x = values(*size, channels, dtype=kind)
    x = x if made is TokenConv2d else x.permute(0, 3, 1, 2)
    check_gradients('conv', (x, layer, slope, None, None), half=kind)


def test_gradients_of_mix():
    # given sources that need none, and maps as a channels-last convolution gives them
    ir, vi = (values(2, 1, 13, 22, seed=i).sigmoid() for i in range(2))
    found = []
    for of, kind, device in ((plain, torch.float64, 'cpu'), (triton, torch.float32, DEVICE)):
        maps = values(2, 13, 22, 4, seed=3, dtype=kind).permute(0, 3, 1, 2).to(device)
        maps.requires_grad_()
        y = of.mix(ir.to(device, kind), vi.to(device, kind), maps)
        upstream = values(2, 1, 13, 22, seed=4, dtype=kind).to(device)
        found.append(torch.autograd.grad(y, maps, upstream)[0].cpu())
    torch.testing.assert_close(found[1].double(), found[0], rtol=1e-4, atol=1e-6)


def test_gradients_of_rates():
    logs = values(3, 5).requires_grad_()
    of_device = logs.detach().to(DEVICE).requires_grad_()
    rates = triton.rates(of_device)
    torch.testing.assert_close(rates.cpu(), -logs.exp())
    found, = torch.autograd.grad(rates.sum(), of_device)
    torch.testing.assert_close(found.cpu(), -logs.exp().detach())


def test_other_forms_with_gradients_are_plain():
    # given a gate, which has no kernels for its gradients
    inputs = (values(2, 3, 24), module(LayerNorm(24)), module(Linear(24, 8)), values(2, 3, 24),
              False, None, None)
    check_gradients('norm_linear', inputs, half=torch.float32)
