# SPDX-License-Identifier: Apache-2.0
"""Runs the compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

    python test/sanitized_kernels.py [--all]

Odd sizes and strides, forward and backward, one thread and two; --all: for every instruction set
of this processor. A read or write beyond a tensor ends the process with a report.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

NATIVE = Path(__file__).parents[1] / 'diffmf_ros' / 'models' / 'kernels' / 'native'
OPTIONS = ('-O0', '-g1', '-fopenmp', '-std=c++17', '-Wno-psabi', '-fPIC', '-fno-math-errno',
           '-ffp-contract=fast', '-fsanitize=address,undefined', '-fno-sanitize-recover=all')
SETS = {'AVX2': '-march=x86-64-v3', 'AVX512': '-march=x86-64-v4', 'DEFAULT': '-march=x86-64'}
OVERRUN = 'heap-buffer-overflow'


def runtime() -> str | None:
    """Return the file of AddressSanitizer's runtime, or None without it or a compiler."""
    try:
        found = subprocess.run(['g++', '-print-file-name=libasan.so'], capture_output=True,
                               text=True).stdout.strip()
    except FileNotFoundError:
        return None
    return found if os.path.isabs(found) else None


def build(folder: Path, instructions: str) -> Path:
    """Compile the kernels for an instruction set into folder; return the library."""
    sources = sorted(map(Path, glob(f'{NATIVE}/*.cpp')))
    objects = [folder / f'{source.stem}.o' for source in sources]
    commands = [['g++', *OPTIONS, SETS[instructions], '-c', str(source), '-o', str(target)]
                for source, target in zip(sources, objects, strict=True)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    library = folder / 'kernels.so'
    subprocess.run(['g++', '-shared', '-fopenmp', '-fsanitize=address,undefined',
                    *map(str, objects), '-o', str(library)], check=True)
    return library


def run(instructions: str) -> subprocess.CompletedProcess:
    """Build the kernels and run every case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), instructions)
        environment = os.environ | {
            'LD_PRELOAD': runtime(), 'OMP_NUM_THREADS': '2', 'ATEN_CPU_CAPABILITY': 'avx2',
            'PYTHONPATH': str(Path(__file__).parents[1]),
            # Python itself frees nothing at its end
            'ASAN_OPTIONS': 'detect_leaks=0:abort_on_error=0:exitcode=99'}
        return subprocess.run([sys.executable, __file__, 'child', str(library)], env=environment,
                              capture_output=True, text=True)


def child(library: str) -> None:
    """Run every case with the library; print how many, and whether an overrun is found."""
    import torch

    from diffmf_ros.models.kernels import cpu

    cpu._build = lambda: Path(library)
    assert cpu.unavailable() is None, cpu.unavailable()
    count = 0
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for case in (_ss2d_cases, _scan_cases, _ssd_cases, _norm_cases):
            count += case(torch, cpu)
    print(f'{count} calls, overrun {"found" if _overrun_is_found(torch, cpu) else "NOT FOUND"}')


def _run(torch, function, inputs, *rest) -> int:
    """Call a kernel forward in both types, and backward in float32."""
    function(*inputs, *rest)
    function(*(x.bfloat16() for x in inputs[:2]), *inputs[2:], *rest)
    learned = [x.clone().requires_grad_() for x in inputs]
    function(*learned, *rest).square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in learned)
    return 3


def _ss2d_cases(torch, cpu) -> int:
    sizes = ((1, 1, 1, 1, 1, 1), (1, 1, 7, 5, 3, 2), (2, 3, 5, 17, 1, 1), (1, 9, 2, 33, 12, 3),
             (1, 5, 67, 63, 2, 2))
    count = 0
    for batch, height, width, channels, states, rank in sizes:
        shapes = [(batch, height, width, channels),
                  (batch, height, width, 4, rank + 2 * states), (4, channels, rank),
                  (4, channels), (4, channels, states), (4, channels)]
        u, proj, weight, bias, A, skip = (torch.randn(shape) for shape in shapes)
        count += _run(torch, cpu.ss2d, [u, proj, weight, bias, -A.abs(), skip])
    return count


def _scan_cases(torch, cpu) -> int:
    count = 0
    for batch, groups, width, states, length in ((1, 1, 1, 1, 1), (2, 2, 5, 3, 7),
                                                 (1, 4, 17, 1, 65), (1, 1, 33, 12, 2)):
        channels = groups * width
        parameters = [-torch.rand(channels, states), torch.randn(batch, groups, states, length),
                      torch.randn(batch, groups, states, length), torch.randn(channels),
                      torch.randn(channels)]
        # As they are, as a transposed view, and as every second column of a larger tensor
        for u in (torch.randn(batch, channels, length),
                  torch.randn(batch, length, channels).transpose(1, 2),
                  torch.randn(batch, channels, 2 * length)[:, :, 1::2]):
            delta = torch.rand_like(u)
            cpu.selective_scan(u, delta, *parameters, True)
            learned = [x.detach().requires_grad_() for x in (u, delta, *parameters)]
            cpu.selective_scan(*learned, False).square().sum().backward()
            count += 2
    return count


def _ssd_cases(torch, cpu) -> int:
    count = 0
    for batch, length, heads, width, states, directions in (
            (1, 1, 1, 1, 1, 1), (2, 7, 3, 5, 3, 2), (1, 65, 2, 17, 6, 2), (1, 130, 1, 16, 9, 4)):
        heads *= directions
        wide = torch.randn(batch, length, heads, width + 3)
        x = wide[..., :width]  # rows that are not contiguous
        tensors = [x, torch.rand(batch, length, heads) * 0.1, -torch.rand(heads),
                   torch.randn(batch, length, states), torch.randn(batch, length, states)]
        count += _run(torch, cpu.ssd, tensors, directions)
    return count


def _norm_cases(torch, cpu) -> int:
    count = 0
    for rows, channels in ((1, 1), (3, 15), (5, 17), (4, 33), (7, 63), (2, 127)):
        weight, bias = torch.randn(channels), torch.randn(channels)
        x = torch.randn(rows, channels)
        for values, dtype in ((x, torch.float32), (x, torch.bfloat16),
                              (x.bfloat16(), torch.bfloat16)):
            assert cpu.layer_norm(values, weight, bias, 1e-5, dtype) is not None
            count += 1
    return count


def _overrun_is_found(torch, cpu) -> bool:
    """Whether a call with one row more than there is ends in a report, in a process of its own."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 2)
        x, y, weight = torch.randn(3, 17), torch.empty(3, 17), torch.randn(17)
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, weight, weight))
        cpu._library().diffmf_layer_norm_float32_float32(
            *pointers, ctypes.c_float(1e-5), ctypes.c_void_p(y.data_ptr()), ctypes.c_long(4),
            ctypes.c_int(17), ctypes.c_int(1))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        report = said.read()
    os.wait()
    return OVERRUN in report


def main() -> int:
    if sys.argv[1:2] == ['child']:
        child(sys.argv[2])
        return 0
    if runtime() is None:
        sys.exit('AddressSanitizer is needed: a g++ with libasan')
    chosen = SETS if '--all' in sys.argv else ('AVX2',)
    failed = False
    for instructions in chosen:
        done = run(instructions)
        failed |= done.returncode != 0
        print(f'{instructions}: exit code {done.returncode}; {done.stdout}{done.stderr}')
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
