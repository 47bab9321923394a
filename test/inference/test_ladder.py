# SPDX-License-Identifier: Apache-2.0
"""When a failing network is tried again, and at which working size."""

import pytest

from diffmf_ros.inference.fault_tolerance import LONGEST_PATIENCE, LONGEST_PAUSE, RECOVERED, Ladder


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


def test_a_network_that_works_gets_every_pair_at_full_size():
    ladder = Ladder()
    work(ladder, 1000)
    assert (ladder.largest, ladder.problem) == (1.0, '')


def test_the_pauses_double_with_every_failure_in_a_row_up_to_the_longest():
    ladder, pauses = Ladder(), []
    for _ in range(9):
        fail(ladder)
        pauses.append(pairs_until_admitted(ladder))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, LONGEST_PAUSE, LONGEST_PAUSE]


def test_after_a_pair_that_worked_the_pauses_start_again_with_one():
    ladder = Ladder()
    fail(ladder, 3)
    pairs_until_admitted(ladder)
    ladder.succeeded()
    fail(ladder)
    assert pairs_until_admitted(ladder) == 1


def test_one_failure_keeps_the_size_and_the_second_in_a_row_lowers_it():
    ladder, sizes = Ladder(), []
    for _ in range(10):
        fail(ladder)
        sizes.append(ladder.largest)
    assert sizes == [1.0, 0.75, 0.75, 0.5, 0.5, 0.35, 0.35, 0.25, 0.25, 0.25]


def test_out_of_memory_lowers_the_size_at_once():
    ladder, sizes = Ladder(), []
    for _ in range(5):
        fail(ladder, out_of_memory=True)
        sizes.append(ladder.largest)
    assert sizes == [0.75, 0.5, 0.35, 0.25, 0.25]


def test_the_size_goes_below_the_one_that_failed_not_below_the_largest():
    ladder = Ladder()
    fail(ladder, scale=0.5, out_of_memory=True)
    assert ladder.largest == 0.35


def test_the_size_goes_up_step_by_step_while_the_network_works():
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


def test_a_step_up_that_is_undone_doubles_the_wait_up_to_the_longest():
    ladder, waits = Ladder(), []
    fail(ladder, out_of_memory=True)
    for _ in range(9):
        waits.append(pairs_to_the_next_size(ladder))
        fail(ladder, out_of_memory=True)
    assert waits == [32, 64, 128, 256, 512, 1024, 2048, 4096, LONGEST_PATIENCE]


def test_a_size_that_held_for_long_makes_the_wait_short_again():
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
def test_the_problem_says_how_often_and_why(failures, words):
    ladder = Ladder()
    fail(ladder, failures)
    assert ladder.problem == words


def test_a_failure_is_shown_until_a_seconds_worth_of_pairs_has_worked():
    ladder = Ladder()
    fail(ladder)
    pairs_until_admitted(ladder)
    work(ladder, RECOVERED - 1)
    assert ladder.problem == 'the network failed lately: it broke'
    work(ladder, 1)
    assert ladder.problem == ''
