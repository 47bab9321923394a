# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, or a place that takes no files.

One message, exit code 2, and what was there stays.
"""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest

pytest.importorskip('torch', reason='torch is not installed, and half of the commands need it')
pytest.importorskip('onnx', reason='onnx is not installed, and the detector is an ONNX file')

from bad_inputs import (  # noqa: E402
    BAD,
    COMMANDS,
    SLOTS,
    file_parameters,
    furnish,
    ran,
    state,
    taking,
)
from detector_files import write_hot_spot  # noqa: E402
from s4fusion_golden import PREFIX  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.io.bags import BagReader  # noqa: E402

pytestmark = pytest.mark.slow

LIMIT_BYTES = 50
# Command line, with OUT for what it writes and REST for what it writes besides; the name of OUT.
WRITERS = {
    'fuse': (('fuse', 'rgb.png', 'thermal.png', '--model', 'classical', '-o', 'OUT'), 'new.png'),
    'fuse DIR': (('fuse', 'vi', 'ir', '--model', 'classical', '-o', 'OUT'), 'new'),
    'fuse VIDEO': (('fuse', 'film.avi', 'heat.avi', '--model', 'classical', '-o', 'OUT'),
                   'new.mp4'),
    'align': (('align', 'fine.png', 'half.png', '--fov-ratio', '1', '-o', 'OUT'), 'new.yaml'),
    'align --overlay': (('align', 'fine.png', 'half.png', '--fov-ratio', '1', '-o', '/dev/null',
                         '--overlay', 'OUT'), 'new.png'),
    'make-bag': (('make-bag', '.', 'OUT', '--rate', '10'), 'new'),
    'make-bag --storage mcap': (('make-bag', '.', 'OUT', '--rate', '10', '--storage', 'mcap'),
                                'new'),
    'replay': (('replay', 'bag', 'OUT', '--model', 'classical'), 'new'),
    'replay MP4': (('replay', 'bag', 'OUT', '--model', 'classical'), 'new.mp4'),
    'replay PNG': (('replay', 'bag', 'OUT', '--model', 'classical'), 'new/{}.png'),
    'replay --detect-json': (('replay', 'bag', 'REST', '--model', 'classical', '--detector',
                              'hot.onnx', '--detect-json', 'OUT'), 'new.json'),
    'sample-bag': (('sample-bag', 'OUT', '--seconds', '0.2'), 'new'),
    'sample-pairs': (('sample-pairs', 'OUT', '--scene', 'night', '--count', '1', '--seconds', '1'),
                     'new'),
    'eval --json': (('eval', '--pairs', '.', '--model', 'average', '--json', 'OUT'), 'new.json'),
    'eval --html': (('eval', '--pairs', '.', '--model', 'average', '--html', 'OUT'), 'new.html'),
    'eval --plot': (('eval', '--pairs', '.', '--model', 'average', '--plot', 'OUT'), 'new.png'),
    'models --json': (('models', '--model', 'diffmf', '--preset', 'nano', '--json', 'OUT'),
                      'new.json'),
    'bench --json': (('bench', '--model', 'classical', '--size', '64x48', '--frames', '2',
                      '--json', 'OUT'),
                     'new.json'),
    'bench --plot': (('bench', '--model', 'classical', '--size', '64x48', '--frames', '2',
                      '--plot', 'OUT'),
                     'new.png'),
    'export': (('export', '--preset', 'nano', '--size', '50x40', '--onnx', 'OUT'), 'new.onnx'),
    'model-card': (('model-card', 'config.yaml', '.'), 'out/diffmf_nano.md'),
    'convert-weights': (('convert-weights', 'authors.safetensors', '-o', 'OUT'),
                        'new.safetensors'),
    'train': (('train', 'config.yaml', '--data', '.', '--out', 'OUT'), 'new'),
}
# Files that have no row, and what tries them or why nothing does.
ELSEWHERE = {
    ('demo', 'out'): 'test_full_file_system_of_demo',
    ('bench', 'page'): 'test_full_file_system_of_page',
    ('replay', 'rrd'): 'test_full_file_system_of_rerun',
}
WITHOUT_ROW = {'demo', 'view', 'doctor'}  # tests of their own; doctor writes --json alone
TALKS_DDS = ('bench --json', 'bench --plot')
IMPOSSIBLE = {
    'below a file': ('config.yaml/', 'a part of its path is a file'),
    'in a folder of the system': ('/proc/none/', ''),
}


@pytest.fixture(scope='module')
def furnished(tmp_path_factory, shared_graphs):
    path = tmp_path_factory.mktemp('full')
    furnish(path)
    weights = models.build('s4fusion', 'base').state_dict()
    save_file({PREFIX + name: tensor for name, tensor in weights.items()},
              path / 'authors.safetensors')
    write_hot_spot(path / 'hot.onnx')
    # For shared_graphs, which could keep nothing on a full disk
    assert ran(command('export', f'{tmp_path_factory.mktemp("exported")}/')).code == 0
    return path


@pytest.fixture
def folder(furnished, monkeypatch):
    """Yield a folder with what the commands take; what a test leaves in it is an error of that
    test."""
    monkeypatch.chdir(furnished)
    before = state(furnished)
    yield furnished
    after = state(furnished)
    # Of a training that did not come to its first checkpoint, and of pairs that were begun
    for name in ('new/log.csv', 'new/.diffmf_fuse.jsonl'):
        after.pop(name, None)
    shutil.rmtree(furnished / 'new', ignore_errors=True)  # empty folders may stay
    assert after == before


@contextlib.contextmanager
def full_disk():
    """Let no file grow beyond LIMIT_BYTES, as on a disk on which no more is left.

    Python would leave the first bytes of the bytecode of a module that is imported meanwhile.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'dont_write_bytecode', True)
            patch.setenv('PYTHONDONTWRITEBYTECODE', '1')
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def command(name, place='', rest='rest'):
    arguments, out = WRITERS[name]
    there = {'OUT': f'{place}{out}', 'REST': str(rest)}
    return [there.get(part, part) for part in arguments]


