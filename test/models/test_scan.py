# SPDX-License-Identifier: Apache-2.0
"""Every fast scan equals the loop over the sequence, forward and in every gradient."""

from functools import partial

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import cpu, portable, reference  # noqa: E402
from diffmf_ros.models.kernels.composed import scan_order  # noqa: E402

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
KERNEL_TOLERANCE = 5e-5  # float32 sums in another order, up to 12 states
needs_kernel = pytest.mark.skipif(cpu.unavailable() is not None,
                                  reason=f'no compiled kernel: {cpu.unavailable()}')


def random(*shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def with_gradients(function, inputs):
    """Return the output of function and the gradient of every input under one random weighting."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    (output * random(*output.shape, dtype=output.dtype, seed=99)).sum().backward()
    return [output.detach(), *(x.grad for x in inputs)]


def assert_equal(found, expected, tolerance):
    assert len(found) == len(expected)
    for index, (f, e) in enumerate(zip(found, expected)):
        assert f.shape == e.shape
        error, scale = (f - e).abs().max().item(), e.abs().mean().item()
        assert error <= tolerance * scale, (f'tensor {index}: off by {error:.2e} at a mean '
                                            f'magnitude of {scale:.2e}')


def scan_inputs(length, dtype, wide):
    """Inputs of a scan: step sizes of a fresh network, or as wide as those of a trained one."""
    b, g, e, n = 2, 2, 3, 5
    u, B, C = (random(b, length, *s, dtype=dtype, seed=i) for i,
               s in enumerate([(g, e), (g, n), (g, n)]))
    spread = 9.0 if wide else 0.1
    delta = random(b, length, g, e, dtype=dtype, seed=3).abs() * spread / 3 + 1e-4
    A = -torch.arange(1, n + 1, dtype=dtype).repeat(g, e, 1)
    return u, delta, A, B, C


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('wide', [False, True], ids=['fresh', 'wide'])
@pytest.mark.parametrize('length', [1, 2, 3, 37, 64, 101])
def test_portable_scan_equals_the_loop(length, wide, dtype):
    inputs = scan_inputs(length, dtype, wide)
    exact = with_gradients(reference.scan, [x.double() for x in inputs])
    assert_equal(with_gradients(portable.scan, inputs), [x.to(dtype) for x in exact],
                 TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('length', [1, 63, 64, 65, 150])
def test_portable_ssd_equals_the_loop(length, dtype):
    b, h, p, n = 2, 2, 4, 6
    x, B, C = (random(b, length, *s, dtype=dtype, seed=i) for i,
               s in enumerate([(h, p), (n,), (n,)]))
    delta = random(b, length, h, dtype=dtype, seed=4).abs() * 0.1
    A = -torch.tensor([1.0, 16.0], dtype=dtype)
    exact = with_gradients(reference.ssd_scan, [t.double() for t in (x, delta, A, B, C)])
    found = with_gradients(portable.ssd_scan, [x, delta, A, B, C])
    assert_equal(found, [t.to(dtype) for t in exact], TOLERANCE[dtype])


def ss2d_inputs(height, width, channels, states, dtype, batch=2, rank=2):
    shapes = [(batch, height, width, channels), (batch, height, width, 4, rank + 2 * states),
              (4, channels, rank), (4, channels), (4, channels, states), (4, channels)]
    u, proj, weight, bias, A, skip = (random(*s, dtype=dtype, seed=i) for i,
                                      s in enumerate(shapes))
    return u, proj, weight, bias - 2, -A.abs() - 0.1, skip


@pytest.mark.parametrize('directions', [1, 2])
def test_two_ssd_at_once(directions, monkeypatch):
    """Two sequences are scanned as one in training on a GPU, with the same result."""
    # given two sequences with rates of their own
    def sequence(seed):
        x = random(2, 70, 3, 4, dtype=torch.float32, seed=seed)
        delta = random(2, 70, 3, dtype=torch.float32, seed=seed + 1).sigmoid()
        B, C = (random(2, 70, 5, dtype=torch.float32, seed=seed + i) for i in (2, 3))
        return x, delta, -random(3, dtype=torch.float32, seed=seed + 4).abs(), B, C

    pair = sequence(1), sequence(11)
    for x, *_ in pair:
        x.requires_grad_()
    expected = [scan.ssd(*one, directions=directions, backend='portable') for one in pair]
    # when they are scanned as on a GPU
    monkeypatch.setattr(scan.kernels, 'device_type', lambda tensor: 'cuda')
    found = scan.ssd_of_two(*pair, directions=directions, backend='portable')
    # then they are equal up to the rounding of the products
    for one, right in zip(found, expected):
        torch.testing.assert_close(one, right, rtol=1e-5, atol=1e-5)


def test_frozen_ssd_stays_two(monkeypatch):
    """Two sequences that need no gradients are scanned one by one where gradients are enabled."""
    # given a GPU, whose kernel for inference reads A as one rate a head
    taken = []
    monkeypatch.setattr(scan.kernels, 'device_type', lambda tensor: 'cuda')
    monkeypatch.setattr(scan, 'ssd', lambda x, delta, A, *others, **options: taken.append(A))
    # when sequences of a frozen network come
    first = [torch.ones(shape) for shape in ((1, 5, 3, 4), (1, 5, 3), 3, (1, 5, 2), (1, 5, 2))]
    second = [2 * tensor for tensor in first]
    scan.ssd_of_two(first, second, directions=1)
    # then each is scanned with its own A
    assert [A.tolist() for A in taken] == [[1, 1, 1], [2, 2, 2]]


@needs_kernel
@pytest.mark.parametrize('height, width, channels, states, batch',
                         [(1, 1, 16, 1, 1), (5, 7, 64, 1, 2), (9, 4, 72, 3, 1), (6, 6, 24, 12, 3),
                          (3, 33, 150, 1, 1)])
def test_compiled_ss2d_equals_the_loop(height, width, channels, states, batch):
    inputs = ss2d_inputs(height, width, channels, states, torch.float32, batch)
    exact = with_gradients(reference.ss2d, [x.double() for x in inputs])
    assert_equal(with_gradients(cpu.ss2d, inputs), [x.float() for x in exact], KERNEL_TOLERANCE)


@needs_kernel
def test_compiled_ss2d_takes_extreme_step_sizes():
    u, proj, weight, bias, A, skip = ss2d_inputs(4, 5, 32, 1, torch.float32)
    inputs = u, proj, weight * 40, bias, A * 16, skip
    exact = reference.ss2d(*(x.double() for x in inputs)).float()
    assert_equal([cpu.ss2d(*inputs)], [exact], KERNEL_TOLERANCE)


@needs_kernel
@pytest.mark.parametrize('states', [1, 3])
def test_ss2d_bfloat16_rounds_ends_only(states):
    """Compiled SS2D rounds only what goes in and comes out in bfloat16."""
    u, proj, *parameters = ss2d_inputs(7, 9, 40, states, torch.float32)
    u, proj = u.bfloat16(), proj.bfloat16()
    exact = reference.ss2d(u.double(), proj.double(), *(x.double() for x in parameters))
    found = cpu.ss2d(u, proj, *parameters)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of its 8 bits, relative to each value.
    assert ((found.double() - exact).abs() <= exact.abs() * 2 ** -8 + 1e-4
            * exact.abs().mean()).all()


def storage(tensor, token_major):
    """The same b x d x l values, with the channels of a token beside each other."""
    return tensor.mT.contiguous().mT if token_major else tensor.contiguous()


def selective_scan_inputs(batch, channels, groups, states, length, *, wide, token_major):
    shapes = [(batch, channels, length)] * 2 + [(channels, states)] + [
        (batch, groups, states, length)] * 2 + [
        (channels,)] * 2
    u, delta, A, B, C, D, bias = (random(*s, dtype=torch.float32, seed=i) for i,
                                  s in enumerate(shapes))
    A = -torch.arange(1.0, states + 1).repeat(channels, 1) * (1 + 0.1 * A.abs())
    u, delta = (storage(x, token_major) for x in (u, delta * (3 if wide else 0.3)))
    return u, delta, A, B, C, D, bias - (0 if wide else 4)


@needs_kernel
@pytest.mark.parametrize('token_major', [False, True], ids=['channel-major', 'token-major'])
@pytest.mark.parametrize('wide', [False, True], ids=['fresh', 'wide'])
@pytest.mark.parametrize('batch, channels, groups, states, length',
                         [(1, 16, 1, 1, 1), (2, 48, 2, 5, 37), (1, 80, 1, 16, 100),
                          (2, 6, 3, 2, 70)])
def test_compiled_selective_scan_equals_the_loop(batch, channels, groups, states, length, wide,
                                                 token_major):
    inputs = selective_scan_inputs(batch, channels, groups, states, length, wide=wide,
                                   token_major=token_major)
    exact = with_gradients(lambda *x: reference.selective_scan(*x, True),
                           [x.double() for x in inputs])
    found = with_gradients(lambda *x: cpu.selective_scan(*x, True), inputs)
    assert_equal(found, [x.float() for x in exact], KERNEL_TOLERANCE)


@needs_kernel
def test_selective_scan_without_options():
    """Compiled selective scan without skip bias and softplus."""
    u, delta, A, B, C, _, _ = selective_scan_inputs(1, 20, 1, 3, 45, wide=False, token_major=False)
    inputs = u, delta.abs(), A, B, C
    exact = with_gradients(lambda *x: reference.selective_scan(*x, None, None, False),
                           [x.double() for x in inputs])
    found = with_gradients(lambda *x: cpu.selective_scan(*x, None, None, False), inputs)
    assert_equal(found, [x.float() for x in exact], KERNEL_TOLERANCE)


def ssd_inputs(batch, length, heads, width, states):
    shapes = (batch, length, heads, width), (batch, length,
                                             heads), (heads,), (batch, length, states), (
        batch, length, states)
    x, delta, A, B, C = (random(*s, dtype=torch.float32, seed=i) for i, s in enumerate(shapes))
    return x, delta.abs() * 0.1, -A.abs() * 8 - 0.5, B, C


@needs_kernel
@pytest.mark.parametrize('directions', [1, 2])
@pytest.mark.parametrize('batch, length, heads, width, states',
                         [(1, 1, 1, 4, 3), (2, 67, 2, 32, 64), (1, 40, 3, 20, 10),
                          (1, 33, 1, 64, 16), (3, 16, 2, 5, 40), (2, 170, 2, 16, 33)])
def test_compiled_ssd_equals_the_loop(batch, length, heads, width, states, directions):
    inputs = ssd_inputs(batch, length, heads, width, states)
    exact = with_gradients(lambda *x: reference.ssd(*x, directions), [x.double() for x in inputs])
    found = with_gradients(lambda *x: cpu.ssd(*x, directions), inputs)
    assert_equal(found, [x.float() for x in exact], KERNEL_TOLERANCE)


@needs_kernel
def test_compiled_ssd_takes_extreme_step_sizes():
    x, delta, A, B, C = ssd_inputs(1, 90, 2, 32, 20)
    delta[:, ::7] = 0  # the state stays as it is
    inputs = x, delta * 30, A, B, C
    exact = with_gradients(lambda *x: reference.ssd(*x, 2), [x.double() for x in inputs])
    found = with_gradients(lambda *x: cpu.ssd(*x, 2), inputs)
    assert_equal(found, [x.float() for x in exact], KERNEL_TOLERANCE)


def split_ssd(together, delta, A, directions, module):
    """SSD of 2 heads x 32 and 16 states on slices of one tensor, as one convolution gives them."""
    x, B, C = together.split([64, 16, 16], dim=-1)
    return module.ssd(x.unflatten(-1, (2, 32)), delta, A, B, C, directions)


@needs_kernel
@pytest.mark.parametrize('directions', [1, 2])
def test_ssd_backward_strided_inputs(directions):
    """Compiled SSD backward reads strided inputs and gradients."""
    x, delta, A, B, C = ssd_inputs(2, 50, 2, 32, 16)
    together = torch.cat((x.flatten(2), B, C), dim=-1)
    inputs = together, delta, A

    def channels_of_two_outputs(together, delta, A, module):
        y = split_ssd(together, delta, A, directions, module).flatten(2)
        return torch.cat((y, 2 * y[..., :5]), dim=-1)

    exact = with_gradients(partial(channels_of_two_outputs, module=reference),
                           [t.double() for t in inputs])
    found = with_gradients(partial(channels_of_two_outputs, module=cpu), inputs)
    assert_equal(found, [t.float() for t in exact], KERNEL_TOLERANCE)


@needs_kernel
@pytest.mark.parametrize('spread', ['expanded', 'transposed'])
def test_ssd_gradient_any_storage(spread):
    """Compiled SSD takes the gradient in any storage."""
    inputs = ssd_inputs(2, 21, 2, 8, 4)

    def weighted(*inputs, module):
        y = module.ssd(*inputs, 2)
        return y.sum((1, 3)) if spread == 'expanded' else y.permute(3, 2, 1, 0).contiguous()

    exact = with_gradients(partial(weighted, module=reference), [t.double() for t in inputs])
    found = with_gradients(partial(weighted, module=cpu), inputs)
    assert_equal(found, [t.float() for t in exact], KERNEL_TOLERANCE)


@needs_kernel
@pytest.mark.skipif(not cpu._ssd_wins(),
                    reason='SSD is left to the portable form on this processor')
def test_ssd_bfloat16_learns_in_float32():
    """Compiled SSD learns from bfloat16 in float32."""
    x, delta, A, B, C = ssd_inputs(1, 40, 2, 16, 8)
    rounded = [x.bfloat16(), delta, A, B.bfloat16(), C.bfloat16()]
    dy = random(*x.shape, dtype=torch.bfloat16, seed=9)
    results = []
    for inputs in (rounded, [t.float() for t in rounded]):
        inputs = [t.requires_grad_() for t in inputs]
        y = cpu.ssd(*inputs, 2)
        results.append([y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))])
    assert [t.dtype for t in results[0]] == [t.dtype for t in (x.bfloat16(), *rounded)]
    assert all(torch.equal(half, full.to(half.dtype)) for half, full in zip(*results))


@needs_kernel
def test_ssd_wide_heads_use_portable():
    """Compiled SSD leaves wide heads to the portable form."""
    inputs = ssd_inputs(1, 20, 1, 65, 4)
    found = with_gradients(lambda *x: cpu.ssd(*x, 2), inputs)
    assert_equal(found, with_gradients(lambda *x: portable.ssd(*x, 2), inputs), 0)


@needs_kernel
def test_compiled_ssd_reads_strided_bfloat16():
    x, delta, A, B, C = ssd_inputs(2, 50, 2, 32, 16)
    together = torch.cat((x.flatten(2), B, C), dim=-1).bfloat16()  # as one convolution gives them
    x, B, C = together.split([64, 16, 16], dim=-1)
    x = x.unflatten(-1, (2, 32))
    exact = reference.ssd(x.double(), delta.double(), A.double(), B.double(), C.double(), 2)
    found = cpu.ssd(x, delta, A, B, C, 2)
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2 ** -8 + 1e-4
            * exact.abs().mean()).all()


@needs_kernel
def test_kernels_ignore_thread_count():
    """Compiled kernels do not depend on the number of threads."""
    images = ss2d_inputs(8, 6, 128, 1, torch.float32, batch=3)
    sequences = selective_scan_inputs(2, 64, 1, 4, 70, wide=False, token_major=True)
    mixed = ssd_inputs(3, 40, 2, 16, 8)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([*with_gradients(cpu.ss2d, images),
                            *with_gradients(lambda *x: cpu.selective_scan(*x, True), sequences),
                            *with_gradients(lambda *x: cpu.ssd(*x, 2), mixed), cpu.ssd(*mixed, 2)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
def test_portable_ss2d_equals_the_loop(dtype):
    inputs = ss2d_inputs(5, 6, 8, 2, dtype)
    exact = with_gradients(reference.ss2d, [x.double() for x in inputs])
    assert_equal(with_gradients(portable.ss2d, inputs), [x.to(dtype) for x in exact],
                 TOLERANCE[dtype])


def test_selective_scan_mamba_ssm_shapes():
    """Selective scan takes the shapes of mamba_ssm."""
    b, d, g, n, length = 2, 6, 2, 5, 37
    u, delta = (random(b, d, length, dtype=torch.float64, seed=i) for i in (0, 1))
    A = -random(d, n, dtype=torch.float64, seed=2).abs()
    B, C = (random(b, g, n, length, dtype=torch.float64, seed=i) for i in (3, 4))
    D, bias = (random(d, dtype=torch.float64, seed=i) for i in (5, 6))

    def loop(u, delta, A, B, C, D, bias):
        state, steps = torch.zeros(b, d, n, dtype=u.dtype), []
        delta = torch.nn.functional.softplus(delta + bias[:, None])
        for t in range(length):
            Bt, Ct = (m[..., t].repeat_interleave(d // g, dim=1) for m in (B, C))
            state = torch.exp(delta[..., t, None] * A) * state + (delta * u)[..., t, None] * Bt
            steps.append((state * Ct).sum(-1) + D * u[..., t])
        return torch.stack(steps, -1)

    exact = with_gradients(loop, [u, delta, A, B, C, D, bias])
    for backend in ('reference', 'portable', 'auto'):
        found = with_gradients(
            partial(scan.selective_scan, delta_softplus=True, backend=backend),
            [u, delta, A, B, C, D, bias])
        assert_equal(found, exact, 1e-10)


@needs_kernel
@pytest.mark.parametrize('channels', [5, 16, 24, 40, 64, 128])
def test_layer_norm_equals_torch(channels):
    """Compiled layer norm equals torch in float64."""
    shapes = (3, 7, channels), (channels,), (channels,)
    x, weight, bias = (random(*s, dtype=torch.float32, seed=i) for i, s in enumerate(shapes))
    x = x + 3
    exact = torch.nn.functional.layer_norm(x.double(), (channels,), weight.double(), bias.double(),
                                           1e-5)
    assert_equal([cpu.layer_norm(x, weight, bias, 1e-5, torch.float32)], [exact.float()], 1e-5)
    rounded = cpu.layer_norm(x, weight, bias, 1e-5, torch.bfloat16).double()
    assert ((rounded - exact).abs() <= exact.abs() * 2 ** -8 + 1e-5).all()


@needs_kernel
def test_layer_norm_falls_to_torch():
    """Compiled layer norm leaves to torch what it does not know."""
    x, weight = torch.ones(2, 100), torch.ones(100)
    assert cpu.layer_norm(x, weight, weight, 1e-5, torch.float32) is None  # seven vectors
    assert cpu.layer_norm(x[:, :16], weight[:16], weight[:16], 1e-5, torch.float16) is None
    assert cpu.layer_norm(x[:, :16].requires_grad_(), weight[:16], weight[:16], 1e-5,
                          torch.float32) is None


def test_two_by_two_orders():
    """Orders of the two by two example."""
    assert scan_order(2, 2).tolist() == [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]


def test_unknown_backend_names_the_valid_ones():
    with pytest.raises(scan.ScanError, match='triton, mamba_ssm, cpu, portable, reference'):
        scan.backend_for(torch.zeros(1), 'ss2d', 'cuda')


@needs_kernel
def test_unsupported_type_is_reported():
    """Backend that cannot take the type says so."""
    with pytest.raises(scan.ScanError, match='float16'):
        scan.backend_for(torch.zeros(1, dtype=torch.float16), 'ss2d', 'cpu')


def test_wrong_shapes_are_refused():
    zeros = torch.zeros
    with pytest.raises(scan.ScanError, match='g dividing d'):
        scan.selective_scan(zeros(1, 5, 4), zeros(1, 5, 4), zeros(5, 2), zeros(1, 2, 2, 4),
                            zeros(1, 2, 2, 4))


@needs_kernel
def test_kernels_take_bfloat16_parameters():
    """Compiled kernels take parameters of a network cast to bfloat16."""
    u, proj, *parameters = ss2d_inputs(5, 6, 16, 1, torch.float32)
    parameters = [x.bfloat16() for x in parameters]
    assert torch.equal(cpu.ss2d(u, proj, *parameters),
                       cpu.ss2d(u, proj, *(x.float() for x in parameters)))
    x, delta, A, B, C = ssd_inputs(1, 20, 2, 16, 8)
    A = A.bfloat16()
    assert torch.equal(cpu.ssd(x, delta, A, B, C, 1), cpu.ssd(x, delta, A.float(), B, C, 1))
