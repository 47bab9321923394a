# SPDX-License-Identifier: Apache-2.0
"""Evaluating several data sets, with boxes of people and a detector of one's own."""

import json
import re

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf

pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from detector_files import write_constant, write_hot_spot  # noqa: E402

from diffmf_ros.tools.evaluation.detection_scores import (  # noqa: E402
    OTHER,
    TRUTH,
    WANTED,
    Truth,
    drawn,
)
from diffmf_ros.tools.evaluation.detector import Detections, Detector  # noqa: E402
from diffmf_ros.tools.evaluation.detector_trial import DetectorTrial  # noqa: E402
from diffmf_ros.tools.evaluation.eval_files import EvaluationError  # noqa: E402
from diffmf_ros.tools.evaluation.evaluate import evaluate  # noqa: E402
from diffmf_ros.tools.evaluation.scoring import BASELINES  # noqa: E402

SIZE = 64, 64
PERSON = (16, 24, 24, 32)  # a cell of the detector


@pytest.fixture
def sets(tmp_path):
    """A folder of two data sets of one pair: a person whom thermal alone shows, on gray."""
    root = tmp_path / 'sets'
    for dataset in ('north', 'south'):
        thermal, visible = np.full(SIZE, 20, np.uint8), np.full((*SIZE, 3), 40, np.uint8)
        thermal[24:32, 16:24] = 240
        for kind, pixels in (('ir', thermal), ('vi', visible)):
            (root / dataset / kind).mkdir(parents=True)
            cv2.imwrite(str(root / dataset / kind / 'a.png'), pixels)
    return root


@pytest.fixture
def boxes(tmp_path):
    """A file with the person of north; south is not named in it."""
    path = tmp_path / 'boxes.json'
    path.write_text(json.dumps({'north_a': {'people': [PERSON], 'ignore': []}}))
    return path


def diffmf_eval(*arguments):
    return diffmf('eval', *arguments)


def test_data_sets_together_and_singly(sets):
    """Data sets are scored together and one by one."""
    got = evaluate(pairs=sets, method=('maximum', BASELINES['maximum']))
    assert [(image.dataset, image.name) for image in got.images] == [
        ('north', 'north/a'),
        ('south', 'south/a'),
    ]
    found = got.set_means()
    assert list(found) == ['north', 'south', 'all']
    assert found['all']['rgb']['SD'] == pytest.approx(
        (found['north']['rgb']['SD'] + found['south']['rgb']['SD']) / 2
    )


def test_fused_images_in_set_folders(sets, tmp_path):
    """Fused images of data sets lie in folders of their names."""
    for dataset in ('north', 'south'):
        (tmp_path / 'fused' / dataset).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'fused' / dataset / 'a.png'), np.full(SIZE, 50, np.uint8))
    got = evaluate(pairs=sets, fused=tmp_path / 'fused')
    assert got.problems == [] and len(got.images) == 2
    assert 'fused images' not in got.flat_thermal and got.flat_thermal['rgb'] == np.inf


def test_folders_given_one_way(sets):
    """Folders are given one way or the other."""
    way = {'method': ('maximum', BASELINES['maximum'])}
    with pytest.raises(EvaluationError, match='not both'):
        evaluate(sets / 'north' / 'vi', pairs=sets, **way)
    with pytest.raises(EvaluationError, match='--pairs'):
        evaluate(sets / 'north' / 'vi', **way)
    with pytest.raises(EvaluationError, match='no pairs at or below'):
        evaluate(pairs=sets / 'north' / 'vi', **way)


