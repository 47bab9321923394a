# SPDX-License-Identifier: Apache-2.0
"""The matrix: every fault, what the node must answer, how fast, and what it must say.

Bounds in frames count the frames of the faulty camera, the first faulty (or good again) one being 1. Bounds in
seconds are a multiple of the timeout in charge; the half above it is for a busy machine.
"""

from dataclasses import dataclass
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus

from diffmf_ros.core.frames import Mode
from diffmf_ros.inference.ladder import LONGEST_PAUSE

from . import cameras
from .cameras import Behaviour, healthy
from .rig import COMPUTE_TIMEOUT_S, SOURCE_TIMEOUT_S

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
FUSED, CLASSICAL, RGB_ONLY, THERMAL_ONLY = Mode
LOST_S = 1.5 * SOURCE_TIMEOUT_S
HUNG_S = 1.5 * COMPUTE_TIMEOUT_S
FROZEN_FRAMES = 3
RECOVERED_FRAMES = 2
BACK_OFF_FRAMES = LONGEST_PAUSE * 5 // 4  # pairs are counted there, frames here


class Says(NamedTuple):
    """What /diagnostics must say: the status of which part, its least level, and words of its message."""

    status: str
    level: bytes
    words: str


@dataclass(frozen=True)
class Cell:
    """A fault and what is required.

    during: the modes of right answers; the first of them is the answer to the fault. None: silence.
    within_frames: the frame of the fault by which answers are right.
    within_s, not_before_s: the first right answer comes between these times.
    values: key values of every right answer.
    recovered_frames: the frame after the fault by which answers are FUSED again.
    answered: the least share of usable frames that get an answer once the fault is found; of pairs that come out
    at the same moment only the newest one does.
    steps_back: how often the stamps of images go back. ticks: shortest duration of the fault.
    """

    name: str
    during: tuple[Mode, ...] | None
    rgb: Behaviour = healthy
    thermal: Behaviour = healthy
    shutter: bool = False
    compute: str = ''
    within_frames: int | None = None
    within_s: float | None = None
    not_before_s: float = 0.0
    values: tuple[tuple[str, str], ...] = ()
    says: Says | None = None
    recovered_frames: int = RECOVERED_FRAMES
    answered: float = 0.8
    steps_back: int = 0
    ticks: int = 36


def _lost(stream: str, behaviour: Behaviour, name: str, **other) -> Cell:
    """A camera that gives nothing to fuse: after the timeout the other one is passed on alone."""
    survivor = RGB_ONLY if stream == 'thermal' else THERMAL_ONLY
    return Cell(f'{stream}: {name}', (survivor,), **{stream: behaviour}, within_s=LOST_S,
                not_before_s=SOURCE_TIMEOUT_S, values=((stream, 'LOST'),), says=Says(stream, WARN, 'LOST'), **other)


def _stuck(stream: str) -> Cell:
    survivor = RGB_ONLY if stream == 'thermal' else THERMAL_ONLY
    return Cell(f'{stream}: stuck', (survivor,), **{stream: cameras.stuck}, within_frames=FROZEN_FRAMES,
                values=((stream, 'FROZEN'),), says=Says(stream, WARN, 'FROZEN'))


def _harmless(stream: str, behaviour: Behaviour, name: str, **other) -> Cell:
    """A fault that costs frames at most: what can be fused is fused, without a single other answer."""
    return Cell(f'{stream}: {name}', (FUSED,), **{stream: behaviour}, within_frames=1, **other)


def _breaks(name: str, fault: str, words: str) -> Cell:
    """A network that fails whenever it is tried: each of its pairs is fused classically at once."""
    return Cell(f'compute: {name}', (CLASSICAL,), compute=fault, within_frames=1,
                says=Says('fusion', ERROR, words), recovered_frames=BACK_OFF_FRAMES)


