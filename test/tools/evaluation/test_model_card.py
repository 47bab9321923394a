# SPDX-License-Identifier: Apache-2.0
"""The model card: scores of the network and the baselines, the training and its loss."""

import csv

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros import models  # noqa: E402
from diffmf_ros.inference.weights import save_weights  # noqa: E402
from diffmf_ros.tools.evaluation.metrics import score  # noqa: E402
from diffmf_ros.tools.evaluation.model_card import write_card  # noqa: E402
from diffmf_ros.tools.evaluation.scoring import BASELINES, means, score_pairs  # noqa: E402
from diffmf_ros.tools.training.config import TrainConfig  # noqa: E402


@pytest.fixture
def pairs(tmp_path):
    """Two data sets of one pair each; returns the folder and {set: (ir, vi_y)}."""
    random, images = np.random.default_rng(0), {}
    for dataset in ('north', 'south'):
        for sub in ('ir', 'vi'):
            (tmp_path / dataset / sub).mkdir(parents=True)
            image = cv2.blur(random.integers(0, 256, (48, 56), np.uint8), (5, 5))
            cv2.imwrite(str(tmp_path / dataset / sub / 'a.png'), image)
            images[dataset, sub] = image
    return tmp_path, {d: (images[d, 'ir'], images[d, 'vi']) for d in ('north', 'south')}


def test_baselines_are_scored_on_every_pair(pairs):
    folder, images = pairs
    found = {(dataset, method): scores for dataset, method,
             scores in score_pairs(BASELINES, folder)}
    assert set(found) == {(d, m) for d in images for m in BASELINES}
    for dataset, (ir, y) in images.items():
        assert found[dataset, 'maximum'] == pytest.approx(score(ir, y, np.maximum(ir, y)),
                                                          rel=1e-9,
                                                             nan_ok=True)  # noise is flat nowhere


def test_means_are_taken_metric_by_metric():
    assert means([{'EN': 1.0, 'SD': 4.0}, {'EN': 3.0, 'SD': 0.0}]) == {'EN': 2.0, 'SD': 2.0}


def test_means_skip_undefined():
    """Means leave out what an image does not define."""
    got = means([{'salience': np.nan, 'PSNR': np.inf}, {'salience': 0.5, 'PSNR': np.inf}])
    assert got['salience'] == 0.5
    assert np.isnan(got['PSNR'])


def test_card_has_training_and_scores(pairs, tmp_path):
    """Card says how it was trained and what it scores."""
    folder, images = pairs
    torch.manual_seed(0)
    weights = tmp_path / 'diffmf_light.safetensors'
    save_weights(weights, models.build('diffmf', 'light').state_dict(), model='diffmf',
                 preset='light', iterations=40, seed=3)
    with (tmp_path / 'log.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('iteration', 'total', 'intensity', 'detail', 'gradient_norm',
                         'learning_rate', 'seconds'))
        writer.writerows((i, i / 10, 0.5, 0.25, 1, 1, 1) for i in (20, 40))
    done = []

    card = write_card(weights, config=TrainConfig(data='', out='', seed=3),
                      log=tmp_path / 'log.csv', scored_on=folder, about_data='Three words here.',
                      report=done.append)

    text = card.read_text()
    assert card == tmp_path / 'diffmf_light.md'
    assert '40 iterations. Three words here.' in text
    assert '| seed | 3 |' in text
    assert '| iterations to | total | intensity | detail |' in text
    assert '| 40 | 4.0000 | 0.5000 | 0.2500 |' in text
    assert done == list(range(1, 15))  # two pairs, six baselines and the network
    north = text[text.index('### north (1 pairs)'):text.index('### south')]
    expected = score(*images['north'], np.maximum(*images['north']))
    row = next(line for line in north.splitlines() if line.startswith('| maximum |'))
    assert f' | {expected["EN"]:.3f} | {expected["SD"]:.3f} | ' in row
    assert '| diffmf light |' in north
    assert '| target | target_worst |' in north and '| Nabf | salience |' in north
    assert text.index('### south') < text.index('### all (2 pairs)')
