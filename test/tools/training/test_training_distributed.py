# SPDX-License-Identifier: Apache-2.0
"""Training in several processes: two on the CPU, started by torchrun or like it, against one."""

import os
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


# A training that leaves behind what each process saw of its end; the second
# process alone gets a signal, breaks, and has a kernel with wrong gradients.
WORKER = """
import os
import signal
import sys
from pathlib import Path
import torch
from torch import distributed
from diffmf_ros.models.scan import Use
from diffmf_ros.tools.training import gradient_check
from diffmf_ros.tools.training.config import load_config
from diffmf_ros.tools.training.data import CropSampler
from diffmf_ros.tools.training.precision import TrainingError
from diffmf_ros.tools.training.loop import train

rank, whole = os.environ['RANK'], CropSampler.batch

def batch(self, iteration):
    if (iteration, rank, event) == (21, '1', 'signal'):
        signal.raise_signal(signal.SIGTERM)
    if (iteration, rank, event) == (2, '1', 'breaks'):
        raise OSError('the disk of the second process is gone')
    return whole(self, iteration)

CropSampler.batch = batch
if rank == '1':
    gradient_check._uses = lambda *of: {'mlp': [Use('mlp', torch.float32)]}
    gradient_check.wrong_gradients = lambda use, **options: 'has wrong gradients'
for path in sys.argv[1:]:
    event = Path(path).stem
    try:
        outcome = train(load_config(path), lambda iteration, terms: None,
                        problem=Path(path + '.problem' + rank).write_text)
        seen = f'{outcome.iteration} {outcome.stop.name}'
    except TrainingError as error:
        seen = str(error)
        distributed.destroy_process_group()
    Path(path + rank).write_text(seen)
"""

# Both processes of each training, as torchrun starts them, but forked: importing torch takes most
# of the time of a small training. A process that hangs is ended by its alarm.
FORKED = """
import os
import runpy
import signal
import socket
import sys
import traceback
from torch import _dynamo  # of which every wrapped network needs a part
from diffmf_ros.models import diffmf
from diffmf_ros.tools.training import loop

worker, deadline_s, *paths = sys.argv[1:]
failed = False
for path in paths:
    with socket.socket() as free:  # of each training, looked for when it begins
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    children = []
    for rank in '01':
        children.append(os.fork())
        if children[-1]:
            continue
        signal.alarm(int(deadline_s))
        os.environ |= dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=str(port))
        sys.argv, code = [worker, path], 1
        try:
            runpy.run_path(worker)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    for child in children:
        failed |= os.waitpid(child, 0)[1] != 0
sys.exit(failed)
"""


