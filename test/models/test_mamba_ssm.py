# SPDX-License-Identifier: Apache-2.0
"""The mamba_ssm backend on a stand-in for its extension that refuses what the extension refuses or
does wrongly."""

import sys
from types import ModuleType

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import mamba_ssm, reference  # noqa: E402

TOLERANCE = 5e-5  # of the mean magnitude
needs_extension = pytest.mark.skipif(mamba_ssm.unavailable() is not None,
                                     reason=f'no mamba_ssm: {mamba_ssm.unavailable()}')


def random(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The extension's forward by the loop, with its checks and the conditions of its fast path."""
    batch, channels, length = u.shape
    assert u.dtype == delta.dtype == B.dtype == C.dtype, 'expected one type of activations'
    assert all(p is None or (p.dtype == torch.float32 and p.stride(-1) == 1)
               for p in (A, D, delta_bias))
    assert all(x.stride(-1) == 1 for x in (u, delta, B, C)) and z is None
    assert length % 2048 == 0 and B.shape == C.shape and B.shape[0] == batch and B.shape[
        3] == length
    assert delta.shape == u.shape and channels % B.shape[1] == 0 and A.shape == (
        channels, B.shape[2])
    forward.delta = torch.nn.functional.softplus(
        delta + delta_bias[:, None]) if delta_softplus else delta
    real = [x if x is None else x.double() for x in (u, delta, A, B, C, D, delta_bias)]
    return reference.selective_scan(*real, delta_softplus).to(delta.dtype), None


def chunk_scan(x, dt, A, B, C, chunk_size):
    """mamba_chunk_scan_combined by the loop, with its conditions."""
    assert chunk_size & (chunk_size - 1) == 0 and A.dtype == torch.float32 and B.shape[
        2] == C.shape[2] == 1
    assert all(t.is_contiguous() for t in (x, dt, B, C)) and B.dtype == C.dtype == x.dtype
    return reference.ssd_scan(*(t.double() for t in (x, dt, A)), B[:, :, 0].double(),
                              C[:, :, 0].double()).to(x.dtype)


@pytest.fixture
def extension(monkeypatch):
    """Put the stand-ins in place."""
    stand_in, combined = ModuleType('selective_scan_cuda'), ModuleType('ssd_combined')
    stand_in.fwd, combined.mamba_chunk_scan_combined = forward, chunk_scan
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', stand_in)
    for name in ('mamba_ssm', 'mamba_ssm.ops', 'mamba_ssm.ops.triton'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, 'mamba_ssm.ops.triton.ssd_combined', combined)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    mamba_ssm._probe.cache_clear()
    yield
    mamba_ssm._probe.cache_clear()


def assert_equal(found, expected, dtype):
    assert found.dtype == dtype and found.shape == expected.shape
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
    allowed = TOLERANCE * expected.abs().mean() + 2 * rounding * (expected.abs()
                                                                  + expected.abs().mean())
    assert ((found.double().cpu() - expected).abs() <= allowed).all()


def scan_inputs(length, dtype, groups=2):
    u, delta = (random(2, 6, length, seed=i, dtype=dtype) for i in (0, 1))
    B, C = (random(2, groups, 3, length, seed=i, dtype=dtype) for i in (2, 3))
    return u, delta, -random(6, 3, seed=4).abs(), B, C, random(6, seed=5), random(6, seed=6)


@pytest.mark.usefixtures('extension')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('token_major', [False, True])
def test_selective_scan_matches_extension(token_major, dtype):
    """Selective scan keeps the contract of the extension."""
    # Given a length that is no multiple of 2,048, in either storage,
    u, delta, A, B, C, D, bias = inputs = scan_inputs(37, dtype)
    expected = reference.selective_scan(*(x.double() for x in inputs), True)
    if token_major:
        u, delta, B, C = (x.movedim(-1, 1).contiguous().movedim(1, -1) for x in (u, delta, B, C))
    # when it is scanned, then the stand-in accepts it and the padding is gone.
    assert_equal(mamba_ssm.selective_scan(u, delta, A, B, C, D, bias, True), expected, dtype)


@pytest.mark.usefixtures('extension')
@pytest.mark.parametrize('softplus', [False, True])
def test_padding_keeps_the_state(softplus):
    """Padding leaves the state as it is."""
    u, delta, A, B, C, D, bias = scan_inputs(37, torch.float16)
    mamba_ssm.selective_scan(u, delta.abs(), A, B, C, D, bias * 100, softplus)
    assert forward.delta.shape[-1] == 2048 and (forward.delta[..., 37:] == 0).all()


@pytest.mark.usefixtures('extension')
def test_mixed_types_widen():
    """Mixed types are brought to the widest."""
    u, delta, A, B, C, D, bias = inputs = scan_inputs(5, torch.float16)
    expected = reference.selective_scan(*(x.double() for x in inputs), True)
    found = mamba_ssm.selective_scan(u, delta.float(), A.double(), B, C, D.double(), bias.double(),
                                     True)
    assert_equal(found, expected, torch.float16)


@pytest.mark.usefixtures('extension')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('height, width, channels, states, rank',
                         [(1, 1, 4, 1, 1), (5, 7, 6, 2, 3), (4, 3, 8, 1, 1)])
def test_ss2d_folds_the_directions_into_groups(height, width, channels, states, rank, dtype):
    u, proj = random(2, height, width, channels, seed=1), random(2, height, width, 4,
                                                                 rank + 2 * states, seed=2)
    parameters = (random(4, channels, rank, seed=3) * 0.3, random(4, channels, seed=4) - 1,
                  -random(4, channels, states, seed=5).abs() - 0.1, random(4, channels, seed=6))
    inputs = u.to(dtype), proj.to(dtype), *parameters
    assert_equal(mamba_ssm.ss2d(*inputs), reference.ss2d(*(x.double() for x in inputs)), dtype)


@pytest.mark.usefixtures('extension')
@pytest.mark.parametrize('directions', [1, 2])
def test_ssd_scans_back_as_batch(directions):
    """SSD scans the way back as a second sequence."""
    x, delta, A = random(2, 9, 2, 4, seed=1), random(2, 9, 2,
                                                     seed=2).abs(), -torch.tensor([1.0, 16.0])
    B, C = random(2, 9, 6, seed=3).chunk(2, dim=-1)
    expected = reference.ssd(*(t.double() for t in (x, delta, A, B, C)), directions)
    assert_equal(mamba_ssm.ssd(x, delta, A, B, C, directions), expected, torch.float32)


@pytest.mark.usefixtures('extension')
def test_ssd_refuses_rates_of_tokens():
    """A of another shape than one rate a head is refused."""
    x, delta, B = torch.zeros(2, 9, 2, 4), torch.zeros(2, 9, 2), torch.zeros(2, 9, 3)

    with pytest.raises(scan.ScanError, match='one rate a head'):
        mamba_ssm.ssd(x, delta, -torch.ones(2, 1, 2), B, B, 1)


@pytest.mark.parametrize('error',
                         [ImportError('libcudart.so.11.0'), RuntimeError('half installed'),
                          OSError('undefined symbol: _ZN2at'), AttributeError('fwd'),
                          ModuleNotFoundError('a loader says no')])
def test_import_failure_is_a_reason(monkeypatch, error):
    """An extension that cannot be imported is a reason."""
    def fail(name):
        raise error

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(mamba_ssm, 'import_module', fail)
    mamba_ssm._probe.cache_clear()
    try:
        expected = f'selective_scan_cuda cannot be imported: {type(error).__name__}: {error}'
        assert mamba_ssm.unavailable() == expected and not hasattr(mamba_ssm, 'ssd')
        assert mamba_ssm.missing() == (expected,
                                       expected.replace(*('selective_scan_cuda',
                                                          mamba_ssm.CHUNK_SCAN[0])))
    finally:
        mamba_ssm._probe.cache_clear()


@pytest.mark.usefixtures('extension')
def test_scan_remains_without_triton(monkeypatch):
    """Without the Triton kernels the scan remains."""
    # Given a package whose Triton kernels cannot be imported,
    monkeypatch.setitem(sys.modules, 'mamba_ssm.ops.triton.ssd_combined', None)
    # then it runs what it can and has no ssd, so that another backend takes that.
    assert mamba_ssm.unavailable() is None and not hasattr(mamba_ssm,
                                                           'ssd') and len(mamba_ssm.missing()) == 1


@pytest.mark.parametrize('shape, states, expected', [
    ((1, 64, 307_200), 256, None),
    ((1, 64, 2048), 257, 'at most 256 states'),
    ((1, 70_000, 64), 1, 'channels'),
    ((1, 24, 32, 20_000), 1, 'channels'),
    ((4, 128, 2 ** 22), 1, '2^31'),
    ((1, 1024, 2048, 256), 1, '2^31'),  # of four directions
    ((1, 240, 320, 128), 1, None),
    ((1, 76_800, 4, 32), 64, None),
    ((1, 4_200_000, 1, 4), 16, 'chunks'),
])
def test_limits_of_the_extension(shape, states, expected):
    found = mamba_ssm.beyond_limits(shape, states)
    assert found is None if expected is None else expected in found


def test_tensors_elsewhere_are_refused():
    assert 'not torch.float32 on cpu' in mamba_ssm.refuses(torch.zeros(1), states=1)


@needs_extension
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('length', [37, 2048, 5000])
def test_the_extension_equals_the_loop(length, dtype):
    inputs = scan_inputs(length, dtype)
    expected = reference.selective_scan(*(x.double() for x in inputs), True)
    *rest, D, bias = (x.cuda() for x in inputs)
    assert_equal(scan.selective_scan(*rest, D, bias, True, backend='mamba_ssm'), expected, dtype)
