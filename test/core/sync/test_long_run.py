# SPDX-License-Identifier: Apache-2.0
"""An hour of two cameras with faults through pairing, stream health and choice of the source."""

import gc
import random
import sys
from collections import Counter

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import HealthSettings, SyncSettings
from diffmf_ros.core.sync.pairing import ClosestPairing
from diffmf_ros.core.sync.source_selector import SourceSelector

PAIRS = 100_000
PERIOD_NS = 33_333_333
EPOCH_NS = 1_700_000_000_000_000_000
SCENES = np.random.default_rng(3).integers(0, 256, (17, 4, 4), dtype=np.uint8)
CALM, FAULTY, BACK = 240, 60, 15  # ticks between faults, of a fault, until pairs are back
MOST_BLOCKS = 500  # of CPython's allocator, of which a frame that is kept takes some three


class TwoCameras:
    """Two cameras of 30 Hz in simulated time, and what becomes of their frames."""

    def __init__(self):
        self.pairing = ClosestPairing(SyncSettings())
        self.selector = SourceSelector(HealthSettings())
        self.counts = Counter()
        self.newest_ns, self.stepped_back = 0, False
        self._clock_ns = dict.fromkeys((RGB, THERMAL), EPOCH_NS)
        self._chance = random.Random(5)

    def tick(self, number, fault='', broken=()):
        """Send a frame of each camera; return whether a pair went out."""
        paired = False
        for stream, later_ns in ((RGB, 0), (THERMAL, 4_000_000)):
            now_ns = number * PERIOD_NS + later_ns
            kind = fault if stream in broken else ''
            scene = SCENES[0 if kind == 'frozen' else number % len(SCENES)]
            stamp_ns = self._clock_ns[stream] + now_ns
            if kind == 'refused':
                self.selector.streams[stream].refused(now_ns)
            elif kind != 'silent' and not (kind == 'lossy' and self._chance.random() < 0.6):
                for _ in range(2 if kind == 'duplicated' else 1):
                    paired |= self._arrive(Frame(stream, stamp_ns, stream, scene, 'mono8',
                                                 arrival_ns=now_ns), now_ns)
        return paired

    def step_clocks(self, seconds):
        """Set the clock of both cameras."""
        for stream in self._clock_ns:
            self._clock_ns[stream] += round(seconds * 1e9)
        self.stepped_back |= seconds < 0

    def _arrive(self, frame, now_ns):
        self.selector.streams[frame.stream].arrived(frame, now_ns)
        out = self.selector.select(frame, self.pairing.add(frame), now_ns)
        for item in out:
            stamp_ns = item.rgb.stamp_ns if isinstance(item, Pair) else item.stamp_ns
            self.counts['not rising'] += stamp_ns <= self.newest_ns and not self.stepped_back
            self.newest_ns, self.stepped_back = stamp_ns, False
            self.counts['pairs' if isinstance(item, Pair) else 'alone'] += 1
        return any(isinstance(item, Pair) for item in out)


def blocks():
    """Return how many blocks of memory are allocated once nothing is left to collect."""
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.slow
def test_hundred_thousand_pairs():
    """Faults without end neither stop the pairs nor add to the memory."""
    # Given two cameras, of which one or both fail every ten seconds, or whose clocks are set
    cameras, chance = TwoCameras(), random.Random(1)
    kinds = ('silent', 'frozen', 'refused', 'lossy', 'duplicated', 'back', 'ahead')
    tick, faults, slow, held = 0, Counter(), [], []

    # When they send until 100,000 pairs have gone out
    while cameras.counts['pairs'] < PAIRS:
        kind = chance.choice(kinds)
        faults[kind] += 1
        broken = chance.choice(((RGB,), (THERMAL,), (RGB, THERMAL)))
        if kind in ('back', 'ahead'):
            cameras.step_clocks({'back': -10, 'ahead': 3600}[kind])
        for _ in range(FAULTY):
            tick += 1
            cameras.tick(tick, kind, broken)
        paired = [cameras.tick(tick + later, '') for later in range(1, CALM + 1)]
        tick += CALM
        # Then every fault is over after half a second
        if not all(paired[BACK:]):
            slow.append((kind, broken, paired.index(True) if any(paired) else None))
        if faults.total() % 50 == 0:
            held.append(blocks())

    assert slow == []
    assert len(faults) == len(kinds) and min(faults.values()) >= 30
    assert cameras.counts['not rising'] == 0
    assert cameras.counts['alone'] > 1000
    # And what is kept in memory is the same at the end as after the first fifty faults
    assert len(held) >= 4
    assert max(held[1:]) - held[0] < MOST_BLOCKS, held
