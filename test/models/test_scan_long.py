# SPDX-License-Identifier: Apache-2.0
"""The scans at the length of a 640x480 image at full resolution.

Errors must not grow along the sequence.
"""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.models.kernels import cpu, portable, reference  # noqa: E402

pytestmark = pytest.mark.slow

LENGTH = 640 * 480
TOLERANCE = 5e-5
needs_kernel = pytest.mark.skipif(cpu.unavailable() is not None,
                                  reason=f'no compiled kernel: {cpu.unavailable()}')


# Step sizes of a fresh network, and as wide as those of a trained one.
WIDTHS = {'fresh': 0.1, 'wide': 9.0}


@pytest.fixture(scope='module')
def both():
    """u, delta, A, B, C, D of a selective scan of two sequences, one for each of WIDTHS."""
    torch.manual_seed(0)
    u, delta = torch.randn(2, 1, 4, LENGTH)
    B, C = torch.randn(2, 1, 1, 2, LENGTH)
    A = -torch.tensor([[1.0, 2.0]]).repeat(4, 1)
    steps = torch.cat([delta.abs() * width / 3 + 1e-4 for width in WIDTHS.values()])
    return u.repeat(2, 1, 1), steps, A, B.repeat(2, 1, 1, 1), C.repeat(2, 1, 1, 1), torch.randn(4)


@pytest.fixture(params=range(len(WIDTHS)), ids=WIDTHS)
def number(request):
    return request.param


@pytest.fixture
def inputs(both, number):
    """Those of one of the sequences."""
    u, delta, A, B, C, D = both
    one = slice(number, number + 1)
    return u[one], delta[one], A, B[one], C[one], D


def relative_error(found, exact):
    return ((found - exact).abs().max() / exact.abs().mean()).item()


@pytest.fixture(scope='module')
def loop(both):
    """The loop over the sequences in float64, in NumPy: torch takes ten times as long a step."""
    u, delta, A, B, C, D = (x.double().numpy() for x in both)
    decays = np.exp(delta[:, :, None] * A[:, :, None]).transpose(3, 0, 1, 2).copy()
    states = ((delta * u)[:, :, None] * B).transpose(3, 0, 1, 2).copy()
    for before, decay, state in zip(states, decays[1:], states[1:]):
        state += decay * before
    found = np.einsum('lbcn,bnl->bcl', states, C[:, 0]) + D[:, None] * u
    # It is the reference, on as many tokens as that takes in little time.
    some = slice(5000)
    u, delta, B, C = (x.double()[..., some] for x in (both[0], both[1], both[3], both[4]))
    wanted = reference.selective_scan(u, delta, both[2].double(), B, C, both[5].double(), None,
                                      False)
    assert relative_error(torch.from_numpy(found[..., some]), wanted) < 1e-12
    return torch.from_numpy(found)


@pytest.fixture
def exact(loop, number):
    return loop[number:number + 1]


def test_portable_scan_equals_the_loop(inputs, exact):
    assert relative_error(portable.selective_scan(*inputs, None, False), exact) <= TOLERANCE


@needs_kernel
def test_compiled_scan_equals_the_loop(inputs, exact):
    assert relative_error(cpu.selective_scan(*inputs, None, False), exact) <= TOLERANCE


@needs_kernel
def test_long_gradients_equal_portable(inputs):
    """Compiled gradients equal the portable ones in float64."""
    weighting = torch.randn(1, 4, LENGTH)

    def gradients(scan, dtype):
        learning = [x.clone().to(dtype).requires_grad_() for x in inputs]
        (scan(*learning, None, False) * weighting).sum().backward()
        return [x.grad for x in learning]

    found, wanted = gradients(cpu.selective_scan,
                              torch.float32), gradients(portable.selective_scan, torch.float64)
    errors = {name: relative_error(f, w) for name, f,
              w in zip(('u', 'delta', 'A', 'B', 'C', 'D'), found, wanted)}
    assert max(errors.values()) <= TOLERANCE, errors
