# SPDX-License-Identifier: Apache-2.0
"""Recording what a function of tensors would launch on a GPU, on a machine without one.

The tensors are on torch's meta device, where they have shapes and no values, so nothing is
computed. Every operation that torch dispatches is costed by `plan_operations`. An operation of
this package, such as diffmf_ros::ss2d, runs its own code, and each Triton kernel that it would
launch is recorded instead.
"""

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...models import kernels
from .plan_operations import Kernel, is_channels_last, kernels_of, moved_bytes, tensors_in

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
OURS = 'diffmf_ros'
COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd
# Fused on a GPU, though made of others elsewhere.
LEAVES = {'aten::scaled_dot_product_attention', 'aten::rms_norm', 'aten::silu_backward'}
FURTHER_STATE, LOW_RANK = 0.28, 0.1  # cost of each, in steps of one state, as measured
EXPONENTIALS = {'exp', 'exp2', 'sigmoid', 'log', 'erf'}
SCANS = ('chunk_states', 'outputs', 'tile_outputs', 'chunk_adjoints', 'gradients')
# Sums that a program reads back from the cache, which it alone has written just before.
OWN_SUMS = {('tile_outputs', 'total')}


def record(function: Callable, *arguments) -> list[Kernel]:
    """Return the kernels that function(*arguments), on meta tensors, would launch on a GPU.

    Raises ImportError when triton is not installed, and whatever function raises: reading a value
    back, for which a GPU would have to be waited for, raises RuntimeError.
    """
    with _triton_launches() as found, kernels.meta_stands_for_cuda(), _Recorder(found):
        function(*arguments)
    return found


class _Recorder(TorchDispatchMode):
    """Adds to `found` what every operation launches."""

    def __init__(self, found: list[Kernel]):
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Run an operation on meta tensors and note it."""
        kwargs = kwargs or {}
        if operation.namespace == 'prim':
            return NotImplemented
        if operation.namespace == OURS:
            return self._own(operation, args, kwargs)
        if _is_composed(operation):
            with self:
                return operation._op_dk(COMPOSED, *args, **kwargs)
        fused = operation.name().startswith('aten::_fused_adam_')  # which has no form for meta
        result = None if fused else operation(*args, **kwargs)
        if operation.name() == 'aten::convolution' and any(map(is_channels_last, args[:2])):
            # As on a GPU; the meta device goes by the input alone.
            result = result.contiguous(memory_format=torch.channels_last)
        outputs = list(tensors_in(result))
        touched = *tensors_in([args, kwargs]), *outputs
        if any(tensor.is_meta for tensor in touched):  # others stay on the host
            self._found.extend(kernels_of(operation, list(args), outputs, kwargs))
        return result

    def _own(self, operation, args, kwargs):
        """Run the code of an operation of this package, its launches being noted."""
        from torch._library.custom_ops import OPDEFS

        definition = OPDEFS.get(operation.name().partition('.')[0])
        if definition is None:  # made in another way: one launch is the least
            result = operation(*args, **kwargs)
            read, written = (sum(map(moved_bytes, tensors_in(values)))
                             for values in ([args, kwargs], result))
            self._found.append(Kernel(operation.name(), read, written))
            return result
        with self:
            return definition._init_fn(*args, **kwargs)


def _is_composed(operation) -> bool:
    """Return whether torch makes an operation of others on every device."""
    name = operation.name()
    return name.partition('.')[0] not in LEAVES and has_kernel(name, 'CompositeImplicitAutograd')


@contextmanager
def _triton_launches() -> Iterator[list[Kernel]]:
    """Record launches of Triton kernels instead of launching."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    found: list[Kernel] = []

    def note(self, *args, grid, warmup=False, **options):
        given = dict(zip(inspect.signature(self.fn).parameters, args)) | options
        found.append(cost_of_launch(self, given))

    originals = {cls: cls.run for cls in (JITFunction, InterpretedFunction)}
    for cls in originals:
        cls.run = note
    try:
        yield found
    finally:
        for cls, run in originals.items():
            cls.run = run