def test_detector_scored_on_methods_sets(sets, boxes, tmp_path):
    """A detector is scored on every method and data set."""
    # Given a detector that finds bright cells
    detector = write_hot_spot(tmp_path / 'd.onnx')
    done = diffmf_eval(
        '--pairs',
        sets,
        '--model',
        'average',
        '--detector',
        detector,
        '--boxes',
        boxes,
        '--json',
        tmp_path / 'e.json',
        '--html',
        tmp_path / 'e.html',
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / 'e.json').read_text())
    found = content['detector']
    # then the person is found where thermal gets through; without boxes nothing is known
    assert list(found) == ['north', 'south', 'all']
    assert list(found['all']) == [
        'rgb',
        'thermal',
        'pooled',
        'average',
        'maximum',
        'classical',
        'blend',
    ]
    assert {
        name: found['north'][name]['found']
        for name in ('rgb', 'thermal', 'pooled', 'average', 'blend')
    } == {'rgb': 0, 'thermal': 1, 'pooled': 1, 'average': 1, 'blend': 1}
    assert (found['north']['thermal']['AP40'], found['south']['thermal']['AP40']) == (1.0, None)
    assert found['all']['thermal']['detections'] == 2
    assert 'an unchanged detector' in done.stdout
    # and the page shows the boxes, within it
    page = (tmp_path / 'e.html').read_text()
    assert 'an unchanged detector' in page and len(re.findall('src="data:image/jpeg', page)) == 6


def test_boxes_are_targets(sets, boxes, tmp_path):
    """Boxes are the targets of the images that they name."""
    done = diffmf_eval(
        '--pairs', sets, '--model', 'rgb', '--boxes', boxes, '--json', tmp_path / 'e.json'
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / 'e.json').read_text())
    # The person, and in the image without boxes the same as a hot blob; RGB shows neither.
    assert (
        content['images'][0]['target'] == 0
        and content['sets']['north']['thermal']['target'] == 1.0
    )
    assert content['baselines']['average']['target'] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (('--detector', 'none.onnx'), 'none.onnx does not exist'),
        (('--detector', 'd.onnx', '--detect-class', 'dog'), "no class is called 'dog'"),
        (('--detector', 'd.onnx', '--detect-class', '7'), 'there is no class 7'),
        (('--detector', 'd.onnx', '--detector-layout', 'best'), 'expected a detector layout'),
        (('--detector', 'other.onnx'), '1 x 7 x 3'),
        (('--boxes', 'none.json'), 'none.json does not exist'),
    ],
)
def test_unusable_input_is_one_sentence(sets, tmp_path, more, said):
    """What cannot be used is one sentence."""
    write_hot_spot(tmp_path / 'd.onnx')
    write_constant(tmp_path / 'other.onnx', np.zeros((7, 3), np.float32))
    more = [tmp_path / part if '.' in part else part for part in more]
    done = diffmf_eval('--pairs', sets, '--model', 'average', *more)
    assert done.returncode == 2
    assert said in ' '.join(done.stderr.split()) and 'Traceback' not in done.stderr


def test_boxes_are_drawn_in_their_colors():
    found = Detections(
        np.array([[10, 10, 20, 30], [40, 10, 50, 30], [60, 10, 70, 30]], np.float32),
        np.array([0.9, 0.8, 0.2], np.float32),
        np.array([0, 2, 0]),
    )
    truth = Truth(np.array([[10.0, 35, 20, 50]]), np.zeros((0, 4)))
    image = drawn(np.zeros((60, 80), np.uint8), found, truth, wanted=0)
    assert tuple(image[29, 15]) == WANTED and tuple(image[29, 45]) == OTHER
    assert tuple(image[49, 15]) == TRUTH
    assert not image[29, 65].any()  # not sure enough


def test_detector_sees_fused_files(sets, tmp_path):
    """A detector sees fused files as they are."""
    # Given fused files in which the person is elsewhere, in the data set north alone
    (tmp_path / 'fused').mkdir()
    moved = np.full((*SIZE, 3), 20, np.uint8)
    moved[40:48, 32:40] = 230
    cv2.imwrite(str(tmp_path / 'fused' / 'a.png'), moved)
    trial = DetectorTrial(Detector(write_hot_spot(tmp_path / 'd.onnx')))
    home = sets / 'north'
    evaluate(home / 'vi', home / 'ir', fused=tmp_path / 'fused', trial=trial)
    # then it is found there, and the maximum has it where thermal has it
    found = trial.looks[0].found
    assert found['fused images'].boxes[0].tolist() == [32, 40, 40, 48]
    assert found['maximum'].boxes[0].tolist() == [16, 24, 24, 32]
