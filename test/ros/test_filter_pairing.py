# SPDX-License-Identifier: Apache-2.0
"""Pairing by message_filters behind our interface.

Most of it needs message_filters, which a bare machine has not.
"""

import sys

import numpy as np
import pytest
from stamp_streams import MS, RATES, brute_force, by_arrival, frame, run, stamps

from diffmf_ros.core.frames import RGB, THERMAL, DiffmfError
from diffmf_ros.core.settings import SyncSettings
from diffmf_ros.core.sync.pairing import ClosestPairing

pytest.importorskip('rclpy', reason='needs rclpy')

from diffmf_ros.ros.filter_pairing import QUEUE_SIZE, FilterPairing, make_pairing  # noqa: E402

POLICIES = ['approximate', 'exact']
BOTH = pytest.mark.parametrize('policy', POLICIES)


@pytest.fixture
def filters():
    """Skip where message_filters is not installed."""
    pytest.importorskip('message_filters', reason='needs message_filters')


def test_closest_needs_no_message_filters(monkeypatch):
    """The closest policy needs no message_filters."""
    monkeypatch.setitem(sys.modules, 'message_filters', None)

    assert isinstance(make_pairing(SyncSettings()), ClosestPairing)


@BOTH
def test_missing_message_filters_names_install(monkeypatch, policy):
    """Without message_filters the error says what to install."""
    monkeypatch.setitem(sys.modules, 'message_filters', None)

    with pytest.raises(DiffmfError, match=f'sync.policy {policy} needs '
                       f'.*ros-<distro>-message-filters.*closest'):
        make_pairing(SyncSettings(policy=policy))


@BOTH
def test_message_filters_cannot_hold_a_frame(policy):
    with pytest.raises(DiffmfError, match=f'hold_last_ms is 200 and sync.policy is {policy}.*set '
                       f'hold_last_ms to 0'):
        make_pairing(SyncSettings(policy=policy, hold_last_ms=200.0))


@BOTH
def test_the_policy_chooses_who_pairs(filters, policy):
    assert isinstance(make_pairing(SyncSettings(policy=policy)), FilterPairing)


@pytest.mark.parametrize('rates', RATES)
def test_approximate_pairs_account_for_frames(filters, rates):
    """Approximate pairs lie in reach rise and account for every frame."""
    rng = np.random.default_rng(rates)
    rgb, thermal = (stamps(rng, rate, jitter=0.1) for rate in rates)
    pairing = FilterPairing(SyncSettings(policy='approximate'))

    pairs = run(pairing, by_arrival(rgb, thermal))

    assert len(pairs) >= 0.6 * len(brute_force(rgb, thermal, 25 * MS))
    assert all(abs(a - b) <= 25 * MS for a, b in pairs)
    assert (np.diff(pairs, axis=0) > 0).all()
    assert 2 * len(pairs) + sum(pairing.dropped.values()) == len(rgb) + len(thermal)
    assert pairing.pending == 0


@pytest.mark.parametrize('distance_ns, count', [(25 * MS, 1), (25 * MS + 1, 0)])
def test_the_largest_distance_is_included(filters, distance_ns, count):
    arrivals = [(RGB, 10**18), (THERMAL, 10**18 + distance_ns)]

    assert len(run(FilterPairing(SyncSettings(policy='approximate', max_distance_ms=25.0)),
                   arrivals)) == count


def test_exact_pairs_equal_stamps(filters):
    """Exact pairs equal stamps after the offsets."""
    rgb = np.arange(30) * 33 * MS
    thermal = rgb[::3] + 40 * MS
    pairing = FilterPairing(SyncSettings(policy='exact', rgb_offset_ms=-10.0,
                                         thermal_offset_ms=-50.0))

    pairs = [pair for stream, stamp in by_arrival(rgb, thermal, thermal_delay_ms=-30.0)
             for pair in pairing.add(frame(stream, stamp))]

    assert [(pair.rgb.stamp_ns, pair.thermal.stamp_ns) for pair in pairs] == list(
        zip(rgb[::3], thermal, strict=True))
    assert {pair.offset_ns for pair in pairs} == {0} and not any(pair.held for pair in pairs)


@BOTH
def test_looped_bag_repeats_its_pairs(filters, policy):
    """A bag in a loop gives the same pairs each time."""
    rgb = np.arange(90) * 33 * MS
    once = by_arrival(rgb, rgb[::3], thermal_delay_ms=5.0)
    pairing = FilterPairing(SyncSettings(policy=policy))

    loops = [run(pairing, once, flush=False) for _ in range(3)]

    assert loops == [[(stamp, stamp) for stamp in rgb[::3]]] * 3


@BOTH
def test_one_wild_stamp_costs_one_pair(filters, policy):
    arrivals = by_arrival(np.arange(90) * 33 * MS, np.arange(90) * 33 * MS)
    wild = [*arrivals[:100], (arrivals[100][0], arrivals[100][1] + 3600 * 10**9), *arrivals[101:]]

    pairs = run(FilterPairing(SyncSettings(policy=policy)), wild)

    assert 88 <= len(pairs) <= 89 and (np.diff(pairs, axis=0) > 0).all()


@BOTH
def test_a_silent_partner_costs_bounded_memory(filters, policy):
    pairing = FilterPairing(SyncSettings(policy=policy))

    assert run(pairing, [(RGB, number * 33 * MS) for number in range(200)], flush=False) == []

    assert pairing.pending == QUEUE_SIZE
    assert pairing.dropped == {'unpaired': 200 - QUEUE_SIZE}


@BOTH
def test_unpaired_frames_counted_by_reason(filters, policy):
    """What cannot be in a pair is counted by reason."""
    pairing = FilterPairing(SyncSettings(policy=policy))
    first = run(pairing, [(RGB, 10**9), (THERMAL, 10**9), (RGB, 2 * 10**9)], flush=False)

    again = run(pairing,
                [(THERMAL, 10**9), (THERMAL, 10**9 - 1), (RGB, 2 * 10**9), (RGB, -2 * 10**9),
                          (THERMAL, 2**31 * 10**9)], flush=False)
    pairing.reset()

    assert first == [(10**9, 10**9)] and again == []
    assert pairing.dropped == {'duplicate': 2, 'late': 1, 'bad_stamp': 2, 'clock_jump': 1}


def test_pairs_out_of_order_are_dropped(filters):
    pairing = FilterPairing(SyncSettings(policy='approximate', max_distance_ms=100.0))

    # RGB 50 takes thermal 60; then RGB 70 takes what still waits, the older thermal 5.
    pairs = run(pairing, [(THERMAL, 5 * MS), (THERMAL, 60 * MS), (RGB, 50 * MS), (RGB, 70 * MS),
                          (RGB, 90 * MS), (THERMAL, 91 * MS)])

    assert pairs == [(50 * MS, 60 * MS), (90 * MS, 91 * MS)]
    assert pairing.dropped == {'out_of_order': 2}


def test_flush_starts_new_recording(filters):
    """After a flush a new recording starts."""
    pairing = FilterPairing(SyncSettings(policy='approximate'))
    arrivals = [(RGB, 10**9), (THERMAL, 10**9 + 3 * MS)]

    assert run(pairing, arrivals) == run(pairing, arrivals) == [(10**9, 10**9 + 3 * MS)]
    assert not pairing.dropped
