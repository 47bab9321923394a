# SPDX-License-Identifier: Apache-2.0
"""Pairing with a hold: every RGB frame leaves, with the closest or with the last thermal frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stamp_streams import MS, RATES, by_arrival, frame, stamps, still_held

from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.core.settings import SyncSettings
from diffmf_ros.core.sync.pairing import LONGEST_PERIOD_NS, ClosestPairing, Hold


def brute_force(rgb_ns, thermal_ns, max_ns, hold_ns):
    """(rgb, thermal, held) of each RGB stamp.

    The closest thermal stamp in max_cost, else the newest that may be held.
    """
    expected, last = [], None
    for rgb in np.sort(rgb_ns).tolist():
        closest = [t for t in thermal_ns.tolist() if abs(t - rgb) <= max_ns]
        older = [t for t in thermal_ns.tolist() if 0 <= rgb - t <= hold_ns]
        if closest or older:
            thermal = min(closest,
                          key=lambda t: (abs(t - rgb), t < rgb)) if closest else max(older)
            expected.append((rgb, thermal, thermal == last or rgb - thermal > max_ns))
            last = thermal
    return expected


def run(pairing, arrivals, flush=True):
    """(rgb, thermal, held) of the pairs that come out of (stream, stamp) arrivals."""
    pairs = [pair for stream, stamp in arrivals for pair in pairing.add(frame(stream, stamp))]
    pairs += pairing.flush() if flush else []
    return [(pair.rgb.stamp_ns, pair.thermal.stamp_ns, pair.held) for pair in pairs]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rates=st.sampled_from(RATES),
       hold_ms=st.sampled_from([20.0, 150.0, 2000.0]), drops=st.sampled_from([0.0, 0.1, 0.5]),
       delay_ms=st.sampled_from([0.0, 20.0, 150.0, 600.0]),
       late=st.sampled_from([RGB, THERMAL]))
def test_noisy_cameras_equal_brute_force(seed, rates, hold_ms, drops, delay_ms, late):
    """Cameras with drops and delay equal brute force."""
    rng = np.random.default_rng(seed)
    rgb, thermal = stamps(rng, rates[0], seconds=2), stamps(rng, rates[1], seconds=2)
    # Of three in a row one at most, or what is usual could not be known.
    thermal = thermal[(rng.uniform(size=len(thermal)) > drops) | (np.arange(len(thermal)) % 3 < 2)]
    delays_ms = {'rgb_delay_ms': delay_ms} if late == RGB else {'thermal_delay_ms': delay_ms}
    pairing = ClosestPairing(SyncSettings(hold_last_ms=hold_ms))

    pairs = run(pairing, by_arrival(rgb, thermal,
                                    **{'rgb_delay_ms': 5.0, 'thermal_delay_ms': 5.0, **delays_ms}))

    assert pairs == brute_force(rgb, thermal, 25 * MS, hold_ms * MS)
    unused = len(thermal) - len({used for _, used, _ in pairs})
    assert sum(pairing.dropped.values()) == pairing.dropped['unpaired'] == len(rgb) - len(
        pairs) + unused


@pytest.mark.parametrize('jitter', [0.01, 0.03, 0.16])
@pytest.mark.parametrize('rates', RATES)
def test_jitter_misleads_the_prediction_hardly_ever(rates, jitter):
    rng = np.random.default_rng(4)
    rgb, thermal = (stamps(rng, rate, seconds=40, jitter=jitter) for rate in rates)

    pairs = run(ClosestPairing(SyncSettings(hold_last_ms=150.0)), by_arrival(rgb, thermal))

    expected = brute_force(rgb, thermal, 25 * MS, 150 * MS)
    assert len(pairs) == len(expected)
    assert sum(a != b for a, b in zip(pairs, expected, strict=True)) <= 0.003 * len(expected)


def test_rgb_30_thermal_9_leaves_30():
    """RGB at 30 Hz beside thermal at 9 Hz leaves at 30 Hz."""
    rng = np.random.default_rng(2)
    rgb, thermal = stamps(rng, 30, jitter=0.01), stamps(rng, 9, jitter=0.01)
    rgb = rgb[rgb > thermal[0]]
    pairing = ClosestPairing(SyncSettings(hold_last_ms=200.0))
    left, waited = [], []

    for stream, stamp in by_arrival(rgb, thermal, rgb_delay_ms=5.0, thermal_delay_ms=10.0):
        left += [pair.rgb.stamp_ns for pair in pairing.add(frame(stream, stamp))]
        if stream == RGB and stamp > 10**9:
            waited.append(int(np.sum(rgb <= stamp)) - len(left))

    # All but the last one or two have left; none is overtaken by two, and hardly any by one.
    assert len(rgb) - 2 <= len(left) and left == sorted(set(left))
    assert max(waited) <= 2 and np.mean(np.array(waited) == 0) > 0.6


def test_certain_frame_does_not_wait():
    """A frame that no thermal frame can be closer to does not wait."""
    thermal, rgb = np.arange(12) * 111 * MS, np.arange(4, 34) * 37 * MS + MS
    pairing = ClosestPairing(SyncSettings(hold_last_ms=200.0))
    run(pairing, by_arrival(rgb, thermal, thermal_delay_ms=5.0), flush=False)
    last = int(thermal[-1])

    # The next thermal frame comes 111 ms after the last one: 26 and 24 ms after the last two of
    # these.
    next_rgb = [(RGB, last + after * MS) for after in (38, 85, 87)]
    pairs = [run(pairing, [arrival], flush=False) for arrival in next_rgb]

    assert pairs == [[(last + 38 * MS, last, True)], [(last + 85 * MS, last, True)], []]


def test_pause_holds_last_thermal():
    """A pause of thermal holds its last frame for as long as set."""
    rgb = np.arange(150) * 33 * MS
    thermal = np.delete(rgb, range(50, 90)) + 4 * MS
    pairing = ClosestPairing(SyncSettings(hold_last_ms=800.0))
    pairs = []
    for stream, stamp in by_arrival(rgb, thermal, thermal_delay_ms=10.0):
        behind = int(np.sum(rgb <= stamp)) - len(pairs)
        # In the pause RGB goes on at its rate, two frames behind.
        assert not (stream == RGB and 50 * 33 * MS < stamp < 70 * 33 * MS and behind > 3)
        pairs += run(pairing, [(stream, stamp)], flush=False)

    held = [(rgb_ns, used) for rgb_ns, used, is_held in pairs if is_held]
    assert held == [(int(rgb[i]), int(thermal[49])) for i in range(50, 74)]
    assert [rgb_ns for rgb_ns, _, is_held in pairs
            if not is_held] == [*rgb[:50].tolist(), *rgb[90:].tolist()]
    assert pairing.dropped['unpaired'] == 90 - 74


def test_second_use_counts_as_held():
    """A thermal frame used twice is held the second time."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=50.0))

    pairs = run(pairing, [(RGB, 100 * MS), (THERMAL, 110 * MS), (RGB, 120 * MS), (RGB, 160 * MS),
                          (RGB, 161 * MS)])

    assert pairs == [(100 * MS, 110 * MS, False), (120 * MS, 110 * MS, True),
                     (160 * MS, 110 * MS, True)]
    assert pairing.dropped == {'unpaired': 1}


