# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends a command in one line, whatever it is doing, and leaves no half file."""

import signal

import pytest
from random_interrupts import interrupted

from diffmf_ros.cli import __main__ as entry
from diffmf_ros.cli import main as command


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
