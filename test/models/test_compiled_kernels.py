# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel compiles, with the sizes of the networks, for a GPU that is not here."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')
pytest.importorskip('triton', reason='triton is not installed')

from triton.runtime.jit import JITFunction  # noqa: E402

from diffmf_ros.inference import triton_pixels  # noqa: E402
from diffmf_ros.models import kernels  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def compiling():
    """The script that compiles them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
        yield importlib.import_module('compile_kernels')


@pytest.fixture(scope='module')
def launches(compiling):
    """The largest launch of each kernel in each precision, by name."""
    return compiling.launches()


def entries():
    """File and function of every kernel that is launched: no other kernel calls it."""
    modules = [triton_pixels, *(importlib.import_module(f'{kernels.__name__}.{found.name}')
                                for found in pkgutil.iter_modules(kernels.__path__)
                                if found.name.startswith('triton_'))]
    for module in modules:
        short = module.__name__.rpartition('.')[2].removeprefix('triton_')
        for name, found in vars(module).items():
            own = isinstance(found, JITFunction) and found.fn.__module__ == module.__name__
            if own and f'{name}[' in inspect.getsource(module):
                yield f'{short}.{name}'


def test_networks_launch_every_kernel(launches):
    """What is compiled is all that there is."""
    assert {name.partition(' ')[0] for name in launches} == set(entries())


@pytest.mark.parametrize('target', [80, 86, 87, 89, 90, 120])
def test_kernels_fit_in_registers(target, compiling, launches, monkeypatch, tmp_path):
    """Each kernel is compiled for one of six GPUs; the script compiles it for all of them."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    names = [name for name in launches if compiling.target_of(name) == target]
    assert names
    for name in names:
        made = compiling.compiled(launches[name], target)
        assert compiling.fits(made), f'{name}: {made}'
        # the walk of a scan keeps its state in registers: threads exchange nothing
        if name.startswith(('scan.chunk_states', 'scan.outputs', 'scan_tiles')):
            assert made.shared == 0, name
    if not compiling.CUOBJDUMP.exists():
        pytest.skip('shared memory fits; registers and spills are not known without cuobjdump')
