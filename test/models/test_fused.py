# SPDX-License-Identifier: Apache-2.0
"""Fused steps of the networks: their cases in Triton's interpreter, and compiled for six GPUs."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from gpu_kernels import bytes_spilled, compiled, needs_gpu, run_cases  # noqa: E402, F401

from diffmf_ros.models import fused  # noqa: E402
from diffmf_ros.models.kernels import plain, portable, triton  # noqa: E402

pytestmark = pytest.mark.slow

CASES = Path(__file__).with_name('fused_cases.py')


def test_cases_in_the_interpreter():
    pytest.importorskip('triton', reason='triton is not installed')
    run_cases(CASES, TRITON_INTERPRET='1')


@needs_gpu
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET='0')


def test_the_cpu_takes_the_plain_form(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    x = torch.zeros(1, 1, 1, 16)
    with torch.inference_mode():
        forms = {fused.form_of(operation, x) for operation in fused.OPERATIONS}
    assert forms <= {portable, plain}
    assert all(getattr(portable, operation) is getattr(plain, operation)
               for operation in fused.OPERATIONS)


def test_rates_learn_without_triton(monkeypatch):
    """Decay rates have their gradients where Triton takes the device but cannot be imported."""
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.setattr(triton, '_kernels', lambda: 'its kernels cannot be imported')
    logs = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
    assert triton.refuses(logs, states=1) is None

    rates = fused.rates(logs)
    rates.sum().backward()

    assert torch.equal(rates, -logs.exp()) and torch.equal(logs.grad, -logs.exp())


def launch(dtype, *, most):
    """Launch at most so many kernels, of 22: with the sizes of DIFF-MF light, all with those of
    base and S4Fusion."""
    from diffmf_ros.models.kernels import (
        triton_conv,
        triton_depthwise,
        triton_interleave,
        triton_mixing,
        triton_pairs,
        triton_rows,
    )

    def half(*shape):
        return torch.zeros(shape, dtype=dtype)

    def norm(channels):
        return torch.zeros(channels), torch.zeros(channels), 1e-5

    channels, inner, hidden, record = (32, 64, 64, 4) if most < 22 else (64, 128, 256, 6)
    x, none = torch.zeros(1, 4, 6, channels), (None, None, 0.0)
    triton_rows.norm_linear(x, triton_rows.LAYER_NORM, *norm(channels), None, False,
                            half(inner, channels), None, None, None, *none)
    triton_depthwise.depthwise_records(half(1, 4, 6, inner), half(inner, 1, 3, 3), None,
                                       [half(4, record, inner)])
    triton_rows.norm_linear(half(1, 4, 6, inner), triton_rows.LAYER_NORM, *norm(inner), None,
                            False, half(channels, inner), None, None, x, *none)
    triton_rows.mlp(x, *norm(channels), half(hidden, channels), half(hidden),
                    half(channels, hidden), half(channels))
    if most == 4:
        return
    channels_first = x.permute(0, 3, 1, 2)
    dense = half(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    triton_conv.conv(channels_first, dense, half(channels), 1, False, 0.2, None, dtype)
    triton_pairs.concat_linear([x] * 5, half(channels, 5 * channels), half(channels))
    triton_pairs.guide(half(1, 4, 6, channels), half(channels, channels), half(channels), x, x)
    if most == 7:
        return
    triton_conv.conv(half(1, 4, 6, channels).permute(0, 3, 1, 2), dense, half(channels), 2, True,
                     0.2, half(1, 2, 3, channels), dtype)
    triton_pairs.pair(x, x, 'columns', torch.float32)
    triton_pairs.layer_norm(half(1, 4, 6, channels), *norm(channels), dtype)
    triton_depthwise.depthwise(half(1, 4, 6, 192), None, half(192, 1, 3, 3), half(192), True)
    triton_rows.norm_linear(half(1, 4, 6, 64), triton_rows.RMS_NORM, torch.zeros(64), None, 1e-5,
                            half(1, 4, 6, 64), True, half(32, 64), None, half(1, 1, 1, 32),
                            torch.zeros(1, 4, 6, 32), half(1, 4, 6, 64), torch.zeros(2), 2.0)
    triton_depthwise.depthwise_records(half(2, 4, 6, 288)[..., :144], half(144, 1, 3, 3),
                                       half(144), [half(4, 30, 144)] * 2)
    triton_rows.norm_linear(half(1, 4, 6, 144), triton_rows.LAYER_NORM, *norm(144),
                            half(1, 4, 6, 144), False, half(96, 144), None, None,
                            torch.zeros(1, 4, 6, 96), *none)
    triton_interleave.interleave([half(1, 4, 6, 144)] * 2, [half(1, 4, 6, 4, 42)] * 2,
                                 torch.zeros(4, 144, 6))
    triton_interleave.separate(half(1, 48, 4, 144), 4, 6)
    image = torch.zeros(1, 1, 16, 24)
    triton_mixing.seen(image, image)
    triton_mixing.mix(image, image, torch.zeros(1, 16, 24, 4).permute(0, 3, 1, 2))


@pytest.mark.parametrize('capability, dtype, most', [
    (80, torch.float16, 7), (86, torch.bfloat16, 4), (87, torch.float16, 4),
    (89, torch.float32, 4),
    (90, torch.float16, 22), (120, torch.bfloat16, 7)])
def test_kernels_compile_and_fit_in_registers(compiled, capability, dtype, most, tmp_path):  # noqa: F811
    # Given a GPU, when the kernels are launched with the sizes of networks,
    set_capability, kernels = compiled
    set_capability(capability)
    launch(dtype, most=most)
    # then they compile, and keep what they hold in registers and in the memory that every GPU has.
    assert len(kernels) == most
    for kernel in kernels:
        assert kernel.metadata.shared <= 99 * 1024, kernel.name
        assert bytes_spilled(kernel, tmp_path) <= 16, kernel.name


@pytest.mark.parametrize('capability, dtype', [
    (80, torch.bfloat16), (86, torch.float16), (87, torch.float16), (89, torch.bfloat16),
    (90, torch.bfloat16), (120, torch.float32)])
def test_gradients_compile_and_fit_in_registers(compiled, capability, dtype, tmp_path):  # noqa: F811
    # Given a GPU and the sizes of base, when the gradients of its fused steps are computed,
    from diffmf_ros.models.kernels.triton_depthwise import depthwise_backward
    from diffmf_ros.models.kernels.triton_rows_backward import mlp_backward, norm_linear_backward

    def half(*shape):
        return torch.zeros(shape, dtype=dtype)

    set_capability, kernels = compiled
    set_capability(capability)
    channels, inner, hidden = 64, 128, 256
    x, norm = torch.zeros(1, 4, 6, channels), (torch.zeros(channels), torch.zeros(channels), 1e-5)
    mlp_backward(x, *norm, half(hidden, channels), half(hidden), half(channels, hidden), x)
    if capability % 10 == 0:
        depthwise_backward(half(1, 4, 6, inner), None, half(inner, 1, 3, 3), None,
                           half(1, 4, 6, inner), silu=True, matrix=half(4, 6, inner),
                           drecords=half(1, 4, 6, 4, 6))
    if capability == 90:
        norm_linear_backward(half(1, 4, 6, inner), torch.zeros(inner), torch.zeros(inner), 1e-5,
                             half(channels, inner), x, bias=False)
    # then they compile, and keep what they hold in registers and in the memory that every GPU has.
    names = ['mlp_gradients', 'norm_linear_gradients', 'add_parts', 'depthwise_gradients',
             'depthwise_tokens', 'add_parts', 'norm_linear_gradients', 'add_parts']
    launched = 8 if capability == 90 else 6 if capability % 10 == 0 else 3
    assert [kernel.name for kernel in kernels] == names[:launched]
    for kernel in kernels:
        assert kernel.metadata.shared <= 99 * 1024, kernel.name
        assert bytes_spilled(kernel, tmp_path) <= 16, kernel.name
