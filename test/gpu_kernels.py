# SPDX-License-Identifier: Apache-2.0
"""What tests of Triton kernels share: cases run in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def run_cases(cases, **environment):
    """Run a file of cases in a process of its own, with this module as a plugin, and fail with its
    output."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', __name__,
               str(cases)]
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')))
    done = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path,
                                        **environment},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def pytest_configure():
    """Let Triton's interpreter do quickly what takes it half of its time; it does the same."""
    if os.environ.get('TRITON_INTERPRET') != '1':
        return
    from triton.language import semantic
    from triton.runtime import interpreter

    # Private names: with a Triton that lacks them it takes its time.
    for owner, name, quicker in (
            (interpreter, '_patch_lang', exchanged_once),
            (interpreter, '_get_np_dtype', known_by_name),
            (getattr(interpreter, 'ScanOps', None), 'generic_scan', scanned_in_slices),
            (semantic.TritonSemantic, 'binary_op_sanitize_overflow_impl', checked_in_numpy)):
        if hasattr(owner, name):
            setattr(owner, name, quicker(getattr(owner, name)))


def exchanged_once(exchange):
    """Exchange its language once a launch.

    It does so again, to no effect, for every call of a function of a kernel.
    """
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, '_LangPatchScope'):
        return exchange

    def exchange_once(function):
        used = [value for value in function.__globals__.values()
                if value is language or value is language.core]
        if any(language.core.is_builtin(module.load) for module in used):
            return exchange(function)
        return interpreter._LangPatchScope()

    return exchange_once


def known_by_name(look_up):
    """Remember NumPy's type of a type: it makes the table anew for each."""
    known = {}

    def type_of(kind):
        name = kind.scalar.name
        if name not in known:
            known[name] = look_up(kind)
        return known[name]

    return type_of


def checked_in_numpy(check):
    """Look for an overflow of integers with NumPy: it makes a dozen of tensors of its own."""
    def in_numpy(semantic, one, other, operation):
        kind = one.type.scalar
        if not 8 <= kind.int_bitwidth < 64:
            return check(semantic, one, other, operation)
        exact = {'add': np.add, 'sub': np.subtract, 'mul': np.multiply}[operation.__name__](
            *(x.handle.data.astype(np.int64) for x in (one, other)))
        low, high = kind.get_int_min_value(), kind.get_int_max_value()
        assert low <= exact.min() and exact.max() <= high, (
            f'int{kind.int_bitwidth} overflow detected for operation {operation.__name__}')

    return in_numpy


def scanned_in_slices(scan):
    """Combine whole slices across the axis of a scan: it combines number by number."""
    def in_slices(self, inputs):
        arrays = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
        if arrays[0].ndim < 2:
            return scan(self, inputs)
        outputs = [array.copy() for array in arrays]
        for before in range(len(arrays[0]) - 1):
            found = self.combine_fn.fn(*(self.to_tensor(array[number], x.dtype)
                                         for number, part in ((before, outputs),
                                                              (before + 1, arrays))
                                         for array, x in zip(part, inputs)))
            for output, one in zip(outputs, found if isinstance(found, tuple) else (found,)):
                output[before + 1] = one.handle.data
        return [self.to_tensor(np.moveaxis(output, 0, self.axis), x.dtype)
                for output, x in zip(outputs, inputs)]

    return in_slices
