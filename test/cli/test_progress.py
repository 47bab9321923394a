# SPDX-License-Identifier: Apache-2.0
"""Signs of life of long commands, in a terminal and in a file."""

import re
import time

import pytest
from rich.console import Console
from rich.table import Table

from diffmf_ros.cli import options, progress
from diffmf_ros.core.settings import DEFAULTS, with_changes


@pytest.fixture
def terminal(monkeypatch):
    """Let the output look like a terminal's."""
    for name in ('NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('FORCE_COLOR', '1')


def shown(capsys):
    """Return the last 'done/total' that a bar has shown."""
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', capsys.readouterr().err)
    return re.findall(r'(\d+)/(\d+)', text)[-1]


def test_bar_ends_full(terminal, capsys):
    """Work that ends with less than was announced is done nevertheless."""
    with progress.progress('drawing', 30) as report:
        report(28)

    assert shown(capsys) == ('30', '30')


def test_bar_of_failed_work_stays(terminal, capsys):
    with pytest.raises(ZeroDivisionError), progress.progress('drawing', 30) as report:
        report(28)
        raise ZeroDivisionError

    assert shown(capsys) == ('28', '30')


def test_lines_outside_a_terminal(capsys, monkeypatch):
    for name in ('FORCE_COLOR', 'TTY_COMPATIBLE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, 'FIRST_S', 0.0)

    items = list(progress.tracked('abc', 'rendering', 3))
    with progress.announced() as announce:
        announce('cost of 300 pairs')

    assert items == list('abc')
    assert capsys.readouterr().err == 'rendering: 1 of 3\ncost of 300 pairs\n'


def test_silent_work_says_it_lives(capsys, monkeypatch):
    """A command says that it is at work until it shows its progress, or ends."""
    monkeypatch.setattr(progress, 'EVERY_S', 0.01)
    for shows, first_s in (False, 0.01), (True, 0.5):
        monkeypatch.setattr(progress, 'FIRST_S', first_s)
        said, end_s = '', time.monotonic() + (0.6 if shows else 30)
        with progress.signs_of_life('fuse'):
            if shows:
                progress.shows_itself()
            while said.count('\n') < 2 and time.monotonic() < end_s:
                time.sleep(0.01)
                said += capsys.readouterr().err
        assert re.fullmatch('' if shows else r'(fuse: at work for \d+ s\n){2,}', said)


@pytest.mark.parametrize('width', [40, 80])
def test_narrow_terminal_gets_lines(capsys, width):
    """A table that is wider than the terminal becomes lines, of which nothing is cut."""
    table = Table('network', *(f'heading {number}' for number in range(4)), title='what it takes',
                  caption='of a pair')
    table.add_row('nano', *(f'{number} of many' for number in range(4)))

    options.show_table(Console(width=width), table)

    shown = capsys.readouterr().out
    assert all(f'heading {number}: {number} of many' in shown for number in range(4)) == (
        width == 40)
    assert all(f'{number} of many' in shown for number in range(4))


@pytest.mark.parametrize('load, changes, device, said', [
    (9.0, {}, 'cpu float32', True),
    (3.0, {}, 'cpu float32', False),
    (9.0, {'threads': 2}, 'cpu float32', False),
    (9.0, {'model': 'classical'}, 'cpu', False),
    (9.0, {}, 'cuda float16', False),
])
def test_hint_on_a_busy_machine(monkeypatch, capsys, load, changes, device, said):
    """Threads are advised against where two CPUs have much to do, and nobody has chosen them."""
    monkeypatch.setattr(progress, 'cores', lambda: 2)
    monkeypatch.setattr(progress.os, 'getloadavg', lambda: (load, 0.0, 0.0))

    progress.hint_threads(with_changes(DEFAULTS, changes), device)

    assert ('--threads 1' in capsys.readouterr().err) is said
