# SPDX-License-Identifier: Apache-2.0
"""Pairing when stamps go back: recordings in a loop, jumps, wild stamps, and a reset by hand."""

from functools import partial

import numpy as np
import pytest
from stamp_streams import MS, RATES, brute_force, by_arrival, run, stamps

from diffmf_ros.core.frames import RGB, THERMAL
from diffmf_ros.core.settings import SyncSettings
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.core.sync.stream_measures import JUMP_NS, ClockJumpDetector, StampKind
from diffmf_ros.io.bag_messages import camera_info_message, image_message
from diffmf_ros.io.bags import CAMERA_INFO, IMAGE, START_NS, BagWriter

PLAYER = 'diffmf_ros.ros.bag_player'


@pytest.mark.parametrize('thermal_delay_ms', [5.0, 120.0])
@pytest.mark.parametrize('rates', RATES)
def test_looped_bag_repeats_its_pairs(rates, thermal_delay_ms):
    """A bag in a loop gives the same pairs each time."""
    rng = np.random.default_rng(7)
    once = by_arrival(*(stamps(rng, rate, seconds=10, jitter=0.1) for rate in rates),
                      thermal_delay_ms=thermal_delay_ms)
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))

    loops = [run(pairing, once, flush=False) for _ in range(3)]

    expected = run(ClosestPairing(SyncSettings(hold_last_ms=0.0)), once, flush=False)
    assert loops == [expected] * 3
    assert len(expected) >= 0.95 * len(run(ClosestPairing(SyncSettings(hold_last_ms=0.0)), once))
    assert pairing.dropped['late'] == pairing.dropped['duplicate'] == pairing.dropped[
        'overflow'] == 0


@pytest.mark.parametrize('rgb_s, thermal_s, kind', [
    ([10, 4], 7, StampKind.NORMAL), ([10, 4], 7.5, StampKind.STALE),
    ([10, 4, 7], 8, StampKind.STALE), ([10, 4, 7.5], 8, StampKind.NORMAL)])
def test_stale_is_above_the_middle(rgb_s, thermal_s, kind):
    """After a jump from 10 s to 4 s stamps of the other stream above 7 s are old.

    So they are until the first stream is above 7 s itself.
    """
    jumps = ClockJumpDetector()
    kinds = [jumps.judge(RGB, round(s * 1e9)) for s in rgb_s]

    assert kinds[:2] == [StampKind.NORMAL, StampKind.JUMP]
    assert jumps.judge(THERMAL, round(thermal_s * 1e9)) is kind


def test_jump_is_beyond_quarter_second():
    kinds = []
    for back_ns in (JUMP_NS, JUMP_NS + 1):
        jumps = ClockJumpDetector()
        jumps.judge(RGB, 10**9)
        kinds.append(jumps.judge(RGB, 10**9 - back_ns))

    assert kinds == [StampKind.NORMAL, StampKind.JUMP]


def test_old_loop_thermal_is_dropped():
    """Thermal frames of the loop before do not spoil the next one."""
    rng = np.random.default_rng(8)
    rgb, thermal = stamps(rng, 30, seconds=10), stamps(rng, 9, seconds=10)
    start = np.concatenate([np.full(len(rgb), n * 10_000.0) for n in range(3)])
    arrivals = by_arrival(np.tile(rgb, 3), np.tile(thermal, 3), rgb_delay_ms=start,
                          thermal_delay_ms=np.repeat([0, 10_000, 20_000], len(thermal)) + 120.0)

    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    pairs = run(pairing, arrivals)

    # The last one or two thermal frames of a loop find their RGB frames cleared.
    best = brute_force(rgb, thermal, 25 * MS)
    counts = [pairs.count(pair) for pair in best]
    assert set(pairs) == set(best)
    assert counts[:-2] == [3] * (len(best) - 2)
    assert pairing.dropped['clock_jump'] > 0


