# SPDX-License-Identifier: Apache-2.0
"""The judge of the matrix itself: made-up records, so that a cell is known to be able to fail."""

from dataclasses import replace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from .cells import CLASSICAL, FUSED, RGB_ONLY, WARN, Cell, Says
from .matrix import complaints, measure
from .rig import Output, Record, Report

STUCK = Cell('stuck', (RGB_ONLY,), within_frames=3, values=(('thermal', 'FROZEN'),),
             says=Says('thermal', WARN, 'FROZEN'))
LOST = Cell('lost', (RGB_ONLY,), within_s=0.6, not_before_s=0.4)
SILENT = Cell('silent', None)
FAULT, GOOD, END = 20, 60, 80
MS = 1_000_000


def record(modes, *, state='FROZEN', stepped_back=False):
    """40 faulty ticks of 33 ms among good ones; modes maps a tick to the mode of its answer, else
    FUSED."""
    found = Record(fault=FAULT, good=GOOD, sent_ns={tick: 33 * tick * MS for tick in range(END)})
    found.usable = {'rgb': set(range(END)), 'thermal': set(range(FAULT)) | set(range(GOOD, END))}
    for tick in range(END):
        if mode := modes.get(tick, FUSED):
            values = {'thermal': state if mode == RGB_ONLY else 'OK', 'scale': '1'}
            found.outputs.append(Output(tick, (33 * tick + 10) * MS, mode, values))
            stamp = tick - 50 if stepped_back and tick > 70 else tick
            found.headers.append((stamp + 1, 'rgb'))
    found.images = list(found.headers)
    found.reports = [Report(tick, 33 * tick * MS,
                            {'thermal': DiagnosticStatus(level=level, message=message)})
                     for tick, level,
                     message in ((30, WARN, 'FROZEN (equal images)'), (70, b'\x00', 'OK'))]
    return found


def judged(cell, record):
    return complaints(cell, record, measure(cell, record))


def alone(first, last=GOOD):
    return dict.fromkeys(range(first, last), RGB_ONLY)


def test_timely_answer_is_measured():
    """An answer in time is as required and measured."""
    made = record(alone(FAULT + 2, GOOD + 1))

    measured = measure(STUCK, made)

    assert complaints(STUCK, made, measured) == []
    assert (measured.found_frames, measured.wrong_frames, measured.recovered_frames) == (3, 2, 2)
    assert (measured.found_ms, measured.recovered_ms, measured.silence_ms) == (76, 43, 33)
    assert (measured.answered == 1 and measured.said_ms == 330
            and measured.message == 'FROZEN (equal images)')


@pytest.mark.parametrize('modes, complaint', [
    (alone(FAULT + 3), 'frame 3 of the fault was answered'),
    (alone(FAULT + 2) | {FAULT + 9: FUSED}, 'frame 10 of the fault was answered'),
    (alone(FAULT + 2, GOOD + 2), 'fused again from frame 3 on'),
    (alone(FAULT + 2) | {GOOD + 4: RGB_ONLY}, 'frame 5 after the fault was not fused'),
    (dict.fromkeys(range(FAULT, END)), 'no answer was'),
    (alone(FAULT + 2) | dict.fromkeys(range(FAULT + 10, FAULT + 30)),
     'of the usable frames were answered'),
])
def test_wrong_answer_is_found(modes, complaint):
    """An answer that is late wrong or missing is found."""
    assert complaint in ' '.join(judged(STUCK, record(modes)))


@pytest.mark.parametrize('first, complaint',
                         [(5, 'found after 175 ms already'), (19, 'found only after 637 ms')])
def test_mistimed_loss_report_is_found(first, complaint):
    """A loss that is told too early or too late is found."""
    made = record(dict.fromkeys(range(FAULT, FAULT + first)) | alone(FAULT + first))

    assert judged(LOST, made) == [complaint]


def test_image_of_lost_cameras_found():
    """An image of two lost cameras is found."""
    silent = dict.fromkeys(range(FAULT, GOOD))

    assert judged(SILENT, record(silent)) == []
    assert 'frame 8 of the fault was answered' in judged(SILENT,
                                                         record(silent | {FAULT + 7: RGB_ONLY}))[0]


def test_wrong_state_or_diagnostics_found():
    """Another state or silent diagnostics are found."""
    modes = alone(FAULT + 2)
    unsaid = record(modes)
    unsaid.reports = []

    assert 'no answer was' in ' '.join(judged(STUCK, record(modes, state='LOST')))
    assert '/diagnostics never said' in judged(STUCK, unsaid)[0]


def test_bad_stamps_or_status_found():
    """Stamps that go back come twice or lack a status are found."""
    modes = alone(FAULT + 2)
    twice, bare = record(modes), record(modes)
    twice.images.insert(40, twice.images[39])
    del bare.headers[40]

    assert judged(STUCK, record(modes, stepped_back=True)) == [
        'two images have the same stamp', 'the stamps of the images went back 1 times, not 0']
    assert judged(STUCK, twice) == ['two images have the same stamp']
    assert judged(STUCK, bare) == ['an image has no status with its header']


def test_repaired_network_frame_may_fuse():
    """A frame that a repaired network got may be fused."""
    broken = Cell('broken', (CLASSICAL,), compute='raise', within_frames=1)
    modes = dict.fromkeys(range(FAULT, GOOD - 1), CLASSICAL)
    late, early = record(modes), record(modes)
    late.outputs[GOOD - 1] = replace(late.outputs[GOOD - 1], at_ns=(33 * GOOD + 1) * MS)

    assert judged(broken, late) == []
    assert 'frame 40 of the fault was answered' in ' '.join(judged(broken, early))
