# SPDX-License-Identifier: Apache-2.0
"""Closest-stamp pairing against brute force."""

import weakref
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stamp_streams import (
    MS,
    RATES,
    brute_force,
    by_arrival,
    each_others_closest,
    frame,
    run,
    stamps,
    still_held,
)

from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.core.settings import SyncSettings
from diffmf_ros.core.sync.pairing import (
    NEVER_NS,
    ClosestPairing,
    _Stream,
    closest,
    final_pairs,
    held_thermal,
    max_cost_of,
)

FEW = range(6)  # stamps, in ns: whole sets of them, so that nothing is close that is not tried


@pytest.mark.parametrize('rates', RATES)
@pytest.mark.parametrize('thermal_delay_ms', [0.0, 15.0, 120.0])
@pytest.mark.parametrize('jitter, drops', [(0.0, 0.0), (0.16, 0.0), (0.05, 0.1)])
def test_random_streams_equal_brute_force(rates, thermal_delay_ms, jitter, drops):
    rng = np.random.default_rng([*rates, int(thermal_delay_ms), int(100 * jitter)])
    for _ in range(3):
        rgb, thermal = (stamps(rng, rate, jitter=jitter, drops=drops) for rate in rates)
        pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))

        pairs = run(pairing, by_arrival(rgb, thermal, thermal_delay_ms=thermal_delay_ms))

        assert pairs == brute_force(rgb, thermal, 25 * MS)
        assert set(pairs) >= set(each_others_closest(rgb, thermal, 25 * MS))
        assert len(pairs) > 60
        assert pairing.dropped['unpaired'] == len(rgb) + len(thermal) - 2 * len(pairs)


@st.composite
def two_streams(draw):
    """Two streams of less than a second in whole ms, whose gaps stay within a factor of two, in
    any interleaving."""
    streams = []
    for stream in (RGB, THERMAL):
        gap, start = draw(st.integers(1, 14)), draw(st.integers(-60, 60))
        gaps = draw(st.lists(st.integers(gap, 2 * gap), max_size=30))
        streams.append([(stream, int(stamp) * MS) for stamp in np.cumsum([start, *gaps])])
    order = draw(st.permutations([0] * len(streams[0]) + [1] * len(streams[1])))
    left = [iter(stream) for stream in streams]
    return [next(left[which]) for which in order], draw(st.integers(0, 50))


@settings(max_examples=400, deadline=None)
@given(two_streams())
def test_any_interleaving_equals_brute_force(case):
    arrivals, max_ms = case
    rgb, thermal = ([stamp for name, stamp in arrivals if name == stream]
                    for stream in (RGB, THERMAL))

    pairs = run(ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=float(max_ms))),
                arrivals)

    assert pairs == brute_force(rgb, thermal, max_ms * MS)


@settings(max_examples=200, deadline=None)
@example([(RGB, 1001), (THERMAL, 1001), (RGB, 0), (THERMAL, 0)], 0)
@given(st.lists(st.tuples(st.sampled_from([RGB, THERMAL]), st.integers(0, 3000)), max_size=120),
       st.integers(0, 100))
