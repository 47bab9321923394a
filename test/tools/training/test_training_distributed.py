# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: two on the CPU, started by torchrun, against one."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.tools.training.config import load_config  # noqa: E402
from diffmf_ros.tools.training.distributed import Processes  # noqa: E402
from diffmf_ros.tools.training.log import read_log  # noqa: E402
from diffmf_ros.tools.training.loop import train  # noqa: E402
from diffmf_ros.tools.training.precision import TrainingError  # noqa: E402

CPU = torch.device('cpu')
DEADLINE_S = 120


def quiet(iteration, terms):
    """A report that nobody reads."""


# A training that leaves behind what each process saw of its end; the second process alone gets a
# signal.
WORKER = """
import os
import signal
import sys
from pathlib import Path
from diffmf_ros.tools.training.config import load_config
from diffmf_ros.tools.training.data import CropSampler
from diffmf_ros.tools.training.precision import TrainingError
from diffmf_ros.tools.training.loop import train

path, rank, whole = sys.argv[1], os.environ['RANK'], CropSampler.batch

def batch(self, iteration):
    if (iteration, rank, sys.argv[2]) == (29, '1', 'signal'):
        signal.raise_signal(signal.SIGTERM)
    if (iteration, rank, sys.argv[2]) == (2, '1', 'breaks'):
        raise OSError('the disk of the second process is gone')
    return whole(self, iteration)

CropSampler.batch = batch
try:
    outcome = train(load_config(path), lambda iteration, terms: None)
    seen = f'{outcome.iteration} {outcome.stop.name}'
except TrainingError as error:
    seen = str(error)
Path(path + rank).write_text(seen)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Return recipe(name, **entries): the YAML file of a training of nano on three pairs of 40 x
    48 images."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    random = np.random.default_rng(0)
    for sub in ('ir', 'vi'):
        (tmp_path / 'set' / sub).mkdir(parents=True)
        for name in 'abc':
            cv2.imwrite(str(tmp_path / 'set' / sub / f'{name}.png'),
                        random.integers(0, 255, (40, 48), np.uint8))

    def write(name, **entries):
        entries = {'data': str(tmp_path / 'set'), 'out': str(tmp_path / name), 'preset': 'nano',
                   'iterations': 40, 'batch': 4, 'crop': 16, 'learning_rate': 1e-4, 'warmup': 10,
                   'device': 'cpu',
                   **entries}
        (tmp_path / f'{name}.yaml').write_text(yaml.safe_dump(entries))
        return tmp_path / f'{name}.yaml'
    return write


@pytest.fixture
def two_processes(tmp_path):
    """Return run(path, event) -> the finished torchrun and what each process saw of the end."""
    (tmp_path / 'worker.py').write_text(WORKER)

    def run(path, event):
        done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                               '--nproc-per-node=2', str(tmp_path / 'worker.py'), str(path),
                               event],
                              capture_output=True, text=True, timeout=DEADLINE_S)
        ends = [path.with_name(path.name + rank) for rank in '01']
        return done, [end.read_text() for end in ends if end.exists()]
    return run


def test_two_processes_equal_one(recipe, two_processes, tmp_path):
    """Two processes train as one does stop together and resume."""
    # Given a training in one process,
    train(load_config(recipe('one')), quiet)
    # when two processes train the same, a signal to one of them stops both, and one process goes
    # on,
    path = recipe('two')
    done, ends = two_processes(path, 'signal')
    assert ends == ['30 TERMINATED'] * 2, done.stderr
    assert train(load_config(path), quiet).iteration == 40
    # then the weights agree to rounding,
    first, second = (torch.load(tmp_path / name / 'checkpoint.pt', weights_only=True)
                     for name in ('one', 'two'))
    for part in ('network', 'average'):
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=1e-5)
    # and the log, of 20 iterations in two processes, has the loss of the whole batch.
    first, second = (read_log(tmp_path / name / 'log.csv')[0] for name in ('one', 'two'))
    for term in ('total', 'intensity', 'gradient', 'ssim', 'gradient_norm'):
        assert float(second[term]) == pytest.approx(float(first[term]), rel=2e-5)


def test_indivisible_batch_is_refused():
    """A batch that cannot be divided is refused."""
    with pytest.raises(TrainingError,
                       match='batch 5 cannot be divided by 2 processes: choose a multiple of 2'):
        Processes(CPU, rank=0, count=2).share(5)


def test_the_processes_share_a_batch():
    shares = [Processes(CPU, rank=rank, count=3).share(12) for rank in range(3)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 7],
                                                            [8, 9, 10, 11]]


def test_nonfinite_gradient_ends_all(recipe, two_processes):
    """A gradient that is not finite ends every process."""
    done, ends = two_processes(recipe('steep', learning_rate=1e30, warmup=1, precision='bfloat16'),
                               'none')
    assert len(ends) == 2, done.stderr
    assert ends[0] == ends[1]
    assert ends[0].startswith('non-finite gradient at iteration 2: lower learning_rate')


def test_broken_process_ends_others(recipe, two_processes):
    """When one process breaks the others end."""
    done, ends = two_processes(recipe('broken'), 'breaks')
    assert done.returncode != 0
    assert ends == []
    assert 'the disk of the second process is gone' in done.stderr
