# SPDX-License-Identifier: Apache-2.0
"""The working size that keeps up with the cameras.

Where it settles, how soon, and that it rests there.
"""

import random
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.inference.working_size import STEPS, AdaptiveScale, steps_from

MS = 1_000_000


class Machine:
    """Cameras and a network that takes the newest pair.

    Busy time pixels_ms * scale^2 + overhead_ms, with noise.
    """

    def __init__(self, pacing, *, period_ms, pixels_ms, overhead_ms=1.0, noise=0.0, seed=0):
        self.pacing = pacing
        self.period_ms, self.pixels_ms, self.overhead_ms, self.noise = (
            period_ms, pixels_ms, overhead_ms, noise)
        self.random = random.Random(seed)
        self.now_ms = 0.0
        self.stamps_ms = count(0.0, period_ms)
        self.next_ms = next(self.stamps_ms)
        self.scales = []

    def busy_ms(self, scale):
        """Return the time of a pair at scale, without noise."""
        return self.pixels_ms * scale ** 2 + self.overhead_ms

    def fuse(self, pairs):
        """Fuse a number of pairs; return the scale of each."""
        before = len(self.scales)
        for _ in range(pairs):
            self.now_ms = max(self.now_ms, self.next_ms)
            self._deliver()
            scale = self.pacing.scale
            busy_ms = self.busy_ms(scale) * (1 + self.random.uniform(-self.noise, self.noise))
            self.now_ms += busy_ms
            self._deliver()
            self.pacing.fused(busy_ms)
            self.scales.append(scale)
        return self.scales[before:]

    def _deliver(self):
        while self.next_ms <= self.now_ms:
            self.pacing.arrived(round(self.next_ms * MS))
            self.next_ms = next(self.stamps_ms)


def changes(scales):
    return [(a, b) for a, b in pairwise(scales) if a != b]


def machine(largest=1.0, **kwargs):
    return Machine(AdaptiveScale(largest), **kwargs)


def test_the_steps_fall_from_the_largest():
    assert steps_from(1.0) == (1.0, 0.75, 0.5, 0.35, 0.25)
    assert steps_from(0.5) == (0.5, 0.35, 0.25)
    assert steps_from(0.2) == (0.2,)


def test_fast_network_runs_largest_size():
    """A network that keeps up runs at the largest size."""
    assert set(machine(period_ms=33.3, pixels_ms=28, noise=0.1).fuse(2000)) == {1.0}
    assert set(machine(0.6, period_ms=33.3, pixels_ms=28, noise=0.1).fuse(2000)) == {0.6}


@pytest.mark.parametrize('pixels_ms, settled',
                         [(45, 0.75), (100, 0.5), (200, 0.35), (400, 0.25), (1400, 0.25)])
def test_slow_network_jumps_to_fit(pixels_ms, settled):
    """A slow network goes straight to the size that fits."""
    scales = machine(period_ms=33.3, pixels_ms=pixels_ms).fuse(500)

    assert scales[0] == 1.0 and changes(scales) == [(1.0, settled)]
    # The first pair is not counted, and one may be a hiccup.
    assert scales.index(settled) <= 5


@settings(deadline=None)
@given(period_ms=st.floats(8, 1000), load=st.floats(0.01, 50), overhead=st.floats(0, 0.5),
       noise=st.floats(0, 0.15), seed=st.integers(0, 1 << 16))
def test_steady_input_settles(period_ms, load, overhead, noise, seed):
    """On steady input it settles where it fits."""
    # Given a network whose time at full size is any multiple of the period
    simulated = machine(period_ms=period_ms, pixels_ms=load * period_ms,
                        overhead_ms=overhead * period_ms, noise=noise, seed=seed)

    scales = simulated.fuse(1500)

    # Then it changes a few times, mostly down, and rests
    assert len(changes(scales)) <= len(STEPS) + 1
    # but for a size whose slowest pairs take longer than a period: rare ones may come late.
    for larger, smaller in changes(scales[300:]):
        assert smaller < larger and simulated.busy_ms(larger) * (1 + noise) > period_ms
    # at a size that keeps up, or the smallest
    settled = scales[-1]
    typical_ms = simulated.busy_ms(settled)
    assert typical_ms <= 1.05 * period_ms or settled == STEPS[-1]
    # and no smaller than it must: the next size would not leave a fifth of the period free.
    if settled < 1.0:
        larger = next(step for step in reversed((1.0, *STEPS)) if step > settled)
        assert typical_ms * (larger / settled) ** 2 * (1 + noise) > 0.8 * period_ms


