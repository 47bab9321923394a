# SPDX-License-Identifier: Apache-2.0
"""Every `diffmf` line that a page prints is run, on small stand-ins for what it names."""

import glob
import json
import re
import shlex
import shutil
import signal
import urllib.request
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import yaml

torch = pytest.importorskip('torch', reason='torch is not installed, and the commands need it')
onnx = pytest.importorskip('onnx',
                           reason='onnx is not installed, and the detector is an ONNX file')

from bad_inputs import furnish, ran  # noqa: E402
from conftest import ros_domain  # noqa: E402
from detector_files import write_hot_spot  # noqa: E402
from s4fusion_golden import PREFIX  # noqa: E402
from test_docs import ROOT, commands, quicker  # noqa: E402
from test_tasks import is_of_cards, is_of_new_network  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.core.alignment.homography import Alignment  # noqa: E402
from diffmf_ros.inference.weights import load_weights, save_weights  # noqa: E402
from diffmf_ros.inference.weights_header import shipped  # noqa: E402
from diffmf_ros.tools import doctor  # noqa: E402
from diffmf_ros.tools.bench import report, standard  # noqa: E402
from diffmf_ros.tools.doctor import ros as doctor_ros  # noqa: E402
from diffmf_ros.tools.doctor import system as doctor_system  # noqa: E402

pytestmark = pytest.mark.slow

# Lines that this machine cannot run, and why.
NOT_RUN = {} if find_spec('rerun') else {
    'diffmf replay BAG OUT --rrd drive.rrd': 'needs rerun-sdk, which is not installed'}
# What makes them quick, in place of what a line has for the same options.
QUICKER = {
    'fuse': ['--model', 'classical'],
    'replay': ['--model', 'classical'],
    'eval': ['--preset', 'nano'],
    'sample-bag': ['--seconds', '0.3'],
    'sample-pairs': ['--count', '1', '--seconds', '1'],
    'bench': ['--frames', '1', '--size', '64x48'],
    'bench --size': ['--frames', '1', '--size', '64x48,80x64'],
    'export': ['--preset', 'nano', '--size', '50x40'],  # as the tests of export: shared_graphs
    'align': ['--init', 'start.yaml'],  # the search has tests of its own
    'align drive': ['--max-pairs', '2'],  # rendered cameras: stand-ins give no start
}
# Networks of the preset base, whose weights are stand-ins, with few and narrow layers.
SMALL_BASE = {'diffmf': models.PRESETS['diffmf']['nano'],
              's4fusion': {'width': 8, 'depths': (0, 1, 0), 'states': 2, 'cross_states': 3,
                           'cross_blocks': 1}}
# A recipe on a small stand-in: one iteration on a small crop.
SMALL_TRAINING = {'data': 'DIR', 'iterations': 1, 'batch': 1, 'crop': 64, 'warmup': 1,
                  'device': 'cpu'}


def text_of(line):
    """A printed line without its comment."""
    return line.partition('#')[0].strip()


def kind_of(page, line):
    """Which test runs a line."""
    text = text_of(line)
    if text in NOT_RUN:
        return 'not run'
    if is_of_new_network(text):
        return 'test_tasks: new network'
    if page == 'docs/tasks.md' and is_of_cards(text):
        return 'test_tasks: cards'
    words = text.split()
    if words[1] == 'view':
        return 'view'
    if words[1] == 'bench':
        return 'standard' if '--standard' in words else 'bench'
    return 'export' if words[1] == 'export' else 'in turn'


LINES = [(kind_of(page, line), page, text_of(line)) for page, line in commands('diffmf')]


def lines_of(kind):
    return list(dict.fromkeys(line for of, _, line in LINES if of == kind))


@pytest.fixture(scope='module')
def small_base():
    """Make `base` small."""
    with pytest.MonkeyPatch.context() as patched:
        for name, sizes in SMALL_BASE.items():
            patched.setitem(models.PRESETS[name], 'base', sizes)
        yield


