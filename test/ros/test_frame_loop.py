# SPDX-License-Identifier: Apache-2.0
"""The order in which jobs are fused and published: nothing is left out, nothing overtakes."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Mode, Pair
from diffmf_ros.ros.frame_loop import FrameFuser, Job


class Pipeline:
    """Notes what it is asked for. alone: there is no network; broken: stamps that cannot be fused.
    """

    description = device = 'a stand-in'

    def __init__(self, said, *, alone=False, broken=()):
        self._said, self._alone, self._broken = said, alone, broken
        self.scale = SimpleNamespace(adapts=False)

    def begin(self, pair, *, meanwhile):
        self._said.append(f'begin {pair.rgb.stamp_ns}')
        if pair.rgb.stamp_ns in self._broken:
            raise ValueError('broken')
        if not self._alone:
            meanwhile()
        return SimpleNamespace(pair=pair, alone=self._alone)

    def finish(self, begun):
        return self._result(begun.pair.rgb, Mode.FUSED)

    def pass_through(self, frame):
        return self._result(frame, Mode.RGB_ONLY)

    def swap(self, loaded):
        self._said.append('swap')

    def _result(self, frame, mode):
        self._said.append(f'finish {frame.stamp_ns}')
        return SimpleNamespace(mode=mode, warnings=(), issues=(), scale=1.0)


def frame(stream, stamp_ns):
    return Frame(stream, stamp_ns, stream, np.zeros((2, 2), np.uint8), 'mono8')


def pair(stamp_ns):
    return Job(Pair(frame(RGB, stamp_ns), frame(THERMAL, stamp_ns), 0), None, None)


@pytest.fixture
def fuser(monkeypatch):
    """Return build(**options of Pipeline) -> (fuser, what was done, in its order)."""
    def build(**options):
        said = []
        quiet = SimpleNamespace(info=lambda text: None, warning=lambda text: None)
        counters = SimpleNamespace(fused=lambda **options: None,
                                   drop=lambda reason, **options: said.append(reason))
        fuser = FrameFuser(SimpleNamespace(get_logger=lambda: quiet), Pipeline(said, **options),
                           None, counters, None)
        monkeypatch.setattr(fuser, '_publish', lambda job, result: None)
        return fuser, said
    return build


def test_pair_is_finished_beside_the_next(fuser):
    fuser, said = fuser()

    assert [fuser.handle(pair(k)) for k in (1, 2)] == [True, True]
    fuser.finish_last()
    fuser.finish_last()

    assert said == ['begin 1', 'begin 2', 'finish 1', 'finish 2']


def test_pair_without_network_is_finished_at_once(fuser):
    fuser, said = fuser(alone=True)

    assert [fuser.handle(pair(k)) for k in (1, 2)] == [False, False]

    assert said == ['begin 1', 'finish 1', 'begin 2', 'finish 2']


def test_failed_pair_does_not_keep_the_last(fuser):
    fuser, said = fuser(broken=(2,))

    assert [fuser.handle(pair(k)) for k in (1, 2, 3)] == [True, False, True]
    fuser.finish_last()

    assert said == ['begin 1', 'begin 2', 'finish 1', 'failed', 'begin 3', 'finish 3']


def test_lone_frame_follows_the_last_pair(fuser):
    fuser, said = fuser()

    fuser.handle(pair(1))
    assert fuser.handle(Job(frame(RGB, 2), None, None)) is False

    assert said == ['begin 1', 'finish 1', 'finish 2']


def test_network_is_swapped_after_the_last_pair(fuser):
    fuser, said = fuser()

    fuser.handle(pair(1))
    fuser.replace_network('another')
    fuser.handle(pair(2))
    fuser.finish_last()

    assert said == ['begin 1', 'finish 1', 'swap', 'begin 2', 'finish 2']
