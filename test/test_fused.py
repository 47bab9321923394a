# SPDX-License-Identifier: Apache-2.0
"""Fused steps of the networks: their cases in Triton's interpreter, and compiled for six GPUs."""

import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from test_triton import compiled, needs_gpu, run_cases  # noqa: E402, F401

from diffmf_ros.models import fused  # noqa: E402
from diffmf_ros.models.kernels import plain, portable  # noqa: E402

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
    assert all(getattr(portable, operation) is getattr(plain, operation) for operation in fused.OPERATIONS)


def launch_all(dtype, *, light):
    """Launch every kernel with the sizes of DIFF-MF light, else of base and of S4Fusion's second scale."""
    from diffmf_ros.models.kernels import triton_depthwise, triton_mixing, triton_rows

    def half(*shape):
        return torch.zeros(shape, dtype=dtype)

    def norm(channels):
        return torch.zeros(channels), torch.zeros(channels), 1e-5

    channels, inner, hidden, record = (32, 64, 64, 4) if light else (64, 128, 256, 6)
    x = torch.zeros(1, 4, 6, channels)
    triton_rows.norm_linear(x, triton_rows.LAYER_NORM, *norm(channels), None, False,
                            half(inner, channels), None, None, None)
    triton_depthwise.depthwise_records(half(1, 4, 6, inner), half(inner, 1, 3, 3), None,
                                       [half(4, record, inner)])
    triton_rows.norm_linear(half(1, 4, 6, inner), triton_rows.LAYER_NORM, *norm(inner), None, False,
                            half(channels, inner), None, None, x)
    triton_rows.mlp(x, *norm(channels), half(hidden, channels), half(hidden), half(channels, hidden),
                    half(channels))
    if light:
        return
    triton_depthwise.depthwise(half(1, 4, 6, 192), None, half(192, 1, 3, 3), half(192), True)
    triton_rows.norm_linear(half(1, 4, 6, 64), triton_rows.RMS_NORM, torch.zeros(64), None, 1e-5,
                            half(1, 4, 6, 64), True, half(32, 64), None, half(1, 1, 1, 32), torch.zeros(1, 4, 6, 32))
    triton_depthwise.depthwise_records(half(2, 4, 6, 288)[..., :144], half(144, 1, 3, 3), half(144),
                                       [half(4, 30, 144)] * 2)
    triton_rows.norm_linear(half(1, 4, 6, 144), triton_rows.LAYER_NORM, *norm(144), half(1, 4, 6, 144), False,
                            half(96, 144), None, None, torch.zeros(1, 4, 6, 96))
    image = torch.zeros(1, 1, 16, 24)
    triton_mixing.seen(image, image)
    triton_mixing.mix(image, image, torch.zeros(1, 16, 24, 4).permute(0, 3, 1, 2))


@pytest.mark.parametrize('capability, dtype', [
    (80, torch.float16), (86, torch.bfloat16), (87, torch.float16), (89, torch.float32), (90, torch.float16),
    (120, torch.bfloat16)])
def test_kernels_compile_and_fit_in_registers(compiled, capability, dtype, tmp_path):  # noqa: F811
    # Given a GPU, when the kernels are launched with the sizes of networks,
    set_capability, kernels = compiled
    set_capability(capability)
    light = capability in (86, 87, 89)
    launch_all(dtype, light=light)
    # then they compile, and keep what they hold in registers and in the memory that every GPU has.
    assert len(kernels) == (4 if light else 14)
    for kernel in kernels:
        assert kernel.metadata.shared <= 99 * 1024, kernel.name
        assert bytes_spilled(kernel, tmp_path) <= 16, kernel.name


def bytes_spilled(kernel, folder):
    """Bytes of stack of a thread, by the tool that comes with triton; 0 where it does not come."""
    import triton

    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.exists():
        return 0
    file = folder / 'kernel.cubin'
    file.write_bytes(kernel.asm['cubin'])
    said = subprocess.run([tool, '-res-usage', file], capture_output=True, text=True, check=True).stdout
    return int(said.partition('STACK:')[2].split()[0])
