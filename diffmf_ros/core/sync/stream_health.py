# SPDX-License-Identifier: Apache-2.0
"""Is what a camera sends new? State OK, STALE, FROZEN or LOST of a stream, with hysteresis."""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from statistics import median_low

from ..frames import Frame
from ..settings import HealthSettings
from .stream_measures import JUMP_NS, FreezeDetector, MissingFrames, RateEstimator

GOOD_FRAMES = 2
STALE_PERIODS = 3.0
STALE_FLOOR_S = 0.2
# A regular stream may be slower than source_timeout_s: it is lost when its next frame is half a
# period late.
LOST_PERIODS = 1.5
# A camera that was gone for longer may come back at another rate: its period is learned anew.
SAME_RATE_NS = 5_000_000_000
NONSENSE_DELAY_NS = 365 * 24 * 3600 * 1_000_000_000
# So many frames on one clock make the next jump of the stamps a change worth waiting for, not
# noise.
CALM_FRAMES = 8
# From here on it is not chance: the default transport loses most large images, the profile nearly
# none.
MANY_MISSING = 0.2
# Frames by which the clock of a camera is compared with that of the arrivals.
_LEADS = 15


class StreamState(str, Enum):
    """What is known about a camera now."""

    OK = 'OK'
    STALE = 'STALE'
    FROZEN = 'FROZEN'
    LOST = 'LOST'


@dataclass(frozen=True)
class StreamStatus:
    """What is known about a stream at one instant.

    Attributes:
        state: what the stream is now.
        detail: why the state is not OK, in words that stay the same while it lasts; empty for OK.
        usable: whether its frames are worth waiting for: it is OK or STALE, or a good frame has
            just come and one is to follow.
        seen: whether a frame has come since the beginning or the last reset.
        age_ns: time since the newest fresh frame; inf before the first.
        lost_after_ns: silence after which it is LOST.
        clock_changed: whether its stamps have just jumped, within three usual periods, after a
            calm time.
    """

    state: StreamState
    detail: str
    usable: bool
    seen: bool
    age_ns: float
    lost_after_ns: int
    clock_changed: bool