def test_clock_back_counts_cleared_frames():
    """A clock that goes back counts what it clears."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    run(pairing, [(RGB, 10**10 + n * 33 * MS) for n in range(5)], flush=False)

    leftover = (THERMAL, 10**10 + 133 * MS)
    pairs = run(pairing, [(RGB, 0), leftover, (THERMAL, 1 * MS), (RGB, 33 * MS)], flush=False)

    assert pairs == [(0, 1 * MS)]
    assert pairing.dropped['clock_jump'] == 5 + 1


def test_pause_after_jump_costs_nothing():
    """After a jump a pause of one stream costs no pair."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    run(pairing, [(RGB, 10**10), (THERMAL, 10**10), (RGB, 0), (THERMAL, 0)], flush=False)

    pairs = run(pairing, [(THERMAL, 2 * 10**9), (RGB, 2 * 10**9)], flush=False)

    assert pairs == [(2 * 10**9, 2 * 10**9)]


def test_quarter_second_back_is_late():
    """A quarter of a second back is late or a duplicate."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    pairs = run(pairing, [(RGB, 10**9), (THERMAL, 10**9)], flush=False)

    back = 10**9 - 250 * MS
    more = run(pairing, [(RGB, 10**9), (RGB, 10**9 - 1), (THERMAL, back), (THERMAL, 10**9)],
               flush=False)

    assert pairs == [(10**9, 10**9)] and more == []
    assert pairing.dropped == {'duplicate': 2, 'late': 2}


def test_flush_starts_new_recording():
    """After a flush a new recording starts."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    arrivals = [(RGB, 10**9), (THERMAL, 10**9 + 3 * MS)]

    assert run(pairing, arrivals) == run(pairing, arrivals) == [(10**9, 10**9 + 3 * MS)]
    assert not +pairing.dropped


@pytest.mark.parametrize('hold_last_ms', [0.0, 300.0])
@pytest.mark.parametrize('seconds', [0.35, 0.5, 0.9])
@pytest.mark.parametrize('rates', RATES)
def test_short_looped_bag_repeats_pairs(rates, seconds, hold_last_ms):
    """A bag of less than a second in a loop gives the same pairs each time."""
    once = by_arrival(*(np.arange(int(rate * seconds)) * 10**9 // rate + shift * MS
                        for rate, shift in zip(rates, (0, 7), strict=True)))
    pairing = ClosestPairing(SyncSettings(hold_last_ms=hold_last_ms))

    loops = [run(pairing, once, flush=False) for _ in range(3)]

    assert loops[1:] == loops[:1] * 2
    # What is not certain at the end of a loop is lost.
    assert len(loops[0]) >= int(min(rates) * seconds) - 1
    assert not pairing.dropped['late'] and not pairing.dropped['duplicate']


