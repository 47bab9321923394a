# SPDX-License-Identifier: Apache-2.0
"""The machine itself, the libraries that are not ROS, energy readings, and what a Jetson has of
all that the node can use there: JetPack, torch for its GPU, Triton, TensorRT."""

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ...core.packages import pip_install
from ..machine import find_meter, this_machine
from . import Finding, Severity, try_code, try_imports

SUPPORTED_PYTHON = ((3, 10), (3, 13))
# library -> what the node does without it, and how to get it; nothing runs without those of
# NEEDED.
NEEDED = {'numpy': 'pip install numpy',
          'cv2': 'pip install opencv-python-headless (with ROS: apt python3-opencv)',
          'yaml': 'pip install PyYAML (with ROS: apt python3-yaml)'}
OPTIONAL = {
    'torch': ('the node fuses classically',
              f"{pip_install('torch')}; on a Jetson NVIDIA's own wheel"),
    'einops': ('the node fuses classically', 'pip install einops'),
    'safetensors': ('the node fuses classically', 'pip install safetensors'),
    'triton': ('no Triton kernels, which need a GPU anyway', ''),
    'onnxruntime': ('engine onnx is not to be had', ''),
    'rosbags': ('replay and demo cannot read bags', 'pip install rosbags'),
    'matplotlib': ('no plots', ''),
}


def machine() -> Iterator[Finding]:
    """Python, system, processor and memory."""
    here, (oldest, newest) = this_machine(), SUPPORTED_PYTHON
    supported = oldest <= sys.version_info[:2] <= newest
    yield Finding('machine', 'Python', platform.python_version(),
                  Severity.GOOD if supported else Severity.WARN,
                  '' if supported else 'Python 3.10 to 3.13 are tested; another one may not work')
    yield Finding('machine', 'system', here.os)
    yield Finding('machine', 'processor',
                  f'{here}; {", ".join(here.extensions) or "no vector extensions known to us"}')
    yield Finding('machine', 'memory', f'{here.memory_gb:.1f} GB')


def libraries() -> Iterator[Finding]:
    """Libraries that the package uses, without those of ROS."""
    found = try_imports([*NEEDED, *OPTIONAL])
    for name, remedy in NEEDED.items():
        blocks = bool(found[name].reason)
        yield Finding('libraries', name, found[name].text,
                      Severity.FAIL if blocks else Severity.GOOD,
                      remedy if blocks else '')
    for name, (effect, remedy) in OPTIONAL.items():
        if found[name].reason:
            yield Finding('libraries', name, f'{found[name].reason}: {effect}', Severity.WARN,
                          remedy)
        else:
            yield Finding('libraries', name, found[name].text)


def energy() -> Iterator[Finding]:
    """Check whether `diffmf bench` can say what a frame costs."""
    meter = find_meter()
    if isinstance(meter, str):
        yield Finding('energy', 'readings', f'not reported: {meter}', Severity.WARN)
    else:
        yield Finding('energy', 'readings', meter.source)


TEGRA_RELEASE = Path('/etc/nv_tegra_release')
# Compute capability by what the board calls itself.
CAPABILITIES = {'Orin': (8, 7), 'Thor': (11, 0), 'Xavier': (7, 2)}
OLDEST_CAPABILITY = 8, 0  # of the Triton kernels
TORCH = ('import torch; answer = f"{torch.__version__}, CUDA {torch.version.cuda}, " + '
         '", ".join(torch.cuda.get_arch_list()) if torch.cuda.is_available() else "no GPU"')
PROVIDERS = 'import onnxruntime; answer = ", ".join(onnxruntime.get_available_providers())'
TENSORRT = 'TensorrtExecutionProvider'


def is_jetson() -> bool:
    """Return whether this machine is a Jetson."""
    return TEGRA_RELEASE.exists() or 'Jetson' in this_machine().board


def jetson() -> Iterator[Finding]:
    """Nothing on another machine; on a Jetson a finding for each way to its GPU, whether it is
    active."""
    if not is_jetson():
        return
    board = this_machine().board
    capability = next((found for name, found in CAPABILITIES.items() if name in board), None)
    of_board = f', capability {capability[0]}.{capability[1]}' if capability else ''
    yield Finding('jetson', 'board', f'{board or "Jetson"}, {jetson_release()}{of_board}')
    active = _torch(capability)
    yield active
    yield _triton(capability, torch_active=active.state is Severity.GOOD)
    yield _tensorrt()


def jetson_release(path: Path = TEGRA_RELEASE) -> str:
    """Return the release of Jetson Linux, such as 'R36.4', or that it is not known."""
    found = re.search(r'R(\d+) \(release\), REVISION: ([\d.]+)',
                      path.read_text()) if path.exists() else None
    return f'Jetson Linux R{found[1]}.{found[2]}' if found else 'Jetson Linux of unknown release'


def _torch(capability) -> Finding:
    """Check whether torch has kernels for this GPU."""
    found = try_code(TORCH)
    if found.reason or found.version == 'no GPU':
        return Finding('jetson', 'torch on the GPU',
                       f'not active: {found.reason or "torch sees no GPU"}', Severity.WARN,
                       "install NVIDIA's torch wheel for this JetPack: the one from PyPI has no "
                       "CUDA for it")
    if capability and not _runs(found.version, capability):
        architecture = 'sm_{}{}'.format(*capability)
        return Finding('jetson', 'torch on the GPU', f'{found.version}: no {architecture}',
                       Severity.WARN, f'install a torch wheel that is built for {architecture}')
    return Finding('jetson', 'torch on the GPU', f'active: {found.version}')


def _runs(architectures: str, capability: tuple[int, int]) -> bool:
    """Return whether an sm_ architecture is of this generation and not newer than the board."""
    built = re.findall(r'sm_(\d+)(\d)', architectures)
    return any(int(major) == capability[0] and int(minor) <= capability[1]
               for major, minor in built)


def _triton(capability, *, torch_active: bool) -> Finding:
    """Check whether the fused kernels can be compiled here."""
    if capability and capability < OLDEST_CAPABILITY:
        return Finding('jetson', 'fused kernels',
                       'not active: the GPU is older than Ampere; scans run in plain torch, '
                       'which is many times slower', Severity.ERROR,
                       'use the engine onnx with TensorRT, or a newer board')
    found = try_code('import triton; answer = triton.__version__')
    if found.reason:
        return Finding('jetson', 'fused kernels',
                       f'not active: {found.reason}; scans run in plain torch, '
                       'which is many times slower', Severity.ERROR,
                       'pip install triton (3.4 or newer has wheels for aarch64)')
    if not torch_active:
        return Finding('jetson', 'fused kernels',
                       f'not active: torch does not run on the GPU; triton {found.text} is '
                       'there', Severity.WARN)
    return Finding('jetson', 'fused kernels', f'active: triton {found.text}')


def _tensorrt() -> Finding:
    """Check whether exported networks run in TensorRT through onnxruntime."""
    found = try_code(PROVIDERS)
    if not found.reason and TENSORRT in found.version:
        return Finding('jetson', 'TensorRT', 'active for engine: onnx')
    reason = found.reason or f'onnxruntime has {found.version}'
    return Finding('jetson', 'TensorRT', f'not active: {reason}', Severity.WARN,
                   "for engine: onnx install NVIDIA's onnxruntime-gpu wheel for this JetPack; or "
                   "build an engine of an exported network with trtexec, see docs/export.md")