def test_pairs_never_cross_frames_accounted(frames, max_ms):
    """Whatever arrives pairs never cross and every frame is accounted for."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=float(max_ms)))
    seen = 0
    latest, newest_ms = (-1, -1), {}

    for stream, stamp_ms in [*frames, (None, 0)]:
        dropped = pairing.dropped['clock_jump']
        pairs = pairing.add(frame(stream, stamp_ms * MS)) if stream else pairing.flush()
        # A jump drops nothing when all frames have left in pairs: it is known by the stamps.
        if stream and stamp_ms < newest_ms.get(stream, 0) - 250:
            latest, newest_ms = (-1, -1), {stream: stamp_ms}
        elif pairing.dropped['clock_jump'] == dropped:
            newest_ms[stream] = max(stamp_ms, newest_ms.get(stream, 0))
        for pair in pairs:
            stamps_now = (pair.rgb.stamp_ns, pair.thermal.stamp_ns)
            assert stamps_now[0] > latest[0] and stamps_now[1] > latest[1]
            assert pair.offset_ns == stamps_now[1] - stamps_now[0]
            assert abs(pair.offset_ns) <= max_ms * MS
            latest = stamps_now
        seen += len(pairs)

    assert 2 * seen + sum(pairing.dropped.values()) == len(frames)


@pytest.mark.parametrize('rates', RATES)
def test_earlier_stream_may_reorder(rates):
    """Frames of the earlier stream may overtake each other."""
    rng = np.random.default_rng(rates)
    rgb, thermal = (stamps(rng, rate, jitter=0.1) for rate in rates)
    delay_ms = rng.uniform(0, 1.8 * 1000 / rates[0], len(rgb))
    arrivals = by_arrival(rgb, thermal, rgb_delay_ms=delay_ms, thermal_delay_ms=120.0)
    order = [stamp for stream, stamp in arrivals if stream == RGB]

    pairs = run(ClosestPairing(SyncSettings(hold_last_ms=0.0)), arrivals)

    assert np.sum(np.diff(order) < 0) > 20
    assert pairs == brute_force(rgb, thermal, 25 * MS)


@pytest.mark.parametrize('rgb_ms, thermal_ms', [(0.0, 40.0), (-7.0, 33.0)])
def test_offsets_correct_stamps_not_frames(rgb_ms, thermal_ms):
    """Offsets correct the stamps but not the frames."""
    rng = np.random.default_rng(3)
    rgb, thermal = stamps(rng, 30, jitter=0.1), stamps(rng, 9, jitter=0.1)
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0, rgb_offset_ms=rgb_ms,
                                          thermal_offset_ms=thermal_ms))

    pairs = run(pairing, by_arrival(rgb, thermal))
    first = ClosestPairing(SyncSettings(hold_last_ms=0.0, rgb_offset_ms=rgb_ms,
                                        thermal_offset_ms=thermal_ms))
    assert first.add(frame(RGB, 100 * MS - rgb_ms * MS)) == []
    emitted = first.add(frame(THERMAL, 103 * MS - thermal_ms * MS)) + first.flush()

    relative = thermal + np.int64((thermal_ms - rgb_ms) * MS)
    assert [(r, t + (thermal_ms - rgb_ms) * MS) for r,
            t in pairs] == brute_force(rgb, relative, 25 * MS)
    assert [pair.offset_ns for pair in emitted] == [3 * MS]


@pytest.mark.parametrize('distance_ns, count', [(25 * MS, 1), (25 * MS + 1, 0)])
@pytest.mark.parametrize('sign', [-1, 1])
def test_the_largest_distance_is_included(distance_ns, count, sign):
    arrivals = [(RGB, 10**18), (THERMAL, 10**18 + sign * distance_ns)]

    assert len(run(ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=25.0)),
                   arrivals)) == count


def test_distance_zero_pairs_equal_stamps():
    arrivals = [(RGB, 5), (THERMAL, 5), (RGB, 9), (THERMAL, 10)]

    assert run(ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=0.0)), arrivals,
               flush=False) == [(5, 5)]


def test_half_period_pairs_every_frame():
    """Half a period out of step every frame is paired."""
    rgb = np.arange(90) * 40 * MS
    thermal = rgb + 20 * MS

    pairs = run(ClosestPairing(SyncSettings(hold_last_ms=0.0)),
                by_arrival(rgb, thermal, thermal_delay_ms=5.0))

    assert pairs == list(zip(rgb.tolist(), thermal.tolist(), strict=True))


@pytest.mark.parametrize('rates', RATES)
def test_pair_waits_one_rgb_frame(rates):
    """A pair waits for one RGB frame at most."""
    rng = np.random.default_rng(rates)
    rgb, thermal = (stamps(rng, rate, jitter=0.1) for rate in rates)
    arrivals = by_arrival(rgb, thermal, rgb_delay_ms=10.0, thermal_delay_ms=10.0)
    arrived_at = {arrival: number for number, arrival in enumerate(arrivals)}
    rgb_so_far = np.cumsum([stream == RGB for stream, _ in arrivals])
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    waited = []

    for number, (stream, stamp) in enumerate(arrivals):
        for pair in pairing.add(frame(stream, stamp)):
            newer = max(arrived_at[RGB, pair.rgb.stamp_ns],
                        arrived_at[THERMAL, pair.thermal.stamp_ns])
            if pair.rgb.stamp_ns > 10 * 1e9 / min(rates):
                waited.append(rgb_so_far[number] - rgb_so_far[newer])

    assert len(waited) > 80 and max(waited) <= 1


@pytest.mark.parametrize('after_rgb_ms, waits',
                         [(1, False), (7, False), (9, True), (15, True), (18, False)])
def test_quarter_period_needs_no_wait(after_rgb_ms, waits):
    """Within a quarter of the RGB period no pair waits."""
    rgb = np.arange(40) * 32 * MS
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    run(pairing, by_arrival(rgb[:30], rgb[:30:3] + after_rgb_ms * MS, thermal_delay_ms=5.0),
        flush=False)

    at_rgb = run(pairing, [(RGB, rgb[30])], flush=False)
    at_thermal = run(pairing, [(THERMAL, rgb[30] + after_rgb_ms * MS)], flush=False)
    at_next_rgb = run(pairing, [(RGB, rgb[31])], flush=False)

    # 18 ms after an RGB frame the next one, 14 ms later, is the closest and the newer of the two.
    closest = rgb[31] if after_rgb_ms == 18 else rgb[30]
    late = waits or after_rgb_ms == 18
    assert at_rgb == []
    assert (at_next_rgb if late else at_thermal) == [(closest, rgb[30] + after_rgb_ms * MS)]
    assert (at_thermal if late else at_next_rgb) == []


def test_half_period_jitter_loses_less():
    """Cameras half a period apart lose half as many frames to jitter."""
    rng = np.random.default_rng(5)
    mutual, found = 0, 0
    for _ in range(4):
        rgb, thermal = (np.arange(400) * 33 * MS + np.int64(phase * MS)
                        + rng.integers(-2 * MS, 2 * MS, 400)
                        for phase in (0.0, 16.5))
        mutual += len(each_others_closest(rgb, thermal, 25 * MS))
        found += len(run(ClosestPairing(SyncSettings(hold_last_ms=0.0)), by_arrival(rgb, thermal)))

    assert mutual < 0.76 * 1600
    assert found > 0.85 * 1600
    assert 1600 - found < 0.55 * (1600 - mutual)


@st.composite
def cameras(draw):
    """Two cameras as they are: rates, phase, jitter, drops.

    One may come late, and the other one out of order.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rates = draw(st.sampled_from(RATES))
    jitter = draw(st.sampled_from([0.0, 0.01, 0.06, 0.16]))
    phases_ms = draw(st.floats(0, 120)), draw(st.floats(0, 120))
    if draw(st.booleans()):
        phases_ms = 0.0, 500.0 / rates[0]
    streams = []
    for rate, phase_ms in zip(rates, phases_ms, strict=True):
        count = 2 * rate
        periods = np.arange(count) + rng.uniform(-jitter, jitter, count)
        # Never two in a row, or the shortest gap could not be known.
        kept = (rng.uniform(size=count) > draw(st.sampled_from([0.0, 0.1, 0.9]))) | (
            np.arange(count) % 3 < 2)
        streams.append((periods[kept] * 1e9 / rate + phase_ms * MS).astype(np.int64))
    first, behind_ms = draw(st.sampled_from([0, 1])), draw(
        st.sampled_from([0.0, 20.0, 150.0, 700.0]))
    delays_ms = [5.0, 5.0 + behind_ms] if first == 0 else [5.0 + behind_ms, 5.0]
    if behind_ms > 2.5 * 1000 / rates[first] + 1000 / rates[1 - first]:
        delays_ms[first] = rng.uniform(0, 1800 / rates[first], len(streams[first]))
    return *streams, by_arrival(*streams, rgb_delay_ms=delays_ms[0], thermal_delay_ms=delays_ms[1])


