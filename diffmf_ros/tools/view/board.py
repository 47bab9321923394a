# SPDX-License-Identifier: Apache-2.0
"""What is newest of everything that a page shows, and what of the node's diagnostics it shows.

Nothing queues: who asks late gets what is newest then.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

LEVELS = ('ok', 'warning', 'error', 'stale')
PANELS = ('fused', 'rgb', 'thermal', 'overlay')
# A panel that no page has asked for in this time is not received any longer.
IDLE_S = 5.0
# Reports come once a second: five minutes of them.
KEPT_MOMENTS = 300


@dataclass(frozen=True)
class Status:
    """One diagnostic status. level: 0 ok, 1 warning, 2 error, 3 stale."""

    name: str
    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """One report of a node, as a page shows it.

    Attributes:
        node: Its name.
        model: What it fuses with, and device where.
        rates_hz: Of 'rgb', 'thermal' and 'fused'; None where unknown.
        latency_ms: 'p50' and 'p99'; None before the first image.
        modes: Images since the start by mode.
        drops: Frames and pairs lost since the start by reason.
        warnings: Triples of what it is about, level and sentence.
        notes: What is worth knowing and no complaint.
    """

    node: str
    model: str
    device: str
    rates_hz: Mapping[str, float | None]
    latency_ms: Mapping[str, float | None]
    modes: Mapping[str, int]
    drops: Mapping[str, int]
    warnings: tuple[tuple[str, str, str], ...]
    notes: str


@dataclass(frozen=True)
class Moment:
    """One second of the plots: images by mode since the report before, latencies in ms."""

    modes: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None

    @classmethod
    def between(cls, before: Summary | None, now: Summary) -> 'Moment':
        """Return the time between two reports; the first one of a node tells no images."""
        modes = {}
        if before is not None and sum(now.modes.values()) >= sum(before.modes.values()):
            modes = {mode: count - before.modes.get(mode, 0) for mode, count in now.modes.items()}
        return cls(modes, now.latency_ms['p50'], now.latency_ms['p99'])


def summarize(statuses: Sequence[Status], *, namespace: str) -> Summary | None:
    """Return the report of the fusion node of a namespace, or None when statuses are of others.

    Args:
        statuses: What came in one message on /diagnostics.
        namespace: Of the node, '/' or '/name'.
    """
    parts = {}
    for status in statuses:
        node, _, part = status.name.rpartition(': ')
        if f'/{node}'.rpartition('/')[0] == namespace.rstrip('/'):
            parts[part] = status
    if not {'fusion', 'rgb', 'thermal'} <= parts.keys():
        return None
    values = parts['fusion'].values
    return Summary(
        node=parts['fusion'].name.rpartition(': ')[0],
        model=values.get('model', ''),
        device=values.get('device', ''),
        rates_hz={
            'rgb': _number(values, 'rate_rgb_hz'),
            'thermal': _number(values, 'rate_thermal_hz'),
            'fused': _number(values, 'rate_out_hz'),
        },
        latency_ms={q: _number(values, f'latency_{q}_ms') for q in ('p50', 'p99')},
        modes=_counts(values, 'out.'),
        drops=_counts(values, 'dropped.'),
        warnings=tuple(
            (part, LEVELS[min(status.level, 3)], status.message)
            for part, status in parts.items()
            if status.level
        ),
        notes=values.get('notes', ''),
    )


def _number(values: Mapping[str, str], key: str) -> float | None:
    try:
        return float(values[key])
    except (KeyError, ValueError):  # 'N/A'
        return None


def _counts(values: Mapping[str, str], prefix: str) -> dict[str, int]:
    return {
        key.removeprefix(prefix): int(value)
        for key, value in values.items()
        if key.startswith(prefix) and value.isdigit()
    }


class Picture:
    """One image of a panel; number counts the images of its panel from 1."""

    def __init__(self, number: int, encode: Callable[[], bytes]):
        self.number = number
        self.arrival_s = time.monotonic()
        self._encode: Callable[[], bytes] | None = encode
        self._jpeg = b''
        self._lock = threading.Lock()

    def jpeg(self) -> bytes:
        """Return it as a JPEG, made once, when the first page asks.

        Raises:
            FrameError: It cannot be read as an image.
        """
        with self._lock:
            if self._encode is not None:
                self._jpeg = self._encode()
                self._encode = None  # and with it the raw image
            return self._jpeg


@dataclass(frozen=True)
class Answer:
    """What a page does not have yet.

    Attributes:
        pictures: The newest picture of each panel that has a newer one.
        notes: Why a panel that was asked for has no picture, by panel.
        summary: The newest report, or None when the page has it.
        number: Of the newest report; 0 before the first.
        moments: The reports between, oldest first, for the plots.
        mode: Of the newest fused image, with what its status says.
        silent_s: Since the last report, or since the start.
    """

    pictures: Mapping[str, Picture]
    notes: Mapping[str, str]
    summary: Summary | None
    number: int
    moments: tuple[Moment, ...]
    mode: tuple[str, str]
    silent_s: float


@dataclass
class Board:
    """The newest pictures, report and mode: written by one thread, read by those of all pages."""

    _pictures: dict[str, Picture] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _notes: dict[str, str] = field(default_factory=dict)
    _asked_s: dict[str, float] = field(default_factory=dict)
    _summary: Summary | None = None
    _moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=KEPT_MOMENTS))
    _reports: int = 0
    _reported_s: float = field(default_factory=time.monotonic)
    _mode: tuple[str, str] = ('', '')
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, panel: str, encode: Callable[[], bytes]) -> None:
        """Show an image; encode makes its JPEG when a page wants it, or raises FrameError."""
        with self._changed:
            self._counts[panel] = number = self._counts.get(panel, 0) + 1
            self._pictures[panel] = Picture(number, encode)
            self._changed.notify_all()

    def take_off(self, panel: str) -> None:
        """Forget the picture of a panel that is not received any longer."""
        with self._changed:
            self._pictures.pop(panel, None)

    def note(self, panel: str, why: str) -> None:
        """Say why a panel has no picture; '' when nothing is amiss."""
        with self._changed:
            self._notes[panel] = why

    def report(self, summary: Summary) -> None:
        """Show a report of the node."""
        with self._changed:
            self._moments.append(Moment.between(self._summary, summary))
            self._summary, self._reports = summary, self._reports + 1
            self._reported_s = time.monotonic()
            self._changed.notify_all()

    def set_mode(self, mode: str, said: str) -> None:
        """Show how the newest image was made."""
        with self._changed:
            self._mode = mode, said

    def wanted(self) -> set[str]:
        """Return the panels that pages have asked for lately."""
        now_s = time.monotonic()
        with self._changed:
            return {panel for panel, asked_s in self._asked_s.items() if now_s - asked_s < IDLE_S}

    def wait(self, have: Mapping[str, int], *, report: int, timeout_s: float) -> Answer:
        """Return what a page lacks, as soon as there is anything, or after timeout_s.

        Args:
            have: The panels that the page shows, with the numbers of their pictures; 0: none.
            report: Number of the newest report that the page has.
            timeout_s: How long to wait; less than IDLE_S.
        """
        with self._changed:
            self._asked_s |= dict.fromkeys(have, time.monotonic())
            self._changed.wait_for(lambda: self._newer(have) or self._reports > report, timeout_s)
            fresh = max(0, self._reports - report) if report <= self._reports else self._reports
            return Answer(
                pictures=self._newer(have),
                notes={panel: why for panel in have if (why := self._notes.get(panel, ''))},
                summary=self._summary if fresh else None,
                number=self._reports,
                moments=tuple(self._moments)[-fresh:] if fresh else (),
                mode=self._mode,
                silent_s=time.monotonic() - self._reported_s,
            )

    def _newer(self, have: Mapping[str, int]) -> dict[str, Picture]:
        return {
            panel: picture
            for panel, number in have.items()
            if (picture := self._pictures.get(panel)) and picture.number != number
        }
