# SPDX-License-Identifier: Apache-2.0
"""Choose, for each operation of a network, a backend that gives right values on this machine.

A compiled kernel can be wrong on one machine alone: another compiler, driver or processor than it
was tested on. So each candidate runs on stored golden inputs first (`golden.py`), and its errors
are held against what rounding explains (`allowed_errors` there). Operations are judged one by one,
and only those that the network uses, in the types it uses.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..models import kernels, scan
from . import golden, selfcheck_steps
from .golden import allowed_errors

PLAIN = ('portable', 'reference')  # backends in plain torch, without kernels of their own
# What plain torch costs on a GPU, as measured on an H200 with 640x480 pairs in float16.
COSTS = {'ss2d': '10 ms instead of 0.1 to 0.2 ms for each of some 15 scans of a pair',
         'selective_scan': '6 to 53 ms instead of 0.1 to 1.1 ms for each scan',
         'ssd': 'one pair of launches for each 64 tokens, 4,800 of them and 9 ms a pair'}
OTHER_COST = 'several launches instead of one'


@dataclass(frozen=True)
class Choice:
    """The backends to use.

    Args:
        backends: Name by operation.
        failures: What was wrong with each backend that failed.
        slow: What a GPU runs in plain torch for want of a backend, why, and what it costs; or
            nothing.
    """

    backends: dict[str, str]
    failures: tuple[str, ...] = ()
    slow: str = ''

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator has to know, a sentence each."""
        return *filter(None, (self.slow,)), *self.failures

    @property
    def name(self) -> str:
        """The backend of most operations, and those of others: 'triton, ssd portable'."""
        names = list(self.backends.values())
        most = max(dict.fromkeys(names), key=names.count)
        return ', '.join([most,
                          *(f'{operation} {name}' for operation, name in self.backends.items()
                                  if name != most)])


@dataclass
class _Search:
    """What is found out while backends are chosen."""

    device: str
    layers: torch.dtype
    skipped: dict[str, str] = field(default_factory=dict)  # why backends cannot run here
    failures: list[str] = field(default_factory=list)


def uses_of(network: Any) -> set[scan.Use]:
    """Return what a network asks of the backends, by running it on the smallest image in plain
    torch."""
    modules = [module for module in network.modules() if hasattr(module, 'backend')]
    if not modules:
        return set()
    for module in modules:
        module.backend = 'portable'
    side, parameter = network.sides.padded(1), next(network.parameters())
    image = torch.zeros(1, 1, side, side, device=parameter.device)
    with scan.noting_uses() as uses, torch.inference_mode():
        network(image, image)
    return uses


def all_uses(dtype: torch.dtype, *, steps: bool = False) -> set[scan.Use]:
    """Return the uses that all golden cases stand for, with activations of dtype.

    Those of fused steps too.
    """
    scans = {_use(case, dtype) for case in golden.load()}
    kinds = {'seen': torch.float32, 'mix': torch.float32}
    return scans | {scan.Use(operation, kinds.get(operation, dtype))
                    for operation in selfcheck_steps.OPERATIONS if steps}


def choose_backends(*, device: str, dtype: torch.dtype, wanted: str = 'auto',
                    uses: Iterable[scan.Use] | None = None) -> Choice:
    """Return for each operation the first backend, from wanted on, that passes the check.

    Args:
        device: 'cpu' or 'cuda'.
        dtype: Of the activations.
        wanted: A backend, from which on the others follow in the order of scan.BACKENDS, or
            'auto'.
        uses: What is needed; None for all that the golden cases stand for.

    Raises:
        ScanError: wanted is unknown or cannot run here, or no backend passes.
    """
    names = list(scan.BACKENDS)
    if wanted != 'auto':
        scan.backend_for(_example(device, dtype), 'ss2d', wanted)
        names = names[names.index(wanted):]
    by_operation: dict[str, list[scan.Use]] = {}
    for use in sorted(all_uses(dtype, steps=device == 'cuda') if uses is None else uses, key=str):
        by_operation.setdefault(use.operation, []).append(use)
    search = _Search(device, dtype)
    backends = {operation: _first_right(names, asked, search) for operation,
                asked in by_operation.items()}
    plain = [operation for operation, name in backends.items() if name in PLAIN]
    slow = _too_slow(plain, search) if device == 'cuda' and wanted not in PLAIN and plain else ''
    return Choice(backends or {'scans': _usable(names, device, dtype)}, tuple(search.failures),
                  slow)


