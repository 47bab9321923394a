# SPDX-License-Identifier: Apache-2.0
"""What a shell offers for an unfinished command line."""

import os
import subprocess
import sys

import pytest


def offered(line, shell='bash'):
    """Return what completes the last word of a line, as the shell asks for it."""
    words = line.split(' ')
    asked = {'_DIFFMF_COMPLETE': f'complete_{shell}', 'COMP_WORDS': line,
             'COMP_CWORD': str(len(words) - 1), '_TYPER_COMPLETE_ARGS': line}
    code = 'from diffmf_ros.cli.main import application; application()(prog_name="diffmf")'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          env={**os.environ, **asked}, timeout=120)
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize('line, words', [
    ('diffmf sample-', ['sample-bag', 'sample-pairs']),
    ('diffmf replay --pola', ['--polarity']),
    ('diffmf fuse --polarity bl', ['black_hot']),
    ('diffmf demo --scene sm', ['smoke']),
    ('diffmf export --preset na', ['nano']),
])
def test_names_options_and_choices(line, words):
    assert offered(line) == words


def test_file_names_are_left_to_bash():
    assert offered('diffmf fuse some') == []
    shown = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', '--show-completion',
                            'bash'], capture_output=True, text=True, timeout=120)
    assert 'complete -o default' in shown.stdout


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_other_shells_are_served(shell):
    asked = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', '--show-completion',
                            shell], capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0 and 'diffmf' in asked.stdout
