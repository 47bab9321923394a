# SPDX-License-Identifier: Apache-2.0
"""--json of the commands: to a file or the screen, and nothing else on the screen then."""

import json
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import furnish, ran
from diffmf_process import diffmf

from diffmf_ros.io.bags import IMAGE, BagReader, BagWriter
from diffmf_ros.io.images import write_image

pytestmark = pytest.mark.slow

CLASSICAL = ('--model', 'classical')


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for name, shape in (('rgb', (48, 64, 3)), ('thermal', (48, 64))):
        write_image(tmp_path / f'{name}.png', random.integers(0, 256, shape, np.uint8),
                    'rgb8' if name == 'rgb' else 'mono8')
    return tmp_path


def test_fuse_json_matches_its_words(images):
    """Fuse says in a file and on the screen what it says in words."""
    call = ('fuse', images / 'rgb.png', images / 'thermal.png', *CLASSICAL, '-o')

    of_file = diffmf(*call, images / 'a.png', '--json', images / 'a.json')
    of_screen = diffmf(*call, images / 'b.png', '--json', '-')

    assert (of_file.returncode, of_screen.returncode) == (0, 0), of_screen.stderr
    told, shown = json.loads((images / 'a.json').read_text()), json.loads(of_screen.stdout)
    assert (told['mode'], told['by'], told['size']) == ('CLASSICAL', 'classical', [64, 48])
    assert told.keys() == shown.keys()
    assert ('CLASSICAL by classical on cpu' in of_file.stdout
            and 'CLASSICAL by classical on cpu' in of_screen.stderr)


def test_json_that_exists_is_not_replaced(images):
    (images / 'a.json').write_text('dear')
    done = diffmf('fuse', images / 'rgb.png', images / 'thermal.png', *CLASSICAL, '-o',
                  images / 'a.png', '--json', images / 'a.json')
    assert done.returncode == 2 and '--overwrite' in done.stderr
    assert (images / 'a.json').read_text() == 'dear' and not (images / 'a.png').exists()


def test_json_is_not_written_over_the_image(images):
    """The file of --json may not be named as the fused image is."""
    done = diffmf('fuse', images / 'rgb.png', images / 'thermal.png', *CLASSICAL, '-o',
                  images / 'same.png', '--json', images / 'same.png')

    assert done.returncode == 2 and 'same.json' in done.stderr
    assert not (images / 'same.png').exists()


def test_replay_json_counts_dropped_frames(small_bag, tmp_path):
    """Replay says what came and why frames were left out."""
    # Given a bag with one cut message
    with BagReader(small_bag) as reader, BagWriter(tmp_path / 'cut') as writer:
        for index, m in enumerate(reader.messages(['/rgb/image_raw', '/thermal/image_raw'])):
            writer.write(m.topic, IMAGE, m.raw[:20] if index == 20 else m.raw, m.stamp_ns)

    done = diffmf('replay', tmp_path / 'cut', tmp_path / 'fused', *CLASSICAL, '--json', '-')

    # Then the exit code says that an input failed, and the screen has JSON alone
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told['frames'], told['dropped']['damaged_message'],
            told['modes']) == (59, 1, {'CLASSICAL': 29})
    assert 'left out: 1 damaged_message' in done.stderr


def test_align_json_has_matrix_and_confidence(tmp_path):
    """Align gives the matrix and how sure it is."""
    # Given a scene and the same scene seen by a camera of half the resolution
    fine = np.random.default_rng(3).integers(0, 256, (60, 80), np.uint8)
    scene = np.kron(fine, np.ones((8, 8), np.uint8))
    write_image(tmp_path / 'rgb.png', np.dstack([scene] * 3), 'rgb8')
    write_image(tmp_path / 'thermal.png', np.dstack([scene[::2, ::2]] * 3), 'rgb8')

    done = diffmf('align', tmp_path / 'rgb.png', tmp_path / 'thermal.png', '-o',
                  tmp_path / 'a.yaml', '--json', '-')

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told['inliers'] > 12 and told['out'] == str(tmp_path / 'a.yaml')
    assert told['alignment']['rgb_from_thermal'][0][0] == pytest.approx(2.0, abs=0.05)


WRITERS = {
    'make-bag': (('make-bag', '.', 'new', '--rate', '10'), {'pairs': 2}),
    'sample-bag': (('sample-bag', 'new', '--seconds', '0.2'),
                   {'frames': 8, 'alignment': 'new/alignment.yaml', 'thermal_offset_ms': -12.0}),
    'sample-pairs': (('sample-pairs', 'new', '--scene', 'night', '--count', '1', '--seconds', '1'),
                     {'pairs': 1, 'boxes': 'new/boxes.json'}),
    'train': (('train', 'config.yaml', '--data', '.', '--out', 'new'),
              {'iteration': 1, 'iterations': 1, 'stop': 'no', 'warnings': []}),
    'model-card': (('model-card', 'config.yaml', '.'),
                   {'model': 'diffmf', 'preset': 'nano',
                    'weights': 'out/diffmf_nano.safetensors'}),
}


@pytest.mark.parametrize('name', WRITERS)
def test_writers_say_what_they_made(name, tmp_path, monkeypatch):
    """JSON of every command that makes something names it under 'out'."""
    pytest.importorskip('torch', reason='torch is not installed')
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments, expected = WRITERS[name]

    refused = ran([*arguments, '--json', 'config.yaml'])
    outcome = ran([*arguments, '--json', 'told.json'])

    assert refused.code == 2 and 'config.yaml' in refused.said
    assert outcome.code == 0, outcome.said
    told = json.loads(Path('told.json').read_text())
    assert Path(told['out']).exists() and expected.items() <= told.items(), told


TABLES = {
    'eval': (('eval', '--pairs', '.', '--model', 'average'), 'images', 'mean, maximum'),
    'models': (('models', '--model', 'diffmf', '--preset', 'nano'), 'networks', 'parameters'),
    'models --markdown': (('models', '--model', 'diffmf', '--preset', 'nano', '--markdown'),
                          'networks', '| network |'),
}


@pytest.mark.parametrize('name', TABLES)
def test_tables_leave_json_alone(name, tmp_path, monkeypatch):
    """With --json - the screen has JSON alone and the tables are on the standard error."""
    pytest.importorskip('torch', reason='torch is not installed')
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments, key, words = TABLES[name]

    done = diffmf(*arguments, '--json', '-')

    assert done.returncode == 0, done.stderr
    assert key in json.loads(done.stdout) and words in done.stderr
    assert not Path('-').exists()


def test_bench_leaves_json_alone(domain):
    """With --json - of bench the tables are on the standard error."""
    done = diffmf('bench', '--model', 'classical', '--size', '64x48', '--frames', '1', '--json',
                  '-')

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['results'] and 'what it takes' in done.stderr


def test_train_replaces_only_its_own_json(tmp_path, monkeypatch):
    """A training is resumed by the same command, which writes its result anew."""
    pytest.importorskip('torch', reason='torch is not installed')
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    train = ('train', 'config.yaml', '--data', '.', '--out', 'new', '--json')
    Path('notes.json').write_text('{"mine": 1}')
    stopped = dict.fromkeys(('out', 'iteration', 'iterations', 'stop', 'warnings'), 0)
    Path('told.json').write_text(json.dumps(stopped))

    refused, resumed = ran([*train, 'notes.json']), ran([*train, 'told.json'])

    assert (refused.code, resumed.code) == (2, 0), resumed.said
    assert Path('notes.json').read_text() == '{"mine": 1}'
    assert json.loads(Path('told.json').read_text())['iteration'] == 1