class Trainings:
    """Trainings of nano on three pairs of 40 x 48 images, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        random = np.random.default_rng(0)
        for sub in ('ir', 'vi'):
            (folder / 'set' / sub).mkdir(parents=True)
            for name in 'abc':
                cv2.imwrite(str(folder / 'set' / sub / f'{name}.png'),
                            random.integers(0, 255, (40, 48), np.uint8))

    def recipe(self, name, **entries):
        """Write the YAML file of a training."""
        entries = {'data': str(self.folder / 'set'), 'out': str(self.folder / name),
                   'preset': 'nano', 'iterations': 28, 'batch': 4, 'crop': 16,
                   'learning_rate': 1e-4, 'warmup': 10, 'device': 'cpu', **entries}
        (self.folder / f'{name}.yaml').write_text(yaml.safe_dump(entries))
        return self.folder / f'{name}.yaml'

    def run(self, path):
        """Run a training in two processes, by torchrun."""
        (self.folder / 'worker.py').write_text(WORKER)
        (self.folder / 'logs').mkdir(exist_ok=True)  # which torchrun leaves in TMPDIR
        return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                               '--nproc-per-node=2', str(self.folder / 'worker.py'), str(path)],
                              capture_output=True, text=True, timeout=DEADLINE_S,
                              env={**os.environ, 'TMPDIR': str(self.folder / 'logs')})

    def run_forked(self, *paths):
        """Run trainings in two processes each, one after another."""
        (self.folder / 'worker.py').write_text(WORKER)
        (self.folder / 'forked.py').write_text(FORKED)
        return subprocess.run([sys.executable, str(self.folder / 'forked.py'),
                               str(self.folder / 'worker.py'), str(DEADLINE_S),
                               *map(str, paths)],
                              capture_output=True, text=True,
                              timeout=(1 + len(paths)) * DEADLINE_S)

    def ends(self, name):
        """Return what each process saw of the end of a training."""
        ends = [self.folder / f'{name}.yaml{rank}' for rank in '01']
        return [end.read_text() for end in ends if end.exists()]


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    """Trainings in two processes that end as their names say."""
    trainings = Trainings(tmp_path_factory.mktemp('trainings'))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv('OMP_NUM_THREADS', '1')
        # Each in processes of its own: a group of processes that is made again may wait for ever.
        trainings.forked = trainings.run_forked(trainings.recipe('signal'), trainings.recipe(
            'steep', learning_rate=1e30, warmup=1, precision='bfloat16'))
        assert trainings.forked.returncode == 0, trainings.forked.stderr
        trainings.broken = trainings.run(trainings.recipe('breaks'))
    return trainings


@pytest.fixture
def one_thread():
    """One thread of torch, as in the processes: with others sums have another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('one_thread')
def test_two_processes_equal_one(trainings):
    """Two processes train as one does, stop together, and one goes on."""
    # Given a training in one process,
    train(load_config(trainings.recipe('one')), quiet)
    # when two processes train the same, a signal to one of them stops both, and one process goes
    # on,
    assert trainings.ends('signal') == ['22 TERMINATED'] * 2, trainings.forked.stderr
    assert train(load_config(trainings.folder / 'signal.yaml'), quiet).iteration == 28
    # then the weights agree to rounding,
    first, second = (torch.load(trainings.folder / name / 'checkpoint.pt', weights_only=True)
                     for name in ('one', 'signal'))
    for part in ('network', 'average'):
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=1e-5)
    # and the log, of 20 iterations in two processes, has the loss of the whole batch.
    first, second = (read_log(trainings.folder / name / 'log.csv')[0]
                     for name in ('one', 'signal'))
    for term in ('total', 'intensity', 'gradient', 'ssim', 'gradient_norm'):
        assert float(second[term]) == pytest.approx(float(first[term]), rel=2e-5)


def test_problem_is_said_once(trainings):
    """A kernel that is wrong in the second process is named by the first one alone."""
    problem, = trainings.folder.glob('signal.yaml.problem*')

    assert problem.name.endswith('0'), trainings.forked.stderr
    assert 'kernel of mlp is wrong in another process' in problem.read_text()


def test_indivisible_batch_is_refused():
    """A batch that cannot be divided is refused."""
    with pytest.raises(TrainingError,
                       match='batch 5 cannot be divided by 2 processes: choose a multiple of 2'):
        Processes(CPU, rank=0, count=2).share(5)


def test_the_processes_share_a_batch():
    shares = [Processes(CPU, rank=rank, count=3).share(12) for rank in range(3)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 7],
                                                            [8, 9, 10, 11]]


def test_nonfinite_gradient_ends_all(trainings):
    """A gradient that is not finite ends every process."""
    ends = trainings.ends('steep')
    assert len(ends) == 2, trainings.forked.stderr
    assert ends[0] == ends[1]
    assert ends[0].startswith('non-finite gradient at iteration 2: lower learning_rate')


def test_broken_process_ends_others(trainings):
    """When one process breaks the others end."""
    assert trainings.broken.returncode != 0
    assert trainings.ends('breaks') == []
    assert 'the disk of the second process is gone' in trainings.broken.stderr
