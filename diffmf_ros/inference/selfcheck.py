# SPDX-License-Identifier: Apache-2.0
"""Choose a scan backend that gives the right values on this machine, before a network uses it.

A compiled kernel can be wrong on one machine alone: another compiler, driver or processor than it was
tested on. So each candidate runs on stored golden inputs first (`golden.py`).
"""

from dataclasses import dataclass

import torch

from ..models import scan
from . import golden

# Largest error of float32, RMS error of half precision, both over the mean magnitude. With every activation
# rounded, a sound float16 scan is off by 9e-4 and a bfloat16 one by 7e-3; one wrong token in 150 by 8e-2.
LIMITS = {torch.float32: 5e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Choice:
    """The backend to use, and for each one before it that failed what was wrong with it."""

    name: str
    problems: tuple[str, ...] = ()


def choose_backend(*, device: str, dtype: torch.dtype, wanted: str = 'auto') -> Choice:
    """Return the first backend, from wanted on in the order of scan.BACKENDS, that passes the check.

    device: 'cpu' or 'cuda'; dtype: of the activations. Raises ScanError when wanted is unknown, when it
    cannot run here, and when no backend passes.
    """
    names = list(scan.BACKENDS)
    if wanted != 'auto':
        scan.backend_for(torch.zeros(1, 1, 1, 1, device=device, dtype=dtype), 'ss2d', wanted)
        names = names[names.index(wanted):]
    problems: list[str] = []
    for name in names:
        if unusable(name, device=device, dtype=dtype) is not None:
            continue
        problem = check(name, device=device, dtype=dtype)
        if problem is None:
            return Choice(name, tuple(problems))
        problems.append(f'scan backend {name} {problem}, and is not used')
    raise scan.ScanError('no scan backend works on this machine: ' + '; '.join(problems))


def unusable(name: str, *, device: str, dtype: torch.dtype) -> str | None:
    """Return why a backend cannot run here on activations of dtype, or None."""
    module = scan.BACKENDS[name]
    try:
        return module.unavailable() or module.refuses(torch.zeros(1, 1, 1, 1, device=device, dtype=dtype), states=1)
    except Exception as error:  # a half installed library raises anything
        return f'{type(error).__name__}: {error}'


def check(name: str, *, device: str, dtype: torch.dtype) -> str | None:
    """Run a backend on the golden inputs that it takes; return what is wrong, or None.

    An operation that it lacks runs as it would in a network: by the portable backend.
    """
    for case in golden.load():
        try:
            if scan.BACKENDS[name].refuses(case.inputs[0].to(device, dtype), states=case.states) is not None:
                continue
            with torch.inference_mode():
                found = case.run(name, device=device, dtype=dtype).double().cpu()
        except Exception as error:  # compilers and drivers raise anything
            return f'raised {type(error).__name__} on the golden inputs ({case.name}: {error})'
        if found.shape != case.expected.shape:
            return (f'gave the shape {tuple(found.shape)} on the golden inputs ({case.name}: expected '
                    f'{tuple(case.expected.shape)})')
        if not found.isfinite().all():
            return f'gave NaN or infinity on the golden inputs ({case.name})'
        error, limit = relative_error(found, case.expected.double(), dtype), LIMITS[dtype]
        if error > limit:
            return (f'gave wrong values on the golden inputs ({case.name}: off by {error:.1e} of the mean '
                    f'magnitude, allowed {limit:.0e})')
    return None


def relative_error(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> float:
    """Largest error for float32, RMS error for half precision, over the mean magnitude of expected."""
    off = (found - expected).abs()
    error = off.max() if dtype == torch.float32 else off.square().mean().sqrt()
    return (error / expected.abs().mean()).item()
