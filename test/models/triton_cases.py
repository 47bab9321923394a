# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the loop in float64.

`test_triton.py` runs this file in a process of its own,
because the interpreter must be chosen before triton is imported; on a GPU it runs as it is.
"""

import os

import pytest
import torch
from triton import jit, language

from diffmf_ros.models import scan
from diffmf_ros.models.kernels import reference, triton

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
KERNEL_TOLERANCE = 5e-5  # of the mean magnitude


@pytest.fixture(autouse=True)
def shipped_width(monkeypatch):
    """Let a program of the interpreter, which walks them one by one, carry more channels.

    Returns how many they are in the product.
    """
    shipped = triton_scan().CARRY_CHANNELS
    if INTERPRETED:
        monkeypatch.setattr(triton_scan(), 'CARRY_CHANNELS', 32)
    return shipped


def random(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step_sizes(*shape, wide):
    """Step sizes as performance.md has them.

    Of a fresh network, up to 0.67, or of a trained one, up to 9.3.
    """
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(7))
    return torch.exp(uniform * 9.0 - 6.8) if wide else torch.exp(uniform * 6.5 - 6.9)


def assert_equal(found, inputs, expected, *, products=0.0):
    """Inputs are exact in float64, so what is left is 5e-5 of the mean magnitude, what shortened
    factors of matrix
    products explain (products, like expected), and the rounding of the output.
    """
    assert found.dtype == inputs.dtype and found.shape == expected.shape
    ulps = {torch.float32: 0.0, torch.float16: 0.5,
            torch.bfloat16: 1.0 if INTERPRETED else 0.5}[found.dtype]
    # the interpreter cuts off to bfloat16
    rounding = ulps * torch.finfo(found.dtype).eps * expected.abs()
    allowed = KERNEL_TOLERANCE * expected.abs().mean() + products + 1.01 * rounding
    excess = ((found.double().cpu() - expected).abs() / allowed).max().item()
    assert excess <= 1, f'{excess:.2f} times the allowed error'


def image(height, width, channels, states, rank, *, batch=1, wide=False, dtype=torch.float32):
    """Inputs of ss2d whose step sizes have the wanted distribution over the channels."""
    u = random(batch, height, width, channels, seed=1, dtype=dtype)
    proj = random(batch, height, width, 4, rank + 2 * states, seed=2, dtype=dtype)
    steps = step_sizes(4, channels, wide=wide)
    bias = steps + torch.log(-torch.expm1(-steps))
    A = -torch.arange(1.0, states + 1).repeat(4, channels, 1)
    return u, proj, random(4, channels, rank, seed=3) * 0.5, bias, A, random(4, channels, seed=4)


def check_ss2d(inputs):
    expected = reference.ss2d(*(x.double() for x in inputs))
    with torch.inference_mode():
        found = scan.ss2d(*(x.to(DEVICE) for x in inputs), backend='triton')
    assert_equal(found, inputs[0], expected)


@pytest.mark.parametrize('height, width, channels, states, rank, batch, wide', [
    (1, 1, 16, 1, 1, 1, True),
    (3, 5, 20, 1, 2, 2, False),  # odd sides, channels that do not fill a block, a batch
    (2, 3, 140, 1, 4, 1, False),  # several blocks of channels
    (3, 2, 40, 6, 3, 1, True),  # states that are no power of two; two channels a thread
    (1, 2, 16, 17, 3, 1, False),  # one channel a thread
])
def test_ss2d_equals_the_loop(height, width, channels, states, rank, batch, wide):
    check_ss2d(image(height, width, channels, states, rank, batch=batch, wide=wide))


def short_chunks(monkeypatch):
    """Chunks of 8 tokens a state, half as many where there are few programs; tiles of 4 x 4."""
    for name in ('USUAL_CHUNK', 'LEAST_CHUNK'):
        monkeypatch.setattr(triton_scan(), name, 1)
    monkeypatch.setattr(triton_scan(), 'TILE', 4)


@pytest.mark.parametrize('height, width, states, batch', [
    (5, 9, 1, 1),  # tiles at both borders that are not whole, of odd sides
    (1, 8, 1, 1),
    (18, 1, 2, 1),
])
def test_ss2d_of_lines_longer_than_a_chunk_equals_the_loop(height, width, states, batch,
                                                           monkeypatch):
    short_chunks(monkeypatch)
    check_ss2d(image(height, width, 8, states, 1, batch=batch, wide=True))


@pytest.mark.parametrize('dtype, wide',
                         [(torch.float16, False), (torch.float16, True), (torch.bfloat16, True)])
def test_ss2d_takes_half_precision_and_keeps_float32_inside(dtype, wide):
    check_ss2d(image(2, 3, 20, 2, 2, wide=wide, dtype=dtype))


def test_ss2d_takes_extreme_step_sizes():
    u, proj, weight, bias, A, skip = image(2, 5, 16, 1, 2)
    check_ss2d((u, proj, weight * 40, bias, A * 16, skip))


@pytest.mark.parametrize('direction', range(4))
def test_each_direction_of_ss2d_alone(direction):
    # Given inputs whose other directions add nothing,
    u, proj, weight, bias, A, skip = image(2, 3, 8, 1, 2)
    alone = torch.arange(4) == direction
    proj[..., 2:] *= alone[:, None]  # B and C
    # then the sum is that direction.
    check_ss2d((u, proj, weight, bias, A, skip * alone[:, None]))


@pytest.mark.parametrize('length, channels, states, groups, dtype, wide, token_major', [
    (1, 4, 1, 1, torch.float32, False, False),
    (33, 6, 3, 2, torch.float32, True, False),  # two chunks
    (33, 6, 3, 2, torch.float32, False, True),
    (37, 40, 1, 1, torch.float16, True, True),
    (33, 8, 2, 1, torch.bfloat16, False, True),
    (10, 16, 18, 4, torch.float32, False, True),  # S4Fusion's two images in turn
])
def test_selective_scan_equals_the_loop(length, channels, states, groups, dtype, wide,
                                        token_major):
    u = random(2, channels, length, seed=1, dtype=dtype)
    delta = step_sizes(2, channels, length, wide=wide).to(dtype)
    B, C = (random(2, groups, states, length, seed=i, dtype=dtype) for i in (2, 3))
    if token_major:
        u, delta, B, C = (x.movedim(-1, 1).contiguous().movedim(1, -1) for x in (u, delta, B, C))
    A, D = -torch.arange(1.0, states + 1).repeat(channels, 1), random(channels, seed=4)
    inputs = u, delta, A, B, C, D
    expected = reference.selective_scan(*(x.double() for x in inputs), None, False)
    assert_equal(scan.selective_scan(*(x.to(DEVICE) for x in inputs), backend='triton'), u,
                 expected)


def test_selective_scan_adds_the_bias_before_softplus():
    u, delta, B, C = random(1, 5, 9, seed=1), random(1, 5, 9,
                                                     seed=2) * 4, *random(2, 1, 1, 2, 9, seed=3)
    inputs = u, delta, -random(5, 2, seed=4).abs(), B, C, None, random(5, seed=5)
    exact = [x if x is None else x.double() for x in inputs]
    given = [x if x is None else x.to(DEVICE) for x in inputs]
    found = scan.selective_scan(*given, delta_softplus=True, backend='triton')
    assert_equal(found, u, reference.selective_scan(*exact, True))


def test_carry_over_more_chunks_than_one_tile(monkeypatch, shipped_width):
    # Given 7 chunks and a carry that takes 4 at a time, of two blocks of channels,
    from diffmf_ros.models.kernels import triton_scan

    monkeypatch.setattr(triton_scan, 'CARRY_CHUNKS', 4)
    monkeypatch.setattr(triton_scan, 'CARRY_CHANNELS', shipped_width)
    u = random(1, shipped_width + 2, 200, seed=1)
    B, C = random(1, 1, 1, 200, seed=2), random(1, 1, 1, 200, seed=3)
    # and step sizes so small that a state outlives all of them,
    inputs = u, torch.full_like(u, 1e-3), -torch.ones(u.shape[1], 1), B, C, None, None
    expected = reference.selective_scan(*(x if x is None else x.double() for x in inputs), False)
    found = scan.selective_scan(*(x if x is None else x.to(DEVICE) for x in inputs),
                                backend='triton')
    assert_equal(found, u, expected)


@pytest.mark.parametrize('length, heads, head, states, directions, dtype, wide', [
    (1, 1, 4, 3, 2, torch.float32, False),
    (70, 2, 8, 6, 1, torch.float32, True),
    (70, 3, 4, 20, 2, torch.float32, False),
    (70, 2, 8, 5, 2, torch.float32, True),
    (70, 1, 20, 4, 2, torch.float16, True),
    (70, 2, 8, 5, 2, torch.bfloat16, False),
])
def test_ssd_equals_the_loop(length, heads, head, states, directions, dtype, wide):
    x = random(2, length, heads, head, seed=1, dtype=dtype)
    delta = step_sizes(2, length, heads, wide=wide).to(dtype)
    # B and C are slices of a wider projection, as in the networks.
    B, C = random(2, length, 2 * states + 1, seed=2, dtype=dtype)[..., 1:].chunk(2, dim=-1)
    inputs = x, delta, -torch.linspace(1, 16, heads), B, C
    expected = reference.ssd(*(t.double() for t in inputs), directions)
    found = scan.ssd(*(t.to(DEVICE) for t in inputs), directions=directions, backend='triton')
    # A tensor core cuts two factors of each term off to the 10 bits of TF32; the interpreter
    # multiplies in float32.
    terms = reference.ssd(x.double().abs(), delta.double(), inputs[2].double(), B.double().abs(),
                          C.double().abs(), directions)
    tf32 = 0.0 if INTERPRETED or dtype == torch.float32 else 2 * 2.0 ** -10
    assert_equal(found, x, expected, products=tf32 * terms)


def test_ssd_refuses_rates_of_tokens():
    x, delta, B = (torch.zeros(s, device=DEVICE) for s in ((2, 9, 2, 4), (2, 9, 2), (2, 9, 3)))
    with pytest.raises(scan.ScanError, match='one rate a head'):
        scan.ssd(x, delta, -torch.ones(2, 1, 2, device=DEVICE), B, B, backend='triton')


def test_ssd_in_spans_of_several_chunks(monkeypatch):
    # Given so few programs wanted that each walks several chunks of a long sequence,
    from diffmf_ros.models.kernels import triton_ssd

    monkeypatch.setattr(triton_ssd, 'ENOUGH_PROGRAMS', 1)
    x, B, C = random(1, 300, 1, 8, seed=1), random(1, 300, 4, seed=2), random(1, 300, 4, seed=3)
    inputs = x, step_sizes(1, 300, 1, wide=False), torch.tensor([-2.0]), B, C
    expected = reference.ssd(*(t.double() for t in inputs), 2)
    assert_equal(scan.ssd(*(t.to(DEVICE) for t in inputs), directions=2, backend='triton'), x,
                 expected)


@jit
def doubled(number):
    language.store(number, language.load(number) * 2)


@pytest.mark.skipif(not INTERPRETED, reason='only the interpreter looks for it')
def test_the_interpreter_tells_an_overflow():
    # That looks in a quicker way here (gpu_kernels.py).
    doubled[1,](number := torch.tensor(2 ** 29, dtype=torch.int32))
    assert number == 2 ** 30
    with pytest.raises(Exception, match='int32 overflow detected for operation mul'):
        doubled[1,](number)


def test_results_are_the_same_each_time():
    inputs = [x.to(DEVICE) for x in image(2, 3, 8, 1, 2, wide=True, dtype=torch.float16)]
    assert torch.equal(scan.ss2d(*inputs, backend='triton'), scan.ss2d(*inputs, backend='triton'))


def test_auto_takes_triton_first_with_gradients_too():
    u = torch.zeros(1, 2, 2, 8, device=DEVICE)
    assert scan.backend_for(u, 'ss2d') is triton
    u.requires_grad_()
    assert scan.backend_for(u, 'ss2d') is triton
    assert scan.backend_for(u, 'ss2d', 'triton') is triton


def test_too_many_states_and_other_types_are_refused():
    with pytest.raises(scan.ScanError, match='at most 64 states'):
        scan.backend_for(torch.zeros(1, device=DEVICE), 'ss2d', 'triton', states=65)
    with pytest.raises(scan.ScanError, match='float64'):
        scan.backend_for(torch.zeros(1, device=DEVICE, dtype=torch.float64), 'ss2d', 'triton')
    with pytest.raises(scan.ScanError, match='fewer than 2'):
        scan.backend_for(torch.zeros(1, device=DEVICE).expand(2**29), 'ss2d', 'triton')


def test_the_operators_can_be_traced_without_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        y = torch.ops.diffmf_ros.ss2d(
            *(mode.from_tensor(x) for x in image(3, 5, 20, 1, 2, dtype=torch.float16))
        )
    assert y.shape == (1, 3, 5, 20) and y.dtype == torch.float16


def triton_scan():
    """The module whose chunks are made short, so that few tokens are several of them."""
    from diffmf_ros.models.kernels import triton_scan

    return triton_scan


def gradients_of(scan_of, inputs, upstream):
    """scan_of(*inputs), and its gradients of all tensors among inputs, weighted by upstream."""
    inputs = [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]
    y = scan_of(*inputs)
    wanted = [x for x in inputs if isinstance(x, torch.Tensor)]
    found = torch.autograd.grad(y, wanted, upstream.to(y.device, y.dtype))
    return [x.detach().double().cpu() for x in (y, *found)]


def check_gradients(operation, inputs, upstream):
    """Compare result and gradients of the kernels with those of the loop in float64.

    A gradient is a sum of many terms of both signs: float32 loses 5e-5 of the mean magnitude
    of the gradient, and half precision rounds the result once more.
    """
    exact = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    expected = gradients_of(getattr(reference, operation), exact, upstream.double())
    given = [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in inputs]
    assert scan.backend_for(given[0], operation) is triton
    found = gradients_of(getattr(triton, operation), given, upstream)
    kinds = [x.dtype for x in inputs if isinstance(x, torch.Tensor)]
    kinds.insert(0, kinds[0])
    assert len(found) == len(expected)
    for i, (one, right, kind) in enumerate(zip(found, expected, kinds)):
        assert one.shape == right.shape and one.isfinite().all()
        steps = 2 if kind == torch.bfloat16 and INTERPRETED else 1
        rounding = 0 if kind == torch.float32 else steps * torch.finfo(kind).eps * right.abs()
        allowed = KERNEL_TOLERANCE * right.abs().mean() + rounding
        assert ((one - right).abs() <= allowed).all(), f'gradient {i - 1}'


@pytest.mark.parametrize(
    'height, width, channels, states, rank, batch, wide, dtype',
    [
        (2, 2, 8, 1, 2, 1, True, torch.bfloat16),
        (1, 2, 40, 3, 1, 1, False, torch.float32),  # two blocks of channels
        (9, 1, 8, 1, 1, 1, True, torch.float32),  # columns longer than a chunk, rows of one token
    ],
)
def test_gradients_of_ss2d_equal_those_of_the_loop(
    height, width, channels, states, rank, batch, wide, dtype, monkeypatch
):
    short_chunks(monkeypatch)
    inputs = image(height, width, channels, states, rank, batch=batch, wide=wide, dtype=dtype)
    check_gradients('ss2d', inputs, random(batch, height, width, channels, seed=9, dtype=dtype))


@pytest.mark.parametrize(
    'length, channels, states, groups, bias, skip',
    [
        (1, 4, 1, 1, False, False),
        (5, 6, 3, 2, True, True),
        (18, 8, 1, 1, False, True),  # three chunks
    ],
)
def test_gradients_of_selective_scan_equal_those_of_the_loop(
    length, channels, states, groups, bias, skip, monkeypatch
):
    short_chunks(monkeypatch)
    u, delta = random(2, channels, length, seed=1), random(2, channels, length, seed=5)
    if not bias:
        delta = step_sizes(2, channels, length, wide=True)
    B, C = (random(2, groups, states, length, seed=i) for i in (2, 3))
    inputs = (
        u,
        delta,
        -torch.arange(1.0, states + 1).repeat(channels, 1),
        B,
        C,
        random(channels, seed=4) if skip else None,
        random(channels, seed=6) if bias else None,
        bias,
    )
    check_gradients('selective_scan', inputs, random(2, channels, length, seed=9))
