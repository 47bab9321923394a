# SPDX-License-Identifier: Apache-2.0
"""What goes out while cameras fail and come back.

Two simulated cameras, the pairing, and the fallback.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import HealthSettings, SyncSettings
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.core.sync.source_selector import Sources, SourceSelector
from diffmf_ros.core.sync.stream_health import StreamState

MS = 1_000_000
SECOND = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND
SCENES = np.random.default_rng(3).integers(7000, 9000, (7, 12, 16), dtype=np.uint16)
BOTH, RGB_ONLY, THERMAL_ONLY, NONE = Sources
OTHER = {RGB: THERMAL, THERMAL: RGB}
ALONE = {RGB: RGB_ONLY, THERMAL: THERMAL_ONLY}


class Rig:
    """Two cameras and what is made of their frames. Seconds count from the first call of sources.

    faults maps a stream to a function (seconds, pixels) -> None (nothing is sent), 'garbage', or a
    dictionary with some of pixels, stamp_s (added to the stamp) and late_s (added to the arrival).
    """

    def __init__(self, *, rates=None, faults=None, base=RGB, **health):
        self.fallback = SourceSelector(HealthSettings(**health), base=base)
        self.pairing = ClosestPairing(SyncSettings())
        self.rates = {RGB: 30.0, THERMAL: 30.0} | (rates or {})
        self.faults = faults or {}
        self.out = []  # (seconds, what came out)
        self.log = []  # (seconds, stream, its state, sources)

    def run(self, seconds):
        """Send everything up to that many seconds."""
        self.fallback.sources(0)
        for at_s, stream, frame in sorted(self._frames(seconds), key=lambda row: row[0]):
            now_ns = round(at_s * 1e9)
            health = self.fallback.streams[stream]
            if frame == 'garbage':
                health.refused(now_ns)
                self.fallback.sources(now_ns)
            else:
                frame = replace(frame, arrival_ns=now_ns)
                health.arrived(frame, now_ns)
                served = self.fallback.select(frame, self.pairing.add(frame), now_ns)
                self.out += [(at_s, item) for item in served]
            self.log.append((at_s, stream, health.status(now_ns).state,
                             self.fallback.sources(now_ns)))
        return self

    def _frames(self, seconds):
        for stream, late_s in ((RGB, 0.0), (THERMAL, 0.006)):
            for i in range(round(seconds * self.rates[stream])):
                at_s = i / self.rates[stream] + 0.05
                pixels = SCENES[i % len(SCENES)]
                fault = self.faults.get(stream, lambda at_s, pixels: {})(at_s, pixels)
                if fault is None:
                    continue
                if fault == 'garbage':
                    yield at_s + late_s, stream, fault
                    continue
                stamp_ns = EPOCH_NS + round((at_s + late_s / 2 + fault.get('stamp_s', 0)) * 1e9)
                frame = Frame(stream, stamp_ns, stream, fault.get('pixels', pixels), 'mono16')
                yield at_s + late_s + fault.get('late_s', 0), stream, frame

    def modes(self, start_s, end_s):
        """The kinds of output between two times."""
        return {BOTH if isinstance(item, Pair) else ALONE[item.stream]
                for at_s, item in self.out if start_s <= at_s < end_s}

    def first(self, kind, after_s):
        """When the first output of this kind came after a time, in seconds after it."""
        return next(at_s for at_s, item in self.out
                    if at_s >= after_s
                    and (BOTH if isinstance(item, Pair) else ALONE[item.stream]) is kind) - after_s

    def stamps(self, base=RGB):
        return [(getattr(item, base) if isinstance(item, Pair) else item).stamp_ns for _,
                item in self.out]


def between(start_s, end_s, fault):
    """A camera that fails from one time to another; fault is what it does then, or a function of
    the pixels."""
    return lambda at_s, pixels: (fault(pixels) if callable(fault)
                                 else fault) if start_s <= at_s < end_s else {}


STUCK = {'pixels': SCENES[0] + np.uint16(1)}
DARK = {'pixels': np.zeros((12, 16), np.uint16)}


def test_good_cameras_fused_from_start():
    """Two good cameras are fused from the first pair on."""
    rig = Rig().run(3)

    assert rig.modes(0, 3) == {BOTH}
    assert len(rig.out) >= 88 and rig.fallback.reason == ''
    assert not rig.fallback.alarm and not sum(rig.fallback.dropped.values())


@pytest.mark.parametrize('lost', [RGB, THERMAL])
@pytest.mark.parametrize('fault', [None, 'garbage'])
def test_lost_camera_passes_survivor(lost, fault):
    """A lost camera is answered after the timeout with the survivor at its rate."""
    survivor = ALONE[OTHER[lost]]

    rig = Rig(faults={lost: between(2, 4, fault)}, source_timeout_s=0.5).run(6)

    assert rig.modes(0, 2.4) == {BOTH}
    assert 0.45 <= rig.first(survivor, 2.0) <= 0.55
    assert rig.modes(2.55, 4) == {survivor}
    assert sum(2.6 <= at_s < 3.6 for at_s, _ in rig.out) == 30
    # The second good frame is fused.
    assert rig.first(BOTH, 4.0) <= 2 / 30 + 0.01
    assert rig.modes(4.1, 6) == {BOTH}


@pytest.mark.parametrize('frozen', [RGB, THERMAL])
@pytest.mark.parametrize('fault', [STUCK, DARK])
def test_frozen_camera_out_and_back(frozen, fault):
    """A frozen camera is out within three frames and back within two."""
    survivor = ALONE[OTHER[frozen]]

    rig = Rig(faults={frozen: between(2, 3, fault)}).run(5)

    states = [(at_s, state) for at_s, stream, state,
              _ in rig.log if stream == frozen and at_s >= 2]
    assert [state for _, state in states[:3]] == [StreamState.OK, StreamState.OK,
                                                  StreamState.FROZEN]
    assert rig.first(survivor, 2.0) <= 3 / 30
    assert rig.modes(2.1, 3) == {survivor}
    assert rig.first(BOTH, 3.0) <= 2 / 30
    assert rig.modes(3.07, 5) == {BOTH}


def test_frozen_camera_leaves_no_gap():
    """A frozen camera leaves no gap in the output."""
    rig = Rig(faults={THERMAL: between(2, 3, STUCK)}).run(5)

    gaps = np.diff([at_s for at_s, _ in rig.out if at_s > 1])

    # The frame that waited for a partner goes out with the frozen one; the other side skips one at
    # most.
    assert gaps.max() < 0.08 and len(rig.out) >= 5 * 30 - 3


def test_shutter_flag_passes_rgb():
    """The shutter flag gives RGB alone at once."""
    rig = Rig().run(2)
    now_ns = 2 * SECOND

    rig.fallback.thermal.shutter(True)

    assert rig.fallback.sources(now_ns) is RGB_ONLY
    assert rig.fallback.reason == 'thermal is FROZEN (the shutter is closed): rgb alone'


def test_a_stale_camera_is_waited_for():
    rig = Rig(faults={THERMAL: between(2, 9, None)}).run(2.5)

    assert rig.modes(2.04, 2.5) == set()
    assert rig.fallback.sources(round(2.5e9)) is BOTH
    assert rig.fallback.reason == 'thermal is STALE: waiting'
    assert not rig.fallback.alarm


def test_both_lost_is_silent_alarm():
    """Both lost is silence and an alarm."""
    rig = Rig(faults={RGB: between(2, 9, None), THERMAL: between(2, 9, None)}).run(4)

    assert rig.fallback.sources(round(2.5e9)) is BOTH and not rig.fallback.alarm
    assert rig.fallback.sources(round(3.2e9)) is NONE and rig.fallback.alarm
    assert rig.fallback.reason == 'rgb is LOST; thermal is LOST'
    assert rig.modes(2.1, 9) == set()


def test_last_unpaired_frames_blame_no_clock():
    """Cameras that end at once, their last frames without partners, are lost: no clock is blamed.
    """
    def ends(at_s, pixels):
        return None if at_s >= 2 else {'stamp_s': 0.045 * (at_s >= 1.7)}

    rig = Rig(faults={RGB: between(2, 9, None), THERMAL: ends},
              rates={RGB: 10.0, THERMAL: 10.0}).run(2)

    for at_ms in range(2000, 3100):
        rig.fallback.sources(at_ms * MS)
        assert 'no pair' not in rig.fallback.reason
    assert rig.fallback.latest is NONE


def test_both_frozen_is_silent_alarm():
    """Both frozen is silence and an alarm."""
    rig = Rig(faults={RGB: between(2, 9, STUCK), THERMAL: between(2, 9, STUCK)}).run(4)

    assert rig.modes(2.12, 4) == set()
    assert rig.fallback.alarm


def test_no_alarm_before_timeout():
    """Nothing seen is no alarm until the timeout."""
    fallback = SourceSelector(HealthSettings(source_timeout_s=1.0))

    assert fallback.sources(7 * SECOND) is NONE and not fallback.alarm
    assert fallback.sources(8 * SECOND) is NONE and not fallback.alarm
    assert fallback.sources(8 * SECOND + 1) is NONE and fallback.alarm
    assert fallback.reason == 'no rgb frames; no thermal frames'


@pytest.mark.parametrize('only, base, after_s', [(RGB, RGB, 0.5), (THERMAL, THERMAL, 0.5),
                                                 (THERMAL, RGB, 3.0), (RGB, THERMAL, 3.0)])
def test_single_camera_passed_after_timeout(only, base, after_s):
    """A single camera is passed on after the timeout; that of the output grid has 3 s to open."""
    rig = Rig(faults={OTHER[only]: between(0, 9, None)}, base=base, source_timeout_s=0.5).run(4)

    assert rig.modes(0, after_s + 0.05) == set()
    assert rig.modes(after_s + 0.05, 4) == {ALONE[only]}
    assert after_s + 0.05 <= rig.first(ALONE[only], 0) <= after_s + 0.1
    assert rig.fallback.reason == f'no {OTHER[only]} frames: {only} alone'


def test_late_cameras_get_opening_time():
    """Both cameras get time to open however late they do."""
    # Given cameras that open long after the node, thermal 2.8 s before RGB
    rig = Rig(faults={THERMAL: between(0, 3, None), RGB: between(0, 5.8, None)}).run(7)

    # then thermal is not passed on alone in an image of another size
    assert rig.modes(0, 7) == {BOTH}
    assert rig.first(BOTH, 3) <= 2.9


def test_opening_time_after_a_jump():
    """A message that was refused before the clock jumped takes no opening time away."""
    rig = Rig(faults={RGB: between(0, 9, None)})
    rig.fallback.rgb.refused(SECOND)
    rig.fallback.reset()

    assert rig.run(2.9).modes(0, 2.9) == set()


def test_late_joiner_fused_second_frame():
    """A second camera that joins late is fused from its second frame."""
    rig = Rig(faults={THERMAL: between(0, 3, None)}).run(5)

    assert rig.modes(1.2, 3) == {RGB_ONLY}
    assert rig.first(BOTH, 3) <= 2 / 30 + 0.01


def test_lone_frames_are_all_counted():
    """Frames alone either go out, or are counted as already out."""
    rig = Rig(faults={THERMAL: between(0, 9, None), RGB: between(2, 2.03, {'stamp_s': -0.1})})

    fallback = rig.run(3).fallback

    assert fallback.dropped == {'already_out': 1}
    assert fallback.alone == len(rig.out) + 1 > 50


@pytest.mark.parametrize('ahead_s', [3600.0, -3600.0, 5.0])
def test_wrong_clock_passes_rgb(ahead_s):
    """A wrong clock gives RGB alone and names the difference."""
    rig = Rig(faults={THERMAL: between(2, 9, {'stamp_s': ahead_s})}).run(5)

    assert 0.9 <= rig.first(RGB_ONLY, 2) <= 1.15
    assert rig.modes(3.2, 5) == {RGB_ONLY}
    named_s = float(rig.fallback.reason.partition('stamp is ')[2].partition(' s ')[0])
    assert named_s == pytest.approx(ahead_s, abs=0.04)
    assert 'no pair for 1 s although both cameras send' in rig.fallback.reason


def test_missing_frames_do_not_blame_clocks():
    """Frames that do not arrive are no fault of the clocks."""
    # Given a transport that gives of every pair of frames one or none
    arrives = np.random.default_rng(5).choice([RGB, THERMAL, None], 300, p=[0.4, 0.4, 0.2])
    lossy = {stream: lambda at_s, pixels, stream=stream: {} if arrives[round(at_s * 30)] == stream
             else None for stream in (RGB, THERMAL)}

    rig = Rig(faults=lossy).run(8)

    assert 'of the rgb frames do not arrive' in rig.fallback.reason
    assert 'of the thermal frames do not arrive' in rig.fallback.reason
    assert 'clock' not in rig.fallback.reason


@pytest.mark.parametrize('ahead_s, so_far_ms',
                         [(37.0, 0.0), (-2.4, 0.0), (37.0, 1500.0), (-1.7e9, 0.0)])
def test_constant_offset_is_proposed(ahead_s, so_far_ms):
    """The offset that makes up for a constant difference of the clocks is proposed."""
    rig = Rig(faults={THERMAL: between(0, 9, {'stamp_s': ahead_s})}, rates={THERMAL: 9.0})
    rig.fallback.sync = SyncSettings(thermal_offset_ms=so_far_ms)
    rig.pairing = ClosestPairing(rig.fallback.sync)

    rig.run(5)

    proposed_ms = float(rig.fallback.reason.partition('thermal_offset_ms: ')[2].partition(' ')[0])
    # thermal is on its way for 6 ms, RGB for none
    assert proposed_ms == pytest.approx(-1000 * ahead_s, abs=6)
    # A rig with that offset fuses.
    again = Rig(faults={THERMAL: between(0, 9, {'stamp_s': ahead_s})}, rates={THERMAL: 9.0})
    again.pairing = ClosestPairing(SyncSettings(thermal_offset_ms=proposed_ms))
    assert again.run(5).modes(1.2, 5) == {BOTH}


@pytest.mark.parametrize('ahead_s', [3600.0, -3600.0, 5.0])
def test_corrected_clock_is_fused_again(ahead_s):
    """A clock that is right again is fused again."""
    rig = Rig(faults={THERMAL: between(2, 4, {'stamp_s': ahead_s})}).run(6)

    assert rig.modes(3.2, 4) == {RGB_ONLY}
    # The pair of the second good frames, which is certain when the third comes.
    assert rig.first(BOTH, 4) <= 3 / 30
    first = next(item for at_s, item in rig.out if at_s > 4 and isinstance(item, Pair))
    assert first.thermal.stamp_ns - EPOCH_NS <= (4 + 2 / 30) * 1e9
    assert rig.modes(4.1, 6) == {BOTH}


def test_unsettled_clock_keeps_other_camera():
    """A clock that never settles does not silence the other camera."""
    rng = np.random.default_rng(5)

    rig = Rig(faults={THERMAL: lambda at_s,
                      pixels: {'stamp_s': rng.uniform(-1e4, 1e4) if at_s >= 2 else 0}}).run(6)

    assert rig.modes(3.3, 6) == {RGB_ONLY}
    assert sum(at_s >= 3.3 for at_s, _ in rig.out) >= 2.7 * 30 - 3


def test_delay_beyond_timeout_not_fused():
    """A stream delayed by more than the timeout is not fused."""
    rig = Rig(faults={THERMAL: between(2, 9, {'late_s': 1.5})}).run(6)

    assert rig.modes(3.2, 6) == {RGB_ONLY}
    assert rig.fallback.dropped['outdated'] > 30


def test_every_pair_is_counted():
    """A pair of a time of one camera is counted, so that all that were made add up."""
    # Given a thermal camera whose image stands still for two seconds
    rig = Rig(faults={THERMAL: between(1, 3, STUCK)})
    made, add = [], rig.pairing.add
    rig.pairing.add = lambda frame: made.extend(pairs := add(frame)) or pairs

    rig.run(5)

    fused = sum(isinstance(item, Pair) for _, item in rig.out)
    assert rig.fallback.dropped['one_camera'] > 30
    assert len(made) == fused + rig.fallback.dropped.total()


def test_delay_within_timeout_is_fused():
    """A stream delayed by less than the timeout is fused."""
    rig = Rig(faults={THERMAL: between(0, 9, {'late_s': 0.6})}).run(6)

    assert rig.modes(2, 6) == {BOTH}


@pytest.mark.parametrize('rate_hz, out_hz', [(9.0, 30.0), (1.0, 1.0)])
def test_slow_thermal_at_rgb_rate(rate_hz, out_hz):
    """A slow thermal camera is fused at the rate of RGB and a very slow one at its own."""
    rig = Rig(rates={THERMAL: rate_hz}).run(12)

    assert rig.modes(2.2, 12) == {BOTH}
    assert sum(at_s >= 2.2 for at_s, _ in rig.out) == pytest.approx(9.8 * out_hz, abs=1)


@pytest.mark.parametrize('base', [RGB, THERMAL])
@settings(deadline=None, max_examples=30)
@given(spans=st.lists(st.tuples(st.sampled_from([RGB, THERMAL]), st.floats(0, 4),
                                st.floats(0.05, 2),
                                st.sampled_from([None, 'garbage', 'stuck', 'dark', 'late'])),
                      max_size=4))
def test_output_stamps_rise_sources_sound(base, spans):
    """Whatever fails stamps rise and only sound cameras are passed on."""
    # later ones would be a clock jump
    kinds = {'stuck': STUCK, 'dark': DARK, 'late': {'late_s': 0.2}}

    def fault_of(stream):
        own = [(start, start + length, kinds.get(kind, kind)) for name, start, length,
               kind in spans if name == stream]
        return lambda at_s, pixels: next(
            (fault for start, end, fault in own if start <= at_s < end), {})

    rig = Rig(faults={RGB: fault_of(RGB), THERMAL: fault_of(THERMAL)}, base=base,
              source_timeout_s=0.5).run(8)

    stamps = rig.stamps(base)
    assert all(a < b for a, b in zip(stamps, stamps[1:], strict=False))
    for at_s, item in rig.out:
        survivor = ALONE.get(getattr(item, 'stream', None), BOTH)
        assert survivor in {sources for log_s, _, _, sources in rig.log if log_s == at_s}
    # 1 s after the last fault everything is fused again.
    end_s = max((start + length for _, start, length, _ in spans), default=0)
    assert rig.modes(end_s + 1.0, 8) == {BOTH}


def test_restarted_recording_is_put_out():
    """A recording that starts again is put out again."""
    rig = Rig(faults={name: lambda at_s, pixels: {'stamp_s': -0.6 if at_s >= 3 else 0}
                      for name in (RGB, THERMAL)})

    rig.run(5)

    stamps = rig.stamps()
    assert sum(b < a for a, b in zip(stamps, stamps[1:], strict=False)) == 1
    assert len(rig.out) >= 5 * 30 - 8


def test_settings_reach_both_streams():
    fallback = SourceSelector(HealthSettings())

    fallback.settings = HealthSettings(source_timeout_s=0.2)

    assert fallback.rgb.lost_after_ns == fallback.thermal.lost_after_ns == 200 * MS


def test_reset_starts_again():
    rig = Rig().run(2)

    rig.fallback.reset()

    assert rig.fallback.sources(0) is NONE and not rig.fallback.alarm
    assert rig.fallback.rgb.status(0).state is StreamState.LOST


class Books:
    """Two cameras through pairing and fallback, and the counts of what became of their frames."""

    def __init__(self, hold_ms):
        self.pairing = ClosestPairing(SyncSettings(hold_last_ms=hold_ms))
        self.fallback = SourceSelector(HealthSettings())
        self.count = Counter()
        self.stamp_ns = dict.fromkeys((RGB, THERMAL), EPOCH_NS)
        self._thermal = None

    def arrive(self, stream, now_ns):
        """Take a frame, as the node does."""
        pixels = SCENES[now_ns // MS % len(SCENES)]
        frame = Frame(stream, self.stamp_ns[stream], stream, pixels, 'mono16', arrival_ns=now_ns)
        self.fallback.streams[stream].arrived(frame, now_ns)
        pairs = self.pairing.add(frame)
        self.count['received'] += 1
        self._note(pairs)
        self.count['out'] += len(self.fallback.select(frame, pairs, now_ns))

    def end(self):
        """Give up what waits, as for other settings."""
        pairs = self.pairing.flush()
        self._note(pairs)
        self.count['stopped'] += len(pairs)
        self.fallback.reset()

    def _note(self, pairs):
        for pair in pairs:
            self.count['pairs'] += 1
            self.count['reused'] += pair.thermal is self._thermal
            self._thermal = pair.thermal

    def off(self):
        """By how many frames, and by how many pairs, what became of them is unknown."""
        count = self.count
        return (count['received'] - self.pairing.pending - 2 * count['pairs'] + count['reused']
                - self.pairing.dropped.total(),
                count['pairs'] + self.fallback.alone - count['out'] - count['stopped']
                - self.fallback.dropped.total())


# What happens, after so many ms, and for how many ms the stamp of the camera goes on meanwhile.
EVENTS = st.tuples(st.sampled_from([RGB] * 4 + [THERMAL] * 4 + ['end', 'reset']),
                   st.sampled_from([0, 1, 15, 33, 33, 33, 110, 600, 3000]),
                   st.sampled_from([None] * 12 + [0, -5, -40, -3000, 100_000]))


@settings(max_examples=150, deadline=None)
@given(hold_ms=st.sampled_from([-1.0, 0.0, 150.0]),
       events=st.lists(EVENTS, min_size=20, max_size=120))
def test_every_frame_is_somewhere(hold_ms, events):
    """Whatever comes, each frame waits, is in a pair, or has a reason, and so has each pair."""
    books, now_ns = Books(hold_ms), SECOND
    for what, later_ms, stamp_ms in events:
        now_ns += later_ms * MS
        if what == 'end':
            books.end()
        elif what == 'reset':
            books.pairing.reset()
            books.fallback.reset()
        else:
            if stamp_ms is None:
                books.stamp_ns[what] = max(books.stamp_ns[what], EPOCH_NS + now_ns)
            else:
                books.stamp_ns[what] += stamp_ms * MS
            books.arrive(what, now_ns)
        assert books.off() == (0, 0)
    books.end()
    assert books.off() == (0, 0) and not books.pairing.pending