def cost_of_launch(kernel: Any, given: dict) -> Kernel:
    """Return what a launch of a Triton kernel costs: it reads what it loads from, writes what it
    stores to.

    Args:
        kernel: Function that triton.jit made.
        given: Its arguments and constants by name, tensors on the meta device.
    """
    function = kernel.fn
    tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
    loaded, stored, has_exponentials = _accesses(function, tuple(tensors))
    written = {id(tensors[name]): tensors[name] for name in stored}
    names = Counter(map(id, tensors.values()))
    # A written tensor under two names stands for a buffer of sums too, which is not needed then.
    name = function.__name__
    read = {id(tensors[n]): tensors[n] for n in loaded if (name, n) not in OWN_SUMS
            and (id(tensors[n]) not in written or names[id(tensors[n])] == 1)}
    own: dict = {}
    exponentials = 0
    if name in SCANS and 'STATES' in given:
        own, exponentials = _walk(name, given)
    elif has_exponentials:
        exponentials = max((t.numel() for t in tensors.values()), default=0)
    exact = bool(given.get('EXACT')) or given.get('PRECISION') == 'ieee'
    return Kernel(name, sum(map(moved_bytes, read.values())),
                  sum(map(moved_bytes, written.values())),
                  operations=_products(given), exact=exact,
                  exponentials=exponentials, **own)


def _products(given: dict) -> int:
    """Operations of a kernel's matrix products, as many of half precision as take their time."""
    if 'SPAN' in given:
        return _products_of_ssd(given)
    if isinstance(pixels := given.get('pixels'), int):  # of a convolution
        return 2 * pixels * given['weight'].numel()
    rows = given.get('rows')
    if not isinstance(rows, int):
        return 0
    # One that stands for None too has several names.
    matrices = {id(value): value for value in given.values() if isinstance(value, torch.Tensor)
                and value.dim() == 2 and value.shape[0] != rows}
    return 2 * rows * sum(matrix.numel() for matrix in matrices.values())


def _products_of_ssd(given: dict) -> int:
    """Operations of a pass of SSD: the state and, with output, scores, values and entering state.
    """
    p, n, chunk = given['P'], given['N'], given['CHUNK']
    of_token = p * n + ('y' in given) * (chunk * n + chunk * p + p * n)
    tokens = given['x'].shape[:3].numel() * given['DIRECTIONS']
    in_halves = 1 if given['PRECISION'] == 'ieee' else 2  # TF32 has half the rate of float16
    return 2 * tokens * of_token * in_halves


def _walk(name: str, given: dict) -> tuple[dict, int]:
    """(fields of a Kernel that walks through tokens, its exponentials)."""
    u, states = given['u'], given['STATES']
    # Directions that a launch scans, and lines that a program walks one after the other.
    scans, walks = (1, 1) if not given['IMAGE'] else {
        'outputs': (2, 2), 'tile_outputs': (4, 2)}.get(name, (given['SCANS'], 1))
    steps = u.numel() * scans
    units = int(steps * (1 + FURTHER_STATE * (states - 1) + LOW_RANK * given['RANK']))
    longest_line = max(given['height'], given['width'])
    own = {'kind': 'scan', 'units': units, 'serial': walks * min(given['CHUNK'], longest_line)}
    return own, steps * (states + given['SOFTPLUS'])


@cache
def _accesses(function, pointers: tuple[str, ...]) -> tuple[set[str], set[str], bool]:
    """(pointers loaded from, pointers stored to, whether it has exponentials), by the source.

    A pointer without load or store here goes to a function, which loads from it.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    made_of = _origins(tree, pointers)
    loaded: set[str] = set()
    stored: set[str] = set()
    exponentials = False
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        exponentials |= called in EXPONENTIALS or 'softplus' in called or 'silu' in called
        if called in ('load', 'store') and node.args:
            names = _names(node.args[0])
            # An offset may come from a function that has other pointers too.
            touched = names & set(pointers) or set().union(*(made_of.get(n, ()) for n in names))
            (loaded if called == 'load' else stored).update(touched)
    return loaded | (set(pointers) - loaded - stored), stored, exponentials


def _origins(tree, pointers: tuple[str, ...]) -> dict[str, set[str]]:
    """For each name of a kernel the pointers that its value is computed from."""
    made_of = {name: {name} for name in pointers}
    statements = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AugAssign))]
    for _ in range(3):  # a loop may use what a later line sets
        for node in statements:
            if _calls(node.value, 'load'):
                continue  # values, no addresses
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            used = set().union(*(made_of.get(name, ()) for name in _names(node.value)))
            for name in (name for target in targets for name in _names(target)):
                if used:
                    made_of[name] = made_of.get(name, set()) | used
    return made_of


def _names(node) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _calls(node, name: str) -> bool:
    return any(isinstance(found, ast.Call) and getattr(found.func, 'attr', '') == name
               for found in ast.walk(node))
