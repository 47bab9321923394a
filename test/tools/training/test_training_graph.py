# SPDX-License-Identifier: Apache-2.0
"""Training steps as one graph: the same training, whether it is launched at once or not."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.tools.training.config import TrainConfig  # noqa: E402
from diffmf_ros.tools.training.data import Batch  # noqa: E402
from diffmf_ros.tools.training.loop import (  # noqa: E402
    WARM_UPS,
    StepGraph,
    Trainer,
)

STEPS = WARM_UPS + 5
SIZES = {'width': 8, 'rounds': 1, 'depth': 1, 'mlp_ratio': 1.0, 'ssd_states': 4, 'ssd_head': 8,
         'levels': 2}


@pytest.fixture
def config(monkeypatch, tmp_path):
    """A training of a moment, whose learning rate changes from step to step."""
    monkeypatch.setitem(models.PRESETS['diffmf'], 'light', SIZES)
    return TrainConfig(data=str(tmp_path), out=str(tmp_path / 'out'), iterations=STEPS, batch=2,
                       crop=16, warmup=WARM_UPS + 2, device='cpu')


def batches(device='cpu'):
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        yield Batch(*(random.random((2, 1, 16, 16), np.float32) for _ in range(7))).mapped(
            lambda array: torch.from_numpy(array).to(device))


def trained(config, capture=None):
    """The terms of every step and the weights at the end, with a graph or without."""
    trainer = Trainer(config)
    if capture is not None:
        trainer.graph = StepGraph(trainer._compute, capture=capture)
    terms = [trainer.step(batch) for batch in batches(config.device)]
    return trainer, terms, torch.cat([p.detach().flatten() for p in trainer.network.parameters()])


def refusing(step):
    raise RuntimeError('not this one')


def test_replayed_steps_see_batch_and_rate(config):
    """What is captured reads the batch and the learning rate of each replay."""
    captured = []

    def capture(step):
        captured.append(step)
        return step

    _, expected, weights = trained(config)
    trainer, terms, of_graph = trained(config, capture)

    assert len(captured) == 1 and not trainer.graph.problem
    assert [list(each) for each in terms] == [list(each) for each in expected]
    assert np.allclose([list(each.values()) for each in terms],
                       [list(each.values()) for each in expected], rtol=1e-4)
    assert torch.allclose(of_graph, weights, atol=1e-6)


def test_failed_capture_trains_as_before(config):
    """Nothing of the training is lost when no graph can be captured, and the reason is said."""
    _, expected, weights = trained(config)
    trainer, terms, without = trained(config, refusing)

    assert 'not this one' in trainer.graph.problem
    assert torch.allclose(without, weights, atol=1e-6) and len(terms) == len(expected)


def test_state_of_a_gpu_goes_on_without(config):
    """What Adam was told on the device that wrote a checkpoint does not count on another one."""
    before = Trainer(config)
    some = list(batches())
    before.step(some[0])
    state = copy.deepcopy(before.state())
    for group in state['optimizer']['param_groups']:
        group.update(fused=True, capturable=True)
    after = Trainer(config)
    after.restore(state)

    assert after.step(some[1]) == before.step(some[1])


def test_cpu_has_no_graph(config):
    assert Trainer(config).graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_graph_trains_the_same(config, monkeypatch):
    """Weights after some replays are those of steps that are launched kernel by kernel."""
    config = config.__class__(**{**vars(config), 'device': 'cuda'})
    _, _, weights = trained(config, refusing)
    trainer = Trainer(config)
    for batch in batches('cuda'):
        trainer.step(batch)

    assert trainer.graph is not None and not trainer.graph.problem
    found = torch.cat([p.detach().flatten() for p in trainer.network.parameters()])
    assert torch.allclose(found, weights, atol=1e-4)
