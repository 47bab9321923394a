# SPDX-License-Identifier: Apache-2.0
"""Compiles the Triton kernels for GPUs that need not be here: registers, spills, shared memory.

    python benchmarks/compile_kernels.py [--target 80 --target 90 ...]

The kernels are those that pairs and training steps of the networks launch, by the plan, each with
the constants of its largest launch, in half precision and in float32. Prints a table in Markdown;
ends with 1 where a kernel does not compile, spills more than MOST_SPILLED, or needs more shared
memory than a GPU has. `test/models/test_compiled_kernels.py` compiles every
kernel for one of the targets. Without triton's `cuobjdump` registers and spills are not known.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from diffmf_ros.tools.bench import plan, plan_recorder

TARGETS = 80, 86, 87, 89, 90, 120
MOST_SPILLED, MOST_SHARED = 16, 99 * 1024  # bytes of a thread; what every GPU since Ampere has
CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
PAIRS = 'diffmf base', 's4fusion base', 'refinefuse base'
STEPS = 'diffmf base', 's4fusion base'


class Launch(NamedTuple):
    """A kernel of triton.jit, and what it is given: its arguments and constants by name."""

    kernel: Any
    given: dict

    @property
    def name(self) -> str:
        """File and function, and whether it takes float32."""
        module = self.kernel.fn.__module__.rpartition('.')[2].removeprefix('triton_')
        kind = ' float32' if self.exact else ''
        return f'{module}.{self.kernel.fn.__name__}{kind}'

    @property
    def exact(self) -> bool:
        """Return whether all tensors are float32 or integers, none in half precision."""
        kinds = {t.dtype for t in self.given.values() if isinstance(t, torch.Tensor)}
        return not kinds & {torch.float16, torch.bfloat16}

    @property
    def weight(self) -> int:
        """Return the product of the constants, which orders launches by the work of a program."""
        return math.prod(1 + value for name, value in self.given.items()
                         if name.isupper() and isinstance(value, int))


class Compiled(NamedTuple):
    """Registers and spilled bytes of a thread, and shared memory of a program in bytes.

    registers and spilled are None where Triton comes without cuobjdump, which reads them.
    """

    registers: int | None
    spilled: int | None
    shared: int

    def __str__(self) -> str:
        """Cell of the table."""
        if self.registers is None:
            return '?'
        return f'{self.registers}' + (f', {self.spilled} spilled' if self.spilled else '')


def target_of(name: str) -> int:
    """Return the one target for which the tests compile a kernel: other kernels do not move it."""
    return TARGETS[zlib.crc32(name.encode()) % len(TARGETS)]


def fits(made: Compiled) -> bool:
    """Return whether a kernel spills next to nothing and no program of it is too large."""
    return (made.spilled or 0) <= MOST_SPILLED and made.shared <= MOST_SHARED


def launches() -> dict[str, Launch]:
    """Return the largest launch of each kernel in each precision, by its name, in their order."""
    found: dict[str, Launch] = {}
    cost = plan_recorder.cost_of_launch

    def noted(kernel, given):
        launch = Launch(kernel, given)
        if launch.name not in found or launch.weight > found[launch.name].weight:
            found[launch.name] = launch
        return cost(kernel, given)

    with mock.patch.object(plan_recorder, 'cost_of_launch', noted):
        for precision in ('float16', 'float32'):
            for name in PAIRS:
                plan.plan_pair(*name.split(), precision=precision)
        for name in STEPS:
            plan.plan_step(*name.split(), batch=2, crop=64)
    return dict(sorted(found.items()))


def compiled(launch: Launch, capability: int) -> Compiled:
    """Compile a kernel for a compute capability, such as 87 for 8.7."""
    # A device number of its own: what a kernel has been compiled for is remembered by it.
    driver.set_active(SimpleNamespace(
        get_current_device=lambda: capability, get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget('cuda', capability, 32)))
    try:
        # by place, as a parameter may have the name of an option
        arguments = [launch.given[name] for name in launch.kernel.arg_names]
        options = {name: value for name, value in launch.given.items()
                   if name not in launch.kernel.arg_names}
        kernel = launch.kernel.run(*arguments, grid=(1,), warmup=True, **options)
    finally:
        if torch.cuda.is_available():
            driver.reset_active()
    if not CUOBJDUMP.exists():
        return Compiled(None, None, kernel.metadata.shared)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        said = subprocess.run([CUOBJDUMP, '-res-usage', file.name], capture_output=True, text=True,
                              check=True).stdout
    registers, spilled = (int(re.search(rf'{word}:(\d+)', said)[1]) for word in ('REG', 'STACK'))
    return Compiled(registers, spilled, kernel.metadata.shared)


def main() -> int:
    """Print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--target', type=int, action='append', choices=TARGETS)
    targets = parser.parse_args().target or TARGETS
    if not CUOBJDUMP.exists():
        print(f'{CUOBJDUMP} is not there: registers and spills are not known', file=sys.stderr)
    print('| kernel | shared, KiB |', ' | '.join(f'{t // 10}.{t % 10}' for t in targets), '|')
    print('|---' * (2 + len(targets)) + '|')
    fine = True
    for name, launch in launches().items():
        made = {target: compiled(launch, target) for target in targets}
        shared = max(one.shared for one in made.values())
        print(f'| `{name}` | {shared / 1024:.0f} |', ' | '.join(map(str, made.values())), '|',
              flush=True)
        fine &= all(map(fits, made.values()))
    return int(not fine)


if __name__ == '__main__':
    raise SystemExit(main())