def _of_camera(stream: str) -> list[Cell]:
    flapping = _lost(stream, cameras.flapping, 'flapping', ticks=3 * 39)
    survivor = flapping.during[0]
    return [
        _lost(stream, cameras.off, 'off'),
        _stuck(stream),
        _lost(stream, cameras.garbage, 'garbage'),
        _harmless(stream, cameras.wrong_size, 'wrong size'),
        _harmless(stream, cameras.slow, 'slow'),
        _harmless(stream, cameras.delayed, 'delayed', answered=0.7),
        _harmless(stream, cameras.intermittent, 'intermittent', answered=0.6),
        Cell(flapping.name, (survivor, FUSED), **{stream: cameras.flapping}, within_s=LOST_S,
             not_before_s=SOURCE_TIMEOUT_S, answered=0.5, says=flapping.says, ticks=flapping.ticks),
    ]


CAMERAS = [
    *_of_camera('thermal'),
    Cell('thermal: all NaN', (RGB_ONLY,), thermal=cameras.all_nan, within_s=LOST_S, says=Says('thermal', WARN, '')),
    Cell('thermal: shutter flag', (RGB_ONLY,), thermal=cameras.stuck, shutter=True, within_frames=FROZEN_FRAMES,
         values=(('thermal', 'FROZEN'),), says=Says('thermal', WARN, 'shutter')),
    *_of_camera('rgb'),
    _lost('rgb', cameras.too_large, 'over max_pixels'),
    Cell('both: off', None, rgb=cameras.off, thermal=cameras.off, within_s=LOST_S,
         says=Says('fusion', ERROR, 'LOST')),
]

ONE_HOUR_S, TEN_S = 3600.0, 10.0
CLOCKS = [
    Cell('clock: zero stamps', (FUSED,), rgb=cameras.unstamped, thermal=cameras.unstamped, within_frames=1,
         says=Says('fusion', WARN, 'stamp'), steps_back=1),
    Cell('clock: zero stamps of thermal', (FUSED,), thermal=cameras.unstamped, within_frames=1,
         says=Says('fusion', WARN, 'stamp')),
    Cell('clock: 10 s back', (FUSED,), rgb=cameras.shifted(-TEN_S), thermal=cameras.shifted(-TEN_S),
         within_frames=RECOVERED_FRAMES, steps_back=1),
    Cell('clock: 1 h ahead', (FUSED,), rgb=cameras.shifted(ONE_HOUR_S), thermal=cameras.shifted(ONE_HOUR_S),
         within_frames=RECOVERED_FRAMES, steps_back=1),
    Cell('clock: thermal 10 s back', (RGB_ONLY,), thermal=cameras.shifted(-TEN_S), within_s=LOST_S,
         not_before_s=SOURCE_TIMEOUT_S, says=Says('fusion', WARN, 'no pair')),
    Cell('clock: thermal 1 h ahead', (RGB_ONLY,), thermal=cameras.shifted(ONE_HOUR_S), within_s=LOST_S,
         not_before_s=SOURCE_TIMEOUT_S, says=Says('fusion', WARN, 'no pair')),
    Cell('clock: duplicates', (FUSED,), rgb=cameras.duplicated, thermal=cameras.duplicated, within_frames=1),
    Cell('clock: reordering', (FUSED,), rgb=cameras.reordered, thermal=cameras.reordered, within_frames=1,
         answered=0.4),
]

COMPUTE = [
    _breaks('network raises', 'raise', 'injected failure'),
    _breaks('NaN', 'nan', 'not finite'),
    _breaks('out of memory', 'out_of_memory', 'out of memory'),
    Cell('compute: out of memory at full size', (FUSED, CLASSICAL), compute='out_of_memory_at_full_size',
         within_frames=1, says=Says('fusion', ERROR, 'out of memory'), recovered_frames=BACK_OFF_FRAMES),
    Cell('compute: 5 s stall', (CLASSICAL,), compute='stall', within_s=HUNG_S, not_before_s=COMPUTE_TIMEOUT_S,
         says=Says('fusion', ERROR, 'hangs'), recovered_frames=BACK_OFF_FRAMES, ticks=150),
]