@pytest.mark.parametrize('hold_last_ms', [0.0, 500.0])
@pytest.mark.parametrize('wild_s', [3600, 2, -3600])
@pytest.mark.parametrize('stream', [RGB, THERMAL])
@pytest.mark.parametrize('thermal_delay_ms', [5.0, 120.0])
@pytest.mark.parametrize('rates', RATES)
def test_wild_stamp_costs_few_pairs(rates, thermal_delay_ms, stream, wild_s, hold_last_ms):
    """One wild stamp costs a few pairs."""
    rng = np.random.default_rng(9)
    arrivals = by_arrival(*(10**13 + stamps(rng, rate, seconds=8, jitter=0.02) for rate in rates),
                          thermal_delay_ms=thermal_delay_ms)
    sync = SyncSettings(hold_last_ms=hold_last_ms)
    expected = run(ClosestPairing(sync), arrivals)
    number = next(i for i, (name, _) in enumerate(arrivals) if name == stream
                  and i > len(arrivals) // 2)
    wild = [*arrivals[:number], (stream, arrivals[number][1] + wild_s * 10**9),
            *arrivals[number + 1:]]

    pairs = run(ClosestPairing(sync), wild)

    # All that is lost lies within the delay of thermal and two of its periods, and no output goes
    # back.
    lost = sorted(rgb for rgb, _ in set(expected) - set(pairs))
    spread_ms = (lost[-1] - lost[0]) / MS if lost else 0.0
    assert spread_ms <= thermal_delay_ms + 2000 / min(rates) + 10
    assert len(lost) <= 2 + spread_ms * rates[0] / 1000
    assert [rgb for rgb, _ in pairs] == sorted({rgb for rgb, _ in pairs})


def test_wild_stamp_never_repeats_output():
    """After a wild stamp what has left does not come again."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0))
    stamps_ns = np.arange(1, 20) * 33 * MS
    before = run(pairing, by_arrival(stamps_ns, stamps_ns), flush=False)

    wild = [(RGB, 3600 * 10**9), (RGB, 660 * MS)]
    pairs = run(pairing, [*wild, (RGB, 627 * MS), (THERMAL, 627 * MS), (THERMAL, 660 * MS)])

    assert before[-1] == (627 * MS, 627 * MS) and pairs == [(660 * MS, 660 * MS)]
    assert pairing.dropped['duplicate'] == 2


def test_offsets_do_not_hide_a_jump():
    arrivals = by_arrival(np.arange(30) * 33 * MS, np.arange(30) * 33 * MS + 900 * MS,
                          thermal_delay_ms=-890.0)
    pairing = ClosestPairing(SyncSettings(hold_last_ms=0.0, rgb_offset_ms=-100.0,
                                          thermal_offset_ms=-1000.0))

    loops = [run(pairing, arrivals, flush=False) for _ in range(3)]

    assert len(loops[0]) == 30 and loops[1:] == loops[:1] * 2


@pytest.mark.parametrize('hold_last_ms', [0.0, 500.0])
def test_reset_forgets_and_counts(hold_last_ms):
    """A reset forgets all frames and counts them."""
    pairing = ClosestPairing(SyncSettings(hold_last_ms=hold_last_ms))
    arrivals = by_arrival(np.arange(20) * 33 * MS, np.arange(20) * 33 * MS + 9 * MS)
    first = run(pairing, [*arrivals, (RGB, 660 * MS), (RGB, 693 * MS)], flush=False)
    waiting = pairing.pending

    pairing.reset()
    again = run(pairing, arrivals, flush=False)

    assert waiting >= 2 and pairing.dropped['clock_jump'] == waiting
    assert len(first) >= 19 and again == first[:len(again)] and len(again) >= 19


@pytest.fixture
def bag_with_a_quiet_end(tmp_path):
    """Return a bag of 30 and 9 Hz of one second, then nothing for another until its last camera
    info."""
    with BagWriter(tmp_path / 'bag') as writer:
        for stream, encoding, dtype, rate in ((RGB, 'mono8', np.uint8, 30),
                                              (THERMAL, 'mono16', np.uint16, 9)):
            for number in range(rate):
                stamp_ns = START_NS + number * 10**9 // rate
                image = image_message(np.zeros((4, 4), dtype), encoding, stamp_ns=stamp_ns,
                                      frame_id=stream)
                writer.write(f'/{stream}/image_raw', IMAGE, image, stamp_ns)
        end_ns = START_NS + 2 * 10**9
        info = camera_info_message(None, width=4, height=4, stamp_ns=end_ns, frame_id=RGB)
        writer.write('/rgb/camera_info', CAMERA_INFO, info, end_ns)
    return tmp_path / 'bag'


@pytest.mark.parametrize('hold_last_ms, expected', [(0.0, 9), (200.0, 30)])
def test_replayed_bag_same_pair_count(bag_with_a_quiet_end, start, peer, hold_last_ms, expected):
    """A bag played three times gives the same number of pairs each time."""
    image_type = pytest.importorskip('sensor_msgs.msg', reason='needs rclpy').Image
    from diffmf_ros.ros.messages import to_frame
    from diffmf_ros.ros.qos import profile

    pairing, arrived, pairs = ClosestPairing(SyncSettings(hold_last_ms=hold_last_ms)), [], []

    def receive(stream, message):
        arrived.append(stream)
        pairs.extend(pairing.add(to_frame(message, stream, arrival_ns=0)))

    for stream in (RGB, THERMAL):
        peer.node.create_subscription(image_type, f'/{stream}/image_raw', partial(receive, stream),
                                      profile('reliable', depth=100))
    player = start(PLAYER, bag_with_a_quiet_end, '--loop', 3, '--rate', 4,
                   '--wait-for-subscribers', 20)
    peer.wait_for(lambda: len(arrived) == 3 * 39, 'three times 39 frames')

    assert player.wait() == 0, player.output
    starts = [i for i, pair in enumerate(pairs) if pair.rgb.stamp_ns == START_NS]
    assert starts == [0, expected, 2 * expected] and len(pairs) == 3 * expected
