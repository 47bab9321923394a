# SPDX-License-Identifier: Apache-2.0
"""The bars of benchmarks/quality.py: what counts as met, and the page that it writes."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='torch is not installed')

BENCHMARKS = Path(__file__).resolve().parents[3] / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import quality  # noqa: E402
import quality_tables  # noqa: E402
from quality_bars import AGAINST_PEERS, LEAST, Measured, bars, read_peers  # noqa: E402
from quality_detector import PLACEMENTS, look_at_placed, placements, shifted  # noqa: E402
from quality_flat import passes_rgb_on  # noqa: E402

from diffmf_ros.tools.evaluation.detection_scores import Boxes, Truth  # noqa: E402
from diffmf_ros.tools.evaluation.detector import Detections  # noqa: E402
from diffmf_ros.tools.evaluation.metrics import score  # noqa: E402
from diffmf_ros.tools.evaluation.perception import Flicker  # noqa: E402
from diffmf_ros.tools.evaluation.scoring import HEADLINE, METRICS  # noqa: E402

# Good enough everywhere; classical has 1 in every metric, and so has the median peer.
GOOD = dict.fromkeys(METRICS, 1.5) | LEAST | {'haze': 6.0}
EVEN = dict.fromkeys(METRICS, 1.0)
PEERS = {'MSRS': {name: dict.fromkeys(AGAINST_PEERS, value) for name,
                  value in (('a', 0.5), ('b', 1.0), ('c', 2.0))}}


def verdicts(everything=None, *, msrs=None, share=1.0, **more):
    """{name of the bar: met} of a network with good scores that differ as given."""
    scores = {'MSRS': {'net': GOOD | (msrs or {}), 'classical': EVEN},
              'all': {'net': GOOD | (everything or {}), 'classical': EVEN}}
    return {bar.name: bar.met for bar in bars('net', Measured(scores, **more), PEERS, share=share)}


def looks(**ap40):
    """Detector scores of the methods, by name: (AP40, found, other classes by day)."""
    return {method: {'AP40': ap, 'found': found, 'day_others': others} for method,
            (ap, found, others) in ap40.items()}


def test_peer_counts_by_data_set():
    """Peers are twelve networks on MSRS and nine elsewhere."""
    peers = read_peers()
    assert {dataset: len(methods) for dataset,
            methods in peers.items()} == {'MSRS': 12, 'RoadScene': 9, 'all': 9}
    assert peers['MSRS']['LDRepFM']['EN'] == 7.07
    assert all(metric in network for network in peers['MSRS'].values() for metric in AGAINST_PEERS)


def test_unmeasured_peers_are_left_out():
    """What was not measured of a peer is left out."""
    peers = read_peers()['MSRS']
    assert 'AG' not in peers['4.5K network'] and 'SSIM_dr255' not in peers['4.5K network']
    assert peers['4.5K network']['flicker_road_0111_1753'] == 2.35
    assert 'detail' not in peers['SHIP'] and peers['IVIF_unpair CNN']['detail'] == 0.837


@pytest.mark.parametrize('metric', LEAST)
def test_every_measure_has_a_least_value(metric):
    assert verdicts()[metric]
    assert not verdicts({metric: LEAST[metric] - 0.001})[metric]


def test_haze_and_flicker_have_a_most():
    flicker = {'calm': {'net': {'ratio': 1.2}}, 'nervous': {'net': {'ratio': 1.21}}}
    found = verdicts({'haze': 6.01}, flicker=flicker)
    assert (verdicts()['haze'], found['haze']) == (True, False)
    assert (found['flicker, calm'], found['flicker, nervous']) == (True, False)


def test_undefined_score_has_no_bar():
    """What no image defines has no bar."""
    assert 'target_dark' not in verdicts({'target_dark': np.nan})


def test_tenth_less_is_enough():
    """A tenth less is enough where it says so."""
    worse = {metric: 0.9 * least for metric, least in LEAST.items()} | {'haze': 6.6}
    assert not any(verdicts(worse)[metric] for metric in (*LEAST, 'haze'))
    assert all(verdicts(worse, share=0.9)[metric] for metric in (*LEAST, 'haze'))


def test_median_peer_passed_in_six():
    """The median peer is passed in six with SCD and SSIM."""
    assert verdicts(msrs={'EN': 1.0, 'MI': 1.0})['median peer, MSRS']
    assert not verdicts(msrs={'EN': 1.0, 'MI': 1.0, 'SF': 1.0})['median peer, MSRS']
    for metric in ('SCD', 'SSIM_dr2'):
        assert not verdicts(msrs={metric: 1.0})['median peer, MSRS']


def test_classical_is_passed_in_six():
    assert verdicts({'SCD': 1.0, 'MI': 1.0})['classical, all']
    assert not verdicts({'SCD': 1.0, 'MI': 1.0, 'EN': 0.9})['classical, all']


def test_detector_beats_camera_and_blend():
    """The detector finds as much as on the better camera and the blend."""
    cameras = {'rgb': (0.9, 9, 20), 'thermal': (0.5, 5, 3), 'blend': (0.8, 8, 9)}
    table = {'north': looks(net=(0.89, 0, 0), **cameras),
             'south': looks(net=(0.889, 0, 0), **cameras),
             'unknown': looks(net=(np.nan, 0, 0), rgb=(np.nan, 0, 0), thermal=(np.nan, 0, 0)),
             'all': looks(net=(0.8, 0, 19), **cameras)}
    found = verdicts(detector=table, shifted={'net': 0.721})
    assert (found['AP40 to the better camera, north'],
            found['AP40 to the better camera, south']) == (True, False)
    assert 'AP40 to the better camera, unknown' not in found
    assert found['AP40 to the 0.85 blend, all'] and not found['other classes by day, to RGB']
    assert found['AP40 shifted by 8 px']
    assert not verdicts(detector=table, shifted={'net': 0.719})['AP40 shifted by 8 px']


def test_drives_and_smoke_have_counts():
    """The rendered drives and the smoke clip have counts."""
    drives = {'smoke': looks(net=(0, 22, 0), thermal=(0, 16, 0), rgb=(0, 5, 0),
                             classical=(0, 22, 0)),
              'night': looks(net=(0, 19, 0), thermal=(0, 18, 0), rgb=(0, 17, 0),
                             classical=(0, 9, 0))}
    found = verdicts(drives=drives,
                     finds={'smoke_1': {'net': {'found': 20}}, 'road': {'net': {'found': 0}}})
    assert [met for name, met in found.items() if name.startswith('rendered smoke')] == [
        True, True]
    assert not found['rendered night, to 1.1 x the better camera']  # 19 of 19.8
    assert found['finds, smoke_1'] and 'finds, road' not in found


def test_flat_thermal_leaves_rgb():
    """Flat thermal leaves RGB as it is or counts as blind."""
    assert verdicts(flat_thermal={'net': 40.0})['flat thermal']
    assert verdicts(flat_thermal={'net': np.inf})['flat thermal']
    assert not verdicts(flat_thermal={'net': 39.9})['flat thermal']
    assert verdicts(flat_thermal={'net': 7.0}, flat_is_rgb=True)['flat thermal']


def test_node_passes_rgb_on_flat():
    """The node passes RGB on where thermal is flat."""
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    assert passes_rgb_on([picture])


def test_a_miss_says_by_how_much():
    scores = {'all': {'net': GOOD | {'VIF': 0.9, 'target': 0.7}, 'classical': EVEN}}
    found = {bar.name: bar for bar in bars('net', Measured(scores), {})}
    assert found['classical, all'].reached.endswith('not: VIF 0.900 of 1.000')
    assert (found['target'].asked, found['target'].reached) == ('at least 0.900', '0.700')


def test_shifted_image_repeats_its_border():
    """A shifted image repeats its border, on whichever side it was moved from."""
    image = np.arange(6).reshape(2, 3)
    assert shifted(image, 1, 0).tolist() == [[0, 0, 1], [3, 3, 4]]
    assert shifted(image, -2, 1).tolist() == [[2, 2, 2], [2, 2, 2]]
    assert np.array_equal(shifted(image, 0, 0), image)


def bright_part(picture):
    """Return the box around what is bright, as the detection of a person."""
    rows, columns = np.nonzero(np.atleast_3d(picture)[..., 0] > 200)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    return Detections(box, np.array([0.9], np.float32), np.array([0]))


def test_boxes_move_with_placed_pictures():
    """Wherever a picture is placed, its box is around the same part."""
    picture = np.zeros((96, 128), np.uint8)
    picture[20:60, 30:50] = 255
    truth = Truth(np.array([[30.0, 20.0, 50.0, 60.0]]), np.array([[100.0, 0.0, 128.0, 96.0]]))
    placed = list(placements(picture, truth))
    assert len(placed) == 2 * len(PLACEMENTS)
    for image, there in placed:
        assert np.abs(bright_part(image).boxes - there.people).max() <= 1
        assert (there.ignore[:, 2:] <= (128, 96)).all()
    assert np.array_equal(placed[0][0], picture) and np.array_equal(placed[0][1].people,
                                                                    truth.people)
    assert [there.ignore[0, 0] for _, there in placed][::len(PLACEMENTS)] == [100, 0]


def test_placed_scores_are_means(tmp_path):
    """A person who is bright in thermal alone is found in thermal and in the maximum."""
    images = {'vi': np.full((96, 128), 10, np.uint8), 'ir': np.zeros((96, 128), np.uint8)}
    images['ir'][20:60, 30:50] = 255
    images['vi'][70:80, 90:100] = 250  # a lamp
    for kind, image in images.items():
        (tmp_path / 'night' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'night' / kind / 'a.png'), image)
    boxes = Boxes({'a': Truth(np.array([[30.0, 20.0, 50.0, 60.0]]), np.zeros((0, 4)))})
    table = look_at_placed({'blend': lambda ir, y: 0.85 * ir}, tmp_path, bright_part, boxes)
    assert {name: row['AP40'] for name, row in table.items()} == {
        'rgb': 0, 'thermal': 1, 'blend': 1}
    assert table['blend'] == {'AP40': 1, 'spread': 0, 'AP50': 1, 'found': 1}
    assert '| blend | 1.000 | 0.000 | 1.000 | 1.0 |' in quality_tables.placed_lines(table)
    assert not quality_tables.placed_lines({})


def test_tables_go_between_the_marks(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{quality.BEGIN}\nold\n{quality.END}\nafter\n')
    quality.write_between_marks(page, 'new')
    assert page.read_text() == f'before\n{quality.BEGIN}\n\nnew\n{quality.END}\nafter\n'
    page.write_text('no marks')
    with pytest.raises(SystemExit, match='lacks'):
        quality.write_between_marks(page, 'new')


def test_published_figures_keep_their_digits():
    lines = quality_tables.score_lines({'MSRS': {'maximum': [EVEN]}}, read_peers())
    row = next(line for line in lines if line.startswith('| IFCNN |'))
    assert row == (f'| IFCNN{" | -" * len(HEADLINE)} | 6.09 | 29.55 | 13.35 | 4.34 | 1.31 | 1.381 '
                   f'| 0.635 | 0.541 | 0.918 | 1.375{" | -" * 4} |')


def test_flicker_against_mean_and_noisier():
    """Flicker is shown to the mean and to the noisier input."""
    measured = Flicker(fused=1.5, ir=1.0, vi_y=2.0, static_share=0.8)
    lines = quality_tables.flicker_lines({'clip': {'maximum': measured}},
                                         {'MSRS': {'peer': {'flicker_clip': 2.35}}})
    assert '| clip | maximum | 1.00 | 0.75 | 1.50 | 1.00 | 2.00 | 80% |' in lines
    assert '| clip | peer | 2.35 | - | - | - | - | - |' in lines


@pytest.mark.slow
def test_methods_by_data_set_and_overall(tmp_path):
    """Methods are measured by data set and over all."""
    # Given two data sets of one pair each
    random = np.random.default_rng(0)
    for dataset in ('north', 'south'):
        for kind in ('ir', 'vi'):
            (tmp_path / dataset / kind).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / dataset / kind / 'a.png'),
                        random.integers(0, 256, (48, 56), np.uint8))
    # when the maximum is measured with processes of its own
    table = quality.measure({'maximum': np.maximum}, tmp_path)
    # then the scores are those of the metrics, and the table has them all
    images = [cv2.imread(str(tmp_path / 'south' / kind / 'a.png'), cv2.IMREAD_GRAYSCALE)
              for kind in ('ir', 'vi')]
    assert list(table) == ['north', 'south', 'all']
    assert table['south']['maximum'] == [pytest.approx(score(*images, np.maximum(*images)),
                                                       nan_ok=True)]
    assert [row['SD'] for row in table['all']['maximum']] == [table[d]['maximum'][0]['SD']
                                                              for d in ('north', 'south')]
    assert '### south (1 pairs)' in quality_tables.score_lines(table, {})