@settings(max_examples=300, deadline=None)
@given(cameras())
def test_noisy_cameras_equal_brute_force(case):
    """Cameras with jitter drops reordering and delay equal brute force."""
    rgb, thermal, arrivals = case

    assert run(ClosestPairing(SyncSettings(hold_last_ms=0.0)),
               arrivals) == brute_force(rgb, thermal, 25 * MS)


@pytest.mark.parametrize('stream', [RGB, THERMAL])
def test_silent_partner_waits_for_second(stream):
    """Beside a silent partner frames wait for a second."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    frames = [frame(stream, n * 40 * MS) for n in range(200)]
    references = [weakref.ref(item) for item in frames]
    while frames:
        assert pairing.add(frames.pop(0)) == []

    # A partner may be 25 ms older than the frame, so 1000 / 40 frames and the newest are left.
    assert sum(reference() is not None for reference in references) == pairing.pending == 26
    assert pairing.dropped == {'unpaired': 200 - 26}


@pytest.mark.parametrize('hold_last_ms', [0.0, 200.0])
@pytest.mark.parametrize('stream', [RGB, THERMAL])
def test_silent_partner_memory_is_bounded(stream, hold_last_ms):
    """A fast stream beside a silent one costs bounded memory."""
    pairing = ClosestPairing(SyncSettings(max_distance_ms=1000.0, hold_last_ms=hold_last_ms))
    frames = [frame(stream, n * MS) for n in range(500)]
    references = [weakref.ref(item) for item in frames]
    while frames:
        assert pairing.add(frames.pop(0)) == []

    assert sum(reference() is not None for reference in references) == 64
    assert pairing.dropped == {'overflow': 500 - 64}


def test_frames_that_left_are_released():
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))

    assert still_held(pairing, by_arrival(np.arange(60) * 33 * MS, np.arange(18) * 111 * MS)) <= 3


def sets(most):
    """Return all sets of at most so many stamps of FEW, rising."""
    return [list(chosen) for count in range(most + 1) for chosen in combinations(FEW, count)]


def cost_of(other, stamp, thermal):
    """Twice the distance; of two that are equally far the one costs less in which RGB is earlier.
    """
    return 2 * abs(other - stamp) + (other < stamp if thermal else other > stamp)


@pytest.mark.parametrize('thermal', [False, True])
@pytest.mark.parametrize('distance', [0, 1, 2, 9])
def test_closest_to_the_nanosecond(distance, thermal):
    """The closest stamp is found, and final exactly when none that may come is closer."""
    for others in sets(3):
        for stamp in FEW:
            for next_ns in range(9):
                near = [index for index in range(len(others))
                        if abs(others[index] - stamp) <= distance]
                best = min(near, key=lambda index: cost_of(others[index], stamp, thermal),
                           default=None)
                beaten = max_cost_of(distance) if best is None else cost_of(others[best], stamp,
                                                                            thermal)
                final = all(cost_of(later, stamp, thermal) >= beaten
                            for later in range(next_ns, next_ns + 20))

                assert closest(stamp, others, next_ns, max_cost_of(distance),
                               thermal=thermal) == (best, final)


@pytest.mark.parametrize('distance', [0, 1, 2, 9])
def test_final_pairs_of_few_stamps(distance):
    """When nothing can come any more all pairs of the rule are final."""
    for rgb in sets(3):
        for thermal in sets(3):
            pairs = final_pairs(rgb, thermal, NEVER_NS, NEVER_NS, max_cost_of(distance))

            assert [(rgb[i], thermal[j]) for i, j in pairs] == (
                brute_force(rgb, thermal, distance) if rgb and thermal else [])


def test_held_thermal_of_few_stamps():
    """Of two equally close thermal stamps the later is taken, else the newest within the hold."""
    for thermal in sets(3):
        for stamp in FEW:
            found, final = held_thermal(stamp, thermal, NEVER_NS, max_cost_of(1), 3)
            near = [t for t in thermal if abs(t - stamp) <= 1]
            older = [t for t in thermal if 0 <= stamp - t <= 3]
            expected = min(near, key=lambda t: (abs(t - stamp), -t)) if near else max(
                older, default=None)

            assert final and (None if found is None else thermal[found]) == expected


def stream_of(stamps_ns, other):
    """Return a stream that has taken these stamps beside another one."""
    own = _Stream(0.0)
    for stamp in stamps_ns:
        assert own.insert(stamp, frame(RGB, stamp), other) == ''
    return own


def test_last_sixteen_gaps_count():
    """What is usual needs four gaps and follows the last 16; lags begin with the other stream."""
    other = _Stream(0.0)
    slower = [*range(0, 60, 10), *range(90, 90 + 16 * 40, 40)]
    known = [stream_of(range(0, 10 * count, 10), other) for count in (1, 4, 5)] + [
        stream_of(slower, other)]

    assert [(own.shortest_gap_ns, own.usual_gap_ns) for own in known] == [
        (0, 0), (0, 0), (10, 10), (40, 40)]
    assert not known[-1].lags_ns
    other.newest_ns = 1000
    assert list(stream_of(range(900, 920), other).lags_ns) == list(range(96, 80, -1))


def test_next_stamp_to_the_nanosecond():
    """A next stamp is trusted after half a gap, and expected by the last four gaps and lags."""
    other, start = _Stream(0.0), 10**18 + 1
    own = stream_of([start + 100 + gap for gap in (0, 30, 60, 90)], other)
    assert own.next_ns(other) == own.expected_ns(other) == start + 190

    other.newest_ns = start
    for gap in (103, 133, 163):
        own.insert(start + 100 + gap, frame(RGB, 0), other)
    assert (own.shortest_gap_ns, own.usual_gap_ns) == (13, 30)
    assert own.next_ns(other) == start + 263 + 6
    other.newest_ns = start + 500  # after three lags a second of patience, after four none
    assert own.expected_ns(other) == start + 263
    other.newest_ns = start
    own.insert(start + 293, frame(RGB, 0), other)
    other.newest_ns = start + 500
    assert own.expected_ns(other) == start + 500


def test_start_forgets_what_left_after_it():
    """A clock that is set back to the stamp that left last may give it again."""
    own = _Stream(0.0)
    kept = []
    for start in (6, 5):
        own.left_ns = 5
        own.clear(start)
        kept.append(own.left_ns)

    assert kept == [5, -NEVER_NS]


def test_duplicates_and_skipped_are_counted():
    """A second frame of a stamp that waits is a duplicate; all that a pair skips is unpaired."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=10.0))
    arrivals = [(RGB, 0), (RGB, 0), (RGB, 100 * MS), (THERMAL, 50 * MS), (THERMAL, 100 * MS)]

    assert run(pairing, arrivals) == [(100 * MS, 100 * MS)]
    assert pairing.dropped == {'duplicate': 1, 'unpaired': 2}
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0, max_distance_ms=25.0))
    arrivals = [(THERMAL, 0), (RGB, 20 * MS), (THERMAL, 21 * MS), (RGB, 60 * MS)]
    assert run(pairing, arrivals, flush=False) == [(20 * MS, 21 * MS)]
    assert pairing.dropped == {'unpaired': 1}
