# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: what is rounded, what stays float32, and scaling of the loss."""

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from torch.nn.functional import avg_pool2d  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.models.blocks import cast_layers  # noqa: E402
from diffmf_ros.tools.training.config import TrainConfig  # noqa: E402
from diffmf_ros.tools.training.data import Batch  # noqa: E402
from diffmf_ros.tools.training.loop import Trainer  # noqa: E402
from diffmf_ros.tools.training.losses import LossWeights  # noqa: E402
from diffmf_ros.tools.training.precision import MixedPrecision, TrainingError  # noqa: E402


def trainer(**entries):
    """Return a trainer of nano on the CPU, and a batch of smooth textures for it."""
    made = Trainer(TrainConfig(**{'data': '', 'out': '', 'preset': 'nano', 'batch': 2, 'warmup': 2,
                                  'device': 'cpu', **entries}))
    generator = torch.Generator().manual_seed(0)
    smooth = avg_pool2d(torch.rand(7, 2, 40, 40, generator=generator), 9, 1)
    smooth = (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())
    return made, Batch(*smooth[:, :, None].to(made.device))


def weights_of(made):
    return torch.cat([p.detach().flatten() for p in made.network.parameters()])


def test_rounds_what_inference_rounds():
    torch.manual_seed(0)
    network, pair = models.build('diffmf', 'nano'), torch.rand(2, 1, 1, 32, 32).unbind()
    with torch.no_grad():
        found, expected = MixedPrecision(network, torch.bfloat16)(*pair), network(*pair)
        assert torch.equal(found, cast_layers(copy.deepcopy(network), torch.bfloat16)(*pair))
        assert 0 < (found - expected).abs().mean() < 3 * torch.finfo(
            torch.bfloat16).eps * expected.std()
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_gradients_near_float32():
    """Gradients are float32 and near those of float32."""
    gradients = []
    for precision in ('float32', 'bfloat16'):
        # L1 of gradients changes its sign wherever rounding does; L1 of levels hardly anywhere.
        made, batch = trainer(precision=precision, clip=1e9, loss=LossWeights(gradient=0, ssim=0))
        made.step(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in made.network.parameters()]))
    expected, found = gradients
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()


def test_bfloat16_lowers_the_loss():
    made, batch = trainer(precision='bfloat16', learning_rate=3e-3, iterations=30)
    losses = [made.step(batch)['total'] for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_float16_needs_a_gpu():
    with pytest.raises(TrainingError, match='float16 needs a CUDA device, this training runs on '
                       'cpu: use bfloat16'):
        trainer(precision='float16')


def test_scaled_loss_gives_the_same_steps():
    # Given two trainings, one of which scales its loss by a power of two, which rounds nothing,
    plain, batch = trainer()
    scaled, _ = trainer()
    scaled.scaler = torch.amp.GradScaler('cpu', init_scale=2.0 ** 10)
    # when both take two steps, then clipping saw the same gradient and the weights agree.
    for _ in range(2):
        terms = scaled.step(batch)
        assert terms.pop('loss_scale') == 2.0 ** 10
        assert terms == plain.step(batch)
    assert torch.equal(weights_of(scaled), weights_of(plain))


def test_scaled_overflow_halves_scale():
    """A step whose scaled gradient overflows is left out and the scale halved."""
    made, batch = trainer()
    made.scaler = torch.amp.GradScaler('cpu', init_scale=2.0 ** 126)
    before = weights_of(made)
    terms = made.step(batch)
    assert terms['loss_scale'] == 2.0 ** 125
    assert made.iteration == 1
    assert torch.equal(weights_of(made), before)


def test_unscaled_nonfinite_stops_training():
    """A gradient that is not finite without scaling stops the training."""
    made, batch = trainer()
    bad = replace(batch, ir=batch.ir * float('nan'))
    made.scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    for _ in range(2):  # the scale falls to 1
        made.step(bad)
    with pytest.raises(TrainingError, match='non-finite gradient at iteration 3'):
        made.step(bad)


def test_scale_is_in_checkpoint():
    """The scale is part of the checkpoint."""
    made, _ = trainer()
    made.scaler = torch.amp.GradScaler('cpu', init_scale=2.0 ** 7)
    resumed, _ = trainer()
    resumed.scaler = torch.amp.GradScaler('cpu')
    resumed.restore(made.state())
    assert resumed.scaler.get_scale() == 2.0 ** 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
def test_gpu_precisions_lower_loss(precision):
    """Every precision lowers the loss on a GPU."""
    made, batch = trainer(precision=precision, learning_rate=3e-3, iterations=30, device='cuda')
    losses = [made.step(batch)['total'] for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}