@pytest.fixture(scope='module')
def stand_ins(tmp_path_factory, small_base):
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
    shutil.copytree(folder / 'DIR', folder / 'VAL_DIR')
    for name in ('rgb', 'thermal'):
        film = cv2.VideoWriter(str(folder / f'{name}.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10,
                               (256, 192))
        film.write(scene)
        film.release()
    write_hot_spot(folder / 'FILE.onnx')
    (folder / 'FILE.json').write_text(json.dumps({'1': {'people': [[10, 10, 30, 40]]}}))
    write_networks(folder)
    Alignment(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (256, 192),
              (256, 192)).save(folder / 'start.yaml')
    ended = ran(['make-bag', str(folder / 'DIR'), str(folder / 'BAG'), '--rate', '10'])
    assert ended.code == 0, ended.said
    return folder


def write_networks(folder):
    """A checkpoint of others, weights of two networks, and the recipes of the project, small."""
    torch.manual_seed(0)
    tensors = models.build('s4fusion', 'base').state_dict()
    torch.save({'model': {PREFIX + name: tensor for name, tensor in tensors.items()}},
               folder / 'model.pkl')
    for name, model, weights in (
            ('my', 'diffmf', load_weights(shipped('diffmf', 'nano')).tensors),  # base is as small
            ('s4', 's4fusion', tensors)):
        save_weights(folder / f'{name}.safetensors', weights, model=model, preset='base',
                     iterations=1, seed=1)
    (folder / 'config' / 'train').mkdir(parents=True)
    for path in (ROOT / 'config' / 'train').glob('*.yaml'):
        recipe = yaml.safe_load(path.read_text(encoding='utf-8')) | SMALL_TRAINING
        (folder / 'config' / 'train' / path.name).write_text(yaml.safe_dump(recipe))


def words_to_run(line):
    """The arguments of a line: wildcards outside of quotes as a shell expands them, and quick."""
    words = shlex.split(line)[1:]
    command, given = words[0], set(words)
    words = [part for word in words for part in (
        sorted(glob.glob(word)) if '*' in word and f"'{word}'" not in line else [word])]
    more = QUICKER.get('align drive' if {'align', 'drive'} <= given else command, [])
    return quicker(words, more if not given & {'--preset'} and not (
        '--model' in given and more[:1] == ['--model']) and not (
        command == 'eval' and '--model' not in given) else [])  # a preset is of a network


@pytest.fixture(scope='module')
def shared_libraries(tmp_path_factory):
    """Let `diffmf doctor` look once, for all pages, what each library does in a process.

    One of them is that it starts a node.
    """
    look = cache(doctor.try_code)
    with ros_domain(tmp_path_factory.mktemp('ros')), pytest.MonkeyPatch.context() as patched:
        for module in (doctor, doctor_ros, doctor_system):
            patched.setattr(module, 'try_code', look)
        yield


@pytest.mark.parametrize('page', sorted({page for kind, page, _ in LINES if kind == 'in turn'}))
def test_page_commands_run_in_turn(stand_ins, shared_libraries, tmp_path, monkeypatch, page):
    """The commands of a page end well, one after the other, in a folder of their own."""
    shutil.copytree(stand_ins, tmp_path / 'here')
    monkeypatch.chdir(tmp_path / 'here')
    for line in (line for kind, where, line in LINES if (kind, where) == ('in turn', page)):
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


@pytest.mark.parametrize('line', lines_of('export'))
def test_printed_export_lines_run(stand_ins, shared_graphs, tmp_path, monkeypatch, line):
    """A line by itself, with nano for light and a small base, for one small size: those for every
    size are exported by the tests of export."""
    monkeypatch.chdir(stand_ins)
    words = shlex.split(line)[1:]
    words = quicker(words, QUICKER['export'][2:] if '--weights' in words else QUICKER['export'])
    out = words.index('--onnx') + 1
    words[out] = str(tmp_path / words[out])

    outcome = ran(words)

    assert outcome.code == 0 and not outcome.traceback, (outcome.said, outcome.traceback)
    assert Path(words[out]).stat().st_size > 100_000


@pytest.fixture(scope='module')
def shared_starts():
    """Let configurations of one network, engine, device and precision share the start that is
    measured in a process, whatever their scans and sizes of images."""
    measured, measure = {}, report.measure_startup

    def shared(configuration):
        settings = configuration.settings
        key = (settings.model, settings.network_preset, settings.weights, settings.engine,
               settings.device, settings.precision)
        if key not in measured:
            measured[key] = measure(configuration)
        return measured[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report, 'measure_startup', shared)
        yield


@pytest.mark.parametrize('line', lines_of('bench'))
def test_printed_bench_lines_run(tmp_path, monkeypatch, domain, shared_starts, line):
    """Every combination that a line of the pages names is measured, on small images."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    words = quicker(words, QUICKER['bench --size' if '--size' in words else 'bench'])

    outcome = ran(words)

    assert outcome.code == 0 and not outcome.traceback, (outcome.said, outcome.traceback)
    for option in {'--json', '--plot'} & set(words):
        assert Path(words[words.index(option) + 1]).stat().st_size


@pytest.mark.parametrize('line', lines_of('standard'))
def test_printed_standard_bench_runs(tmp_path, monkeypatch, domain, line):
    """The job of all machines, with smaller images for a shorter time."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    monkeypatch.chdir(tmp_path)
    for name, value in (('SIZE', (64, 48)), ('SECONDS', 2.0), ('RATES_HZ', (10.0, 20.0))):
        monkeypatch.setattr(standard, name, value)

    outcome = ran(shlex.split(line)[1:])

    assert outcome.code == 0 and not outcome.traceback, (outcome.said, outcome.traceback)
    assert all(Path(name).stat().st_size for name in ('machine.json', 'machine.html'))


@pytest.mark.parametrize('line', lines_of('view'))
def test_printed_view_lines_serve(start, peer, line):
    """The address that is printed has the page."""
    child = start('diffmf_ros.cli.main', *shlex.split(line)[1:], '--port', 0)
    peer.wait_for(lambda: 'open http' in child.output or child.process.poll() is not None,
                  'the viewer')
    url = re.search(r'open (http://\S+)', child.output)[1]

    with urllib.request.urlopen(url, timeout=10) as page:
        assert b'<canvas' in page.read()

    assert child.stop(signal.SIGINT) == 0


def test_every_printed_line_is_run():
    """Every line is run by one of these tests or those of the tasks, but for those listed."""
    found = {kind: lines_of(kind) for kind, _, _ in LINES}

    assert found.pop('not run', []) == list(NOT_RUN)
    assert {'in turn', 'export', 'bench', 'standard', 'view',
            'test_tasks: cards', 'test_tasks: new network'} == set(found)
    assert sum(map(len, found.values())) >= 50
