# SPDX-License-Identifier: Apache-2.0
"""Per-stream state: what is found after how many frames or seconds, and when it is over."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmf_ros.core.frames import Frame
from diffmf_ros.core.settings import HealthSettings
from diffmf_ros.core.sync.stream_health import StreamHealth, StreamState

MS = 1_000_000
SECOND = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND
SCENES = np.random.default_rng(3).integers(7000, 9000, (8, 24, 32), dtype=np.uint16)
STUCK = SCENES[0] + np.uint16(1)
DARK = np.zeros((24, 32), np.uint16)


class Camera:
    """A stream of frames into a StreamHealth; `now_ns` is the time of the newest arrival."""

    def __init__(self, *, rate_hz=30.0, **settings):
        self.health = StreamHealth(HealthSettings(**settings))
        self.period_ns = round(1e9 / rate_hz)
        self.now_ns = 5 * SECOND
        self._scene = 0
        self.newest = None

    def send(self, frames=1, *, pixels=None, stamp_ns=None, wait_ns=None):
        """Let frames arrive, a period apart unless wait_ns is given.

        Return the state after each.
        """
        states = []
        for _ in range(frames):
            self.now_ns += self.period_ns if wait_ns is None else wait_ns
            self._scene += 1
            stamp = EPOCH_NS + self.now_ns if stamp_ns is None else stamp_ns
            image = self.newest = SCENES[self._scene % len(SCENES)] if pixels is None else pixels
            self.health.arrived(Frame('thermal', stamp, 'lwir', image, 'mono16'), self.now_ns,
                                clock_ns=EPOCH_NS + self.now_ns + 4 * MS)
            states.append(self.health.status(self.now_ns).state)
        return states

    def after(self, seconds):
        """The state that many seconds after the newest arrival."""
        return self.health.status(self.now_ns + round(seconds * 1e9)).state


def test_a_stream_is_lost_before_its_first_frame_and_ok_from_its_second():
    camera = Camera()

    assert camera.after(0) is StreamState.LOST and not camera.health.seen
    assert camera.send(3) == [StreamState.LOST, StreamState.OK, StreamState.OK]


@pytest.mark.parametrize('rate_hz', [0.4, 1.0, 9.0, 30.0, 60.0])
def test_a_regular_stream_of_any_rate_stays_ok(rate_hz):
    camera = Camera(rate_hz=rate_hz)

    states = camera.send(40)

    assert states[1:] == [StreamState.OK] * 39
    assert camera.after(1.4 / rate_hz) is StreamState.OK
    assert camera.health.rate_hz(camera.now_ns) == pytest.approx(rate_hz if rate_hz >= 1 else 0.4,
                                                                 rel=0.01)


@pytest.mark.parametrize('rate_hz, stale_s', [(30, 0.2), (9, 3 / 9)])
def test_silence_is_stale_after_three_periods_and_lost_after_the_timeout(rate_hz, stale_s):
    camera = Camera(rate_hz=rate_hz, source_timeout_s=1.0)
    camera.send(20)

    assert camera.after(stale_s - 0.001) is StreamState.OK
    assert camera.after(stale_s + 0.001) is StreamState.STALE
    assert camera.after(1.0) is StreamState.STALE
    assert camera.after(1.001) is StreamState.LOST


def test_a_slow_camera_is_lost_half_a_period_late():
    camera = Camera(rate_hz=1, source_timeout_s=0.3)
    camera.send(10)

    assert camera.after(1.499) is StreamState.OK
    assert camera.after(1.501) is StreamState.LOST


@pytest.mark.parametrize('outage_s, state', [(0.5, StreamState.STALE), (3.0, StreamState.LOST)])
def test_a_stream_is_ok_again_with_its_second_frame(outage_s, state):
    camera = Camera()
    camera.send(20)

    first = camera.send(wait_ns=round(outage_s * 1e9))

    assert first == [state]
    assert camera.send(2) == [StreamState.OK, StreamState.OK]


def test_single_frames_far_apart_do_not_bring_a_stream_back():
    camera = Camera()
    camera.send(30)

    assert camera.send(6, wait_ns=2 * SECOND) == [StreamState.LOST] * 6


@pytest.mark.parametrize('frozen_frames, found', [(1, 2), (2, 2), (3, 3), (10, 10)])
def test_a_frozen_image_is_found_with_the_third_equal_one(frozen_frames, found):
    camera = Camera(frozen_frames=frozen_frames)
    camera.send(10)

    states = camera.send(12, pixels=STUCK)

    assert states == [StreamState.OK] * (found - 1) + [StreamState.FROZEN] * (13 - found)
    assert camera.health.equal_images == 12


def test_a_thawed_image_is_ok_with_its_second_frame():
    camera = Camera()
    camera.send(10)
    camera.send(5, pixels=STUCK)

    assert camera.send(2) == [StreamState.FROZEN, StreamState.OK]


def test_equal_images_between_new_ones_do_not_count_as_recovery():
    camera = Camera()
    camera.send(5)
    camera.send(5, pixels=STUCK)

    assert camera.send(2, pixels=STUCK + np.uint16(1)) == [StreamState.FROZEN, StreamState.FROZEN]
    assert camera.send() == [StreamState.OK]


def test_images_of_one_color_are_frozen_even_if_the_color_changes():
    camera = Camera()
    camera.send(10)

    states = [camera.send(pixels=np.full((24, 32), value, np.uint16))[0] for value in (1, 2, 3)]

    assert states == [StreamState.OK, StreamState.OK, StreamState.FROZEN]
    assert camera.health.status(camera.now_ns).detail == 'FROZEN (images of one color)'


def test_a_camera_that_sends_every_image_three_times_is_known_for_it_and_still_found_frozen():
    # A Lepton at 27 Hz: nine new images a second.
    camera = Camera(rate_hz=27)

    def images(number):
        return [state for i in range(number)
                for state in camera.send(3, pixels=SCENES[i % len(SCENES)])]

    states = images(30)
    assert StreamState.FROZEN in states[:21]  # nobody can know in the first second
    assert states[24:] == [StreamState.OK] * 66

    stuck = camera.send(6, pixels=STUCK)
    assert stuck == [StreamState.OK] * 3 + [StreamState.FROZEN] * 3
    assert images(5)[4:] == [StreamState.OK] * 11


def test_zero_frozen_frames_never_finds_a_frozen_camera():
    camera = Camera(frozen_frames=0)

    assert camera.send(30, pixels=DARK)[1:] == [StreamState.OK] * 29


def test_the_flag_of_the_driver_freezes_at_once_and_until_a_new_image_after_it():
    camera = Camera()
    camera.send(10)

    camera.health.shutter(True)
    assert camera.after(0) is StreamState.FROZEN
    assert camera.send(3) == [StreamState.FROZEN] * 3
    camera.health.shutter(False)
    assert camera.after(0) is StreamState.FROZEN
    # still the image of the shutter
    assert camera.send(pixels=camera.newest) == [StreamState.FROZEN]
    assert camera.send(2) == [StreamState.OK, StreamState.OK]


def test_a_flag_that_is_repeated_while_the_shutter_is_open_changes_nothing():
    camera = Camera()
    camera.send(10)
    camera.send(5, pixels=STUCK)

    camera.health.shutter(False)

    assert camera.send(2) == [StreamState.FROZEN, StreamState.OK]


def test_a_camera_that_falls_silent_while_frozen_is_lost():
    camera = Camera()
    camera.send(5, pixels=STUCK)

    assert camera.after(1.1) is StreamState.LOST


def test_the_same_stamp_again_is_neither_frozen_nor_alive():
    camera = Camera(source_timeout_s=1.0)
    camera.send(10)
    stamp_ns = camera.health.newest_stamp_ns

    states = camera.send(40, stamp_ns=stamp_ns, pixels=STUCK)

    assert StreamState.FROZEN not in states
    # 30 periods are the timeout
    assert states[28] is StreamState.STALE and states[30] is StreamState.LOST
    assert camera.health.duplicates == 40 and camera.health.frames == 10


def test_a_stream_with_each_frame_twice_is_ok():
    camera = Camera()
    camera.send(3)

    for _ in range(20):
        camera.send()
        assert camera.send(stamp_ns=camera.health.newest_stamp_ns, wait_ns=MS) == [StreamState.OK]

    assert camera.health.duplicates == 20 and camera.health.missing == 0


def test_zero_stamps_are_counted_and_the_stream_is_ok():
    camera = Camera()

    assert camera.send(10, stamp_ns=0)[1:] == [StreamState.OK] * 9
    assert camera.health.unstamped == 10 and camera.health.duplicates == 0
    assert math.isnan(camera.health.delay_ms)


def test_garbage_is_no_sign_of_life():
    camera = Camera(source_timeout_s=1.0)
    camera.send(10)

    for i in range(40):
        camera.health.refused(camera.now_ns + i * camera.period_ns)

    assert camera.after(0.99) is StreamState.STALE
    assert camera.after(1.01) is StreamState.LOST
    assert camera.health.status(camera.now_ns + 2
                                * SECOND).detail == 'LOST (its messages are refused)'
    assert camera.health.refused_count == 40


def test_refused_frames_are_not_missing():
    camera = Camera()
    camera.send(20)

    for _ in range(20):
        camera.send()
        camera.now_ns += camera.period_ns
        camera.health.refused(camera.now_ns)
    camera.send()

    assert camera.health.missing == 0 and camera.health.missing_share == pytest.approx(0, abs=1e-6)


def test_lost_frames_are_missing_and_many_give_a_hint():
    camera = Camera()
    camera.send(20)
    assert camera.health.hint == ''

    for _ in range(40):
        camera.send(wait_ns=3 * camera.period_ns)
        camera.send()

    assert camera.health.missing == 80
    assert camera.health.missing_share == pytest.approx(0.5, abs=0.02)
    assert camera.health.hint == ('50% of the frames are missing, by their stamps: '
                                  'are the senders using the shared-memory profile?')


def test_an_outage_is_not_counted_as_missing_frames():
    camera = Camera()
    camera.send(20)

    camera.send(wait_ns=10 * SECOND)
    camera.send(20)

    assert camera.health.missing == 0


def test_frames_out_of_order_are_ok_and_not_missing():
    camera = Camera()
    camera.send(20)

    for _ in range(10):
        newest_ns = camera.health.newest_stamp_ns
        states = [camera.send(stamp_ns=newest_ns + step * camera.period_ns)[0] for step in (2, 1)]
        assert states == [StreamState.OK, StreamState.OK]

    assert camera.health.missing == 0 and camera.health.not_increasing == 10


def test_age_and_delay_are_measured():
    camera = Camera()
    assert math.isnan(camera.health.age_ms(0))

    camera.send()

    assert camera.health.age_ms(camera.now_ns + 20 * MS) == 20.0
    assert camera.health.delay_ms == pytest.approx(4.0)


def test_a_clock_without_relation_to_the_stamps_gives_no_delay():
    health = StreamHealth(HealthSettings())
    health.arrived(Frame('rgb', EPOCH_NS, '', DARK, 'mono16'), 0, clock_ns=5 * SECOND)

    assert math.isnan(health.delay_ms)


@pytest.mark.parametrize('jump_s', [-3600, 3600])
def test_a_clock_jump_costs_at_most_two_frames(jump_s):
    camera = Camera()
    camera.send(20)

    camera.now_ns += jump_s * SECOND
    states = camera.send(3)

    assert states[1:] == [StreamState.OK, StreamState.OK]
    assert camera.after(1.01) is StreamState.LOST


def test_a_clock_that_went_back_does_not_hide_a_loss():
    camera = Camera()
    camera.send(20)
    camera.now_ns -= 3600 * SECOND

    assert camera.after(0) is StreamState.OK
    assert camera.after(1.01) is StreamState.LOST


def test_reset_forgets_the_stream_but_not_the_counts():
    camera = Camera()
    camera.send(20)

    camera.health.reset()

    assert camera.after(0) is StreamState.LOST and camera.health.frames == 20
    assert camera.send(2) == [StreamState.LOST, StreamState.OK]


def test_settings_change_at_once():
    camera = Camera()
    camera.send(10)
    camera.send(4, pixels=STUCK)

    camera.health.settings = replace(camera.health.settings, frozen_frames=5,
                                     source_timeout_s=0.25)

    assert camera.after(0) is StreamState.FROZEN and camera.send() == [StreamState.FROZEN]
    assert camera.send() == [StreamState.OK]
    assert camera.after(0.26) is StreamState.LOST


@given(events=st.lists(st.tuples(st.sampled_from(['new', 'same', 'dark', 'garbage', 'duplicate']),
                                 st.integers(1, 1500)), max_size=60))
def test_in_any_sequence_ok_means_two_frames_no_silence_and_no_standstill(events):
    camera = Camera()
    frames = 0
    for kind, wait_ms in events:
        stamp_ns = camera.health.newest_stamp_ns
        limit_ns = camera.health.lost_after_ns
        if kind == 'garbage':
            camera.now_ns += wait_ms * MS
            camera.health.refused(camera.now_ns)
        elif kind == 'duplicate' and stamp_ns:
            camera.send(stamp_ns=stamp_ns, wait_ns=wait_ms * MS)
        else:
            camera.send(pixels={'dark': DARK, 'same': camera.newest}.get(kind),
                        wait_ns=wait_ms * MS)
            frames += 1
        state = camera.health.status(camera.now_ns).state
        age_ns = camera.health.age_ms(camera.now_ns) * 1e6
        assert (state is StreamState.LOST) or age_ns <= max(limit_ns, camera.health.lost_after_ns)
        if state is StreamState.OK:
            assert frames >= 2 and camera.health.equal_images < 3
        assert camera.health.status(camera.now_ns + 100 * SECOND).state is StreamState.LOST
