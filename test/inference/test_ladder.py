# SPDX-License-Identifier: Apache-2.0
"""When a failing network is tried again, and at which working size."""

import pytest

from diffmf_ros.inference.fault_tolerance import LONGEST_PAUSE, RetryPolicy
from diffmf_ros.inference.working_size import LONGEST_PATIENCE, RECOVERED, TrustedScale


class Ladder(RetryPolicy):
    """A policy with the size that it trusts, told of the same pairs."""

    def __init__(self):
        super().__init__()
        self._trusted = TrustedScale()

    @property
    def largest(self):
        return self._trusted.largest

    def succeeded(self):
        super().succeeded()
        self._trusted.succeeded()

    def failed(self, reason, **about):
        super().failed(reason)
        self._trusted.failed(**about)


def pairs_until_admitted(ladder):
    """Ask as a pipeline does, pair by pair; return how many pairs the network did not get."""
    count = 0
    while not ladder.admits():
        count += 1
    return count


def fail(ladder, times=1, **options):
    for _ in range(times):
        pairs_until_admitted(ladder)
        ladder.failed('it broke', **{'scale': ladder.largest, **options})


def work(ladder, pairs):
    for _ in range(pairs):
        assert ladder.admits()
        ladder.succeeded()


def test_working_network_gets_full_size():
    """A network that works gets every pair at full size."""
    ladder = Ladder()
    work(ladder, 1000)
    assert (ladder.largest, ladder.problem) == (1.0, '')


def test_pauses_double_to_the_longest():
    """The pauses double with every failure in a row up to the longest."""
    ladder, pauses = Ladder(), []
    for _ in range(9):
        fail(ladder)
        pauses.append(pairs_until_admitted(ladder))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, LONGEST_PAUSE, LONGEST_PAUSE]


def test_success_resets_the_pauses():
    """After a pair that worked the pauses start again with one."""
    ladder = Ladder()
    fail(ladder, 3)
    pairs_until_admitted(ladder)
    ladder.succeeded()
    fail(ladder)
    assert pairs_until_admitted(ladder) == 1


def test_second_failure_lowers_size():
    """One failure keeps the size and the second in a row lowers it."""
    ladder, sizes = Ladder(), []
    for _ in range(10):
        fail(ladder)
        sizes.append(ladder.largest)
    assert sizes == [1.0, 0.75, 0.75, 0.5, 0.5, 0.35, 0.35, 0.25, 0.25, 0.25]


def test_out_of_memory_lowers_size():
    """Out of memory lowers the size at once."""
    ladder, sizes = Ladder(), []
    for _ in range(5):
        fail(ladder, out_of_memory=True)
        sizes.append(ladder.largest)
    assert sizes == [0.75, 0.5, 0.35, 0.25, 0.25]


def test_size_drops_below_failed_one():
    """The size goes below the one that failed not below the largest."""
    ladder = Ladder()
    fail(ladder, scale=0.5, out_of_memory=True)
    assert ladder.largest == 0.35


def test_success_raises_size_stepwise():
    """The size goes up step by step while the network works."""
    ladder = Ladder()
    fail(ladder, 4, out_of_memory=True)
    assert ladder.largest == 0.25
    pairs_until_admitted(ladder)
    for size in (0.35, 0.5, 0.75, 1.0):
        work(ladder, RECOVERED - 1)
        assert ladder.largest < size
        work(ladder, 1)
        assert ladder.largest == size


def pairs_to_the_next_size(ladder):
    before, count = ladder.largest, 0
    while ladder.largest == before:
        pairs_until_admitted(ladder)
        ladder.succeeded()
        count += 1
    return count


def test_undone_step_doubles_wait():
    """A step up that is undone doubles the wait up to the longest."""
    ladder, waits = Ladder(), []
    fail(ladder, out_of_memory=True)
    for _ in range(9):
        waits.append(pairs_to_the_next_size(ladder))
        fail(ladder, out_of_memory=True)
    assert waits == [32, 64, 128, 256, 512, 1024, 2048, 4096, LONGEST_PATIENCE]


def test_long_success_shortens_wait():
    """A size that held for long makes the wait short again."""
    ladder = Ladder()
    fail(ladder, out_of_memory=True)
    for _ in range(3):
        pairs_to_the_next_size(ladder)
        fail(ladder, out_of_memory=True)
    pairs_to_the_next_size(ladder)
    work(ladder, LONGEST_PATIENCE + 1)
    fail(ladder, out_of_memory=True)
    assert pairs_to_the_next_size(ladder) == RECOVERED


@pytest.mark.parametrize('failures, words', [(1, 'the network failed: it broke'),
                                             (3, 'the network failed 3 times in a row: it broke')])
def test_issue_has_count_and_reason(failures, words):
    """The issue says how often and why."""
    ladder = Ladder()
    fail(ladder, failures)
    assert ladder.problem == words


def test_failure_shown_for_a_second():
    """A failure is shown until a second's worth of pairs has worked."""
    ladder = Ladder()
    fail(ladder)
    pairs_until_admitted(ladder)
    work(ladder, RECOVERED - 1)
    assert ladder.problem == 'the network failed lately: it broke'
    work(ladder, 1)
    assert ladder.problem == ''


def test_second_failure_restarts_the_second():
    """Pairs that worked before a failure do not count towards its end."""
    ladder = Ladder()
    work(ladder, RECOVERED - 1)
    fail(ladder)
    pairs_until_admitted(ladder)
    work(ladder, 1)
    assert ladder.problem == 'the network failed lately: it broke'
