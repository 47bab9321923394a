# SPDX-License-Identifier: Apache-2.0
"""A pair is finished while the network works on the next one: the same images, in their order."""

import threading
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from diffmf_ros.core.checks import image_checks
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

STEP_NS = 33_000_000


class Average:
    """Stands for an engine: the mean of both sources, when it may."""

    description, device, problems = 'average', 'cpu', ()

    def __init__(self):
        self.go = threading.Event()
        self.go.set()

    def __call__(self, ir, y):
        assert self.go.wait(30)
        return (ir + y) / 2


@pytest.fixture
def engine(monkeypatch):
    engine = Average()
    monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: engine)
    return engine


@pytest.fixture
def pipeline(engine):
    settings = with_changes(DEFAULTS, {'preset': 'nano', 'device': 'cpu'})
    pipeline = FusionPipeline(settings, watchdog=True)
    yield pipeline
    pipeline.close()


def pairs():
    """A person who walks before a textured wall, in eight noisy pairs of 160 x 120."""
    random = np.random.default_rng(0)
    wall = cv2.GaussianBlur(random.integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 2)
    for i in range(8):
        thermal = random.integers(40, 60, (120, 160)).astype(np.uint8)
        thermal[40:80, 40 + 4 * i:52 + 4 * i] = 200
        noisy = cv2.add(wall, random.integers(0, 8, wall.shape).astype(np.uint8))
        stamp_ns = 1_000_000_000 + i * STEP_NS
        yield Pair(Frame(RGB, stamp_ns, 'rgb', noisy, 'bgr8'),
                   Frame(THERMAL, stamp_ns, 'heat', thermal, 'mono8'), 0)


def test_overlapped_pairs_give_same_images(pipeline, engine):
    """Filters over time, contrast and checks see the same pairs in the same order."""
    expected = [pipeline.fuse(pair) for pair in pairs()]
    assert {result.mode for result in expected} == {Mode.FUSED}
    assert not np.array_equal(expected[0].pixels, expected[1].pixels)

    pipeline.close()
    other = FusionPipeline(pipeline.settings, watchdog=True)
    found, begun = [], []
    for pair in pairs():
        # The network cannot end before the pair before is finished: both are in work at a time.
        engine.go.clear()

        def meanwhile():
            found.extend(other.finish(begun.pop()) for _ in begun[:1])
            engine.go.set()

        begun.append(other.begin(pair, meanwhile=meanwhile))
        assert len(begun) == 1
    found.append(other.finish(begun.pop()))
    other.close()

    assert [result.stamp_ns for result in found] == [result.stamp_ns for result in expected]
    for one, other_one in zip(found, expected):
        assert np.array_equal(one.pixels, other_one.pixels) and one.warnings == other_one.warnings


def test_scene_after_a_gap_is_judged_anew(pipeline, monkeypatch):
    """That warm targets were hidden before a gap says nothing of what comes after it."""
    hidden = iter([3] * 3 + [0] * 3)
    monkeypatch.setattr(image_checks, 'hidden_targets', lambda *images: next(hidden))
    begun, found = None, []
    for i, pair in enumerate(islice(pairs(), 6)):
        late = pair if i < 3 else Pair(*(replace(frame, stamp_ns=frame.stamp_ns + 10**10)
                                         for frame in (pair.rgb, pair.thermal)), 0)
        newer = pipeline.begin(late)
        if begun:
            found.append(pipeline.finish(begun))
        begun = newer
    found.append(pipeline.finish(begun))

    said = ['targets_hidden' in [issue.code for issue in result.issues] for result in found]
    assert said == [True] * 3 + [False] * 3