class StreamHealth:
    """Watches one stream. now_ns is any clock that all calls share.

    It should not go back: see reset.

    * LOST: no fresh frame came for source_timeout_s (or 1.5 usual periods of a slower camera), or
      none yet. A message that cannot be decoded and a frame of the newest stamp again are not
      fresh.
    * FROZEN: frozen_frames equal images came in a row under advancing stamps, or as many of one
      color, or the driver says that its shutter is closed. 1 counts as 2, because one image is
      equal to nothing. A camera that sends every image several times (FreezeDetector.usual) is
      frozen with one more than that.
    * STALE: the next frame is late by three usual periods and at least 0.2 s, but not yet lost.
    * OK again: the second good frame came, one that differs from the one before and is not of one
      color.

    `lost_after_ns` is the silence after which it is LOST. Counters are since the beginning:
    `frames` (fresh ones), `refused_count`, `duplicates`, `not_increasing` (stamps that went back
    or stood), `unstamped` (stamp zero). `refused_since` counts those refused since the newest
    frame or a reset.
    """

    def __init__(self, settings: HealthSettings):
        self._settings = settings
        self.frames = self.refused_count = 0
        self.duplicates = self.not_increasing = self.unstamped = 0
        self.arrivals, self.stamps = RateEstimator(), RateEstimator()
        self._missing = MissingFrames()
        self._silent_ns = 0.0
        self._freeze = FreezeDetector()
        self._shutter = False
        self.reset()

    def reset(self) -> None:
        """Forget the stream, as when the node's clock jumped: LOST until it comes again.

        Counters stay.
        """
        for part in (self.arrivals, self.stamps, self._missing, self._freeze):
            part.reset()
        self.newest_stamp_ns: int | None = None
        self.delay_ms = math.nan
        self._arrived_ns: int | None = None
        self.refused_since = self._repeated_since = 0
        self._calm = 0
        self._clock_changed_ns: int | None = None
        self._good = 0
        self._returning_from: StreamState | None = None
        self._new = True
        self._leads_ns: deque[int] = deque(maxlen=_LEADS)
        self._judge_limits()

    @property
    def settings(self) -> HealthSettings:
        """When a camera counts as failed; may be assigned at any time.

        Without shutter_flag the shutter counts as open: its topic is no longer received.
        """
        return self._settings

    @settings.setter
    def settings(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._judge_limits()
        if not settings.shutter_flag:
            self.shutter(False)

    def arrived(self, frame: Frame, now_ns: int, *, clock_ns: int | None = None) -> None:
        """Take a decoded frame.

        Args:
            frame: The frame.
            now_ns: Time of arrival.
            clock_ns: The same time on the clock of its stamp, if known.
        """
        if frame.stamp_ns == self.newest_stamp_ns and frame.stamp_ns:
            self.duplicates += 1
            self.not_increasing += 1
            self._repeated_since += 1
            return
        status = self.status(now_ns)
        before = status.state
        if before is not StreamState.OK and self._returning_from is None:
            self._good = 0
        self._returning_from = None if before is StreamState.OK else before
        self.arrivals.add(now_ns)
        self.lost_after_ns = self._silence_ns()
        silent_ns = 0.0
        # not in a row, nor a slow camera, whose period is known by now
        if status.age_ns > self.lost_after_ns:
            self._good = 0
            silent_ns = status.age_ns if status.seen else 0.0
        self._silent_ns += silent_ns
        self._arrived_ns, self._repeated_since = now_ns, 0
        self.frames += 1
        self._take_stamp(frame.stamp_ns, clock_ns, silent_ns)
        if frame.stamp_ns:
            self._leads_ns.append(frame.stamp_ns - now_ns)
        self._judge_pixels(frame)

    def refused(self, now_ns: int) -> None:
        """Count a message that could not be decoded.

        It is no sign of life, but no loss on the way either.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.
        """
        self.refused_count += 1
        self.refused_since += 1

    def shutter(self, closed: bool) -> None:
        """Take the driver's flag: while it is true the stream is FROZEN.

        The first image after it may have been handled before it, so it counts as seen when the
        shutter opens.

        Args:
            closed: whether the shutter is closed.
        """
        if self._shutter and not closed:
            self._good = GOOD_FRAMES - 1
        self._shutter = closed
        self._still = self._why_still()
        if closed:
            self._good = 0
            self._returning_from = StreamState.FROZEN

    def status(self, now_ns: int) -> StreamStatus:
        """Compute the status: once an arrival, and on demand in between.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            What is known about the stream.
        """
        if self._arrived_ns is not None:  # a clock that went back must not hide a loss
            self._arrived_ns = min(self._arrived_ns, now_ns)
        age_ns = math.inf if self._arrived_ns is None else now_ns - self._arrived_ns
        median_period_ns, lost_after_ns = self.arrivals.median_period_ns or 0, self.lost_after_ns
        if age_ns > lost_after_ns:
            state = StreamState.LOST
        elif self._still:
            state = StreamState.FROZEN
        elif self._returning_from is not None:
            state = self._returning_from
        else:
            state = StreamState.STALE if age_ns > max(STALE_FLOOR_S * 1e9, STALE_PERIODS
                                                      * median_period_ns) else StreamState.OK
        coming_back = self._good > 0 and age_ns <= LOST_PERIODS * (median_period_ns
                                                                   or lost_after_ns)
        if state is StreamState.OK:
            detail = ''
        elif coming_back and state is not StreamState.STALE:
            detail = 'starting' if self._new else f'{state.value}, coming back'
        elif state is StreamState.FROZEN:
            detail = f'FROZEN ({self._still or "it moves again"})'
        elif state is StreamState.LOST and self.refused_since:
            detail = 'LOST (its messages are refused)'
        elif state is StreamState.LOST and self._repeated_since > 1:
            detail = 'LOST (its messages come under one stamp)'
        else:
            detail = state.value
        changed_ns = self._clock_changed_ns
        return StreamStatus(
            state, detail, usable=state in (StreamState.OK, StreamState.STALE) or coming_back,
            seen=self._arrived_ns is not None, age_ns=age_ns,
            lost_after_ns=lost_after_ns,
            clock_changed=changed_ns is not None and 0 <= now_ns - changed_ns <= STALE_PERIODS
            * median_period_ns)

    @property
    def seen(self) -> bool:
        """Whether a frame has come since the beginning or the last reset."""
        return self._arrived_ns is not None

    @property
    def missing(self) -> int:
        """Frames that the stamps promise and that did not come, nor were refused.

        Gaps of a lost camera do not count: see silent_s.
        """
        return self._missing.total

    def silent_s(self, now_ns: int) -> float:
        """Return for how long it has been silent in all, each time for so long that it was lost.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            Seconds; what it sent meanwhile nobody knows.
        """
        status = self.status(now_ns)
        lost = status.seen and status.age_ns > status.lost_after_ns
        return (self._silent_ns + (status.age_ns if lost else 0)) / 1e9

    @property
    def missing_share(self) -> float:
        """The same as a share of the newest frames, 0 to 1."""
        return self._missing.share

    @property
    def hint(self) -> str:
        """What to look at when many frames are missing, else empty."""
        if self.missing_share < MANY_MISSING:
            return ''
        return (f'{self.missing_share:.0%} of the frames are missing, by their stamps: '
                'are the senders using the shared-memory profile?')

    @property
    def equal_images(self) -> int:
        """How many of the newest images in a row are equal; 1: it moves."""
        return self._freeze.repeat_count

    @property
    def lead_ns(self) -> int | None:
        """How far its stamps are ahead of the clock of the arrivals, usually.

        It is None before the first.
        """
        return median_low(self._leads_ns) if self._leads_ns else None

    def rate_hz(self, now_ns: int) -> float:
        """Return the rate of fresh frames over the newest 5 s.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            Frames a second; 0 for fewer than two.
        """
        return self.arrivals.rate_hz(now_ns)

    def age_ms(self, now_ns: int) -> float:
        """Return the time since the newest fresh frame.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            Milliseconds; nan before the first.
        """
        return self.status(now_ns).age_ns / 1e6 if self.seen else math.nan

    def _judge_limits(self) -> None:
        self.lost_after_ns, self._still = self._silence_ns(), self._why_still()

    def _silence_ns(self) -> int:
        """Return the silence after which the stream is LOST, by its period and the settings."""
        return round(max(self._settings.source_timeout_s * 1e9,
                         LOST_PERIODS * (self.arrivals.median_period_ns or 0)))

    def _why_still(self) -> str:
        """Return why it is FROZEN now, or ''.

        It repeats an image more often than it may and usually does.
        """
        if self._shutter:
            return 'the shutter is closed'
        if not self._settings.frozen_frames:
            return ''
        # one image is equal to nothing
        limit, still = max(2, self._settings.frozen_frames), self._freeze
        if still.flat_count >= limit:
            return 'images of one color'
        return 'equal images' if still.repeat_count >= max(limit, still.usual_repeats + 1) else ''

    def _take_stamp(self, stamp_ns: int, clock_ns: int | None, silent_ns: float) -> None:
        lost_after_ns = self.lost_after_ns
        excused, self.refused_since = self.refused_since, 0
        if not stamp_ns:
            self.unstamped += 1
            self.newest_stamp_ns, self.delay_ms = 0, math.nan
            return
        delay_ns = math.inf if clock_ns is None else clock_ns - stamp_ns
        self.delay_ms = delay_ns / 1e6 if abs(delay_ns) < NONSENSE_DELAY_NS else math.nan
        gap_ns = stamp_ns - self.newest_stamp_ns if self.newest_stamp_ns else 0
        self.not_increasing += gap_ns < 0
        if -JUMP_NS <= gap_ns < 0:
            self._missing.late()
            return
        if 0 < gap_ns <= lost_after_ns:
            self._missing.gap(gap_ns, excused=excused)
        if 0 <= gap_ns <= lost_after_ns:
            self._calm += 1
        else:  # the clock jumped, unless nothing came for as long as the stamps say
            if not 0 < silent_ns <= SAME_RATE_NS or abs(gap_ns - silent_ns) > lost_after_ns:
                self._missing.reset()
            self._leads_ns.clear()
            if self._calm >= CALM_FRAMES:
                self._clock_changed_ns = self._arrived_ns
            self._calm = 0
        self.stamps.add(stamp_ns)
        self.newest_stamp_ns = stamp_ns

    def _judge_pixels(self, frame: Frame) -> None:
        if self._settings.frozen_frames == 0:
            self._freeze.reset()
        new = self._settings.frozen_frames == 0 or self._freeze.add(frame.pixels)
        self._still = self._why_still()
        if self._still:
            self._good = 0
        elif new:
            self._good += 1
        if self._good >= GOOD_FRAMES:
            self._returning_from, self._new = None, False
