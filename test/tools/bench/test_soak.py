# SPDX-License-Identifier: Apache-2.0
"""Growth in a long run is found, and noise is not taken for it."""

import mmap
import os
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / 'benchmarks'))

import soak_report  # noqa: E402
import trends  # noqa: E402

HOUR_S = 3600
NOISE = random.Random(3)


def samples(per_hour, *, hours=1.0, noise=1.0):
    """Return the times and values of a quantity that grows by per_hour, every 5 s."""
    times_s = [5.0 * number for number in range(round(hours * HOUR_S / 5))]
    return times_s, [100 + per_hour * t / HOUR_S + NOISE.gauss(0, noise) for t in times_s]


@pytest.mark.parametrize('freedom, expected', [(8, 2.306), (10, 2.228), (18, 2.101), (60, 2.000)])
def test_student_quantiles_match_tables(freedom, expected):
    """Quantiles agree with the printed table."""
    assert trends.student_t(0.95, freedom) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize('per_hour, verdict', [(0, trends.STEADY), (-30, trends.STEADY),
                                               (30, trends.GROWS)])
def test_slope_of_noise(per_hour, verdict):
    """A growth of 30 MB an hour is found in noise of 1 MB, and none where there is none."""
    slope = trends.slope(*samples(per_hour))

    assert slope.per_hour == pytest.approx(per_hour, abs=0.5)
    assert slope.low < slope.per_hour < slope.high
    assert slope.verdict(10.0) == verdict


def test_short_noise_is_undecided():
    """Two minutes of restless samples show neither growth nor its absence."""
    assert trends.slope(*samples(0, hours=1 / 30, noise=5)).verdict(10.0) == trends.UNDECIDED


def test_leak_is_judged():
    """A run is judged by its second half: a start that settles is no leak, a leak is one."""
    times_s, memory_mb = samples(40)
    steady = dict.fromkeys(soak_report.JUDGED, 7.0)
    warm_up = [{**steady, 'seconds': t, 'memory_mb': min(100 + t / 10, 200)} for t in times_s]
    leak = [{**steady, 'seconds': t, 'memory_mb': mb} for t, mb in zip(times_s, memory_mb)]

    assert {verdict for _, verdict in soak_report.judge(warm_up).values()} == {trends.STEADY}
    verdicts = {name: verdict for name, (_, verdict) in soak_report.judge(leak).items()}
    assert [name for name, verdict in verdicts.items() if verdict == trends.GROWS] == ['memory_mb']


def test_what_is_taken_and_given_back_is_no_leak():
    """Memory that a process takes for a minute, in ever more places, hides no steady floor."""
    times_s, memory_mb = samples(0, hours=2)
    restless = [mb + 200 * (t % 180 < t / 120) for t, mb in zip(times_s, memory_mb)]

    assert trends.slope(times_s, restless).verdict(10.0) == trends.GROWS
    assert trends.slope(times_s, restless, min).verdict(10.0) == trends.STEADY


def test_files_of_others_do_not_count(tmp_path):
    """Of /dev/shm a file counts that a process of the soak has made and used.

    One does not that was there before it, nor a later one of the same name.
    """
    names = ('own', 'unused', 'left')
    own, unused, left = (Path('/dev/shm', f'soak_{word}_{os.getpid()}') for word in names)
    files = soak_report.OwnFiles()
    try:
        left.write_bytes(bytes(mmap.PAGESIZE))
        files.before_start()
        for file in (own, unused):
            file.write_bytes(bytes(mmap.PAGESIZE))
        with own.open('r+b') as one, left.open('r+b') as other:
            with mmap.mmap(one.fileno(), 0), mmap.mmap(other.fileno(), 0):
                files.note(os.getpid())

        counts = [soak_report.usage(os.getpid(), files, tmp_path / 'heap')['shm_files']]
        files.before_start()
        files.note(os.getpid())
        counts.append(files.count())
        unused.replace(own)
        counts.append(files.count())
    finally:
        for file in (own, unused, left):
            file.unlink(missing_ok=True)

    assert counts == [1, 1, 0]


def test_open_handles_are_counted(tmp_path):
    """Every file that is opened counts as one handle more."""
    heap = tmp_path / 'heap'
    before = soak_report.usage(os.getpid(), soak_report.OwnFiles(), heap)
    heap.write_text('3500000 120')
    with open(os.devnull), open(os.devnull):
        during = soak_report.usage(os.getpid(), soak_report.OwnFiles(), heap)

    assert (before['heap_mb'], during['heap_mb'], during['objects']) == (None, 3.5, 120)
    assert during['handles'] - before['handles'] == 2
    assert during['memory_mb'] > 10 and during['threads'] >= 1