def _first_right(names: list[str], uses: list[scan.Use], search: _Search) -> str:
    """The first backend that gives right values for all uses of one operation."""
    operation, failed = uses[0].operation, []
    for name in names:
        if not hasattr(scan.BACKENDS[name], operation):
            continue
        reasons = [unusable(name, device=search.device, dtype=use.dtype) for use in uses]
        if reason := next(filter(None, reasons), None):
            search.skipped[name] = reason
            continue
        wrong = next(filter(None, (_cached_check(name, use, search) for use in uses)), None)
        if wrong is None:
            return name
        failed.append(f'scan backend {name} {wrong}, and is not used for {operation}')
        search.failures.append(failed[-1])
    raise scan.ScanError(f'no scan backend works on this machine: {"; ".join(failed)}')


def _too_slow(operations: list[str], search: _Search) -> str:
    """The sentence for operations that end in plain torch on a GPU."""
    reasons = [f'{name}: {reason}' for name, reason in search.skipped.items()
               if name in ('triton', 'mamba_ssm')]
    costs = '; '.join(f'{operation}: {COSTS.get(operation, OTHER_COST)}'
                      for operation in operations)
    why = f' ({"; ".join(reasons)})' if reasons else ''
    return (f'this GPU runs {", ".join(operations)} in plain torch{why}, which costs much time: '
            f'{costs}')


def _cached_check(name: str, use: scan.Use, search: _Search) -> str | None:
    """check_use, unless it has passed on this GPU before."""
    if search.device != 'cuda':
        return check_use(name, use, device=search.device, layers=search.layers)
    key = (f'{name} {use.operation} {use.dtype} {use.states} states {use.directions} directions, '
           f'layers {search.layers}')
    if key in known_checks():
        return None
    wrong = check_use(name, use, device=search.device, layers=search.layers)
    if wrong is None:
        remember({key})
    return wrong


def _usable(names: list[str], device: str, dtype: torch.dtype) -> str:
    """The first backend that can run here."""
    return next(name for name in names if unusable(name, device=device, dtype=dtype) is None)


def _example(device: str, dtype: torch.dtype) -> torch.Tensor:
    return _on(device, torch.zeros(1, 1, 1, 1, dtype=dtype))


