# SPDX-License-Identifier: Apache-2.0
"""The scans on an NVIDIA GPU: triton, mamba_ssm and portable, and the floor.

    python benchmarks/gpu_scan.py [FOLDER] [--json FILE]

FOLDER is the unpacked source distribution of mamba-ssm; of it only the extension
`selective_scan_cuda` is built, for the GPU at hand (minutes). Without it mamba_ssm is measured
where it is installed. First all backends are compared with the portable one in float64, then timed
on the same float16 inputs. The floor of a shape is its bytes, each moved once, at the copy rate,
or its exponentials at their rate, whichever is longer; both rates are measured in the same run.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from diffmf_ros.models import scan
from diffmf_ros.models.kernels import mamba_ssm, portable

# Images or directions, channels, states, tokens.
SHAPES = ((4, 128, 1, 76_800), (4, 128, 1, 153_600), (4, 64, 16, 19_200), (1, 64, 16, 307_200),
          (4, 64, 16, 307_200))
# height, width, channels, states: of light and base at 640x480
IMAGES = ((240, 320, 64, 1), (240, 320, 128, 1))
PARITY_LENGTH = 5003
HALF_TYPES = 'HALF', 'BFLOAT16', 'BFLOAT162'  # whose operators the headers of torch switch off
FLAGS = ['-O3', '-std=c++17', '--use_fast_math', '--expt-relaxed-constexpr',
         '--expt-extended-lambda', *(f'-U__CUDA_NO_{kind}_{what}__' for kind in HALF_TYPES
           for what in ('OPERATORS', 'CONVERSIONS'))]


def build_extension(folder: Path) -> None:
    """Build selective_scan_cuda of an unpacked mamba-ssm for this GPU, where the backend finds it.
    """
    from torch.utils.cpp_extension import load

    sources = folder / 'csrc' / 'selective_scan'
    if not sources.is_dir():
        sys.exit(f'expected the unpacked source distribution of mamba-ssm, with {sources}')
    os.environ['TORCH_CUDA_ARCH_LIST'] = '{}.{}'.format(*torch.cuda.get_device_capability())
    sys.modules['selective_scan_cuda'] = load(
        'selective_scan_cuda',
        sorted(str(p) for kind in ('*.cpp', '*.cu') for p in sources.glob(kind)),
        extra_cflags=['-O3', '-std=c++17'], extra_cuda_cflags=FLAGS,
        extra_include_paths=[str(sources)])
    mamba_ssm._probe.cache_clear()


def scan_inputs(batch, channels, states, length, *, dtype, wide=False, token_major=False):
    """Inputs of selective_scan; step sizes of a fresh network (up to 0.67) or a trained one (up to
    9.3)."""
    torch.manual_seed(0)
    u = torch.randn(batch, channels, length, device='cuda')
    low, high = (1.1e-3, 9.3) if wide else (1e-3, 0.67)
    steps = torch.exp(torch.rand_like(u) * torch.tensor(high / low).log()
                      + torch.tensor(low).log())
    delta = steps + torch.log(-torch.expm1(-steps))  # softplus makes it steps again
    B, C = (torch.randn(batch, 1, states, length, device='cuda') for _ in range(2))
    activations = [x.to(dtype) for x in (u, delta, B, C)]
    if token_major:
        activations = [x.movedim(-1, 1).contiguous().movedim(1, -1) for x in activations]
    u, delta, B, C = activations
    A = -torch.arange(1.0, states + 1, device='cuda').repeat(channels, 1)
    return u, delta, A, B, C, torch.randn(channels, device='cuda'), torch.zeros(
        channels, device='cuda'), True


def image_inputs(height, width, channels, states):
    """Float16 inputs of ss2d with step sizes of a fresh network."""
    torch.manual_seed(0)
    rank = -(-channels // 32)
    shapes = ((1, height, width, channels), (1, height, width, 4, rank + 2 * states),
              (4, channels, rank), (4, channels), (4, channels, states), (4, channels))
    u, proj, weight, bias, A, skip = (torch.randn(s, device='cuda') for s in shapes)
    return u.half(), proj.half(), 0.3 * weight, bias - 3, -A.abs() - 0.5, skip


def usable() -> list[str]:
    """Names of the backends that run here; says why another does not."""
    reasons = {name: scan.BACKENDS[name].unavailable()
               for name in ('triton', 'mamba_ssm', 'portable')}
    for name, reason in reasons.items():
        if reason is not None:
            print(f'{name} is not measured: {reason}')
    return [name for name, reason in reasons.items() if reason is None]


def parity(names: list[str]) -> list[dict]:
    """Largest and RMS error over the mean magnitude, against the portable scan in float64."""
    rows = []
    for dtype in (torch.float32, torch.float16):
        for wide in (False, True):
            inputs = scan_inputs(2, 64, 4, PARITY_LENGTH, dtype=dtype, wide=wide)
            exact = portable.selective_scan(*(x if isinstance(x, bool) else x.double()
                                              for x in inputs))
            for name in names:
                error = scan.selective_scan(*inputs, backend=name).double() - exact
                scale = exact.abs().mean()
                rows.append({'backend': name, 'dtype': str(dtype),
                             'steps': 'wide' if wide else 'fresh',
                             'max': (error.abs().max() / scale).item(),
                             'rms': (error.square().mean().sqrt() / scale).item()})
                print('{backend:10} {dtype:14} {steps:6} max {max:.1e} rms '
                      '{rms:.1e}'.format(**rows[-1]))
    return rows


def timed(label: str, functions, *, moved_bytes: int, exponentials: int, rates: dict) -> dict:
    """Milliseconds of each backend and of the floor."""
    from gpu_timing import milliseconds

    found = milliseconds(functions)
    floor = 1e3 * max(moved_bytes / rates['bytes_per_s'],
                      exponentials / rates['exponentials_per_s'])
    print(f'{label:28} floor {floor:8.4f}  ' + '  '.join(
        f'{name} {ms:8.4f} ({ms / floor:6.2f} x floor)' for name, ms in found.items()))
    return {'shape': label, 'floor_ms': floor, 'ms': found}


def measure(names: list[str], rates: dict) -> list[dict]:
    """Rows of the table: every shape, each backend on the storage that suits it."""
    rows = []
    for batch, channels, states, length in SHAPES:
        functions = {}
        for name in names:
            inputs = scan_inputs(batch, channels, states, length, dtype=torch.float16,
                                 token_major=name != 'mamba_ssm')
            functions[name] = lambda name=name, inputs=inputs: scan.selective_scan(
                *inputs, backend=name)
        elements = batch * channels * length
        rows.append(timed(f'({batch},{channels},{states}) {length}', functions, rates=rates,
                          moved_bytes=2 * (3 * elements + 2 * batch * states * length),
                          exponentials=elements * (states + 2)))  # softplus has two
    for image in IMAGES:
        inputs = image_inputs(*image)
        functions = {name: lambda name=name, inputs=inputs: scan.ss2d(*inputs, backend=name)
                     for name in names}
        u, proj = inputs[:2]
        rows.append(timed('ss2d {}x{}x{} N={}'.format(*image), functions, rates=rates,
                          moved_bytes=2 * (2 * u.numel() + proj.numel()),
                          exponentials=4 * u.numel() * (image[3] + 2)))
    return rows


def main() -> None:
    """Check, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('mamba', nargs='?', type=Path,
                        help='unpacked source distribution of mamba-ssm')
    parser.add_argument('--json', type=Path, help='where to write the results')
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit('no CUDA device: nothing is measured')  # exit code 1
    if arguments.mamba is not None:
        build_extension(arguments.mamba)
    from gpu_rates import copy_bandwidth, exponential_rate

    names = usable()
    rates = {'bytes_per_s': copy_bandwidth(), 'exponentials_per_s': exponential_rate()}
    print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}: copy '
          f'{rates["bytes_per_s"] / 1e9:.0f} GB/s, exp2 {rates["exponentials_per_s"] / 1e9:.0f} '
          f'G/s')
    results = {'device': torch.cuda.get_device_name(), 'torch': torch.__version__, 'rates': rates,
               'parity': parity(names), 'times': measure(names, rates)}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + '\n')


if __name__ == '__main__':
    main()
