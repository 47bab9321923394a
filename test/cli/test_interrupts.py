# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM end a command in one line, whatever it does, and leave no half file."""

import contextlib
import signal
import time

import numpy as np
import pytest
from random_interrupts import interrupted, started

from diffmf_ros.cli import __main__ as entry
from diffmf_ros.cli import main as command
from diffmf_ros.core.frames import FusionResult, Mode
from diffmf_ros.tools.replay_outputs import output


@pytest.mark.slow
@pytest.mark.parametrize('name, after_s, number', [
    ('fuse', 0.3, signal.SIGINT),  # while libraries load
    ('sample-bag', 2.0, signal.SIGINT),
    ('fuse --jobs', 3.0, signal.SIGINT),
    ('fuse', 0.8, signal.SIGTERM),
    ('fuse --jobs', 3.0, signal.SIGTERM),
])
def test_interrupt_is_one_line(name, after_s, number):
    """`python test/random_interrupts.py 60` does more, at random moments."""
    assert interrupted(name, after_s, number) in (
        'interrupted', 'done before', 'before Python was there')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_half_folder_is_removed(tmp_path, number):
    """A command that ends by a signal while it writes a bag says so and leaves nothing."""
    with started(['sample-bag', tmp_path / 'new', '--seconds', '120']) as process:
        until_s = time.monotonic() + 60
        while not list(tmp_path.glob('.new.*partial*')) and time.monotonic() < until_s:
            time.sleep(0.05)
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        process.send_signal(number)  # as `timeout` does

        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and 'error: interrupted' in said
    assert 'Traceback' not in said and list(tmp_path.iterdir()) == []


@pytest.fixture
def handlers(monkeypatch):
    """Signals are those of a command in the foreground, and as before after the test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(entry, '_came_s', {})
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number, before, after', [
    (signal.SIGINT, signal.SIG_IGN, signal.SIG_IGN),
    (signal.SIGINT, signal.default_int_handler, entry.interrupt),
    (signal.SIGTERM, signal.SIG_IGN, signal.SIG_IGN),
    (signal.SIGTERM, signal.SIG_DFL, entry.interrupt),
])
def test_ignored_interrupts_stay_ignored(monkeypatch, handlers, number, before, after):
    """A job in the background, which a shell starts so, is not ended by Ctrl-C."""
    monkeypatch.setattr(command, 'main', lambda: None)
    signal.signal(number, before)
    entry.main()
    assert signal.getsignal(number) is after


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('raises', [KeyboardInterrupt, SystemExit(130)])  # typer makes that of it
def test_exit_code_names_signal(monkeypatch, handlers, number, raises):
    """The exit code is 128 and the number of the signal, as a shell reports it."""
    def work():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise raises

    monkeypatch.setattr(command, 'main', work)
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 128 + number


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_second_signal_lets_clean_up(monkeypatch, handlers, number):
    """Of two signals at once, as `timeout` sends SIGTERM, the second changes nothing."""
    done = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            done.append('cleaned up')

    monkeypatch.setattr(command, 'main', work)
    with pytest.raises(SystemExit):
        entry.main()
    assert done == ['cleaned up']


@pytest.mark.parametrize('ends', [True, False])
def test_unfinished_pictures_are_named(tmp_path, capsys, ends):
    """A replay to PNG files that does not end says what is there and how to go on."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    files = output(tmp_path / 'new' / '{}.png', rate_hz=1.0, overwrite=False)
    with contextlib.suppress(KeyboardInterrupt), files as out:
        out.write(FusionResult(7, '', pixels, 'rgb8', Mode.FUSED), None, 7)
        if not ends:
            raise KeyboardInterrupt

    assert (tmp_path / 'new' / '7.png').exists()
    said = capsys.readouterr().err
    words = 'new has 1 images of a run that did not end; the same command with --overwrite'
    assert said == '' if ends else words in said


def test_pictures_of_another_run_stay(tmp_path, capsys):
    """With --overwrite, pictures of other stamps are named and stay."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / '5.png').write_bytes(b'of another recording')
    (tmp_path / '7.png').write_bytes(b'of this one')
    with output(tmp_path / '{}.png', rate_hz=1.0, overwrite=True) as out:
        out.write(FusionResult(7, '', pixels, 'rgb8', Mode.FUSED), None, 7)

    assert (tmp_path / '5.png').read_bytes() == b'of another recording'
    assert f'has 1 other images, such as {tmp_path}/5.png, which stay' in capsys.readouterr().err
