# SPDX-License-Identifier: Apache-2.0
"""What is newest of everything that a page shows.

Nothing queues: who asks late gets what is newest then.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .reports import Moment, Summary

PANELS = ('fused', 'rgb', 'thermal', 'overlay')
# A panel that no page has asked for in this time is not received any longer.
IDLE_S = 5.0
# Reports come once a second: five minutes of them.
KEPT_MOMENTS = 300


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
