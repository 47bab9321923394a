# SPDX-License-Identifier: Apache-2.0
"""Paths that name another thing than is meant: refused, with what to write instead."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='torch is not installed, and half of the commands need it')

from bad_inputs import COMMANDS, file_parameters, furnish, ran, state  # noqa: E402

from diffmf_ros.cli.options import SCREEN  # noqa: E402

pytestmark = pytest.mark.slow

CLASSICAL = ('--model', 'classical')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with images, pairs, bags and a recipe; nothing in it may change."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path)
    yield tmp_path
    after = state(tmp_path)
    assert {path: after.get(path) for path in before} == before


def named(command):
    """{parameter: its options or metavar} of a command."""
    return {one.name: one for one in COMMANDS[command].params}


# Parameters whose files are read, and folders and files that the commands themselves look at.
READ = {'rgb', 'thermal', 'bag', 'init', 'weights', 'alignment', 'images', 'params', 'bags',
        'detector', 'pairs', 'fused', 'boxes', 'config', 'data', 'scored_on', 'score',
        'checkpoint', 'folder'}
FOLDERS = {('fuse', 'out'), ('replay', 'out'), ('demo', 'out'), ('train', 'out'),
           ('doctor', 'json'),  # only with --json, below
           *((name, 'out') for name in ('sample-bag', 'sample-pairs', 'make-bag'))}
OUTPUTS = [(command, name) for command, name in file_parameters()
           if name not in READ and (command, name) not in FOLDERS]


def with_dash(command, parameter):
    """A command line with - for one parameter, and a name for all others that it must have."""
    words = [command]
    for one in COMMANDS[command].params:
        word = '-' if one.name == parameter else (one.metavar or 'x')
        if one.param_type_name == 'argument':
            words += [word]
        elif one.required or word == '-':
            words += [one.opts[0], word]
    return words


@pytest.mark.parametrize('command, parameter', file_parameters())
def test_dash_is_screen_or_refused(folder, command, parameter):
    """Every file and folder of every command: only --json writes to the screen."""
    words = with_dash(command, parameter)
    if parameter == 'json':
        taken = COMMANDS[command].make_context(command, words[1:]).params['json']
        assert taken == SCREEN
        return

    outcome = ran(words)

    assert (outcome.code, outcome.traceback) == (2, ''), outcome.said
    said = ' '.join(outcome.said.replace('│', '').split())
    one = next(one for one in COMMANDS[command].params if one.name == parameter)
    named = one.opts[0] if one.param_type_name == 'option' else one.metavar or one.name
    assert 'got -, which --json alone takes' in said and f"'{named}" in said, said
    assert not Path('-').exists()


@pytest.mark.parametrize('command, parameter', OUTPUTS)
def test_ending_fits_what_is_written(folder, command, parameter):
    """Every output of every command: a name of another kind is refused, whatever is there."""
    (folder / 'notes.md').write_text('dear')
    words = ['notes.md' if word == '-' else word for word in with_dash(command, parameter)]

    outcome = ran([*words, '--overwrite'] if 'overwrite' in named(command) else words)

    ending = named(command)[parameter].metavar.removeprefix('NAME')
    assert (outcome.code, outcome.traceback) == (2, ''), outcome.said
    assert outcome.said.startswith(
        f'error: notes.md cannot be written: a file of {named(command)[parameter].opts[0]} has a')
    assert f'write notes{ending}' in outcome.said and outcome.said.count('\n') == 1
    assert (folder / 'notes.md').read_text() == 'dear'


@pytest.mark.parametrize('arguments', [
    ('replay', 'bag', 'x', '--json', 'a.json', '--detector', 'rgb.png', '--detect-json',
     './out/../a.json'),
    ('replay', 'bag', 'x', '--json', 'link.json', '--detector', 'rgb.png', '--detect-json',
     'a.json'),
    ('eval', '--pairs', '.', '--model', 'average', '--json', 'page.json', '--html', 'page.html'),
])
def test_two_outputs_never_one_file(folder, arguments):
    """One file for two options is refused under any names, with both options."""
    (folder / 'link.json').symlink_to('a.json')
    (folder / 'page.json').symlink_to('page.html')

    outcome = ran([*arguments, '--overwrite'])

    assert outcome.code == 2 and 'are one file: give each a file of its own' in outcome.said
    assert all(word in outcome.said for word in arguments if word.startswith('--json')
               or word.startswith(('--html', '--detect-json')))
    assert not Path('a.json').exists() and not Path('page.html').exists()


@pytest.mark.parametrize('arguments', [
    ('sample-pairs', 'x', '--json', 'x/boxes.json'),
    ('sample-bag', 'x', '--json', './x/ground_truth.json'),
    ('demo', '--scene', 'night', '--out', 'x', '--json', 'x/drive_night/ground_truth.json'),
])
def test_json_is_no_other_file_of_the_command(folder, arguments):
    outcome = ran([*arguments, '--overwrite'])

    assert outcome.code == 2 and 'is a file that the command writes itself' in outcome.said
    assert not Path('x').exists()


@pytest.mark.parametrize('name', ['x.pgm', 'x.exr', 'x.txt', 'x'])
def test_endings_of_pictures(folder, name):
    """OpenCV knows more formats, of which some fail."""
    outcome = ran(['fuse', 'rgb.png', 'thermal.png', '-o', name, *CLASSICAL])

    assert (outcome.code, outcome.traceback) == (2, '') and 'write x.png' in outcome.said


@pytest.mark.parametrize('arguments, words', [
    (('replay', 'bag', 'x', '--detect-json', 'x.json'), 'only with --detector: --detect-json'),
    (('replay', 'bag', 'x', '-j', '2'), 'only with several bags: --jobs'),
    (('replay', 'bag', 'empty_bag', 'x', '-j', '2', '--ray', 'auto'), 'not with --ray: --jobs'),
    (('fuse', 'rgb.png', 'thermal.png', '--jobs', '2'), 'lists of images: --jobs'),
    (('fuse', 'rgb.png', 'thermal.png', '-r'), 'only with folders: --recursive'),
    (('fuse', 'film.avi', 'heat.avi', '--keep-order'), 'only with images: --keep-order'),
    (('fuse', 'rgb.png', 'film.avi'), 'film.avi is a video, which goes with one other video'),
    (('eval', '--pairs', '.', '--model', 'rgb', '--device', 'cpu'), 'as --model: --device'),
    (('eval', '--pairs', '.', '--model', 'rgb', '--classes', 'a'), 'with --detector: --classes'),
    (('align', 'rgb.png', 'thermal.png', '--topics', '/a', '/b'), 'only with --bag: --topics'),
    (('align', 'rgb.png', 'thermal.png', '--no-time-offset'), 'only with --bag: --time-offset'),
    (('models', '--frames', '2'), 'only with --time or --score: --frames'),
    (('models', '--frames', '2', '--score', '.'), 'only with --time: --frames'),
    (('demo', '--topics', '/a', '/b'), 'only with --bag: --topics'),
])
def test_options_without_effect_are_refused(folder, arguments, words):
    outcome = ran(list(arguments))

    assert (outcome.code, outcome.traceback) == (2, '')
    assert words in ' '.join(outcome.said.replace('│', '').split()), outcome.said
    assert not list(folder.glob('x*'))


def test_settings_without_effect_are_said(folder):
    outcome = ran(['fuse', 'rgb.png', 'thermal.png', '-o', 'x.png', *CLASSICAL, '--preset', 'base',
                   '--linear-low', '3', '--kelvin-at-zero', '4', '--temporal-filter', '0.1',
                   '--thermal-crop', '60x40+0+0', '--extra-rows-top', '0',
                   '--extra-rows-bottom', '0', '--low-percentile', '1'])

    assert outcome.code == 0
    assert [line.split(' (')[0] for line in outcome.said.splitlines()] == [
        f'note: without effect: --{name}' for name in (
            'preset', 'linear-low', 'kelvin-at-zero', 'extra-rows-bottom, --extra-rows-top',
            'temporal-filter')]


@pytest.mark.parametrize('arguments, code', [
    (('fine.png', 'rgb.png', '--keep-order'), 2),
    (('fine.png', 'vi/0.png', 'rgb.png', 'thermal.png', '--keep-order'), 1),
    (('rgb.png', 'thermal.png', '--thermal-crop', '600x600+0+0'), 2),
    (('film.avi', 'film2.avi'), 2),
])
def test_refused_frames_name_their_files(folder, arguments, code):
    """What is refused in the pixels of a pair is said with its files."""
    shutil.copy('film.avi', 'film2.avi')
    out = {2: 'x.png', 4: 'x'}[sum('.' in word for word in arguments)]
    out = 'x.mp4' if 'film.avi' in arguments else out

    outcome = ran(['fuse', *arguments, '-o', out, *CLASSICAL])

    thermal = arguments[len(arguments) // 2] if code == 1 else arguments[1]
    assert outcome.code == code
    assert f'{arguments[0]} and {"rgb.png" if code == 1 else thermal}: ' in outcome.said


@pytest.mark.parametrize('arguments, instead', [
    (('fuse', 'vi', 'ir', '-o', 'x.png', *CLASSICAL), 'write -o x'),
    (('fuse', 'vi', 'ir', '-o', 'x.mp4', *CLASSICAL), 'write -o x'),
    (('replay', 'bag', 'x.png', *CLASSICAL), 'x for the bag, x/{}.png for files'),
    (('replay', 'bag', 'x.mcap', *CLASSICAL), 'x.mp4 for a video'),
    (('replay', 'bag', 'empty_bag', 'x.mp4', *CLASSICAL), 'write x'),
    (('make-bag', '.', 'x.db3', '--rate', '10'), 'write x'),
    (('sample-bag', 'x.mcap', '--seconds', '0.2'), 'write x'),
    (('sample-pairs', 'x.png', '--count', '1'), 'write x'),
    (('demo', '--bag', 'bag', '--out', 'x.mp4'), 'write x'),
    (('train', 'config.yaml', '--data', '.', '--out', 'x.safetensors'), 'write x'),
])
def test_folder_named_like_a_file(folder, arguments, instead):
    outcome = ran(list(arguments))

    assert (outcome.code, outcome.traceback) == (2, '')
    assert 'is the name of a file' in outcome.said and instead in outcome.said
    assert not list(folder.glob('x*'))


@pytest.mark.parametrize('arguments, words', [
    (('replay', 'bag', 'x/{}{}.png', *CLASSICAL), '{} 2 times, expected once, for the stamp: '
     'write x/{}.png'),
    (('replay', 'bag'), 'OUT is missing: expected BAG... OUT, got bag alone'),
    (('fuse', 'a', 'b', '-o', 'x', '--out', 'y'), "'--out' / '-o': expected once, got 2 times"),
    (('fuse', 'a', 'b', '--auto-trim', '--no-auto-trim'), 'expected once, got 2 times'),
    (('fuse', 'https://a.b/c.png', 'b'), 'got the address https://a.b/c.png: download it first'),
    (('fuse', 'a', 'b', '--scale', '1,5'), "a number from 0.125 to 1.0, got '1,5'"),
    (('fuse', 'a', 'b', '--threads', 'a'), "got 'a'"),
    (('bench', '--frames', 'a'), "got 'a'"),
    (('fuse', 'rgb.png', 'thermal.png', '-o', 'vi/'), 'it is a folder, and an image is a file: '
     'write vi/NAME.png'),
    (('fuse', 'rgb.png', 'thermal.png', '-o', 'x/'), 'write x.png, or x/NAME.png for a folder x'),
    (('fuse', 'vi', 'ir', '--match', 'a_{}.png b_{}.png', '-o', 'x'),
     "--match 'a_{}.png b_{}.png': vi has 0.png and ir has 0.png"),
    (('fuse', 'vi/0.png', 'ir', '-o', 'x'), 'ir is a folder, in which ir/0.png goes with'),
    (('fuse', 'rgb.png', 'signed.tiff', '-o', 'x.png'), 'convert thermal to uint16 in '),
    (('doctor', 'x.json'), 'expected --json before the name of a file, got x.json alone'),
    (('doctor', '--json', 'x.txt'), 'write x.json'),
    (('fuse', '-a.png', 'b'), 'for the file of this name write ./-a.png'),
])
def test_wrong_words_are_explained(folder, arguments, words):
    Path('-a.png').symlink_to('rgb.png')
    cv2.imwrite('signed.tiff', np.zeros((48, 64), np.int16))
    outcome = ran(list(arguments))

    assert (outcome.code, outcome.traceback) == (2, '')
    assert words in ' '.join(outcome.said.replace('│', '').split()), outcome.said
    assert not list(folder.glob('x*'))


@pytest.mark.parametrize('arguments', [
    ('fuse', 'rgb.png', 'rgb.png', '-o', 'x.png', *CLASSICAL),
    ('fuse', 'rgb.png', 'link.png', '-o', 'x.png', *CLASSICAL),
    ('fuse', 'rgb.png', 'thermal.png', 'rgb.png', 'thermal.png', '-o', 'x', *CLASSICAL),
    ('fuse', 'vi', 'vi', '-o', 'x', *CLASSICAL),
    ('fuse', 'vi', 'linked', '-o', 'x', *CLASSICAL),
    ('fuse', 'vi', '--match', '{}.png {}.png', '-o', 'x', *CLASSICAL),
    ('fuse', 'film.avi', 'film.avi', '-o', 'x.mp4', *CLASSICAL),
    ('align', 'rgb.png', 'link.png', '-o', 'x.yaml'),
    ('align', 'vi', 'linked', '-o', 'x.yaml'),
    ('align', '--bag', 'bag', '--topics', '/rgb/image_raw', '/rgb/image_raw', '-o', 'x.yaml'),
    ('replay', 'bag', 'x', '--topics', '/rgb/image_raw', '/rgb/image_raw', *CLASSICAL),
    ('eval', '--rgb', 'vi', '--thermal', 'linked', '--model', 'average'),
    ('make-bag', 'twice', 'x', '--rate', '10'),
    ('train', 'config.yaml', '--data', 'twice', '--out', 'x'),
    ('models', '--score', 'twice', '--model', 'diffmf', '--preset', 'nano'),
])
def test_same_input_twice(folder, arguments):
    # Given links beside the files, and a folder of pairs whose ir/ is its vi/
    (folder / 'link.png').symlink_to('rgb.png')
    (folder / 'linked').symlink_to('vi')
    (folder / 'twice').mkdir()
    for name in ('vi', 'ir'):
        (folder / 'twice' / name).symlink_to(folder / 'vi')

    outcome = ran(list(arguments))

    assert (outcome.code, outcome.traceback) == (2, '')
    assert 'given twice' in outcome.said or 'are the same' in outcome.said, outcome.said
    assert not list(folder.glob('x*'))


def test_empty_names_are_explained(folder):
    outcome = ran(['fuse', '', '', '-o', 'x.png', *CLASSICAL])

    assert outcome.code == 2
    assert '. is given twice (an empty name is the working directory)' in outcome.said


def test_pair_of_hard_links_not_scored(folder):
    os.link('vi/0.png', 'new.png')
    shutil.copytree('ir', 'heat')
    Path('heat/0.png').unlink()
    Path('new.png').rename('heat/0.png')

    outcome = ran(['eval', '--rgb', 'vi', '--thermal', 'heat', '--model', 'average'])

    assert outcome.code == 1
    assert 'heat/0.png: it is the same file as vi/0.png' in outcome.said
    assert '1 scored, 1 problems' in outcome.said


@pytest.mark.parametrize('arguments', [
    ('fuse', 'none.png', 'gone.png', '-o', 'rgb.png', *CLASSICAL),
    ('fuse', 'rgb.png', 'none.png', '--alignment', 'gone.png', '-o', 'thermal.png', *CLASSICAL),
    ('fuse', 'none.png', 'gone.png', '-o', 'rgb.png', '--json', 'told.json', *CLASSICAL),
    ('align', 'none.png', 'gone.png', '-o', 'config.yaml'),
    ('align', '--bag', 'none.png', '--init', 'gone.png', '-o', 'config.yaml'),
    ('replay', 'none.png', 'bag', '--alignment', 'gone.png', *CLASSICAL),
    ('eval', '--rgb', 'none.png', '--thermal', 'gone.png', '--json', 'told.json'),
    ('demo', '--bag', 'none.png', '--alignment', 'gone.png', '--out', 'out'),
])
def test_missing_inputs_named_before_outputs(folder, arguments):
    (folder / 'told.json').write_text('dear')

    outcome = ran(list(arguments))

    assert outcome.code == 2
    assert 'none.png does not exist' in outcome.said and 'gone.png' in outcome.said
    assert 'exists already' not in outcome.said


def test_training_without_pairs_begins_nothing(folder):
    outcome = ran(['train', 'config.yaml', '--data', 'out', '--out', 'new'])

    assert outcome.code == 2 and outcome.said.startswith('error: no pairs at or below out')
    assert not Path('new').exists()


def test_two_bad_images_in_one_message(folder):
    for name in ('a.png', 'b.png'):
        (folder / name).write_text('no image')

    outcome = ran(['fuse', 'a.png', 'b.png', '-o', 'rgb.png', *CLASSICAL])

    assert outcome.code == 2 and outcome.said.count('cannot be read as an image') == 2


def test_default_folder_with_other_images(folder):
    """Nothing is mixed with other images unless the folder is named, and then it is said."""
    (folder / 'fused').mkdir()
    shutil.copy('rgb.png', 'fused/mine.png')

    refused = ran(['fuse', 'vi', 'ir', *CLASSICAL])
    named = ran(['fuse', 'vi', 'ir', '-o', 'fused', *CLASSICAL])
    again = ran(['fuse', 'vi', 'ir', '-o', 'fused', *CLASSICAL])

    assert refused.code == 2 and '-o fused to add to it' in refused.said
    assert (named.code, again.code) == (0, 0)
    assert 'note: fused has 1 other images, such as fused/mine.png' in named.said
    assert (folder / 'fused' / 'mine.png').read_bytes() == (folder / 'rgb.png').read_bytes()
    assert {path.name for path in (folder / 'fused').glob('[!.]*')} == {
        '0.png', '1.png', 'mine.png'}


def test_demo_keeps_an_earlier_one(folder, monkeypatch):
    """Without --out a demo goes beside the earlier ones, with --overwrite into the first."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from diffmf_ros.tools import demo
    asked = []

    def run(wanted):
        asked.append(str(wanted.fused))
        raise demo.DemoError('enough')

    monkeypatch.setattr(demo, 'run', run)
    shutil.copytree('bag', 'out/demo/fused')
    shutil.copytree('bag', 'out/demo-2/fused')

    outcomes = [ran(['demo', '--bag', 'bag', *more]) for more in ((), ('--overwrite',))]

    assert [outcome.said.splitlines()[-1] for outcome in outcomes] == ['error: enough'] * 2
    assert asked == ['out/demo-3/fused', 'out/demo/fused']


def test_interrupted_demo_says_how_to_go_on(folder, monkeypatch):
    """What an interrupted demo leaves is named, with the option that replaces it."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from diffmf_ros.tools import demo

    def run(wanted):
        shutil.copytree('bag', f'{wanted.fused}.unfinished')
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, 'run', run)

    outcome = ran(['demo', '--bag', 'bag', '--out', 'new'])

    assert outcome.code == 130 and outcome.traceback == ''
    assert 'new has what was made until then: the same command with --out ' in outcome.said


@pytest.mark.parametrize('words', [
    ('replay', 'bag', 'bag/{}.png'), ('replay', 'bag', 'bag/sub'),
    ('fuse', 'vi', 'ir', '--recursive', '-o', 'vi/sub')])
def test_output_lies_outside_of_inputs(folder, words):
    """Nothing is written where the next run would read it."""
    outcome = ran([*words, *CLASSICAL])

    assert outcome.code == 2 and 'outside of it' in outcome.said, outcome.said
