# SPDX-License-Identifier: Apache-2.0
"""The machine itself, the libraries that are not ROS, and energy readings."""

import platform
import sys
from collections.abc import Iterator

from ...core.packages import pip_install
from ..bench.energy import find_meter
from ..machine import this_machine
from .finding import Finding, Severity, try_imports

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
