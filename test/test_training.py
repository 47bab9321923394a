# SPDX-License-Identifier: Apache-2.0
"""Data, loss and loop: exact resume above all."""

import csv
import dataclasses

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.folders import LumaPair  # noqa: E402
from diffmf_ros.inference.weights import digest, load_weights  # noqa: E402
from diffmf_ros.training.config import ConfigError, TrainConfig, load_config  # noqa: E402
from diffmf_ros.training.data import CropSampler, DataError  # noqa: E402
from diffmf_ros.training.loop import Trainer, learning_rate, train  # noqa: E402
from diffmf_ros.training.losses import fusion_loss, sobel_magnitude, ssim  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """A folder of three pairs of 40 x 48 images."""
    random = np.random.default_rng(0)
    for sub in ('ir', 'vi'):
        (tmp_path / 'set' / sub).mkdir(parents=True)
        for name in 'abc':
            cv2.imwrite(str(tmp_path / 'set' / sub / f'{name}.png'), random.integers(0, 255, (40, 48), np.uint8))
    return tmp_path


@pytest.fixture
def tiny(monkeypatch, folder):
    """A configuration that trains in a moment."""
    monkeypatch.setitem(models.PRESETS['diffmf'], 'light', {
        'width': 8, 'rounds': 1, 'depth': 1, 'mlp_ratio': 1.0, 'ssd_states': 4, 'ssd_head': 8, 'levels': 2})
    return TrainConfig(data=str(folder), out=str(folder / 'out'), iterations=6, batch=2, crop=16, warmup=2)


def test_sampler_crops_both_images_alike():
    ramp = np.arange(40 * 48, dtype=np.uint32) % 251
    image = ramp.astype(np.uint8).reshape(40, 48)
    sampler = CropSampler([LumaPair('p', image, 255 - image)], crop=16, batch=5, seed=3)
    ir, vi = sampler.batch(11)
    assert ir.shape == vi.shape == (5, 1, 16, 16)
    assert np.allclose(ir + vi, 1.0)


def test_sampler_is_a_function_of_seed_and_iteration():
    pair = LumaPair('p', *np.random.default_rng(0).integers(0, 255, (2, 40, 48), np.uint8))
    first, again, other = (CropSampler([pair], crop=16, batch=2, seed=s).batch(7)[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_crop_larger_than_every_image_is_refused():
    pair = LumaPair('p', *np.zeros((2, 40, 48), np.uint8))
    with pytest.raises(DataError, match='smaller than the crop of 64'):
        CropSampler([pair], crop=64, batch=1, seed=0)


def test_loss_is_least_at_the_maximum_of_equal_images():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    terms = fusion_loss(image, image, image)
    assert all(abs(term.item()) < 1e-4 for term in terms.values())
    assert fusion_loss(image * 0.5, image, image)['total'] > 5


def test_sobel_magnitude_of_a_step():
    image = torch.zeros(1, 1, 5, 6)
    image[..., 3:] = 1
    assert sobel_magnitude(image)[0, 0, 2].tolist() == [0, 0, 4, 4, 0, 4]  # the last 4 is the zero padding


def test_ssim_of_an_image_with_itself_and_with_its_negative():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert ssim(image, image).item() == pytest.approx(1, abs=1e-5)
    assert ssim(image, 1 - image).item() < 0


def test_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(data='', out='', iterations=100, warmup=10, learning_rate=1.0)
    assert learning_rate(config, 4) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.5)
    assert learning_rate(config, 100) == pytest.approx(0.0)


def test_interrupted_training_resumes_exactly(tiny, folder):
    whole = train(dataclasses.replace(tiny, out=str(folder / 'whole')), lambda iteration, terms: None)

    def stop_at_four(iteration, terms):
        if iteration == 4:
            raise KeyboardInterrupt
    interrupted = dataclasses.replace(tiny, checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, stop_at_four)
    seen = []
    resumed = train(interrupted, lambda iteration, terms: seen.append(iteration))
    assert seen == [4, 5, 6]  # the checkpoint is of iteration 3: the fourth was not saved yet
    found, expected = load_weights(resumed).tensors, load_weights(whole).tensors
    assert digest(found) == digest(expected)


def test_training_lowers_the_loss(tiny):
    config = dataclasses.replace(tiny, iterations=60, learning_rate=3e-3)
    losses = []
    train(config, lambda iteration, terms: losses.append(terms['total']))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    rows = list(csv.DictReader(open(f'{config.out}/log.csv')))
    assert [row['iteration'] for row in rows] == ['20', '40', '60']
    assert float(rows[0]['total']) == pytest.approx(np.mean(losses[:20]), rel=1e-4)


def test_gradient_that_is_not_finite_stops_the_training(tiny):
    trainer = Trainer(tiny)
    bad = torch.full((1, 1, 16, 16), float('nan'))
    with pytest.raises(RuntimeError, match='non-finite'):
        trainer.step(bad, bad)


@pytest.mark.parametrize('text, message', [
    ('data: a\nout: b\nbatches: 3\n', 'unknown batches; known: batch'),
    ('data: a\n', 'lacks out'),
    ('- a\n', 'must hold a mapping'),
    ('data: [\n', 'cannot be read as YAML'),
    ('data: a\nout: b\nloss: {colour: 1}\n', 'unknown colour; known: gradient'),
])
def test_bad_configuration_is_explained(tmp_path, text, message):
    (tmp_path / 'c.yaml').write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / 'c.yaml')
