# SPDX-License-Identifier: Apache-2.0
"""Gradients of a GPU's fused kernels, checked on this machine before a training uses them.

Each operation that the network asks of the Triton backend runs on small fixed inputs, those of the
inference's self-check, and its gradients are compared with those of plain torch in float64. What
is allowed follows from the arithmetic: a few times what plain torch, in the same types on the same
machine, is off itself, and the rounding of sums in another order. A wrong kernel is off by the
size of the gradient. An operation that fails runs in plain torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from ...inference import golden, selfcheck_steps
from ...inference.engine import use_backend
from ...inference.golden import UNIT_ROUNDOFF
from ...models import fused, scan
from .distributed import Processes
from .precision import computing, in_precision

TIMES_PLAIN = 4  # the error of plain torch
OTHER_ORDER = 2.0 ** -15  # of the gradient's size: sums in float32 in another order
COSTS = {'ss2d': 'loops over the length, of tens of thousands of launches a step',
         'selective_scan': 'loops over the length, of tens of thousands of launches a step'}
OTHER_COST = 'several times as many launches for each call'
CONSTANT = {'mix': 2}  # first inputs that no gradient is asked for in training: the images
WITHOUT_GRADIENT = ('seen',)
CHECKED = ('ss2d', 'selective_scan', 'ssd', 'rates', *fused.OPERATIONS)
ELSEWHERE = 'is wrong in another process'


@dataclass(frozen=True)
class _Case:
    """A call: run(backend, inputs) gives one result or several."""

    name: str
    inputs: tuple = field(repr=False)
    run: Callable = field(repr=False)
    constant: int = 0


def checked_network(network: nn.Module, precision: str,
                    processes: Processes) -> tuple[nn.Module, tuple[str, ...]]:
    """Return what to call instead of network in training, and what an operator has to know.

    Where a kernel's gradients are wrong in any process its operation is set to plain torch in all
    of them, and a sentence names it, what is wrong and what that costs.
    """
    fuse = in_precision(network, precision, processes.device)
    uses, layers = _uses(fuse, network, processes.device), getattr(torch, precision)
    wrong = {}
    for operation in CHECKED:
        found = (wrong_gradients(use, device=processes.device, layers=layers)
                 for use in uses.get(operation, ()))
        wrong[operation] = next(filter(None, found), None)
    anywhere = processes.in_any([reason is not None for reason in wrong.values()])
    portable = [operation for operation, is_wrong in zip(CHECKED, anywhere) if is_wrong]
    use_backend(computing(fuse), dict.fromkeys(portable, 'portable') or 'auto')
    return fuse, tuple(f'the fused kernel of {operation} {wrong[operation] or ELSEWHERE}: this '
                       f'training runs it in plain torch, which costs '
                       f'{COSTS.get(operation, OTHER_COST)}' for operation in portable)


def _uses(fuse, network, device) -> dict[str, list[scan.Use]]:
    """Return what a training asks of the Triton backend, by operation; nothing on a CPU."""
    if scan.BACKENDS['triton'].refuses(torch.zeros(1, device=device), states=1) is not None:
        return {}
    use_backend(computing(fuse), 'portable')
    side = network.sides.padded(1)
    image = torch.zeros(1, 1, side, side, device=device)
    with scan.noting_uses() as noted:
        fuse(image, image)
    use_backend(computing(fuse), 'auto')
    found: dict[str, list[scan.Use]] = {}
    for use in sorted(noted, key=str):
        example = torch.zeros(1, 1, 1, 1, device=device, dtype=use.dtype)
        in_triton = scan.backend_for(example, use.operation, states=use.states) is scan.BACKENDS[
            'triton']
        if in_triton and use.operation not in WITHOUT_GRADIENT:
            found.setdefault(use.operation, []).append(use)
    return found


def wrong_gradients(use: scan.Use, *, device, layers: torch.dtype) -> str | None:
    """Return what is wrong with the gradients of the Triton backend for a use, or None.

    layers: type of the layers of the network.
    """
    for case in _cases(use, layers):
        exact = _gradients(case, 'portable', torch.device('cpu'), exact=True)
        plain = _gradients(case, 'portable', device)
        try:
            found = _gradients(case, 'triton', device)
        except Exception as error:  # compilers and drivers raise anything
            return f'raised {type(error).__name__} for its gradients ({case.name}: {error})'
        for i, gradients in enumerate(zip(found, plain, exact)):
            if wrong := _wrong(*gradients):
                return f'has wrong gradients ({case.name}, input {i}: {wrong})'
    return None


def _wrong(found: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> str:
    """Return what is wrong about a gradient, or nothing."""
    unit = UNIT_ROUNDOFF[found.dtype]
    found, plain = found.double().cpu(), plain.double().cpu()
    if found.shape != exact.shape or not found.isfinite().all():
        return f'shape {tuple(found.shape)} or a value that is not finite'
    allowed = TIMES_PLAIN * (plain - exact).abs().max() + 2 * unit * exact.abs()
    allowed = allowed + OTHER_ORDER * exact.square().mean().sqrt()
    allowed = allowed.clamp(min=torch.finfo(torch.float32).tiny)
    excess = ((found - exact).abs() / allowed).max().item()
    return f'off by {excess:.1f} times what rounding explains' if excess > 1 else ''


def _cases(use: scan.Use, layers: torch.dtype) -> Iterator[_Case]:
    """The cases that stand for a use."""
    if use.operation == 'rates':
        yield _Case('rates', (torch.linspace(-2, 3, 48),), partial(_run_step, 'rates'))
        return
    if use.operation in selfcheck_steps.OPERATIONS:
        for step in selfcheck_steps.cases(use.operation, use.dtype, layers):
            yield _Case(step.name, step.inputs, partial(_run_step, use.operation),
                        CONSTANT.get(use.operation, 0))
        return
    for case in golden.load():
        several = case.states > 1
        if case.operation == use.operation and several in (use.states > 1, case.operation
                                                           != 'ss2d'):
            inputs = tuple(x.to(use.dtype) if x.dtype == torch.bfloat16 else x
                           for x in case.inputs)
            yield _Case(case.name, inputs, partial(_run_scan, use.operation, case.options))


def _run_step(operation, backend, inputs):
    return getattr(scan.BACKENDS[backend], operation)(*inputs)


def _run_scan(operation, options, backend, inputs):
    return getattr(scan, operation)(*inputs, **options, backend=backend)


def _gradients(case: _Case, backend: str, device, *, exact: bool = False) -> list[torch.Tensor]:
    """Gradients of the tensors and parameters among the inputs, results weighted at random."""
    inputs = [selfcheck_steps._moved(x, device) for x in case.inputs]
    inputs = [selfcheck_steps._exact(x) for x in inputs] if exact else inputs
    wanted: list[torch.Tensor] = []
    for thing in inputs[case.constant:]:
        if isinstance(thing, nn.Module):
            wanted += thing.parameters()
        elif isinstance(thing, torch.Tensor):
            wanted.append(thing)
    for tensor in wanted:
        tensor.requires_grad_()
    results = case.run(backend, inputs)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    random = torch.Generator().manual_seed(selfcheck_steps.SEED)
    # eighths, which every type has exactly
    upstream = [(torch.randint(-8, 9, y.shape, generator=random) / 8).to(y.device, y.dtype)
                for y in results]
    return list(torch.autograd.grad(results, wanted, upstream))
