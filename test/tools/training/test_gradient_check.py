# SPDX-License-Identifier: Apache-2.0
"""Wrong gradients of a kernel are found before a training uses it (in Triton's interpreter)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.tools.training.distributed import Processes  # noqa: E402
from diffmf_ros.tools.training.gradient_check import checked_network  # noqa: E402

ALONE = Processes(torch.device('cpu'))

CASES = """
import torch
from diffmf_ros.models import scan
from diffmf_ros.models.kernels import triton_autograd, triton_rows_backward
from diffmf_ros.tools.training.gradient_check import wrong_gradients

def found(operation, dtype, layers):
    return wrong_gradients(scan.Use(operation, dtype), device=torch.device('cpu'), layers=layers)

half = torch.bfloat16
print(found('mlp', torch.float32, half))
right = triton_rows_backward.added
triton_rows_backward.added = lambda *inputs: [1.02 * total for total in right(*inputs)]
print(found('mlp', torch.float32, half))
triton_rows_backward.added = None
print(found('mlp', torch.float32, half))
print(found('rates', torch.float32, half))
triton_autograd.triton_small.rates = lambda logs: -1.02 * logs.exp()
print(found('rates', torch.float32, half))
"""


def test_a_cpu_has_nothing_to_check():
    """Without a GPU the network is called as it is, and nothing is said."""
    network = models.build('diffmf', 'nano')
    fuse, problems = checked_network(network, 'float32', ALONE)
    assert fuse is network and problems == ()
    assert {m.backend for m in network.modules() if hasattr(m, 'backend')} == {'auto'}


@pytest.mark.slow
def test_a_broken_kernel_is_named():
    """Sound kernels pass; sums that are two percent off, or an error, are found."""
    pytest.importorskip('triton', reason='triton is not installed')
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, '-c', CASES], capture_output=True, text=True,
                          check=False, env={**os.environ, 'TRITON_INTERPRET': '1',
                                            'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)})
    assert done.returncode == 0, done.stderr[-2000:]
    sound, wrong, raised, sound_rates, wrong_rates = done.stdout.splitlines()
    assert sound == sound_rates == 'None'
    assert wrong.startswith('has wrong gradients (mlp 0, input')
    assert raised.startswith('raised TypeError for its gradients (mlp 0')
    assert wrong_rates.startswith('has wrong gradients (rates, input 0')


def test_what_fails_runs_in_plain_torch(monkeypatch):
    """An operation with wrong gradients is set to portable, and a sentence says what it costs."""
    from diffmf_ros.models import scan
    from diffmf_ros.tools.training import gradient_check

    # given a network that asks for two operations, one of which is wrong
    uses = {name: [scan.Use(name, torch.float32)] for name in ('ss2d', 'mlp')}
    monkeypatch.setattr(gradient_check, '_uses', lambda *of: uses)
    monkeypatch.setattr(gradient_check, 'wrong_gradients', lambda use, **options: (
        'has wrong gradients' if use.operation == 'ss2d' else None))
    # when it is checked
    network = models.build('diffmf', 'nano')
    _, (problem,) = checked_network(network, 'float32', ALONE)
    # then that one alone is left to plain torch
    assert {str(m.backend) for m in network.modules() if hasattr(m, 'backend')} == {
        "{'ss2d': 'portable'}"}
    assert 'kernel of ss2d has wrong gradients' in problem and 'tens of thousands' in problem
