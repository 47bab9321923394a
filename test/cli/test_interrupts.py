# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends a command in one line, whatever it is doing, and leaves no half file."""

import contextlib
import signal

import numpy as np
import pytest
from random_interrupts import interrupted

from diffmf_ros.cli import __main__ as entry
from diffmf_ros.cli import main as command
from diffmf_ros.core.frames import FusionResult, Mode
from diffmf_ros.tools.replay_outputs import output


@pytest.mark.slow
@pytest.mark.parametrize('name, after_s', [
    ('fuse', 0.3),  # while libraries load
    ('sample-bag', 2.0),
    ('fuse --jobs', 3.0),
])
def test_interrupt_is_one_line(name, after_s):
    """`python test/random_interrupts.py 60` does more, at random moments."""
    assert interrupted(name, after_s) in ('interrupted', 'done before', 'before Python was there')


@pytest.mark.parametrize('before, after', [
    (signal.SIG_IGN, signal.SIG_IGN),
    (signal.default_int_handler, entry.interrupt),
])
def test_ignored_interrupts_stay_ignored(monkeypatch, before, after):
    """A job in the background, which a shell starts so, is not ended by Ctrl-C."""
    monkeypatch.setattr(command, 'main', lambda: None)
    kept = signal.signal(signal.SIGINT, before)
    try:
        entry.main()
        assert signal.getsignal(signal.SIGINT) is after
    finally:
        signal.signal(signal.SIGINT, kept)


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