def rows(*without):
    """Names of the rows but for some."""
    return [name for name in WRITERS if name not in without]


def test_every_output_has_a_row():
    """What the commands read or write is in one table or the other, and every command is."""
    written = {taking(tuple(made if word == 'OUT' else word for word in words), made)
               for words, made in WRITERS.values() if 'OUT' in words}
    read = {taking(slot.arguments, BAD) for slot in SLOTS}

    assert {(name, parameter) for name, parameter in file_parameters()
            if parameter != 'json'} == written.union(read, ELSEWHERE) - {
                taken for taken in written if taken[1] == 'json'}
    assert {words[0] for words, _ in WRITERS.values()} | WITHOUT_ROW == set(COMMANDS)


# DDS itself writes files in shared memory.
@pytest.mark.parametrize('name', rows(*TALKS_DDS))
def test_full_disk_leaves_no_file(folder, name):
    """A full disk is one message and leaves nothing."""
    with full_disk():
        outcome = ran(command(name))
    assert not outcome.traceback, outcome.traceback
    assert outcome.code == 2, outcome.said
    assert os.strerror(errno.EFBIG).lower() in outcome.said.lower(
        ) or 'disk' in outcome.said, outcome.said


@pytest.mark.parametrize('where', IMPOSSIBLE)
@pytest.mark.parametrize('name', rows('model-card'))
def test_an_impossible_place_is_one_message(folder, name, where):
    place, words = IMPOSSIBLE[where]
    outcome = ran(command(name, place))
    assert not outcome.traceback, outcome.traceback
    assert outcome.code == 2, outcome.said
    assert words in outcome.said or os.strerror(errno.ENOTDIR) in outcome.said, outcome.said


DISK_BYTES = 8 << 20


@pytest.fixture
def disk(tmp_path):
    """Yield a folder that is a file system of its own."""
    place = tmp_path / 'disk'
    place.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={DISK_BYTES}', 'tmpfs', place]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('mounting a file system needs root')
    yield place
    subprocess.run(['umount', '--lazy', place], check=True)


def fill(place, *, but=0):
    """Fill a file system with a file, but for some bytes."""
    with (place / 'full').open('wb') as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 16))
    os.truncate(place / 'full', (place / 'full').stat().st_size - but)


def left_in(place):
    """Names of what has content on a file system, beside the file that fills it."""
    return sorted(str(path.relative_to(place)) for path in place.rglob('*')
                  if path.is_file() and path.stat().st_size and path.name != 'full')


def assert_one_message(outcome):
    assert not outcome.traceback, outcome.traceback
    assert outcome.code == 2, outcome.said
    assert 'the disk is full' in outcome.said, outcome.said
    assert outcome.said.count('error:') == 1, outcome.said


