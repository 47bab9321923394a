# SPDX-License-Identifier: Apache-2.0
"""Counting what a detector finds in a bag: in each camera and in the fused image."""

import json

import numpy as np
import pytest
from diffmf_process import diffmf

pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from detector_files import write_hot_spot  # noqa: E402

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FusionResult, Mode, Pair  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS  # noqa: E402
from diffmf_ros.io.bag_messages import image_message  # noqa: E402
from diffmf_ros.io.bags import IMAGE, START_NS, BagWriter  # noqa: E402
from diffmf_ros.tools.evaluation.detector import Detections  # noqa: E402
from diffmf_ros.tools.evaluation.detector_trial import DetectorCounts
from diffmf_ros.tools.evaluation.eval_files import EvaluationError  # noqa: E402

PAIRS, HZ = 12, 10
PERSON = np.s_[24:32, 16:24]


@pytest.fixture
def bag(tmp_path):
    """Twelve pairs of 64x64: RGB with two lamps and no person, thermal that shows the person."""
    rgb, thermal = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    rgb[4:12, 40:44], rgb[50:60, 50:60] = 90, 70
    thermal[PERSON] = 230
    with BagWriter(tmp_path / 'bag') as writer:
        for number in range(PAIRS):
            stamp_ns = START_NS + number * 10**9 // HZ
            for name, pixels, encoding in (('rgb', rgb, 'rgb8'), ('thermal', thermal, 'mono8')):
                message = image_message(pixels, encoding, stamp_ns=stamp_ns, frame_id=name)
                writer.write(f'/{name}/image_raw', IMAGE, message, stamp_ns)
    return tmp_path / 'bag'


def replay(*arguments):
    return diffmf('replay', *arguments)


def test_bag_objects_counted_per_image(bag, tmp_path):
    """Objects of a bag are counted in every image."""
    # Given a detector that finds bright cells, and a bag whose person thermal alone shows
    detector = write_hot_spot(tmp_path / 'd.onnx')
    # when every fifth pair is looked at
    done = replay(
        bag,
        tmp_path / 'out',
        '--model',
        'classical',
        '--detector',
        detector,
        '--detect-every',
        5,
        '--detect-json',
        tmp_path / 'counts.json',
    )
    assert done.returncode == 0, done.stderr
    # then the person is found in thermal and in the fused image, three times
    content = json.loads((tmp_path / 'counts.json').read_text())
    assert content['totals'] == {
        'rgb': {'wanted': 0, 'others': 0},
        'thermal': {'wanted': 3, 'others': 0},
        'fused': {'wanted': 3, 'others': 0},
    }
    assert [row['stamp_ns'] for row in content['counts']] == [
        START_NS + n * 10**9 // HZ for n in (0, 5, 10)
    ]
    assert [row['mode'] for row in content['counts']] == ['CLASSICAL'] * 3
    assert 'an unchanged detector on 3 pairs' in done.stdout


def test_bag_without_detector_unchanged(bag, tmp_path):
    """A bag without a detector is fused as before."""
    done = replay(bag, tmp_path / 'out', '--model', 'classical')
    assert done.returncode == 0 and 'unchanged' not in done.stdout


def test_missing_detector_refused_early(bag, tmp_path):
    """A detector that is missing is reported before the bag is made."""
    done = replay(
        bag, tmp_path / 'out', '--model', 'classical', '--detector', tmp_path / 'none.onnx'
    )
    assert done.returncode == 2 and 'none.onnx does not exist' in done.stderr
    assert not (tmp_path / 'out').exists()


def test_detector_gets_bgr_and_gray():
    """Pictures reach the detector as BGR and thermal as gray levels."""
    # Given a red RGB image, 16-bit thermal and a fused image that is green
    seen = []

    def detector(picture):
        seen.append(picture)
        return Detections(np.zeros((3, 4)), np.array([0.9, 0.8, 0.2]), np.array([1, 0, 1]))

    red, green = (np.full((8, 8, 3), color, np.uint8) for color in ((200, 0, 0), (0, 200, 0)))
    ramp = 7000 + 10 * np.arange(64, dtype=np.uint16).reshape(8, 8)
    pair = Pair(
        Frame(RGB, 1, 'rgb', red, 'rgb8'),
        Frame(THERMAL, 1, 'thermal', ramp, 'mono16'),
        offset_ns=0,
    )
    counts = DetectorCounts(detector, thermal=DEFAULTS.thermal, class_number=1, every=1)
    counts(pair, FusionResult(1, 'rgb', green, 'bgr8', Mode.FUSED))
    # then each comes in the order of OpenCV, and what is sure is counted by class
    assert seen[0][0, 0].tolist() == [0, 0, 200] and seen[2][0, 0].tolist() == [0, 200, 0]
    assert seen[1].dtype == np.uint8 and np.ptp(seen[1]) > 100
    assert counts.totals()['fused'] == {'wanted': 1, 'others': 1}


def test_no_pair_at_all_is_refused():
    with pytest.raises(EvaluationError, match='got 0'):
        DetectorCounts(None, thermal=DEFAULTS.thermal, every=0)
