# SPDX-License-Identifier: Apache-2.0
"""What the active node says of its cameras."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame
from diffmf_ros.core.settings import HealthSettings
from diffmf_ros.core.sync.source_selector import SourceSelector
from diffmf_ros.ros.session import Session

SECOND = 1_000_000_000
HOLD = ('thermal comes at 6.0 Hz, rgb at 30.0 Hz: rgb frames between are fused with the last '
        'thermal frame, up to 200 ms old')


class Notes:
    """The notes of a session that holds thermal frames, of cameras made to order."""

    def __init__(self):
        self.logged = []
        log = SimpleNamespace(info=self.logged.append)
        self.selector = SourceSelector(HealthSettings(frozen_frames=0))
        self.session = SimpleNamespace(
            _pairing=SimpleNamespace(hold_ms=200.0), _selector=self.selector, _hold_note='',
            _node=SimpleNamespace(get_logger=lambda: log), _logged_problems=set(),
            fuser=SimpleNamespace(informed=set()), _calibrations={})

    def send(self, stream, rate_hz, until_s):
        """Let frames of a camera arrive from 1 s on."""
        for i in range(round((until_s - 1) * rate_hz) + 1):
            now_ns = SECOND + round(i * SECOND / rate_hz)
            frame = Frame(stream, now_ns, stream, np.zeros((2, 2), np.uint8), 'mono8')
            self.selector.streams[stream].arrived(frame, now_ns, clock_ns=now_ns)

    def at(self, now_s):
        """Return the notes at that time."""
        return Session._notes(self.session, round(now_s * 1e9))


@pytest.fixture
def notes():
    return Notes()


def test_held_thermal_is_a_note(notes):
    """That thermal frames are used again is a note while both cameras send, and once in the log.
    """
    notes.send(THERMAL, 6, 11)
    notes.send(RGB, 30, 11)

    assert notes.at(11) == notes.at(11) == [HOLD]
    assert notes.logged == [f'{HOLD} (sync.hold_last_ms; 0: never)']


@pytest.mark.parametrize('sends', [RGB, THERMAL])
def test_silent_camera_holds_nothing(notes, sends):
    """No rates are compared with those of a camera that is silent."""
    silent = {RGB: THERMAL, THERMAL: RGB}[sends]
    notes.send(sends, 30, 11)
    assert notes.at(11) == []
    notes.send(silent, 6, 8)

    assert notes.at(11) == [] and notes.logged == []
