# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends a command in one line, whatever it is doing, and leaves no half file."""

import pytest
from random_interrupts import interrupted


@pytest.mark.parametrize('name, after_s', [
    ('fuse', 0.3),  # while libraries load
    ('sample-bag', 2.0),
    ('fuse --jobs', 3.0),
])
def test_interrupt_is_one_line(name, after_s):
    """`python test/random_interrupts.py 60` does more, at random moments."""
    assert interrupted(name, after_s) in ('interrupted', 'done before', 'before Python was there')
