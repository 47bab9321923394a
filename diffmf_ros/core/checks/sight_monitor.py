# SPDX-License-Identifier: Apache-2.0
"""Hysteresis over the frames of a pair of cameras for what their images show."""

from typing import Any

from ..frames import RGB, THERMAL, Issue
from .blindness import Sight, issue_of, rgb_sight, thermal_sight
from .hidden_targets import TARGETS_HIDDEN
from .thumbnails import Thumbnails

# Pairs in a row that have to agree: that a blind camera sees again, and for any other change.
_SEES_AGAIN, _CHANGED = 2, 3
# After a longer gap the pairs before say nothing.
_FORGOTTEN_NS = 1_000_000_000


class SightMonitor:
    """Follows what both cameras show. The same pairs always give the same issues.

    A blind camera is said at once, and sees again with the second pair in a row in which it is not
    blind. Any other change takes three pairs in a row. The first pair, one without a time, one
    after a gap of more than a second and one older than the pair before are judged by themselves.
    """

    def __init__(self) -> None:
        self._rgb, self._thermal = _Latch(Sight.CLEAR), _Latch(Sight.CLEAR)
        self._hidden = _Latch(False)
        self._time_ns = 0

    def judge(self, images: Thumbnails, time_ns: int) -> tuple[Issue, ...]:
        """Take the next pair and return what is amiss with its cameras.

        Args:
            images: thumbnails of both images.
            time_ns: the stamp of the pair; 0 if it has none.
        """
        if not (self._time_ns and 0 < time_ns - self._time_ns <= _FORGOTTEN_NS):
            for latch in (self._rgb, self._thermal, self._hidden):
                latch.reset()
        self._time_ns = time_ns
        thermal = self._thermal.next(thermal_sight(images))
        rgb = self._rgb.next(rgb_sight(images, before=self._rgb.value))
        return tuple(filter(None, (issue_of(THERMAL, thermal), issue_of(RGB, rgb))))

    def compare(self, hidden: int) -> tuple[Issue, ...]:
        """Take the count of hidden targets of the pair judged last; return what is to be said."""
        return (TARGETS_HIDDEN,) if self._hidden.next(hidden > 0) else ()


class _Latch:
    """A judgement that changes only after several equal ones in a row."""

    def __init__(self, clear: Any):
        self._clear = clear
        self.reset()

    def reset(self) -> None:
        """Let the next judgement count by itself."""
        self.value, self._new, self._count, self._fresh = self._clear, self._clear, 0, True

    def next(self, now: Any) -> Any:
        """Take the next judgement and return the one that holds."""
        blind = isinstance(now, Sight) and now.blind
        was_blind = isinstance(self.value, Sight) and self.value.blind
        if was_blind and not blind:  # whatever it shows, it shows something
            self._count += 1
        else:
            self._count = self._count + 1 if now == self._new else 1
        self._new = now
        if now == self.value:
            self._count = 0
        elif self._fresh or blind or self._count >= (_SEES_AGAIN if was_blind else _CHANGED):
            self.value, self._count = now, 0
        self._fresh = False
        return self.value
