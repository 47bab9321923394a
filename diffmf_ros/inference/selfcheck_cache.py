# SPDX-License-Identifier: Apache-2.0
"""Memory of which kernels have given right values on this GPU, from one start to the next.

Compiling and running every kernel on the golden inputs takes seconds on a GPU. A verdict holds as
long as GPU, driver, torch, Triton and the source of the kernels stay what they are. Only passes
are kept: a failure may have been one of the moment, and is looked for again at every start.
"""

import hashlib
import json
import os
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..models import kernels
from . import golden

FILE = Path('diffmf_ros') / 'selfcheck.json'
DRIVER = Path('/proc/driver/nvidia/version')
MOST_MACHINES = 8  # that are remembered, the newest ones


def path() -> Path:
    """Return the file of the verdicts, below the user's folder for caches."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / FILE


def known() -> set[str]:
    """Return the checks that have passed on this machine before."""
    return set(_read().get(machine(), ()))


def passed(checks: set[str]) -> set[str]:
    """Return those of the checks that have passed on this machine before."""
    return checks & known()


def remember(checks: set[str]) -> None:
    """Note that the checks have passed on this machine.

    Where nothing can be written nothing is.
    """
    known = _read()
    now = sorted({*known.pop(machine(), ()), *checks})
    kept = dict([*known.items(), (machine(), now)][-MOST_MACHINES:])
    with suppress(OSError):
        file = path()
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
    versions = ', '.join(f'{package} {_version(package)}'
                         for package in ('torch', 'triton', 'mamba_ssm'))
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
        found = json.loads(path().read_text())
    except (OSError, ValueError):
        return {}
    usable = isinstance(found, dict) and all(isinstance(v, list) for v in found.values())
    return found if usable else {}
