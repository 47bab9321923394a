# SPDX-License-Identifier: Apache-2.0
"""The matrix: every fault, what the node must answer, how fast, and what it must say.

Bounds in frames count the frames of the faulty camera, the first faulty (or good again) one being
1. Bounds in seconds are a multiple of the timeout in charge; the half above it is for a busy
machine.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
from diagnostic_msgs.msg import DiagnosticStatus

from diffmf_ros.core.frames import Mode
from diffmf_ros.inference.fault_tolerance import LONGEST_PAUSE

from . import cameras
from .cameras import Behavior, healthy
from .rig import COMPUTE_TIMEOUT_S, SOURCE_TIMEOUT_S

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
FUSED, CLASSICAL, RGB_ONLY, THERMAL_ONLY = Mode
LOST_S = 1.5 * SOURCE_TIMEOUT_S
HUNG_S = 1.5 * COMPUTE_TIMEOUT_S
FROZEN_FRAMES = 3
BLIND_FRAMES = 3
# Least share of usable frames that get an answer. Of pairs that a busy machine cannot fuse in time
# the newest counts.
ANSWERED_ALONE, ANSWERED_FUSED = 0.8, 0.3
RECOVERED_FRAMES = 2
DISCOVERED = 60  # frames until a publisher that is new has been found, and suits
BACK_OFF_FRAMES = LONGEST_PAUSE * 5 // 4  # pairs are counted there, frames here


class Says(NamedTuple):
    """What /diagnostics must say: the status of which part, its least level, and words of its
    message."""

    status: str
    level: bytes
    words: str


@dataclass(frozen=True)
class Cell:
    """A fault and what is required.

    parameters: (name, value) that are set with the fault; reliability: what the drivers offer.
    during: the modes of right answers; the first of them is the answer to the fault. None:
    silence.
    within_frames: the frame of the fault by which answers are right.
    within_s, not_before_s: the first right answer comes between these times.
    values: key values of every answer in the first mode of during.
    recovered_frames: the frame after the fault by which answers are FUSED again.
    steps_back: how often the stamps of images go back. ticks: shortest duration of the fault.
    """

    name: str
    during: tuple[Mode, ...] | None
    rgb: Behavior = healthy
    thermal: Behavior = healthy
    shutter: bool = False
    compute: str = ''
    parameters: tuple[tuple[str, object], ...] = ()
    reliability: str = 'reliable'
    within_frames: int | None = None
    within_s: float | None = None
    not_before_s: float = 0.0
    values: tuple[tuple[str, str], ...] = ()
    says: Says | None = None
    recovered_frames: int = RECOVERED_FRAMES
    steps_back: int = 0
    ticks: int = 36

    @property
    def answered(self) -> float:
        """The least share of usable frames that must get an answer once the fault is found."""
        return ANSWERED_FUSED if {FUSED, CLASSICAL} & set(self.during or ()) else ANSWERED_ALONE


def _lost(stream: str, behavior: Behavior, name: str, *others: Mode, **more) -> Cell:
    """A camera that gives nothing to fuse: after the timeout the other one is passed on alone."""
    survivor = RGB_ONLY if stream == 'thermal' else THERMAL_ONLY
    return Cell(f'{stream}: {name}', (survivor, *others), **{stream: behavior}, within_s=LOST_S,
                not_before_s=SOURCE_TIMEOUT_S, values=((stream, 'LOST'),),
                says=Says(stream, ERROR, 'LOST'), **more)


def _stuck(stream: str) -> Cell:
    survivor = RGB_ONLY if stream == 'thermal' else THERMAL_ONLY
    return Cell(f'{stream}: stuck', (survivor,), **{stream: cameras.stuck},
                within_frames=FROZEN_FRAMES, values=((stream, 'FROZEN'),),
                says=Says(stream, WARN, 'FROZEN'))


def _blind(stream: str, behavior: Behavior, name: str) -> Cell:
    """A camera whose images, all different, show nothing: the other one is passed on alone."""
    survivor = RGB_ONLY if stream == 'thermal' else THERMAL_ONLY
    return Cell(f'{stream}: {name}', (survivor,), **{stream: behavior}, within_frames=BLIND_FRAMES,
                values=((stream, 'OK'), ('issues', f'{stream}_{name}')),
                says=Says(stream, WARN, f'{stream} is {name}'), recovered_frames=BLIND_FRAMES)


def _harmless(stream: str, behavior: Behavior, name: str) -> Cell:
    """A fault that costs frames at most.

    What can be fused is fused, without a single other answer.
    """
    return Cell(f'{stream}: {name}', (FUSED,), **{stream: behavior}, within_frames=1)


def _breaks(name: str, fault: str, words: str, *answers: Mode) -> Cell:
    """A network that fails whenever it is tried: such a pair gets another answer at once."""
    return Cell(f'compute: {name}', answers, compute=fault, within_frames=1,
                says=Says('fusion', ERROR, words), recovered_frames=BACK_OFF_FRAMES)


def _of_camera(stream: str) -> list[Cell]:
    return [
        _lost(stream, cameras.off, 'off'),
        _stuck(stream),
        _lost(stream, cameras.garbage, 'garbage'),
        _harmless(stream, cameras.wrong_size, 'wrong size'),
        _harmless(stream, cameras.slow, 'slow'),
        _harmless(stream, cameras.delayed, 'delayed'),
        _harmless(stream, cameras.intermittent, 'intermittent'),
        _lost(stream, cameras.flapping, 'flapping', FUSED, ticks=3 * 39),
    ]


CAMERAS = [
    *_of_camera('thermal'),
    Cell('thermal: all NaN', (RGB_ONLY,), thermal=cameras.all_nan, within_s=LOST_S,
         says=Says('thermal', WARN, '')),
    Cell('thermal: shutter flag', (RGB_ONLY,), thermal=cameras.stuck, shutter=True,
         within_frames=FROZEN_FRAMES, values=(('thermal', 'FROZEN'),),
         says=Says('thermal', WARN, 'shutter')),
    _blind('thermal', cameras.flat_thermal, 'flat'),
    *_of_camera('rgb'),
    _blind('rgb', cameras.black_rgb, 'black'),
    _blind('rgb', cameras.white_rgb, 'white'),
    _lost('rgb', cameras.too_large, 'over max_pixels'),
    _harmless('thermal', cameras.alternating_thermal, 'alternating encodings'),
    _harmless('thermal', cameras.telemetry, 'telemetry rows'),
    _harmless('thermal', cameras.invalid_values, 'invalid values'),
    _harmless('thermal', cameras.false_color(cv2.COLORMAP_JET), 'false color'),
    _lost('thermal', cameras.false_color(cv2.COLORMAP_HSV, usable=False), 'cyclic false color'),
    _harmless('thermal', cameras.nine_hertz, '9 Hz'),
    _harmless('rgb', cameras.alternating_rgb, 'alternating encodings'),
    Cell('rgb: crop', (FUSED,), parameters=(('input.rgb_crop', '64x48+8+8'),),
         recovered_frames=DISCOVERED),
    _lost('rgb', healthy, 'crop outside', parameters=(('input.rgb_crop', '640x480+8+8'),),
          recovered_frames=DISCOVERED),
    Cell('both: best effort', (FUSED,), reliability='best_effort', recovered_frames=DISCOVERED,
         parameters=(('qos.reliability', 'auto'),)),
    Cell('both: best effort, reliable wanted', None, reliability='best_effort',
         recovered_frames=DISCOVERED, says=Says('fusion', ERROR, 'reliability')),
    Cell('both: off', None, rgb=cameras.off, thermal=cameras.off, within_s=LOST_S,
         says=Says('fusion', ERROR, 'LOST')),
]

ONE_HOUR_S, TEN_S, TAI_S = 3600.0, 10.0, 37.0
CLOCKS = [
    Cell('clock: zero stamps', (FUSED,), rgb=cameras.unstamped, thermal=cameras.unstamped,
         within_frames=1,
         says=Says('thermal', WARN, 'zero stamps')),
    Cell('clock: zero stamps of thermal', (FUSED,), thermal=cameras.unstamped, within_frames=1,
         says=Says('thermal', WARN, 'zero stamps')),
    Cell('clock: 10 s back', (FUSED,), rgb=cameras.shifted(-TEN_S),
         thermal=cameras.shifted(-TEN_S), within_frames=RECOVERED_FRAMES, steps_back=1),
    Cell('clock: 1 h ahead', (FUSED,), rgb=cameras.shifted(ONE_HOUR_S),
         thermal=cameras.shifted(ONE_HOUR_S), within_frames=RECOVERED_FRAMES, steps_back=1),
    Cell('clock: thermal 10 s back', (RGB_ONLY,), thermal=cameras.shifted(-TEN_S), within_s=LOST_S,
         not_before_s=SOURCE_TIMEOUT_S, says=Says('fusion', WARN, 'no pair')),
    Cell('clock: thermal 1 h ahead', (RGB_ONLY,), thermal=cameras.shifted(ONE_HOUR_S),
         within_s=LOST_S, not_before_s=SOURCE_TIMEOUT_S, says=Says('fusion', WARN, 'no pair')),
    Cell('clock: thermal 37 s ahead', (RGB_ONLY,), thermal=cameras.shifted(TAI_S),
         within_s=LOST_S, not_before_s=SOURCE_TIMEOUT_S,
         says=Says('fusion', WARN, 'sync.thermal_offset_ms')),
    Cell('clock: thermal 37 s ahead, corrected', (FUSED,), thermal=cameras.shifted(TAI_S),
         parameters=(('sync.thermal_offset_ms', -1e3 * TAI_S),)),
    Cell('clock: duplicates', (FUSED,), rgb=cameras.duplicated, thermal=cameras.duplicated,
         within_frames=1),
    Cell('clock: reordering', (FUSED,), rgb=cameras.reordered, thermal=cameras.reordered,
         within_frames=1),
]

COMPUTE = [
    _breaks('network raises', 'raise', 'injected failure', CLASSICAL),
    _breaks('NaN', 'nan', 'not finite', CLASSICAL),
    _breaks('out of memory', 'out_of_memory', 'out of memory', CLASSICAL),
    _breaks('out of memory at full size', 'out_of_memory_at_full_size', 'out of memory', FUSED,
            CLASSICAL),
    _breaks('network and classical fusion raise', 'raise_everywhere', 'classical fusion raised',
            RGB_ONLY),
    Cell('compute: 5 s stall', (CLASSICAL,), compute='stall', within_s=HUNG_S,
         not_before_s=COMPUTE_TIMEOUT_S, says=Says('fusion', ERROR, 'hangs'),
         recovered_frames=BACK_OFF_FRAMES, ticks=147),
]
