# SPDX-License-Identifier: Apache-2.0
"""Every command with every kind of bad file.

One message, the right exit code, nothing lost, no traceback.
"""

import os
import re
import subprocess
import sys
from functools import cache

import pytest

pytest.importorskip('torch', reason='torch is not installed, and half of the commands need it')

from bad_inputs import KINDS, SLOTS, cell, documented, furnish, tried  # noqa: E402
from diffmf_process import diffmf  # noqa: E402

from diffmf_ros import __version__  # noqa: E402
from diffmf_ros.tools.evaluation import models_table  # noqa: E402

# What is no error: a path of no name is the working directory, which holds good pairs; images of
# any size are fused.
FINE = {
    'fuse RGB': ('one pixel', 'image of another size', '16-bit color PNG'),
    'fuse THERMAL': ('one pixel',),
    'fuse RGB_DIR': ('one pixel', 'image of another size', '16-bit color PNG'),
    'eval --rgb': ('16-bit color PNG',),
    'eval --fused': ('16-bit color PNG',),
    'fuse THERMAL_DIR': ('one pixel',),
    'make-bag FOLDER': ('no name', 'one pixel', 'image of another size', '16-bit color PNG'),
    'eval --pairs': ('no name',),
    'train --data': ('no name',),
    'model-card SCORED_ON': ('no name',),
    'models --score': ('no name',),
}
# Commands that go on without the bad file, and measurements that images do not allow, end with 1.
SOME_FAILED = ('eval', 'align', 'fuse RGB_DIR', 'fuse THERMAL_DIR')
# Folders of images go through the reader of `fuse RGB`: there these kinds, which are no images,
# say the same.
SAME_READER = KINDS[KINDS.index('pickle that runs code'):]
MATRIX = documented()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Yield a folder with what the commands take; the work of a network is counted once."""
    path = tmp_path_factory.mktemp('bad')
    furnish(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models_table, '_counted', cache(models_table._counted))
        yield path


@pytest.mark.slow
@pytest.mark.parametrize('slot', SLOTS, ids=[slot.name.replace(' ', '_') for slot in SLOTS])
def test_bad_files_one_message_nothing_lost(folder, slot):
    """Bad files are one message and nothing is lost."""
    if slot.name.startswith('demo'):
        pytest.importorskip('rclpy', reason='rclpy is not installed, which the demo needs')
    for kind in KINDS:
        if slot.inside.endswith('.png') and kind in SAME_READER:
            continue
        outcome = tried(folder, slot, kind)

        assert not outcome.traceback, f'{slot.name}, {kind}:\n{outcome.traceback}'
        assert not outcome.harm, f'{slot.name}, {kind}: {outcome.harm}'
        if kind in FINE.get(slot.name, ()):
            assert outcome.code == 0, f'{slot.name}, {kind}: {outcome.said}'
            continue
        allowed = (1, 2) if slot.name.startswith(SOME_FAILED) else (2,)
        assert outcome.code in allowed, (f'{slot.name}, {kind}: exit code '
                                         f'{outcome.code}\n{outcome.said}')
        errors = [line for line in outcome.said.splitlines()
                  if re.search('error|failed|not scored', line.lower())]
        assert errors and len(max(errors, key=len)) < 1000, f'{slot.name}, {kind}: {outcome.said}'
        # And docs/commands.md shows it (`python test/bad_inputs.py` writes it anew)
        assert MATRIX[kind, slot.name] == cell(outcome), f'{slot.name}, {kind}'


def test_documented_matrix_is_complete():
    """The documented matrix is whole and clean."""
    assert len(KINDS) >= 25 and len(SLOTS) >= 20
    assert MATRIX.keys() == {(kind, slot.name) for kind in KINDS for slot in SLOTS}
    assert set(MATRIX.values()) == {'0', '1', '2'}


@pytest.mark.parametrize('arguments, code, words', [
    (('--version',), 0, f'diffmf_ros {__version__}'),
    (('-h',), 0, 'Usage: diffmf'),
    (('fuse', '-h'), 0, 'Usage: diffmf fuse'),
    ((), 2, 'Usage: diffmf'),
    (('fus',), 2, "Did you mean 'fuse'?"),
    (('fuse',), 2, 'Missing argument'),
    (('bench', '--model', 's4fusion', '--preset', 'nano'), 2, 'there is no s4fusion nano'),
    (('demo', '--bag', 'a', '--scene', 'day'), 2, '--scene is of a rendered drive'),
    (('demo', '--rate', 'nan'), 2, "Invalid value for '--rate'"),
    (('train', 'a', '--minutes', '-1'), 2, "Invalid value for '--minutes'"),
    (('fuse', 'a', 'b', '--modell', 'x'), 2, '--model'),
])
def test_exit_codes_of_the_command_itself(arguments, code, words):
    done = diffmf(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('library, arguments', [
    ('torch', ('bench', '--size', '32x24', '--frames', '1')),
    ('torch', ('train', 'config.yaml')),
    ('torch', ('export', '--onnx', 'new.onnx')),
    ('torch', ('convert-weights', 'config.yaml')),
    ('torch', ('eval', '--pairs', '.', '--model', 'diffmf')),
    ('matplotlib', ('bench', '--model', 'classical', '--size', '32x24', '--frames', '1', '--plot',
                    'new.png')),
])
def test_missing_library_names_install(folder, tmp_path, monkeypatch, library, arguments):
    """A library that is missing is named with what to install."""
    # Given a machine without the library
    (tmp_path / f'{library}.py').write_text(
        f'raise ModuleNotFoundError("No module named {library!r}", name={library!r})')
    monkeypatch.chdir(folder)
    path = os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get('PYTHONPATH')])))

    done = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', *arguments],
                          capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': path})

    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    assert library in done.stderr and 'pip install' in done.stderr
    assert 'diffmf_ros[' not in done.stderr
