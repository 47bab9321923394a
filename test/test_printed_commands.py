# SPDX-License-Identifier: Apache-2.0
"""Every `diffmf` line that a page prints is run, on small stand-ins for what it names."""

import glob
import json
import shlex
import shutil
from pathlib import Path

import cv2
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed, and the commands need it')
pytest.importorskip('onnx', reason='onnx is not installed, and the detector is an ONNX file')

from bad_inputs import furnish, ran  # noqa: E402
from detector_files import write_hot_spot  # noqa: E402
from s4fusion_golden import PREFIX  # noqa: E402
from test_docs import ROOT, commands  # noqa: E402

from diffmf_ros import models  # noqa: E402

pytestmark = pytest.mark.slow

# What is not run here, by its first words or an option, and the file that runs it.
ELSEWHERE = {
    'doctor': 'tools/test_doctor.py',
    'view': 'tools/view/test_view_dds.py',  # serves until it is stopped
    'bench': 'tools/bench/test_benchmark.py',  # minutes
    'bench --standard': 'tools/bench/test_standard.py',
    'train': 'tools/training/test_training.py',  # hours; an iteration there
    'model-card': 'tools/evaluation/test_model_card.py',  # of a training
    'export': 'tools/export/test_export.py',  # a minute each
    '--model tiny': 'test_tasks.py',  # the network of a page
    '--rrd': 'tools/test_rerun_file.py',  # needs rerun-sdk
}
OTHER_PAGES = ('docs/tasks.md',)  # whose cards work one after the other: test_tasks.py
QUICKER = {
    'fuse': ['--model', 'classical'],
    'replay': ['--model', 'classical'],
    'eval': ['--preset', 'nano'],
    'sample-bag': ['--seconds', '0.2'],
    'sample-pairs': ['--count', '1', '--seconds', '1'],
}


def runs_here(page, line):
    words = line.partition('#')[0]
    return page not in OTHER_PAGES and not any(
        words.startswith(f'diffmf {part}') or part.startswith('--') and part in words
        for part in ELSEWHERE)


LINES = [(page, line) for page, line in commands('diffmf') if runs_here(page, line)]


@pytest.fixture(scope='module')
def stand_ins(tmp_path_factory):
    """A folder with everything that the pages name as if it were there."""
    folder = tmp_path_factory.mktemp('pages')
    furnish(folder)
    scene = cv2.imread(str(folder / 'fine.png'))[:192, :256]
    other = scene[::-1, ::-1].copy()
    homes = 'RGB_DIR', 'THERMAL_DIR', 'FUSED_DIR', 'rgb', 'thermal', 'DIR/vi', 'DIR/ir'
    for home, name in (*((home, '') for home in homes), ('flight', 'rgb_'),
                       ('flight', 'thermal_')):
        (folder / home).mkdir(parents=True, exist_ok=True)
        thermal = name == 'thermal_' or home in ('THERMAL_DIR', 'thermal', 'DIR/ir')
        for stem, picture in (('1', scene), ('2', other)):
            pixels = cv2.GaussianBlur(picture[:, :, 0], (3, 3), 0) if thermal else picture
            cv2.imwrite(str(folder / home / f'{name}{stem}.png'), pixels)
    shutil.copy(folder / 'fine.png', folder / 'RGB.png')
    shutil.copy(folder / 'half.png', folder / 'THERMAL.png')
    for name in ('rgb', 'thermal'):
        film = cv2.VideoWriter(str(folder / f'{name}.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10,
                               (256, 192))
        film.write(scene)
        film.release()
    write_hot_spot(folder / 'FILE.onnx')
    (folder / 'FILE.json').write_text(json.dumps({'1': {'people': [[10, 10, 30, 40]]}}))
    tensors = {PREFIX + name: tensor
               for name, tensor in models.build('s4fusion', 'base').state_dict().items()}
    torch.save({'model': tensors}, folder / 'model.pkl')
    ended = ran(['make-bag', str(folder / 'DIR'), str(folder / 'BAG'), '--rate', '10'])
    assert ended.code == 0, ended.said
    return folder


def words_to_run(line):
    """The arguments of a line: wildcards outside of quotes as a shell expands them, and quick."""
    words = shlex.split(line, comments=True)[1:]
    command, given = words[0], set(words)
    words = [part for word in words for part in (
        sorted(glob.glob(word)) if '*' in word and f"'{word}'" not in line else [word])]
    more = QUICKER.get(command, [])
    words += more if not given & {'--preset'} and not (
        '--model' in given and more[:1] == ['--model']) else []
    return words


@pytest.mark.parametrize('page', sorted({page for page, _ in LINES}))
def test_page_commands_run_in_turn(stand_ins, tmp_path, monkeypatch, page):
    """The commands of a page end well, one after the other, in a folder of their own."""
    shutil.copytree(stand_ins, tmp_path / 'here')
    monkeypatch.chdir(tmp_path / 'here')
    for line in (line for where, line in LINES if where == page):
        words = words_to_run(line)
        if 'thermal/*.tiff' in words:  # which other lines of the page have as PNG
            for path in Path('thermal').glob('*.png'):
                cv2.imwrite(str(path.with_suffix('.tiff')), cv2.imread(str(path), 0))
        if words[0].startswith('sample-'):
            shutil.rmtree(words[1], ignore_errors=True)
        for made in ('fused', 'OUT') if words[0] in ('fuse', 'replay') else ():
            shutil.rmtree(made, ignore_errors=True)
        if words[0] in ('fuse', 'align', 'eval'):
            words.append('--overwrite')

        outcome = ran(words)

        assert outcome.code == 0 and not outcome.traceback, (line, outcome.said, outcome.traceback)
        for path in Path('thermal').glob('*.tiff'):
            path.unlink()


def test_other_commands_run_elsewhere():
    """What is not run here is printed somewhere, and the file that runs it is there."""
    printed = '\n'.join(line for _, line in commands('diffmf'))

    assert len(LINES) >= 20
    for part, file in ELSEWHERE.items():
        assert part in printed and (ROOT / 'test' / file).is_file(), part
