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


def shown(shell):
    """Return what --show-completion prints for a shell, whichever one the tests run under."""
    named = {**os.environ, '_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION': '1'}
    command = [sys.executable, '-m', 'diffmf_ros.cli.main', '--show-completion', shell]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=named)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_file_names_are_left_to_bash():
    assert offered('diffmf fuse some') == []
    assert 'complete -o default' in shown('bash')


@pytest.mark.slow
@pytest.mark.parametrize('shell, word', [('zsh', '#compdef'), ('fish', 'complete --command')])
def test_other_shells_are_served(shell, word):
    assert word in shown(shell) and 'complete -o default' not in shown(shell)