def _on(device: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(device)


def unusable(name: str, *, device: str, dtype: torch.dtype) -> str | None:
    """Return why a backend cannot run here on activations of dtype, or None."""
    module = scan.BACKENDS[name]
    try:
        return module.unavailable() or module.refuses(_example(device, dtype), states=1)
    except Exception as error:  # a half installed library raises anything
        return f'{type(error).__name__}: {error}'


def check(name: str, *, device: str, dtype: torch.dtype) -> str | None:
    """Check a backend for all operations that it has.

    Return the first thing that is wrong, or None.
    """
    uses = (use for use in sorted(all_uses(dtype), key=str)
            if hasattr(scan.BACKENDS[name], use.operation))
    return next(filter(None, (check_use(name, use, device=device) for use in uses)), None)


def check_use(name: str, use: scan.Use, *, device: str,
              layers: torch.dtype | None = None) -> str | None:
    """Run a backend on the golden inputs that stand for a use; return what is wrong, or None.

    layers: type of the layers of the network; None: that of the use.
    """
    for case, allowed in _cases(use, layers or use.dtype):
        try:
            first = case.inputs[0]
            example = _on(device,
                          (first if isinstance(first, torch.Tensor) else first[0]).to(use.dtype))
            if scan.BACKENDS[name].refuses(example, states=case.states) is not None:
                continue
            with torch.inference_mode():
                found = case.run(name, device=device, dtype=use.dtype).double().cpu()
        except Exception as error:  # compilers and drivers raise anything
            return f'raised {type(error).__name__} on the golden inputs ({case.name}: {error})'
        wrong = _wrong(found, case.expected.double(), allowed)
        if wrong:
            return wrong.format(case.name)
    return None


def _wrong(found: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor) -> str:
    """Return what is wrong about a result, with a place for the name of the case, or nothing."""
    if found.shape != expected.shape:
        return (f'gave the shape {tuple(found.shape)} on the golden inputs ({{}}: expected '
                f'{tuple(expected.shape)})')
    if not found.isfinite().all():
        return 'gave NaN or infinity on the golden inputs ({})'
    excess = ((found - expected).abs() / allowed).max().item()
    return (f'gave wrong values on the golden inputs ({{}}: off by {excess:.1f} times what '
            f'rounding explains)' if excess > 1 else '')


@lru_cache
def _cases(use: scan.Use, layers: torch.dtype) -> list:
    """The cases that stand for a use, with the errors that they allow."""
    if use.operation in selfcheck_steps.OPERATIONS:
        return [(step, step.allowed(layers))
                for step in selfcheck_steps.cases(use.operation, use.dtype, layers)]
    return [(case, allowed_errors(case.expected, case.magnitude(), steps=case.steps,  # type: ignore[arg-type]
                                  dtype=use.dtype))
            for case in golden.load() if _use(case, use.dtype) == _nearest(use)]


def _use(case: golden.Case, dtype: torch.dtype) -> scan.Use:
    return _nearest(scan.Use(case.operation, dtype, case.states,
                             case.options.get('directions', 1)))


def _nearest(use: scan.Use) -> scan.Use:
    """A use as far as cases differ: one state or several in ss2d, any number elsewhere."""
    states = min(use.states, 2) if use.operation == 'ss2d' else 1
    return scan.Use(use.operation, use.dtype, states, use.directions)


# Compiling and running every kernel takes seconds on a GPU, so what passed is kept from one start
# to the next. A verdict holds as long as GPU, driver, torch, Triton and the source of the kernels
# stay what they are. Only passes are kept: a failure may have been one of the moment, and is
# looked for again at every start.
CACHE_FILE = Path('diffmf_ros') / 'selfcheck.json'
DRIVER = Path('/proc/driver/nvidia/version')
MOST_MACHINES = 8  # that are remembered, the newest ones


def cache_path() -> Path:
    """Return the file of the verdicts, below the user's folder for caches."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / CACHE_FILE


def known_checks() -> set[str]:
    """Return the checks that have passed on this machine before."""
    return set(_read().get(machine(), ()))


def remember(checks: set[str]) -> None:
    """Note that the checks have passed on this machine.

    Where nothing can be written nothing is.
    """
    known = _read()
    now = sorted({*known.pop(machine(), ()), *checks})
    kept = dict([*known.items(), (machine(), now)][-MOST_MACHINES:])
    with suppress(OSError):
        file = cache_path()
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f'{file.name}.{os.getpid()}')
        own.write_text(json.dumps(kept, indent=1))
        own.replace(file)


@lru_cache(maxsize=1)
def machine() -> str:
    """Return all that a verdict depends on, as one line: GPU, driver, versions and a hash of the
    kernels."""
    driver = DRIVER.read_text().partition('\n')[0] if DRIVER.exists() else ''
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    # torch itself says more than its package: which CUDA it was built for.
    versions = f'torch {torch.__version__}, ' + ', '.join(
        f'{package} {_version(package)}' for package in ('triton', 'mamba_ssm'))
    return f'{name} {capability}; {driver}; {versions}; kernels {_source_hash()}'


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return 'none'


def _source_hash() -> str:
    """Hash of the kernels, of the golden values and of the limits."""
    files = [*Path(kernels.__file__).parent.glob('*.py'), golden.PATH, Path(golden.__file__),
             *Path(__file__).parent.glob('selfcheck*.py')]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _read() -> dict[str, list[str]]:
    """The verdicts by machine; none where there is no file, or one that is not ours."""
    try:
        found = json.loads(cache_path().read_text())
    except (OSError, ValueError):
        return {}
    usable = isinstance(found, dict) and all(isinstance(v, list) for v in found.values())
    return found if usable else {}