def test_few_frames_are_kept():
    pairing = ClosestPairing(SyncSettings(hold_last_ms=10_000.0))

    assert still_held(pairing, by_arrival(np.arange(90) * 33 * MS, np.arange(27) * 111 * MS)) <= 4
    assert pairing.pending <= 2


@pytest.mark.parametrize('stream', [RGB, THERMAL])
def test_silent_partner_waits_for_second(stream):
    """Beside a silent partner frames wait for a second."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=200.0))
    for number in range(200):
        assert run(pairing, [(stream, number * 40 * MS)], flush=False) == []

    assert 24 <= pairing.pending <= 27
    assert pairing.dropped == {'unpaired': 200 - pairing.pending}


def at_rates(rgb_hz, thermal_hz, seed=2, seconds=10):
    """Return the (stream, stamp) arrivals of two cameras with a little jitter."""
    rng = np.random.default_rng(seed)
    rgb, thermal = stamps(rng, rgb_hz, seconds=seconds,
                          jitter=0.01), stamps(rng, thermal_hz, seconds=seconds,
                                                                             jitter=0.01)
    return by_arrival(rgb, thermal, rgb_delay_ms=5.0, thermal_delay_ms=10.0)


@pytest.mark.parametrize('rgb_hz, thermal_hz, longest_ms',
                         [(30, 9, 139), (30, 15, 83), (60, 25, 50), (10, 2, 625)])
def test_default_hold_is_slower_period(rgb_hz, thermal_hz, longest_ms):
    """By default a thermal frame is held for about a period of a slower camera."""
    arrivals = at_rates(rgb_hz, thermal_hz)
    pairing = ClosestPairing(SyncSettings())

    pairs = run(pairing, arrivals)

    # All RGB frames leave but those of the first five thermal periods, in which the rates are
    # measured.
    assert len(pairs) >= rgb_hz * (10 - 5 / thermal_hz) - 2
    assert max(rgb - thermal for rgb, thermal, _ in pairs) <= 1.02 * longest_ms * MS
    assert pairing.hold_ms == 0  # what comes after the end is measured afresh


@pytest.mark.parametrize('rgb_hz, thermal_hz', [(30, 30), (30, 25), (25, 30), (9, 30), (10, 1)])
def test_default_hold_of_equal_rates_none(rgb_hz, thermal_hz):
    """By default nothing is held of a camera that is as fast or very slow."""
    arrivals = at_rates(rgb_hz, thermal_hz)

    pairs = run(ClosestPairing(SyncSettings()), arrivals)

    assert pairs == run(ClosestPairing(SyncSettings(hold_last_ms=0.0)), arrivals)


def test_faster_camera_ends_hold():
    """A camera that becomes faster is held no more and used once."""
    slow, fast = at_rates(30, 9, seconds=5), at_rates(30, 30, seed=3, seconds=5)
    last_ns = max(stamp for _, stamp in slow) + 33 * MS
    arrivals = slow + [(stream, stamp - fast[0][1] + last_ns) for stream, stamp in fast]

    pairs = run(ClosestPairing(SyncSettings()), arrivals)

    assert len(pairs) >= 0.9 * sum(stream == RGB for stream, _ in arrivals)
    late = [thermal for rgb, thermal, _ in pairs if rgb > last_ns + 10**9]
    assert len(late) >= 100 and len(set(late)) == len(late)
    assert not any(held for rgb, _, held in pairs if rgb > last_ns + 10**9)


def test_hold_follows_the_periods():
    """A hold begins at 1.4 periods and ends below 1.25, up to the longest period; or is fixed."""
    hold = Hold(-1.0)

    assert [hold.follow(100, thermal) for thermal in (139, 140, 125, 124, 139)] == [
        0, 175, 156, 0, 0]
    assert hold.follow(100, LONGEST_PERIOD_NS) == 1.25 * LONGEST_PERIOD_NS
    assert hold.follow(100, LONGEST_PERIOD_NS + 1) == 0
    assert Hold(150.0).follow(100, 500) == 150 * MS


def test_end_counts_unused_thermal():
    """What has no RGB frame at the end is counted as unpaired."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=100.0))
    arrivals = [(RGB, 0), (THERMAL, 0), (THERMAL, 40 * MS), (THERMAL, 80 * MS)]

    assert run(pairing, arrivals) == [(0, 0, False)]
    assert pairing.dropped == {'unpaired': 2}


def test_waiting_frame_keeps_its_thermal():
    """While an RGB frame waits, the thermal frames that it may get stay."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=500.0))
    arrivals = [(THERMAL, 0), (RGB, 0), (THERMAL, 100 * MS), (RGB, 60 * MS), (RGB, 125 * MS)]

    assert run(pairing, arrivals) == [(0, 0, False), (60 * MS, 0, True),
                                      (125 * MS, 100 * MS, False)]
