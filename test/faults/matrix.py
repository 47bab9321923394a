# SPDX-License-Identifier: Apache-2.0
"""Runs a cell on a rig, measures the answers, and says where they are not what the cell requires.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, pairwise

import pytest

from .cameras import PERIOD_NS, healthy
from .cells import FUSED, Cell
from .rig import SOURCE_TIMEOUT_S, Output, Record, Rig

SETTLED = 8  # so many fused images in a row, and nothing else
FIRST_S, SAID_S, RECOVERED_S = 30.0, 5.0, 20.0
ATTEMPTS = 3
PERIOD_MS = PERIOD_NS / 1e6


@dataclass(frozen=True)
class Measured:
    """What a cell gave.

    Frames count from 1, the first faulty (or good again) one; times are on the wire.

    found_*: the first right answer. wrong_frames: the last frame of the fault with another answer,
    0: none.
    recovered_*: the first fused answer after the fault; wrong_after_frames: the last frame with
    another one;
    full_ms: the first one fused at full size.
    answered: share of usable frames that got an answer once the fault was found. silence_ms:
    longest time without an image. said_ms: the first report of /diagnostics with the words of the
    cell.
    """

    name: str
    answer: str
    found_frames: int | None
    found_ms: float | None
    wrong_frames: int
    recovered_frames: int | None
    recovered_ms: float | None
    full_ms: float | None
    wrong_after_frames: int
    answered: float
    silence_ms: float
    said_ms: float | None
    message: str

    @property
    def json(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self))


def verdict(cell: Cell, rig: Rig) -> tuple[Measured, list[str]]:
    """Run cell and return what was measured, and a sentence for everything that is not as
    required.

    A run in which this process could not keep the cameras' pace is repeated, and once one with
    complaints in which a thread of the node had to wait for a CPU for so long.
    """
    busy_ns, judged = SOURCE_TIMEOUT_S * 1e9 / 2, None
    for _ in range(ATTEMPTS):
        record = run(cell, rig)
        if record.late_ns < busy_ns:
            measured = measure(cell, record)
            again, judged = judged, (measured, complaints(cell, record, measured))
            if again or not judged[1] or record.waited_ns < busy_ns:
                break
    if judged:
        return judged
    pytest.fail(f'the machine is too busy: the cameras of the test stood still for '
                f'{record.late_ns / 1e6:.0f} ms')


def run(cell: Cell, rig: Rig) -> Record:
    """Wait until the node fuses; send the fault until the node has said so.

    Wait until it fuses again.
    """
    rig.record = record = Record()
    waited_ns = rig.waited_ns()  # so far
    wait(rig, lambda: settled(record.outputs), FIRST_S)
    record.fault = rig.tick
    rig.break_network(cell.compute)
    before = rig.change(dict(cell.parameters))
    rig.offer(cell.reliability)
    if cell.shutter:
        rig.close_shutter(True)
    last = rig.tick + round(SAID_S * 1e9 / PERIOD_NS)
    while rig.tick < record.fault + cell.ticks or (rig.tick < last and cell.says
                                                   and not record.said(*cell.says)):
        rig.send(rgb=cell.rgb, thermal=cell.thermal, since=rig.tick - record.fault)
    record.good = rig.tick
    rig.break_network('')
    rig.change(before)
    rig.offer('reliable')
    if cell.shutter:
        rig.close_shutter(False)
    wait(rig, lambda: settled(record.after_fault) and not still_said(cell, record), RECOVERED_S)
    record.waited_ns = max((after - waited_ns.get(thread, 0)
                            for thread, after in rig.waited_ns().items()), default=0)
    return record


def wait(rig: Rig, condition: Callable[[], bool], limit_s: float) -> None:
    """Send healthy ticks until condition holds, but not for longer than limit_s.

    What is missing is found later.
    """
    last = rig.tick + round(limit_s * 1e9 / PERIOD_NS)
    while rig.tick < last and not condition():
        rig.send(rgb=healthy, thermal=healthy)


def settled(outputs: list[Output]) -> bool:
    """Whether the newest outputs are all fused at full size."""
    return len(outputs) >= SETTLED and all(map(normal, outputs[-SETTLED:]))


def normal(output: Output) -> bool:
    """Whether this is the answer to healthy cameras with a healthy network."""
    return output.mode == FUSED and float(output.values['scale']) == 1


def faulty_answers(cell: Cell, record: Record) -> list[Output]:
    """The answers given with the fault.

    A frame that the network got after its fault was over may be fused again.
    """
    return [output for output in record.during_fault
            if not cell.compute or output.at_ns < record.sent_ns[record.good]]


def right(cell: Cell, output: Output) -> bool:
    """Whether this is an answer that cell allows during the fault."""
    if cell.during is None or output.mode not in cell.during:
        return False
    return output.mode != cell.during[0] or all(output.values.get(key) == value for key,
                                                value in cell.values)


def still_said(cell: Cell, record: Record) -> bool:
    """Whether the newest report still has the words of the cell."""
    return cell.says is not None and bool(record.reports) and record.reports[-1].says(*cell.says)


def measure(cell: Cell, record: Record) -> Measured:
    """Return the numbers of a run."""
    faulty, after = faulty_answers(cell, record), record.after_fault
    found = next((o for o in faulty if right(cell, o) and o.mode == cell.during[0]), None)
    recovered = next((o for o in after if o.mode == FUSED), None)
    full = next(filter(normal, after), None)
    said = cell.says and record.said(*cell.says)
    return Measured(
        name=cell.name, answer=' or '.join(cell.during) if cell.during else 'silence',
        found_frames=found and found.tick - record.fault + 1,
        found_ms=found and record.ms(record.fault, found.at_ns),
        wrong_frames=max((o.tick - record.fault + 1 for o in faulty if not right(cell, o)),
                         default=0),
        recovered_frames=recovered and recovered.tick - record.good + 1,
        recovered_ms=recovered and record.ms(record.good, recovered.at_ns),
        full_ms=full and record.ms(record.good, full.at_ns),
        wrong_after_frames=max((o.tick - record.good + 1 for o in after if o.mode != FUSED),
                               default=0),
        answered=answered(cell, record, found), silence_ms=silence_ms(record),
        said_ms=said and record.ms(record.fault, said.at_ns),
        message=said.statuses[cell.says.status].message if said else '')


def answered(cell: Cell, record: Record, found: Output | None) -> float:
    """Share of the frames that had to be answered and were; nan when none had to be."""
    if found is None:
        return float('nan')
    first = found.tick if cell.within_frames is None else record.fault + cell.within_frames - 1
    used = {'RGB_ONLY': ('rgb',), 'THERMAL_ONLY': ('thermal',)}.get(cell.during[0],
                                                                    ('rgb', 'thermal'))
    due = set.intersection(*(record.usable[stream] for stream in used)) & set(
        range(first, record.good))
    return sum(output.tick >= first for output in faulty_answers(cell, record)) / len(
        due) if due else float('nan')


def silence_ms(record: Record) -> float:
    """Longest time between two images, from the last one before the fault on."""
    times = [output.at_ns for output in record.outputs]
    return max((b - a for a, b in pairwise(times)), default=0) / 1e6


def complaints(cell: Cell, record: Record, measured: Measured) -> list[str]:
    """Return a sentence for everything that is not as cell requires."""
    checks = chain(of_detection(cell, record, measured), of_recovery(cell, record, measured),
                   of_every_cell(cell, record))
    return [sentence for holds, sentence in checks if not holds]


def of_detection(cell: Cell, record: Record, measured: Measured) -> Iterator[tuple[bool, str]]:
    """Yield (whether it holds, what is wrong otherwise) of the answers to the fault."""
    wrong = sorted({(o.mode, *(o.values.get(key) for key, _ in cell.values))
                    for o in faulty_answers(cell, record) if not right(cell, o)})
    yield (measured.wrong_frames < (cell.within_frames or 1),
           f'frame {measured.wrong_frames} of the fault was answered with {wrong}')
    if cell.during is not None:
        yield (measured.found_frames is not None,
               f'no answer was {cell.during[0]} with {dict(cell.values)}')
        yield (not measured.answered < cell.answered,
               f'only {measured.answered:.0%} of the usable frames were answered')
    if cell.within_s is not None and measured.found_ms is not None:
        yield (measured.found_ms <= 1e3 * cell.within_s,
               f'found only after {measured.found_ms:.0f} ms')
        yield (measured.found_ms >= 1e3 * cell.not_before_s - PERIOD_MS,
               f'found after {measured.found_ms:.0f} ms already')
    if cell.says is not None:
        said = [(name, status.level, status.message) for report in record.reports
                if record.fault <= report.tick < record.good for name,
                status in report.statuses.items()]
        yield (measured.said_ms is not None,
               f'/diagnostics never said {tuple(cell.says)}, but at last {said[-3:]}')


def of_recovery(cell: Cell, record: Record, measured: Measured) -> Iterator[tuple[bool, str]]:
    """Yield (whether it holds, what is wrong otherwise) of what follows the fault."""
    yield (measured.recovered_frames is not None
           and measured.recovered_frames <= cell.recovered_frames,
           f'fused again from frame {measured.recovered_frames} on')
    yield (measured.wrong_after_frames < cell.recovered_frames,
           f'frame {measured.wrong_after_frames} after the fault was not fused')
    yield measured.full_ms is not None, 'not back at full size'
    yield not still_said(cell, record), '/diagnostics still says so after the fault'


def of_every_cell(cell: Cell, record: Record) -> Iterator[tuple[bool, str]]:
    """Yield (whether it holds, what is wrong otherwise) of what holds whatever happens.

    The first and last two are left out where two topics are compared: they arrive independently.
    """
    statuses, images = record.headers, record.images
    yield set(images[2:-2]) <= set(statuses), 'an image has no status with its header'
    yield set(statuses[2:-2]) <= set(images), 'a status has no image with its header'
    stamps = [stamp for stamp, _ in images if stamp]
    yield len(set(stamps)) == len(stamps), 'two images have the same stamp'
    steps = sum(b < a for (a, _), (b, _) in pairwise(images))
    yield (steps == cell.steps_back,
           f'the stamps of the images went back {steps} times, not {cell.steps_back}')
