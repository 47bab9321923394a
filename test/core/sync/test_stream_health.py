# SPDX-License-Identifier: Apache-2.0
"""Per-stream state: what is found after how many frames or seconds, and when it is over."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.frames import Frame
from diffmf_ros.core.settings import HealthSettings
from diffmf_ros.core.sync.stream_health import StreamHealth, StreamState
from diffmf_ros.core.sync.stream_measures import JUMP_NS

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


def test_lost_until_second_frame():
    """A stream is lost before its first frame and ok from its second."""
    camera = Camera()

    assert camera.after(0) is StreamState.LOST and not camera.health.seen
    assert camera.send(3) == [StreamState.LOST, StreamState.OK, StreamState.OK]


@pytest.mark.parametrize('rate_hz', [0.4, 1.0, 9.0, 30.0, 60.0])
def test_regular_stream_stays_ok(rate_hz):
    """A regular stream of any rate stays ok."""
    camera = Camera(rate_hz=rate_hz)

    states = camera.send(40)

    assert states[1:] == [StreamState.OK] * 39
    assert camera.after(1.4 / rate_hz) is StreamState.OK
    assert camera.health.rate_hz(camera.now_ns) == pytest.approx(rate_hz if rate_hz >= 1 else 0.4,
                                                                 rel=0.01)


@pytest.mark.parametrize('rate_hz, stale_s', [(30, 0.2), (9, 3 / 9)])
def test_silence_is_stale_then_lost(rate_hz, stale_s):
    """Silence is stale after three periods and lost after the timeout."""
    camera = Camera(rate_hz=rate_hz, source_timeout_s=1.0)
    camera.send(20)

    assert camera.after(stale_s - 0.001) is StreamState.OK
    assert camera.after(stale_s + 0.001) is StreamState.STALE
    assert camera.after(1.0) is StreamState.STALE
    assert camera.after(1.001) is StreamState.LOST
    assert camera.health.rate_hz(camera.now_ns + 6 * SECOND) == 0


def test_slow_camera_lost_half_period_late():
    """A slow camera is lost half a period late."""
    camera = Camera(rate_hz=1, source_timeout_s=0.3)
    camera.send(10)

    assert camera.after(1.499) is StreamState.OK
    assert camera.after(1.501) is StreamState.LOST


@pytest.mark.parametrize('outage_s, state', [(0.5, StreamState.STALE), (3.0, StreamState.LOST)])
def test_second_frame_restores_ok(outage_s, state):
    """A stream is ok again with its second frame."""
    camera = Camera()
    camera.send(20)

    first = camera.send(wait_ns=round(outage_s * 1e9))

    assert first == [state]
    assert camera.send(2) == [StreamState.OK, StreamState.OK]


def test_distant_frames_do_not_restore():
    """Single frames far apart do not bring a stream back."""
    camera = Camera()
    camera.send(30)

    assert camera.send(6, wait_ns=2 * SECOND) == [StreamState.LOST] * 6


@pytest.mark.parametrize('frozen_frames, found', [(1, 2), (2, 2), (3, 3), (10, 10)])
def test_third_equal_image_is_frozen(frozen_frames, found):
    """A frozen image is found with the third equal one."""
    camera = Camera(frozen_frames=frozen_frames)
    camera.send(10)

    states = camera.send(12, pixels=STUCK)

    assert states == [StreamState.OK] * (found - 1) + [StreamState.FROZEN] * (13 - found)
    assert camera.health.equal_images == 12


def test_thawed_on_second_image():
    """A thawed image is ok with its second frame."""
    camera = Camera()
    camera.send(10)
    camera.send(5, pixels=STUCK)

    assert camera.send(2) == [StreamState.FROZEN, StreamState.OK]


def test_interrupted_repeats_do_not_recover():
    """Equal images between new ones do not count as recovery."""
    camera = Camera()
    camera.send(5)
    camera.send(5, pixels=STUCK)

    assert camera.send(2, pixels=STUCK + np.uint16(1)) == [StreamState.FROZEN, StreamState.FROZEN]
    assert camera.send() == [StreamState.OK]


def test_uniform_images_are_frozen():
    """Images of one color are frozen even if the color changes."""
    camera = Camera()
    camera.send(10)

    states = [camera.send(pixels=np.full((24, 32), value, np.uint16))[0] for value in (1, 2, 3)]

    assert states == [StreamState.OK, StreamState.OK, StreamState.FROZEN]
    assert camera.health.status(camera.now_ns).detail == 'FROZEN (images of one color)'


def test_repeating_camera_is_learned():
    """A camera that sends every image three times is known for it and still found frozen."""
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


def test_zero_frozen_frames_disables_check():
    """Zero frozen frames never finds a frozen camera."""
    camera = Camera(frozen_frames=0)

    assert camera.send(30, pixels=DARK)[1:] == [StreamState.OK] * 29


def test_driver_flag_freezes_until_new():
    """The flag of the driver freezes at once and until a new image after it."""
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


def test_driver_flag_acts_without_images():
    """The flag of the driver holds before the next image comes, and until one has come."""
    camera = Camera()
    camera.send(10)

    camera.health.shutter(True)
    closed = camera.health.status(camera.now_ns)
    camera.health.shutter(False)
    opened = camera.health.status(camera.now_ns)

    assert (closed.detail, closed.usable) == ('FROZEN (the shutter is closed)', False)
    assert (opened.detail, opened.usable) == ('FROZEN, coming back', True)


def test_new_stream_knows_nothing():
    """Before its first frame a stream has no stamp, no delay and no lead."""
    health = StreamHealth(HealthSettings())

    status = health.status(5 * SECOND)

    assert health.newest_stamp_ns is None and health.lead_ns is None
    assert math.isnan(health.delay_ms) and health.refused_since == 0
    assert (status.seen, status.usable, status.detail) == (False, False, 'LOST')
    assert health.silent_s(5 * SECOND) == 0 and status.clock_changed is False


def test_detail_says_what_is_waited_for():
    """What a camera that is not ok waits for is said in words."""
    camera = Camera()

    def detail():
        return camera.health.status(camera.now_ns).detail

    camera.send()
    starting = detail()
    camera.send(10)
    ok = detail()
    camera.health.refused(camera.now_ns)
    camera.send(wait_ns=3 * SECOND)
    back = detail()
    camera.send(5)
    camera.send(5, pixels=STUCK)
    camera.send()
    camera.now_ns += SECOND // 2
    moves = detail()

    assert (starting, ok, back) == ('starting', '', 'LOST, coming back')
    assert moves == 'FROZEN (it moves again)'
    assert camera.health.status(camera.now_ns + SECOND).detail == 'LOST'


def test_lead_follows_the_newest_frames():
    """How far the stamps are ahead is the median of the newest fifteen frames."""
    camera = Camera()
    camera.send(40)
    assert camera.health.lead_ns == EPOCH_NS

    for _ in range(8):
        camera.send(stamp_ns=EPOCH_NS + camera.now_ns + camera.period_ns + 7 * MS)

    assert camera.health.lead_ns == EPOCH_NS + 7 * MS


@pytest.mark.parametrize('calm, changed', [(20, True), (8, True), (7, False), (4, False)])
def test_clock_change_is_told_briefly(calm, changed):
    """A jump of the stamps after a calm time is told for three periods, another one is noise."""
    camera = Camera()
    camera.send(calm)

    camera.send(stamp_ns=EPOCH_NS + 3600 * SECOND)

    told = [camera.health.status(camera.now_ns + periods * camera.period_ns).clock_changed
            for periods in (0, 3, 4)]
    assert told == [changed, changed, False]
    camera.send(6)
    camera.send(stamp_ns=EPOCH_NS)
    assert not camera.health.status(camera.now_ns).clock_changed


def test_repeated_open_flag_changes_nothing():
    """A flag that is repeated while the shutter is open changes nothing."""
    camera = Camera()
    camera.send(10)
    camera.send(5, pixels=STUCK)

    camera.health.shutter(False)

    assert camera.send(2) == [StreamState.FROZEN, StreamState.OK]


def test_flag_not_listened_to_is_forgotten():
    """A closed shutter is forgotten when the flag is not listened to any more, and only then."""
    camera = Camera(shutter_flag=True)
    camera.send(10)
    camera.health.shutter(True)

    camera.health.settings = HealthSettings(shutter_flag=True, source_timeout_s=2.0)
    assert camera.send(3) == [StreamState.FROZEN] * 3
    camera.health.settings = HealthSettings(shutter_flag=False)

    assert camera.send(2)[-1] is StreamState.OK


def test_silent_frozen_camera_is_lost():
    """A camera that falls silent while frozen is lost."""
    camera = Camera()
    camera.send(5, pixels=STUCK)

    assert camera.after(1.1) is StreamState.LOST


def test_repeated_stamp_is_ignored():
    """The same stamp again is neither frozen nor alive."""
    camera = Camera(source_timeout_s=1.0)
    camera.send(10)
    stamp_ns = camera.health.newest_stamp_ns

    states = camera.send(40, stamp_ns=stamp_ns, pixels=STUCK)

    assert StreamState.FROZEN not in states
    # 30 periods are the timeout
    assert states[28] is StreamState.STALE and states[30] is StreamState.LOST
    assert camera.health.duplicates == 40 and camera.health.frames == 10
    assert camera.health.not_increasing == 40


def test_doubled_frames_are_ok():
    """A stream with each frame twice is ok."""
    camera = Camera()
    camera.send(3)

    for _ in range(20):
        camera.send()
        assert camera.send(stamp_ns=camera.health.newest_stamp_ns, wait_ns=MS) == [StreamState.OK]

    assert camera.health.duplicates == 20 and camera.health.missing == 0


def test_zero_stamps_are_counted():
    """Zero stamps are counted and the stream is ok."""
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


def test_standing_stamps_are_named():
    """A driver whose stamps stand still is told from one that sends nothing."""
    camera = Camera(source_timeout_s=1.0)
    camera.send(60, stamp_ns=EPOCH_NS)

    assert camera.health.status(camera.now_ns).detail == 'LOST (its messages come under one stamp)'

    camera.send(3)
    assert camera.after(0) is StreamState.OK
    assert camera.health.status(camera.now_ns + 2 * SECOND).detail == 'LOST'


def test_refused_frames_are_not_missing():
    camera = Camera()
    camera.send(20)

    for _ in range(20):
        camera.send()
        for _ in range(2):
            camera.now_ns += camera.period_ns
            camera.health.refused(camera.now_ns)
    camera.send()

    assert camera.health.missing == 0 and camera.health.missing_share == pytest.approx(0, abs=1e-6)


def test_lost_frames_give_hint():
    """Lost frames are missing and many give a hint."""
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


def test_outage_is_not_missing():
    """An outage is told by its length; frames missing after it are counted at once."""
    camera = Camera()
    camera.send(20)

    camera.send(wait_ns=4 * SECOND)
    assert camera.health.missing == 0
    camera.send(wait_ns=3 * camera.period_ns)

    assert camera.health.missing == 2 and camera.health.silent_s(camera.now_ns) == 4
    assert camera.health.silent_s(camera.now_ns + 20 * MS) == 4
    assert camera.health.silent_s(camera.now_ns + 5 * SECOND) == 9


def test_silence_up_to_the_timeout():
    """A pause that is as long as the timeout is no outage yet."""
    camera = Camera(source_timeout_s=1.0)
    camera.send(20)

    camera.now_ns += SECOND
    before = camera.health.silent_s(camera.now_ns)
    states = camera.send(wait_ns=0)

    assert camera.health.missing == 29
    assert states == [StreamState.STALE]
    assert before == camera.health.silent_s(camera.now_ns) == 0


def test_another_rate_after_an_outage():
    """A driver that comes back three times slower does not lose two of three frames."""
    camera = Camera()
    camera.send(20)

    camera.send(wait_ns=10 * SECOND)
    for _ in range(40):
        camera.send(wait_ns=3 * camera.period_ns)

    assert camera.health.missing == 0


def test_slow_camera_is_not_silent():
    """The pauses of a camera that sends every two seconds are its period."""
    camera = Camera(rate_hz=0.5)
    camera.send(20)

    assert camera.health.silent_s(camera.now_ns) == 0


def test_reordered_frames_are_not_missing():
    """Frames out of order are ok and not missing."""
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
    assert camera.health.delay_ms == 4.0


@pytest.mark.parametrize('clock_ns', [5 * SECOND, None])
def test_unrelated_clock_has_no_delay(clock_ns):
    """A clock without relation to the stamps gives no delay, and none that is not known."""
    health = StreamHealth(HealthSettings())
    health.arrived(Frame('rgb', EPOCH_NS, '', DARK, 'mono16'), 0, clock_ns=clock_ns)

    assert math.isnan(health.delay_ms)


@pytest.mark.parametrize('jump_s', [-3600, 3600])
def test_clock_jump_costs_two_frames(jump_s):
    """A clock jump costs at most two frames."""
    camera = Camera()
    camera.send(20)

    camera.now_ns += jump_s * SECOND
    states = camera.send(3)

    assert states[1:] == [StreamState.OK, StreamState.OK]
    assert camera.after(1.01) is StreamState.LOST


def test_clock_back_still_finds_loss():
    """A clock that went back does not hide a loss."""
    camera = Camera()
    camera.send(20)
    camera.now_ns -= 3600 * SECOND

    assert camera.after(0) is StreamState.OK
    assert camera.after(1.01) is StreamState.LOST


def test_reset_keeps_the_counts():
    """Reset forgets the stream but not the counts."""
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


@settings(deadline=None)
@given(events=st.lists(st.tuples(st.sampled_from(['new', 'same', 'dark', 'garbage', 'duplicate']),
                                 st.integers(1, 1500)), max_size=60))
def test_ok_needs_two_live_frames(events):
    """In any sequence ok means two frames no silence and no standstill."""
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


def test_limits_to_the_nanosecond():
    """A stream is stale after 0.2 s, lost after the timeout; a stamp JUMP_NS back is late.

    A first frame counts for 1.5 timeouts.
    """
    camera = Camera(source_timeout_s=1.0)
    camera.send()
    first = [camera.health.status(camera.now_ns + ns).usable for ns in (
        1500 * MS, 1500 * MS + 1)]
    camera.send(20)

    assert first == [True, False]
    assert [camera.after(s) for s in (0.2, 0.200000001, 1, 1.000000001)] == [
        StreamState.OK, StreamState.STALE, StreamState.STALE, StreamState.LOST]
    assert camera.health.lost_after_ns == SECOND
    newest_ns = camera.health.newest_stamp_ns
    camera.send(stamp_ns=newest_ns - JUMP_NS)
    assert camera.health.newest_stamp_ns == newest_ns
    camera.send(stamp_ns=newest_ns - JUMP_NS - 1)
    assert camera.health.newest_stamp_ns == newest_ns - JUMP_NS - 1
    camera.send(stamp_ns=0)
    assert camera.health.newest_stamp_ns == 0


def test_first_stamps_tell_missing():
    """The first stamp is no gap: of 11 frames one is missing."""
    camera = Camera(rate_hz=10.0)
    camera.send(9)
    camera.now_ns += camera.period_ns
    camera.send(1)

    assert camera.health.missing == 1
    assert camera.health.missing_share == pytest.approx(1 / 10)


def test_frozen_says_equal_images():
    camera = Camera()
    camera.send(5)
    camera.send(4, pixels=STUCK)

    assert camera.health.status(camera.now_ns).detail == 'FROZEN (equal images)'