@pytest.mark.parametrize('name', rows('model-card', *TALKS_DDS))
def test_full_file_system_is_one_message(folder, disk, tmp_path, name):
    """On a file system without a free byte a command says so and leaves nothing."""
    fill(disk)

    assert_one_message(ran(command(name, f'{disk}/', tmp_path / 'rest')))

    assert left_in(disk) == []


@pytest.mark.parametrize('name', TALKS_DDS)
def test_full_file_system_of_bench(folder, disk, domain, name):
    """Bench publishes over DDS before it writes."""
    fill(disk)

    assert_one_message(ran(command(name, f'{disk}/')))

    assert left_in(disk) == []


def test_full_file_system_of_page(folder, disk):
    """The standard benchmark does not begin minutes of measuring that nothing can hold."""
    fill(disk)

    assert_one_message(ran(['bench', '--standard', '--page', f'{disk}/new.html']))

    assert left_in(disk) == []


@pytest.mark.parametrize('room', [0, 1 << 14])
def test_full_file_system_of_rerun(folder, disk, tmp_path, room):
    """Rerun's own writer, which ends without a word: before the first byte, and after some."""
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    fill(disk, but=room)

    assert_one_message(ran(['replay', 'bag', f'{tmp_path}/new', '--model', 'classical', '--rrd',
                            f'{disk}/new.rrd']))

    assert left_in(disk) == []


def card_of(place, recipe):
    """A command line that writes a card beside the weights in a folder, which it makes."""
    shutil.copytree('out', place)
    with open('config.yaml', encoding='utf-8') as file:
        recipe.write_text(file.read().replace('out: out', f'out: {place}'), encoding='utf-8')
    return ['model-card', str(recipe), '.']


def test_full_file_system_of_card(folder, disk, tmp_path):
    """The card is written beside the weights, where the recipe has them."""
    words = card_of(disk / 'out', tmp_path / 'card.yaml')
    there = left_in(disk)
    fill(disk)

    assert_one_message(ran(words))

    assert left_in(disk) == there


# Commands whose rows write --json are in the test of the rows.
TOLD = [name for name, parameter in file_parameters() if parameter == 'json'
        and name not in WITHOUT_ROW and f'{name} --json' not in WRITERS]


@pytest.mark.parametrize('name', TOLD)
def test_full_file_system_of_json(folder, disk, tmp_path, name):
    """Where only --json has no room, what was made stays and the error names the JSON."""
    row = next(row for row, (words, _) in WRITERS.items() if words[0] == name)
    words = (card_of(tmp_path / 'out', tmp_path / 'card.yaml') if name == 'model-card'
             else command(row, f'{tmp_path}/made_'))
    fill(disk)

    outcome = ran([*words, '--json', f'{disk}/told.json'])

    assert_one_message(outcome)
    assert 'told.json' in outcome.said and left_in(disk) == []


def test_full_file_system_of_view(disk, start):
    """The viewer ends when it cannot say where it serves."""
    fill(disk)

    child = start('diffmf_ros.cli.main', 'view', '--port', 0, '--json', disk / 'told.json')

    assert child.wait() == 2, child.output
    assert 'the disk is full' in child.output and 'Traceback' not in child.output
    assert left_in(disk) == []


@pytest.mark.parametrize('left', [0, 1 << 17])
def test_full_file_system_of_demo(small_bag, disk, domain, left):
    """A demo ends in one message when the disk is full at its start, or while it records."""
    fill(disk, but=left)

    outcome = ran(['demo', '--bag', str(small_bag), '--out', f'{disk}/new', '--model',
                   'classical', '--rate', '1'])

    assert_one_message(outcome)
    assert not {'new/fused.mp4', 'new/fused.png'} & set(left_in(disk))


def test_full_file_system_of_recorder(small_bag, disk, start):
    """What was stored until the disk was full opens as a bag."""
    fill(disk, but=1 << 20)
    recorder = start('diffmf_ros.ros.recorder', disk / 'bag', '/rgb/image_raw')
    start('diffmf_ros.ros.bag_player', small_bag, '--topics', '/rgb/image_raw', '--loop', 60,
          '--wait-for-subscribers', 20)

    assert recorder.wait() == 1, recorder.output

    assert 'Traceback' not in recorder.output
    assert 'the disk is full' in recorder.output and 'bag.unfinished' in recorder.output
    with BagReader(disk / 'bag.unfinished' / 'bag') as reader:
        assert len(list(reader.messages(['/rgb/image_raw']))) >= 30
