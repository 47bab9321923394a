# SPDX-License-Identifier: Apache-2.0
"""The compiled scans for aarch64: cross-compiled, and run by an emulator where there is one."""

import math
import platform
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / 'test' / 'scan_calls.cpp',
           *sorted((ROOT / 'diffmf_ros/models/kernels/native').glob('*.cpp'))]
# Those of setup.py; static, so that the emulator needs no libraries of the other processor.
OPTIONS = ('-O3', '-fopenmp', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast',
           '-std=c++17', '-Wno-psabi', '-static')
COMPILER, EMULATOR = 'aarch64-linux-gnu-g++', 'qemu-aarch64'
# Of the largest value of a result: float32 sums in another order; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 5e-6, 1 / 128


def built(compiler, path):
    """The program that calls the kernels, made by a compiler."""
    subprocess.run([compiler, *OPTIONS, *map(str, SOURCES), '-o', str(path)], check=True)
    return path


def results(*command):
    """Values by name, as the program prints them."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    values = defaultdict(list)
    for line in done.stdout.splitlines():
        name, value = line.split()
        values[name].append(float(value))
    return values


def test_scans_compute_the_same_there(tmp_path):
    """What the kernels compute on aarch64 is what they compute here."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f'there is no cross compiler {COMPILER} (apt install g++-aarch64-linux-gnu)')
    other = built(COMPILER, tmp_path / 'other')
    if platform.machine() == 'aarch64':
        runs = (other,)
    elif shutil.which(EMULATOR):
        runs = EMULATOR, other
    else:
        pytest.skip(f'compiled, not run: there is no {EMULATOR} (apt install qemu-user)')

    here, there = results(built('g++', tmp_path / 'here')), results(*runs)

    assert here.keys() == there.keys() and len(here) == 10
    for name, values in here.items():
        assert len(values) == len(there[name]) > 100 and all(map(math.isfinite, there[name]))
        most = max(map(abs, values))
        off = max(abs(a - b) for a, b in zip(values, there[name], strict=True)) / most
        print(f'{name}: {len(values)} values, {off:.1e} of the largest')
        assert off < (BFLOAT16 if 'bfloat16' in name else FLOAT32), (name, off)
