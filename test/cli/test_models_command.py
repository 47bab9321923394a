# SPDX-License-Identifier: Apache-2.0
"""The table of networks: counted numbers, what comes with the package, and what is measured only
when asked for."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.core.frames import DiffmfError  # noqa: E402
from diffmf_ros.inference import weights_header  # noqa: E402
from diffmf_ros.inference.network import LibraryMissing  # noqa: E402
from diffmf_ros.models import PRESETS  # noqa: E402
from diffmf_ros.tools.evaluation import models_table  # noqa: E402
from diffmf_ros.tools.evaluation.models_table import (  # noqa: E402
    METRICS,
    ModelRow,
    ModelsTable,
    Timing,
    Trained,
    listed,
    scored,
)
from diffmf_ros.tools.evaluation.scoring import means, method, score_pairs  # noqa: E402

pytestmark = pytest.mark.slow

VGA = 640, 480
ROW = ModelRow('diffmf', 'light', 335_405, 29.4e9,
               Trained('diffmf_light.safetensors', 3600, 712_850))
BARE = ModelRow('diffmf', 'base', 1_838_681, 153e9, None)


def diffmf_models(*arguments):
    """Run the command."""
    return diffmf('models', *arguments)


def cells(line):
    """The cells of a line of a table, of Markdown or drawn."""
    return [cell.strip() for cell in line.strip().strip('│|').replace('│', '|').split('|')]


@pytest.fixture
def pairs(tmp_path):
    """A folder of two synthetic pairs of 64x48 pixels: a dim scene, and a hot square in it."""
    random = np.random.default_rng(0)
    for folder in ('ir', 'vi'):
        (tmp_path / folder).mkdir()
    for name in 'ab':
        scene = cv2.blur(random.integers(0, 160, (48, 64), np.uint8), (5, 5))
        cv2.imwrite(str(tmp_path / 'vi' / f'{name}.png'), scene)
        hot = cv2.blur(random.integers(0, 60, (48, 64), np.uint8), (5, 5))
        hot[16:32, 20:36] = 240
        cv2.imwrite(str(tmp_path / 'ir' / f'{name}.png'), hot)
    return tmp_path


def test_every_preset_has_a_row():
    """Every network and preset has a row with its size and work."""
    rows = {row.name: row for row in listed(size=VGA).rows}
    named = [name for name in rows if name != 'diffmf nano synthetic']
    assert named == [f'{model} {preset}' for model,
                     presets in PRESETS.items() for preset in presets]
    assert rows['diffmf nano synthetic'].weights.file == 'diffmf_nano_synthetic.safetensors'
    assert {name: rows[name].parameters
            for name in ('diffmf base', 'diffmf light', 's4fusion base',
                                                     'refinefuse base')} == {
        'diffmf base': 1_840_268, 'diffmf light': 336_200, 's4fusion base': 3_562_981,
        'refinefuse base': 3_465_000}
    assert rows['refinefuse base'].multiply_adds == pytest.approx(160e9, rel=0.005)
    assert rows['diffmf light'].multiply_adds == pytest.approx(29.6e9, rel=0.005)
    assert all(row.timing is None and row.scores is None for row in rows.values())


def test_work_follows_requested_size():
    """Work is that of the size asked for."""
    quarter, = listed(size=(320, 240), only_models=['diffmf'], only_presets=['light']).rows
    assert quarter.multiply_adds == pytest.approx(29.6e9 / 4, rel=0.01)


def test_shipped_weights_are_listed(tmp_path, monkeypatch):
    """Weights are listed where they come with the package."""
    # given an installation that has the weights of light alone
    light = weights_header.shipped('diffmf', 'light')
    (tmp_path / light.name).write_bytes(light.read_bytes())
    monkeypatch.setattr(weights_header, 'SHIPPED', tmp_path)
    # when two presets are listed
    table = listed(size=VGA, only_models=['diffmf'], only_presets=['light', 'nano'])
    # then the other one has none
    assert [row.weights for row in table.rows] == [
        Trained('diffmf_light.safetensors', weights_header.read_header(light).iterations,
                light.stat().st_size), None]
    assert [table.columns()[heading][1]
            for heading in ('trained weights', 'iterations', 'MB')] == ['-', '-', '-']


def test_unknown_names_are_refused():
    """Names that select nothing are refused with the known ones."""
    with pytest.raises(DiffmfError,
                       match='nothing to list for huge; known: diffmf base, .*refinefuse light'):
        listed(size=VGA, only_presets=['light', 'huge'])
    with pytest.raises(DiffmfError, match='nothing to list for nano, s4fusion'):
        listed(size=VGA, only_models=['s4fusion'], only_presets=['nano'])


def test_unrequested_columns_are_left_out():
    """Columns of what nobody asked for are left out; iterations that are not known are -."""
    foreign = ModelRow('s4fusion', 'base', 2, 1e9, Trained('converted', None, 10_000))
    assert ModelsTable(VGA, (ROW, BARE, foreign)).columns() == {
        'network': ['diffmf', 'diffmf', 's4fusion'], 'preset': ['light', 'base', 'base'],
        'parameters': ['335,405', '1,838,681', '2'],
        'multiply-adds at 640x480': ['29.4 G', '153 G', '1 G'],
        'trained weights': ['diffmf_light.safetensors', '-', 'converted'],
        'iterations': ['3,600', '-', '-'], 'MB': ['0.71', '-', '0.01']}


@pytest.mark.parametrize('runs_on, device_mb, shown', [
    ('cpu bfloat16, scan cpu', None, ['12.3 / 45.7', '-', '512', '-']),
    ('cuda float16, scan triton', 99.6, ['-', '12.3 / 45.7', '512', '100']),
])
def test_time_stands_under_its_device(runs_on, device_mb, shown):
    """A time stands under the device that it was measured on."""
    timing = Timing(runs_on, 12.34, 45.67, 512.3, device_mb)
    columns = ModelsTable(VGA, (ModelRow('diffmf', 'light', 1, 1.0, None, timing), BARE)).columns()
    headings = ['CPU p50 / p95, ms', 'GPU p50 / p95, ms', 'peak memory, MB', 'GPU memory, MB']
    assert [columns[heading] for heading in headings] == [[cell, '-'] for cell in shown]


def test_undefined_scores_are_null():
    """Scores that are not defined are no numbers."""
    row = ModelRow('diffmf', 'nano', 1, 1.0, None, scores={'EN': 6.5, 'salience': np.nan})
    table = ModelsTable(VGA, (row,))
    assert (table.columns()['EN'], table.columns()['salience']) == (['6.500'], ['-'])
    assert json.loads(table.as_json())['networks'][0]['scores'] == {'EN': 6.5, 'salience': None}


def test_synthetic_weights_are_scored_themselves(pairs):
    """The row of the synthetic weights has the scores of those."""
    nano, synthetic = scored(listed(size=VGA, only_models=['diffmf'], only_presets=['nano']),
                             pairs, device='cpu').rows

    name, engine = method('diffmf', preset='nano', weights='synthetic', device='cpu')
    expected = means([scores for _, _, scores in score_pairs({name: engine}, pairs)])
    assert synthetic.scores['SD'] == pytest.approx(expected['SD']) != nano.scores['SD']


def test_markdown_alignment_and_notes():
    """Markdown aligns numbers to the right and ends in the notes."""
    text = ModelsTable(VGA, (ROW, BARE), notes=('a note',)).as_markdown()
    assert text.splitlines() == [
        '| network | preset | parameters | multiply-adds at 640x480 | trained weights | '
        'iterations | MB |',
        '| --- | --- | ---: | ---: | --- | ---: | ---: |',
        '| diffmf | light | 335,405 | 29.4 G | diffmf_light.safetensors | 3,600 | 0.71 |',
        '| diffmf | base | 1,838,681 | 153 G | - | - | - |', '', 'note: a note']


def test_scores_are_means_with_weights_only(pairs, tmp_path, monkeypatch):
    """Scores are means over all pairs and only of what has weights."""
    # given a preset with weights and one without
    nano = weights_header.shipped('diffmf', 'nano')
    (tmp_path / nano.name).write_bytes(nano.read_bytes())
    monkeypatch.setattr(weights_header, 'SHIPPED', tmp_path)
    table = listed(size=VGA, only_models=['diffmf'], only_presets=['light-s4', 'nano'])
    done = []
    # when they are scored
    without, fused = scored(table, pairs, device='cpu', report=done.append).rows
    # then the means are those of score_pairs
    name, engine = method('diffmf', preset='nano', device='cpu')
    expected = means([scores for _, _, scores in score_pairs({name: engine}, pairs)])
    assert {metric: fused.scores[metric] for metric in METRICS} == pytest.approx(
        {metric: expected[metric] for metric in METRICS}, nan_ok=True)
    assert without.scores == {}
    assert done == [1, 2]


def test_nothing_to_score_is_said(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_header, 'SHIPPED', tmp_path)
    table = scored(listed(size=VGA, only_presets=['nano']), pairs)
    assert table.notes == ('nothing was scored: no row has trained weights',)
    assert table.host is None


def test_missing_torch_names_install(monkeypatch):
    """Without torch it says what to install."""
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(LibraryMissing, match='needs torch, .*pip install torch einops'):
        listed(size=VGA)


def test_command_without_torch_exits_2():
    """The command without torch ends with 2 and a message."""
    code = ('import sys; sys.modules["torch"] = None; sys.argv = ["diffmf", "models"]; '
            'from diffmf_ros.cli.main import main; main()')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2
    assert 'needs torch,' in done.stderr and 'pip install torch einops' in done.stderr
    assert 'Traceback' not in done.stderr


def test_the_command_prints_every_row():
    done = diffmf_models()
    assert done.returncode == 0, done.stderr
    rows = {tuple(cells(line)[:2]): cells(line) for line in done.stdout.splitlines()
            if line.startswith('│')}
    assert set(rows) == {(model, preset) for model,
                         presets in PRESETS.items() for preset in presets} | {
                             ('diffmf', 'nano synthetic')}
    assert rows['diffmf', 'light'][2:5] == ['336,200', '29.6 G', 'diffmf_light.safetensors']
    assert rows['refinefuse', 'base'][2:4] == ['3,465,000', '160 G']


def test_command_measures_and_names_machine(pairs):
    """The command measures in turn and names the machine."""
    # given a preset with shipped weights and, by its side, one of the same name of another network
    arguments = ['--model', 'diffmf,refinefuse', '--preset', 'light', '--time', '--size', '64x48',
                 '--frames', 2, '--score', pairs, '--device', 'cpu', '--markdown', '--json',
                 pairs / 'models.json']
    # when everything is measured
    done = diffmf_models(*arguments)
    # then the table has it, no cell claims a GPU, and the line under it says where
    assert done.returncode == 0, done.stderr
    heading, _, light, other = (cells(line) for line in done.stdout.splitlines()[:4])
    row = dict(zip(heading, light))
    assert (row['GPU p50 / p95, ms'], row['GPU memory, MB']) == ('-', '-')
    assert all(float(part) > 0 for part in row['CPU p50 / p95, ms'].split(' / '))
    assert int(row['peak memory, MB']) > 50
    assert 0 < float(row['EN']) < 8
    assert len(other) == len(heading) and other[:2] == ['refinefuse', 'light']
    assert f'torch {torch.__version__}, cpu ' in done.stdout and 'mean over 2 pairs' in done.stdout
    written = json.loads((pairs / 'models.json').read_text())
    assert written['format'] == models_table.FORMAT and written['size'] == [64, 48]
    assert written['networks'][0]['parameters'] == 336_200
    assert written['networks'][0]['timing']['p50_ms'] <= written['networks'][0]['timing']['p95_ms']
    assert written['networks'][0]['scores']['EN'] == pytest.approx(float(row['EN']), abs=0.001)
    assert written['host']['torch'] == torch.__version__ and written['host']['gpu'] == ''


def test_unwritable_json_is_an_error(tmp_path):
    """JSON that cannot be written is an error."""
    (tmp_path / 'file').write_text('')
    done = diffmf_models('--preset', 'nano', '--json', tmp_path / 'file' / 'models.json')
    assert done.returncode == 2
    assert 'models.json cannot be written: a part of its path is a file' in done.stderr