def test_a_single_hiccup_changes_nothing():
    simulated = machine(period_ms=33.3, pixels_ms=15)
    simulated.fuse(100)
    simulated.overhead_ms = 900
    simulated.fuse(1)
    simulated.overhead_ms = 1

    assert set(simulated.fuse(200)) == {1.0}


def test_first_pair_of_size_ignored():
    """The slow first pair of a size is not counted."""
    simulated = machine(period_ms=33.3, pixels_ms=100)
    for settled in (1.0, 0.5):
        # Given a size that is new, and a network that has to get ready for it
        while simulated.pacing.scale != settled:
            simulated.fuse(1)
        simulated.overhead_ms = 20_000
        simulated.fuse(1)
        assert simulated.pacing.scale == settled
        simulated.overhead_ms = 1
    # Then only what it takes from the second pair on has counted
    assert set(simulated.fuse(100)) == {0.5}


@pytest.mark.parametrize('slower_ms', [45, 90, 250])
def test_slowdown_answered_within_second(slower_ms):
    """A slowdown is answered within a second."""
    simulated = machine(period_ms=33.3, pixels_ms=20)
    simulated.fuse(300)
    simulated.pixels_ms, start_ms = slower_ms, simulated.now_ms
    while simulated.pacing.scale == 1.0:
        simulated.fuse(1)

    assert simulated.now_ms - start_ms <= 1000


def test_scale_rises_after_load():
    """It goes up again step by step when the load is gone."""
    simulated = machine(period_ms=33.3, pixels_ms=400)
    simulated.fuse(100)
    simulated.pixels_ms = 20

    assert changes(simulated.fuse(400)) == [(0.25, 0.35), (0.35, 0.5), (0.5, 0.75), (0.75, 1.0)]


def test_recurring_load_answered_more_rarely():
    """A load that comes and goes is answered ever more rarely."""
    # Given a load that changes every 40 pairs, just after the size has gone up
    simulated = machine(period_ms=33.3, pixels_ms=20)
    scales = []
    for i in range(400):
        simulated.pixels_ms = (20, 80)[i % 2]
        scales += simulated.fuse(40)

    # Then each step up that is undone doubles the wait for the next one
    ups = [i for i, (a, b) in enumerate(pairwise(scales)) if a < b]
    waits = [b - a for a, b in pairwise(ups)]
    assert 4 <= len(ups) <= 12
    assert waits[-1] > 1000


def test_distant_loads_keep_the_wait():
    """Loads that are far apart do not lengthen the wait."""
    simulated = machine(period_ms=33.3, pixels_ms=20)
    for _ in range(6):
        simulated.pixels_ms = 80
        assert simulated.fuse(100)[-1] == 0.5
        simulated.pixels_ms = 20
        assert simulated.fuse(100)[-1] == 1.0
        simulated.fuse(4500)


def test_unknown_period_decides_nothing():
    """Nothing is decided before the period is known."""
    pacing = AdaptiveScale(1.0)
    pacing.arrived(0)
    for _ in range(50):
        pacing.fused(500.0)
    assert pacing.scale == 1.0


def test_long_pause_is_no_period():
    """One long pause of the cameras is not their period."""
    simulated = machine(period_ms=33.3, pixels_ms=100)
    simulated.fuse(100)
    simulated.next_ms += 60_000
    simulated.stamps_ms = count(simulated.next_ms + 33.3, 33.3)

    assert set(simulated.fuse(300)) == {0.5}


def test_slower_camera_allows_larger_size():
    """A slower camera allows a larger size."""
    simulated = machine(period_ms=33.3, pixels_ms=100)
    assert simulated.fuse(100)[-1] == 0.5
    simulated.stamps_ms = count(simulated.next_ms + 200, 200)

    assert simulated.fuse(200)[-1] == 1.0


def test_clock_jump_restarts_period_only():
    """A clock that jumps back starts the period afresh at the same size."""
    # Given a size that has settled for 30 Hz
    pacing = AdaptiveScale(1.0)
    Machine(pacing, period_ms=33.3, pixels_ms=100).fuse(100)
    assert pacing.scale == 0.5

    # When a bag starts again, this time at 2 Hz
    scales = Machine(pacing, period_ms=500, pixels_ms=100).fuse(100)

    # Then nothing is decided until four distances are known, and those from before the jump do not
    # count
    assert set(scales[:5]) == {0.5}
    assert changes(scales) == [(0.5, 0.75), (0.75, 1.0)]
    assert scales.index(0.75) <= 7


def test_short_bag_is_answered_too():
    """A bag shorter than two pairs take is answered too."""
    pacing = AdaptiveScale(1.0)
    for _ in range(3):
        for i in range(30):
            pacing.arrived(i * 33 * MS)
        pacing.fused(900.0)
    assert pacing.scale == 0.25
