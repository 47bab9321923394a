# SPDX-License-Identifier: Apache-2.0
"""The bars of benchmarks/quality.py: what counts as met, and the page that it writes."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='torch is not installed')

BENCHMARKS = Path(__file__).resolve().parents[1] / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import quality  # noqa: E402
from quality_bars import AGAINST_PEERS, bars, read_peers  # noqa: E402

from diffmf_ros.evaluation.metric_names import HEADLINE  # noqa: E402
from diffmf_ros.evaluation.metrics import score  # noqa: E402
from diffmf_ros.evaluation.perception import Flicker  # noqa: E402

NAMES = (*AGAINST_PEERS, 'AG', 'salience', 'detail')
MAXIMUM = dict.fromkeys(NAMES, 1.0)
# The best peer has 2 in every metric, the median one 1.
PEERS = {'MSRS': {name: dict.fromkeys(AGAINST_PEERS, value) for name, value in (('a', 0.5), ('b', 1.0), ('c', 2.0))}}


def verdicts(msrs, everything=None, flicker=None, model='diffmf'):
    """{name of the bar: met} of scores that differ from 1.5 (0.95 of salience and detail) as given."""
    usual = dict.fromkeys(NAMES, 1.5) | {'salience': 0.95, 'detail': 0.95}
    own = {'MSRS': usual | msrs, 'all': usual | (everything or {})}
    found = bars(own, {'MSRS': MAXIMUM, 'all': MAXIMUM}, PEERS, flicker or {}, model=model)
    return {bar.name: bar.met for bar in found}


def test_peers_are_nine_networks_on_three_sets():
    peers = read_peers()
    assert {dataset: len(methods) for dataset, methods in peers.items()} == {'MSRS': 9, 'RoadScene': 9, 'all': 9}
    assert peers['MSRS']['LDRepFM']['EN'] == 7.07
    assert all(metric in peers['all']['SHIP'] for metric in AGAINST_PEERS)


def test_the_best_peer_has_to_be_reached_in_five_metrics():
    best = dict.fromkeys(AGAINST_PEERS[:5], 2.0)
    assert verdicts(best)['best peer, MSRS']
    assert not verdicts(best | {'EN': 1.999})['best peer, MSRS']


def test_the_median_peer_has_to_be_passed_in_all():
    assert verdicts({})['median peer, MSRS']
    assert not verdicts({'MI': 1.0})['median peer, MSRS']


@pytest.mark.parametrize('model', ['s4fusion', 'refinefuse'])
def test_the_sister_networks_have_to_pass_it_in_six(model):
    assert verdicts({'MI': 1.0, 'SF': 0.9}, model=model)['median peer, MSRS']
    assert not verdicts({'MI': 1.0, 'SF': 0.9, 'EN': 0.9}, model=model)['median peer, MSRS']


@pytest.mark.parametrize(('metric', 'msrs', 'everywhere'), [
    ('SF', 1.0, 0.96), ('AG', 1.0, 0.96), ('SCD', 1.0, 1.0), ('VIF', 0.95, 0.95), ('SSIM_dr2', 0.98, 0.98)])
def test_the_maximum_has_to_be_passed_or_nearly_kept(metric, msrs, everywhere):
    assert verdicts({})['maximum, MSRS'] and verdicts({})['maximum, all']
    assert not verdicts({metric: msrs})['maximum, MSRS']
    assert not verdicts({}, {metric: everywhere})['maximum, all']
    just = {metric: msrs + 0.011}, {metric: everywhere + 0.011}
    assert verdicts(*just)['maximum, MSRS'] and verdicts(*just)['maximum, all']


def test_salience_detail_and_flicker_have_limits():
    found = verdicts({'salience': 0.9, 'detail': 0.899}, flicker={'calm': 1.2, 'nervous': 1.21})
    assert (found['salience, MSRS'], found['detail, MSRS']) == (True, False)
    assert (found['flicker, calm'], found['flicker, nervous']) == (True, False)


def test_a_miss_says_by_how_much():
    own = {'MSRS': dict.fromkeys(NAMES, 1.5) | {'VIF': 0.9}}
    found = {bar.name: bar.reached for bar in bars(own, {'MSRS': MAXIMUM}, PEERS, {})}
    assert found['maximum, MSRS'].endswith('missed: VIF 0.900 of 0.96')


def test_tables_go_between_the_marks(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{quality.BEGIN}\nold\n{quality.END}\nafter\n')
    quality.write_between_marks(page, 'new')
    assert page.read_text() == f'before\n{quality.BEGIN}\n\nnew\n{quality.END}\nafter\n'
    page.write_text('no marks')
    with pytest.raises(SystemExit, match='lacks'):
        quality.write_between_marks(page, 'new')


def test_published_figures_keep_their_digits():
    lines = quality.score_lines({'MSRS': {'maximum': [dict.fromkeys(NAMES, 1.0)]}}, read_peers())
    row = next(line for line in lines if line.startswith('| IFCNN |'))
    assert row == (f'| IFCNN{" | -" * len(HEADLINE)} | 6.09 | 29.55 | 13.35 | 4.34 | 1.31 | 1.381 | 0.635 | 0.541 | '
                   f'0.918 | 1.375{" | -" * 4} |')


def test_flicker_is_shown_to_the_mean_and_to_the_noisier_input():
    lines = quality.flicker_lines({'clip': {'maximum': Flicker(fused=1.5, ir=1.0, vi_y=2.0, static_share=0.8)}})
    assert '| clip | maximum | 1.00 | 0.75 | 1.50 | 1.00 | 2.00 | 80% |' in lines


def test_methods_are_measured_by_data_set_and_over_all(tmp_path):
    # Given two data sets of one pair each
    random = np.random.default_rng(0)
    for dataset in ('north', 'south'):
        for kind in ('ir', 'vi'):
            (tmp_path / dataset / kind).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / dataset / kind / 'a.png'), random.integers(0, 256, (48, 56), np.uint8))
    # when the maximum is measured with processes of its own
    table = quality.measure({'maximum': np.maximum}, tmp_path)
    # then the scores are those of the metrics, and the table has them all
    images = [cv2.imread(str(tmp_path / 'south' / kind / 'a.png'), cv2.IMREAD_GRAYSCALE) for kind in ('ir', 'vi')]
    assert list(table) == ['north', 'south', 'all']
    assert table['south']['maximum'] == [pytest.approx(score(*images, np.maximum(*images)), nan_ok=True)]
    assert [row['SD'] for row in table['all']['maximum']] == [table[d]['maximum'][0]['SD'] for d in ('north', 'south')]
    assert '### south (1 pairs)' in quality.score_lines(table, {})
