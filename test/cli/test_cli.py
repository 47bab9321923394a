# SPDX-License-Identifier: Apache-2.0
"""The commands as a user calls them: exit codes, messages, files."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf, diffmf_process


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'rgb.png'), random.integers(0, 256, (48, 64, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'thermal.png'), random.integers(7000, 9000, (24, 32), np.uint16))
    return tmp_path


def test_help_lists_every_command():
    done = diffmf_process('--help')
    assert done.returncode == 0
    for command in ('demo', 'sample-bag', 'make-bag', 'replay', 'fuse', 'train', 'bench',
                    'doctor'):
        assert command in done.stdout
    assert '<bool>' not in done.stdout


@pytest.mark.parametrize('command', ['fuse', 'bench', 'align'])
def test_flags_have_no_type(command):
    """A flag takes no value, so the help names none."""
    shown = diffmf(command, '--help').stdout
    assert '--overwrite' in shown and '<bool>' not in shown


def test_fuse_writes_a_picture(images):
    """Fuse writes a picture and says how."""
    done = diffmf_process('fuse', images / 'rgb.png', images / 'thermal.png', '-o',
                          images / 'out.png', '--model', 'classical')
    assert done.returncode == 0, done.stderr
    assert 'CLASSICAL by classical on cpu' in done.stdout
    assert cv2.imread(str(images / 'out.png')).shape == (48, 64, 3)


@pytest.mark.parametrize('order', [('mri', 'pet'), ('pet', 'mri')])
@pytest.mark.parametrize('channels', [1, 3])
def test_gray_and_color_in_either_order(tmp_path, order, channels):
    """A gray and a color image are told apart in either order."""
    # Given a gray scan, in one channel or three equal ones, and a colored one,
    mri = np.zeros((256, 256), np.uint8)
    mri[64:192, 64:192] = 90
    cv2.imwrite(str(tmp_path / 'mri.png'), mri if channels == 1 else np.stack([mri] * 3, axis=2))
    pet = np.zeros((256, 256, 3), np.uint8)
    pet[100:156, 100:156] = (20, 60, 200)
    cv2.imwrite(str(tmp_path / 'pet.png'), pet)
    # when they are fused,
    done = diffmf('fuse', *(tmp_path / f'{name}.png' for name in order), '-o',
                  tmp_path / 'out.png', '--model', 'classical')
    # then the color is there where it was, the gray one adds none, and a change of places is said.
    fused = cv2.imread(str(tmp_path / 'out.png')).astype(int)
    assert done.returncode == 0, done.stderr
    assert fused[128, 128, 2] - fused[128, 128, 0] > 100
    # Classical fusion shows a large area with a part of its contrast: at least half of the 90
    # levels.
    assert np.ptp(fused[80, 80]) <= 2 and fused[80, 80].mean() > 45
    assert ('pet.png is in color and' in done.stderr) == (order == ('mri', 'pet'))


@pytest.mark.parametrize('arguments, words', [
    (('fuse', 'none.png', 'thermal.png'), 'none.png does not exist'),
    (('fuse', 'rgb.png', 'text.png'), 'text.png cannot be read as an image'),
    (('fuse', 'rgb.png', 'thermal.png', '--model', 'magic'),
     'model must be one of diffmf, s4fusion, refinefuse'),
    (('fuse', 'rgb.png', 'thermal.png', '--scale', '3'), 'scale must lie in 0.125 to 1.0'),
    (('fuse', 'rgb.png', 'thermal.png', '--weights', 'none.safetensors'),
     'none.safetensors does not exist'),
    (('replay', 'none', 'out'), 'none does not exist'),
    (('train', 'none.yaml'), 'none.yaml does not exist'),
])
def test_errors_exit_with_code_2(images, monkeypatch, arguments, words):
    """Errors are one message and exit code 2."""
    monkeypatch.chdir(images)
    (images / 'text.png').write_text('no image')
    done = diffmf(*arguments)
    assert done.returncode == 2
    assert words in ' '.join(done.stderr.split())
    assert 'Traceback' not in done.stderr


def test_bench_measures_every_stage(domain, tmp_path):
    """Bench measures every stage of every configuration."""
    done = diffmf('bench', '--model', 'classical', '--preset', 'light,base', '--size',
                  '64x48,32x24', '--frames', 3, '--json', tmp_path / 'b.json')
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'b.json').read_text())['results']
    # no preset, so no doubles
    assert [result['name'] for result in results] == ['classical 64x48', 'classical 32x24']
    for result in results:
        stages = result['stages_ms']
        assert {'decode', 'color', 'align', 'network'} <= set(stages)
        assert all(len(stage['samples']) == 3 and min(stage['samples']) > 0
                   for stage in stages.values())
        assert result['metrics']['P50_LATENCY'] >= stages['network']['p50']
        assert result['startup']['peak_memory_mb'] > 10
        assert result['name'] in done.stdout


@pytest.mark.parametrize('arguments', [('--version',), ('models', '--help')])
def test_closed_pipe_is_no_failure(arguments):
    """What reads the output has ended, as `| head` does: that is no answer of the command."""
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli', *arguments], stdout=writer,
                          stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)

    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, '')


def test_bench_refuses_invalid_size():
    """Bench refuses an invalid size."""
    done = diffmf('bench', '--size', 'big')
    assert done.returncode == 2
    assert 'WIDTHxHEIGHT' in done.stderr


def test_bench_refuses_unknown_preset():
    """Bench refuses an unknown preset and names the known ones."""
    done = diffmf('bench', '--preset', 'light,huge')
    assert done.returncode == 2
    assert 'preset must be one of auto, light, base' in ' '.join(done.stderr.split())
