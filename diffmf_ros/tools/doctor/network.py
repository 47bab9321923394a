# SPDX-License-Identifier: Apache-2.0
"""What fuses: GPU or why none, precision, scan backends with their self-check, and the weights."""

import os
from collections.abc import Iterator
from pathlib import Path

from ...core.frames import DiffmfError
from ...core.settings import DEFAULTS
from . import Finding, Severity
from .system import is_jetson

NVIDIA_DRIVER = Path('/proc/driver/nvidia/version')
COMMAND = 'diffmf bench --preset light --size 640x480 --frames 10'


def examine() -> Iterator[Finding]:
    """Everything that needs torch; one finding with the reason where it cannot be imported."""
    try:
        import torch

        from ... import models  # noqa: F401 (needs einops)
        from ...inference import engine, selfcheck, weights  # noqa: F401 (needs safetensors)
    except Exception as error:  # a half installed torch raises anything
        reason = (f'{error.name} is not installed'
                  if isinstance(error, ModuleNotFoundError) and error.name
                  else f'{type(error).__name__}: {error}')
        yield Finding('network', 'torch', f'{reason}; the node fuses classically', Severity.WARN)
        return
    yield from gpus(torch)
    yield from _precision_and_scans()
    yield from _weights()


def gpus(torch) -> Iterator[Finding]:
    """CUDA devices, or why there are none."""
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for index in range(count):
            major, minor = torch.cuda.get_device_capability(index)
            memory_gb = torch.cuda.get_device_properties(index).total_memory / 2 ** 30
            yield Finding('network', f'GPU {index}',
                          f'{torch.cuda.get_device_name(index)}, capability '
                          f'{major}.{minor}, {memory_gb:.1f} GB, CUDA {torch.version.cuda}')
        if count:
            return
        reason, advice = why_no_gpu(torch.version.cuda)
    except Exception as error:  # a driver that does not fit its library raises anything
        reason, advice = f'{type(error).__name__}: {error}', 'repair the NVIDIA driver'
    yield Finding('network', 'GPU', reason, Severity.WARN, advice)


def why_no_gpu(cuda_of_torch: str | None, *, tegra: bool | None = None,
               driver: bool | None = None) -> tuple[str, str]:
    """Return (reason, advice) for a torch that sees no CUDA device.

    cuda_of_torch: the CUDA version that torch was built for, None without; tegra: this is a
    Jetson;
    driver: an NVIDIA driver is loaded. The last two are found out when None.
    """
    tegra = is_jetson() if tegra is None else tegra
    driver = NVIDIA_DRIVER.exists() if driver is None else driver
    if tegra:
        return (f'this is a Jetson, but torch (CUDA {cuda_of_torch}) sees no GPU',
                "install NVIDIA's torch wheel for this JetPack: the one from PyPI has no CUDA for "
                "it")
    if not driver:
        return 'no NVIDIA driver is loaded', ''
    if cuda_of_torch is None:
        return ('an NVIDIA driver is loaded, but torch was built without CUDA',
                'install a torch build with CUDA')
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES')
    if hidden is not None:
        return (f'CUDA_VISIBLE_DEVICES={hidden!r} hides the GPU from torch',
                'unset CUDA_VISIBLE_DEVICES')
    return (f'an NVIDIA driver is loaded, but torch (CUDA {cuda_of_torch}) sees no device',
            f'update the driver to one for CUDA {cuda_of_torch}, or install an older torch')


def _precision_and_scans() -> Iterator[Finding]:
    from ...inference.engine import device_and_precision
    from ...models.kernels import mamba_ssm
    try:
        device, dtype = device_and_precision(DEFAULTS)
    except DiffmfError as error:
        yield Finding('network', 'precision', str(error), Severity.FAIL, str(error))
        return
    yield Finding('network', 'precision auto', f'{str(dtype).removeprefix("torch.")} on {device}')
    if device == 'cuda':  # before the scans, whose checks compile some
        yield kernel_cache()
    yield from _scans(device, dtype)
    for reason in mamba_ssm.missing():
        yield Finding('network', 'mamba_ssm', reason, Severity.WARN)


def _scans(device: str, dtype) -> Iterator[Finding]:
    """Every backend with what its self-check says, and which of them the operations get."""
    from ...inference import selfcheck
    from ...models.scan import BACKENDS, ScanError
    passed = 0
    for name in BACKENDS:
        reason = selfcheck.unusable(name, device=device, dtype=dtype)
        if reason is not None:
            yield Finding('network', f'scan {name}', reason, Severity.WARN)
            continue
        wrong = selfcheck.check(name, device=device, dtype=dtype)
        passed += wrong is None
        yield Finding('network', f'scan {name}', wrong or 'right on the golden inputs',
                      Severity.WARN if wrong else Severity.GOOD,
                      f'scan backend {name} {wrong}: please report this' if wrong else '')
    try:
        choice = selfcheck.choose_backends(device=device, dtype=dtype) if passed else None
    except ScanError:
        choice = None
    if choice is None:
        yield Finding('network', 'scans', 'no scan backend gives right values', Severity.FAIL,
                      'set model: classical until a scan backend works')
        return
    slow = choice.slow
    yield Finding('network', 'scan auto', slow or choice.name,
                  Severity.ERROR if slow else Severity.GOOD, slow)


def _weights() -> Iterator[Finding]:
    from ...inference.weights import load_weights
    from ...inference.weights_header import SHIPPED, number_text
    default = f'{DEFAULTS.model}_{DEFAULTS.network_preset}.safetensors'
    for path in sorted({*SHIPPED.glob('*.safetensors'), SHIPPED / default}):
        try:
            weights = load_weights(path)
            yield Finding('weights', path.stem,
                          f'{number_text(weights.iterations)} iterations, checksum matches')
        except DiffmfError as error:
            state = Severity.FAIL if path.name == default else Severity.WARN
            yield Finding('weights', path.stem, str(error), state, 'install the package again')


def compiled_kernels() -> Path:
    """Return the folder where Triton keeps what it has compiled."""
    home = Path(os.environ.get('TRITON_HOME') or Path.home())
    return Path(os.environ.get('TRITON_CACHE_DIR') or home / '.triton' / 'cache')


def kernel_cache() -> Finding:
    """Return whether this GPU's kernels are kept from an earlier start, and how to do it ahead."""
    from ...inference import selfcheck

    checks = len(selfcheck.known_checks())
    folder = compiled_kernels()
    compiled = sum(1 for _ in folder.glob('*/*.cubin')) if folder.is_dir() else 0
    if checks and compiled:
        return Finding('network', 'kernel cache',
                       f'warm: {compiled} compiled kernels in {folder}, {checks} checks passed; '
                       'another network, size or precision may need more')
    missing = 'no compiled kernel' if not compiled else 'no passed check of these versions'
    return Finding('network', 'kernel cache',
                   f'cold: {missing} on this GPU, so the first pair waits for the compiler',
                   Severity.WARN, f'compile ahead, with the preset, size and precision that you '
                   f'use: {COMMAND}')
