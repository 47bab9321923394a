# SPDX-License-Identifier: Apache-2.0
"""Usual period, rate, jitter and missing frames of a sequence of instants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.sync import stream_measures
from diffmf_ros.core.sync.stream_measures import MissingFrames, RateEstimator, estimate_period_ns

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000


def cadence_of(times_ns):
    rate = RateEstimator()
    for time_ns in times_ns:
        rate.add(int(time_ns))
    return rate


def missing_of(stamps_ns):
    missing = MissingFrames()
    for gap_ns in np.diff(stamps_ns):
        missing.gap(int(gap_ns))
    return missing


def stamps(*, rate_hz, frames, jitter=0.0, seed=0):
    """Stamps in ns of a camera; jitter is the largest deviation of a stamp, in periods."""
    rng = np.random.default_rng(seed)
    periods = np.arange(frames) + rng.uniform(-jitter, jitter, frames)
    return START_NS + np.rint(periods * 1e9 / rate_hz).astype(np.int64)


@pytest.mark.parametrize('rate_hz', [1.0, 9.0, 30.0, 60.0])
def test_regular_rate_and_period(rate_hz):
    """A regular stream has its rate and period."""
    times = stamps(rate_hz=rate_hz, frames=200)
    rate = cadence_of(times)

    assert rate.rate_hz() == pytest.approx(rate_hz, rel=1e-6)
    assert rate.rate_hz(times[-1] + 10 * MS) == pytest.approx(rate_hz, rel=0.21)
    assert rate.median_period_ns == pytest.approx(1e9 / rate_hz, rel=1e-6)
    assert rate.outliers == 0 and max(rate.jitter_us()) < 0.01


def test_the_rate_falls_while_nothing_comes():
    times = stamps(rate_hz=30, frames=300)
    rate = cadence_of(times)

    after = [rate.rate_hz(times[-1] + int(s * 1e9)) for s in (0, 1, 2.5, 5)]

    assert after[0] == pytest.approx(30, rel=0.01)
    assert after[1] == pytest.approx(24, rel=0.02) and after[2] == pytest.approx(15, rel=0.02)
    assert after[3] == 0


def test_outage_keeps_usual_period():
    """An outage does not change the usual period."""
    times = [*range(0, 30 * 33 * MS, 33 * MS), 10_000 * MS, 10_033 * MS]

    rate = cadence_of(times)

    assert rate.median_period_ns == 33 * MS
    assert rate.outliers == 1
    assert rate.jitter_us()[1] == pytest.approx((10_000 - 29 * 33 - 33) * 1000)


def test_clock_back_restarts_sequence():
    """A clock that goes back starts the sequence again."""
    rate = cadence_of([100 * MS, 133 * MS, 5 * MS])

    assert rate.median_period_ns is None and rate.rate_hz() == 0


def test_standing_clock_has_no_rate():
    """A clock that stands has no rate."""
    assert cadence_of([7, 7, 7]).rate_hz(7) == 0


@settings(deadline=None)
@given(rate_hz=st.sampled_from([1.0, 9.0, 25.0, 29.97, 60.0]), jitter=st.floats(0, 0.2),
       seed=st.integers(0, 10_000))
def test_lossless_stream_misses_nothing(rate_hz, jitter, seed):
    """Without losses next to nothing is missing."""
    missing = missing_of(stamps(rate_hz=rate_hz, frames=300, jitter=jitter, seed=seed))

    assert missing.total <= (0 if jitter < 0.1 else 3)
    assert missing.share < 0.03


def test_stamps_of_whole_milliseconds_miss_nothing():
    times = stamps(rate_hz=29.97, frames=2000) // MS * MS

    assert missing_of(times).total == 0


@settings(deadline=None)
@given(lost=st.floats(0.05, 0.6), jitter=st.floats(0, 0.1), seed=st.integers(0, 10_000))
def test_frames_lost_at_random_are_counted(lost, jitter, seed):
    sent = stamps(rate_hz=30, frames=400, jitter=jitter, seed=seed)
    came = np.random.default_rng(seed + 1).random(400) >= lost
    came[[0, -1]] = True

    missing = missing_of(sent[came])

    # Those of the first eight gaps, in which the period is learnt, are not counted.
    learning = np.flatnonzero(came)[8]
    assert missing.total == pytest.approx(np.count_nonzero(~came[learning:]), rel=0.12, abs=5)


def test_jitter_and_losses_keep_period():
    """Of a jittering stream, a fifth of which comes, the period is that of calmer times."""
    sent = stamps(rate_hz=30, frames=4000, jitter=0.15, seed=1)
    came = np.random.default_rng(2).random(4000) < 0.2
    came[:40] = came[-1] = True

    assert missing_of(sent[came]).total == pytest.approx(np.count_nonzero(~came), rel=0.05)


def test_half_lost_few_survivors():
    """Every second frame lost with a few survivors."""
    kept = [i for i in range(400) if i % 2 == 0 or i % 10 == 1]

    missing = missing_of(stamps(rate_hz=30, frames=400)[kept])

    assert missing.total == pytest.approx(400 - len(kept), abs=6)
    assert missing.share == pytest.approx(0.4, abs=0.05)


def test_late_frame_is_not_missing():
    """A frame that comes late is not missing; there are never fewer than none."""
    missing = missing_of(np.delete(stamps(rate_hz=30, frames=100), [50, 60]))
    assert missing.total == 2

    totals = [missing.late() or missing.total for _ in range(3)]

    assert totals == [1, 0, 0]


def test_few_instants_tell_nothing():
    """There is no rate before two instants, no jitter before two gaps."""
    times = START_NS + np.array([0, 100, 230]) * MS
    rates = [cadence_of(times[:count]) for count in range(4)]

    assert [rate.rate_hz() for rate in rates[:2]] == [0, 0]
    assert [rate.jitter_us() for rate in rates] == [(0, 0)] * 3 + [(15_000, 30_000)]


def test_five_seconds_count_exactly():
    """An instant that is five seconds old does not count for the rate any more."""
    rate = cadence_of(START_NS + np.array([0, 1000, 2000]) * MS)

    assert rate.rate_hz(START_NS + 4999 * MS) == pytest.approx(2 / 3.999)
    assert rate.rate_hz(START_NS + 5000 * MS) == pytest.approx(1 / 3)


def test_bunched_stamps_are_not_missing():
    """Two frames stamped in a bunch are not missing."""
    times = stamps(rate_hz=30, frames=100)
    times[30::10] += 31 * MS  # just before the next one

    assert missing_of(times).total <= 1


def test_too_few_gaps_tell_no_period():
    assert estimate_period_ns(np.ones(7)) is None


def test_what_is_kept_of_gaps():
    """The median is that of 15 gaps, jitter that of 512 instants, an outlier more than half off.
    """
    def after(gaps):
        return cadence_of(np.cumsum([0, *gaps]))

    assert after([100] * 20 + [50] * 10).median_period_ns == 50
    assert after([10, 20, 30, 40, 50]).median_period_ns == 30
    assert [max(after([1000] + [10] * count).jitter_us()) for count in (510, 511)] == [0.99, 0]
    assert after([100] * 3 + [150, 50, 151, 49]).outliers == 2
    assert after([MS, MS, 0, MS]).rate_hz() == pytest.approx(4000 / 3)


def test_estimates_follow_every_eighth_gap(monkeypatch):
    """A period is looked for until it is known, from eight gaps on, and then every eighth gap."""
    counts = []

    def counted(gaps_ns):
        counts.append(number)
        return estimate_period_ns(gaps_ns)

    monkeypatch.setattr(stream_measures, 'estimate_period_ns', counted)
    missing = MissingFrames()
    for number in range(1, 41):
        missing.gap(100)
        if number == 20:
            missing.reset()

    assert counts == [*range(1, 9), 16, *range(21, 29), 36]


def test_new_period_replaces_the_old():
    """A camera that sends half as often is known by 32 gaps; no frame is missing from then on."""
    missing = MissingFrames()
    for gap in [100] * 16 + [200] * 48:
        missing.gap(gap)

    assert missing.share == 0 and missing.total <= 32


def test_excused_and_late_even_out():
    """Refused frames are no gap, and a late stamp evens out with the gap after it."""
    missing = MissingFrames()
    for gap, excused in [(100, 0)] * 10 + [(300, 2), (160, 0), (40, 0)]:
        missing.gap(gap, excused=excused)

    assert missing.total == 0 and missing.share == 0
