# SPDX-License-Identifier: Apache-2.0
"""Which cameras to use now, from the state of both: pairs, the survivor alone, or nothing."""

from collections import Counter
from collections.abc import Sequence
from enum import Enum

from ..frames import RGB, THERMAL, Frame, Pair
from ..settings import HealthSettings, SyncSettings
from .stream_health import StreamHealth, StreamState, StreamStatus
from .stream_measures import JUMP_NS


class Sources(str, Enum):
    """What the output is made of."""

    BOTH = 'BOTH'
    RGB_ONLY = 'RGB_ONLY'
    THERMAL_ONLY = 'THERMAL_ONLY'
    NONE = 'NONE'


# The output stamp goes back by this much only when another clock takes over: no delay that is
# tolerated is longer.
_OTHER_CLOCK_NS = 1_000_000_000
# Cameras that start together open within some seconds of one another, on a busy machine too.
_OPENING_S = 3.0
_ALONE = {RGB: Sources.RGB_ONLY, THERMAL: Sources.THERMAL_ONLY}


class SourceSelector:
    """Decides between pairs and a survivor.

    No clock: all calls share one now_ns, as in StreamHealth.

    A camera is out while it is FROZEN or LOST; a STALE one is waited for. From the first good
    frame of a camera that comes back, frames of the other one wait for a partner again instead of
    leaving alone: so the pair of the second good frame is fused. A camera not seen yet is waited
    for until source_timeout_s after the first frame of the other one; that of
    the output grid, unless its messages are refused, for at least 3 s: images in another size, of
    the other one alone, would be the first that a listener sees. When both are OK but no pair has
    come out for source_timeout_s (a wrong clock, a delay, an offset), RGB is used alone until one
    does; when a clock then changes, pairs are waited for again for a moment.

    `latest` is what sources said last, by the `statuses` of both streams at that time. sync, by
    which offsets are proposed, may be assigned. base is the stream whose stamps the fused images
    bear (setting alignment.output_grid). `dropped` counts what select left out: 'outdated' pairs
    (a frame of them had arrived source_timeout_s before), pairs of a time of 'one_camera' (one
    frame of them was used at most), and 'already_out' (no newer than what was put out before).
    `alone` counts frames that were to be passed on by themselves, those already out among them.
    """

    def __init__(self, settings: HealthSettings, *, base: str = RGB):
        self.base = base
        self.sync = SyncSettings()
        self.dropped: Counter[str] = Counter()
        self.alone = 0
        self.rgb, self.thermal = StreamHealth(settings), StreamHealth(settings)
        self.streams = {RGB: self.rgb, THERMAL: self.thermal}
        self._settings = settings
        self.reset()

    @property
    def settings(self) -> HealthSettings:
        """When a camera counts as failed; may be assigned at any time."""
        return self._settings

    @settings.setter
    def settings(self, settings: HealthSettings) -> None:
        self._settings = self.rgb.settings = self.thermal.settings = settings

    def reset(self) -> None:
        """Forget both streams, as when the node's clock jumped: start again, counters stay."""
        for stream in self.streams.values():
            stream.reset()
        self.reason = ''
        self._start_ns: int | None = None
        self._first_frame_ns: int | None = None
        self._waiting_since_ns: int | None = None
        self._newest_in_ns: dict[str, int] = {}
        self._newest_out_ns: int | None = None
        self.starting = True
        self.latest = Sources.NONE
        self.statuses: dict[str, StreamStatus] = {}

    @property
    def alarm(self) -> bool:
        """Whether the last call of sources found nothing to put out, after the time to start."""
        return not self.starting and self.latest is Sources.NONE

    def paired(self, now_ns: int) -> None:
        """Note that a pair has come out of the pairing.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.
        """
        self._waiting_since_ns = now_ns

    def sources(self, now_ns: int) -> Sources:
        """Decide which cameras to use; `reason` is then a sentence, empty when nothing is amiss.

        Args:
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            The cameras to use.
        """
        if self._start_ns is None or now_ns < self._start_ns:
            self._start_ns = now_ns
        timeout_ns = self._settings.source_timeout_s * 1e9
        self.starting = now_ns - self._start_ns <= timeout_ns
        self.statuses = {name: stream.status(now_ns) for name, stream in self.streams.items()}
        if self._first_frame_ns is None and any(status.seen for status in self.statuses.values()):
            self._first_frame_ns = now_ns
        out = [name for name, status in self.statuses.items()
               if not (status.usable or (not status.seen and self._opening(name, now_ns)))]
        self.latest, self.reason = self._decide(out, now_ns)
        return self.latest

    def select(self, frame: Frame, pairs: Sequence[Pair], now_ns: int) -> list[Pair | Frame]:
        """Return what to put out: pairs to fuse, or frames to pass on alone.

        Stamps of the output rise strictly, until the clock of a camera jumps back. Age is told by
        Frame.arrival_ns.

        Args:
            frame: it has just been given to its StreamHealth and to the pairing.
            pairs: what the pairing returned for it.
            now_ns: any clock that all calls share, in nanoseconds.

        Returns:
            What to put out, in this order.
        """
        newest_ns = self._newest_in_ns.get(frame.stream, frame.stamp_ns)
        if frame.stamp_ns < newest_ns - JUMP_NS:
            newest_ns, self._newest_out_ns = frame.stamp_ns, None
        self._newest_in_ns[frame.stream] = max(frame.stamp_ns, newest_ns)
        longest_ns = self._settings.source_timeout_s * 1e9
        fresh = [pair for pair in pairs if frame.arrival_ns - (
            pair.rgb.arrival_ns if pair.held else min(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
            ) <= longest_ns]
        if fresh:
            self.paired(now_ns)
        if len(fresh) < len(pairs):
            self.dropped['outdated'] += len(pairs) - len(fresh)
        sources = self.sources(now_ns)
        if sources is Sources.BOTH:
            return self._rising(fresh) if fresh else []
        if fresh:
            self.dropped['one_camera'] += len(fresh)
        for stream, alone in _ALONE.items():
            if sources is alone:
                own = frame.stream == stream
                chosen = [frame] if own else [getattr(pair, stream) for pair in pairs]
                rising = self._rising(chosen, counted=own)
                self.alone += 1 if own else len(rising)
                return rising
        return []

    def _opening(self, name: str, now_ns: int) -> bool:
        """Whether a camera that has not been seen is waited for."""
        if self._first_frame_ns is None:
            return self.starting
        longest_s = self._settings.source_timeout_s
        if name == self.base and not self.streams[name].refused_since:
            longest_s = max(longest_s, _OPENING_S)
        return now_ns - self._first_frame_ns <= longest_s * 1e9

    def _decide(self, out: list[str], now_ns: int) -> tuple[Sources, str]:
        """Sources and reason, from the streams that are out."""
        complaints = '; '.join(
            f'{name} is {status.detail}' if status.seen or self.streams[name].refused_count
            else f'no {name} frames'
            for name, status in self.statuses.items() if status.state is not StreamState.OK)
        if len(out) == 2 or not any(status.seen for status in self.statuses.values()):
            return Sources.NONE, complaints
        if out:
            survivor = THERMAL if out == [RGB] else RGB
            return _ALONE[survivor], f'{complaints}: {survivor} alone'
        if self._unpaired(now_ns):
            return Sources.RGB_ONLY, f'{self._why_unpaired()}: rgb alone'
        return Sources.BOTH, complaints and f'{complaints}: waiting'

    def _unpaired(self, now_ns: int) -> bool:
        """Whether both cameras have been sending for long without a pair.

        For half of that time at least: at the end of both their last frames are no pair.
        """
        statuses = self.statuses.values()
        if any(status.state not in (StreamState.OK, StreamState.STALE) for status in statuses):
            self._waiting_since_ns = None
            return False
        if self._waiting_since_ns is None or now_ns < self._waiting_since_ns:
            self._waiting_since_ns = now_ns
        waited_ns = now_ns - self._waiting_since_ns
        return (waited_ns > max(status.lost_after_ns / 2 + max(
            status.age_ns, status.lost_after_ns / 2) for status in statuses)
                and not any(status.clock_changed for status in statuses))

    def _why_unpaired(self) -> str:
        said = f'no pair for {self._settings.source_timeout_s:g} s although both cameras send: '
        lossy = [f'{stream.missing_share:.0%} of the {name} frames do not arrive'
                 for name, stream in self.streams.items() if stream.hint]
        rgb_ns, thermal_ns = self.rgb.newest_stamp_ns, self.thermal.newest_stamp_ns
        if not rgb_ns or not thermal_ns:
            return f'{said}not both send stamps'
        offset_ns = round((self.sync.thermal_offset_ms - self.sync.rgb_offset_ms) * 1e6)
        apart_ns = thermal_ns - rgb_ns + offset_ns
        if lossy and abs(apart_ns) <= _OTHER_CLOCK_NS:
            return said + ' and '.join(lossy)
        corrected = ', with the offsets' if offset_ns else ''
        return (f'{said}the newest thermal stamp is {apart_ns / 1e9:+.3f} s from that of '
                f'rgb{corrected} (check the ' f'clocks, sync.thermal_offset_ms and '
                f'sync.max_distance_ms{self._proposal(offset_ns)})')

    def _proposal(self, offset_ns: int) -> str:
        """Return the offset by which frames that arrive together would be paired, as words.

        Empty if it is small.

        By arrivals and not by the newest stamps, of which one is up to a period older than the
        other.
        """
        apart_ns = self.thermal.lead_ns - self.rgb.lead_ns + offset_ns  # type: ignore[operator]
        if abs(apart_ns) <= self.sync.max_distance_ms * 1e6:
            return ''
        return (f'; by the arrivals, sync.thermal_offset_ms: '
                f'{self.sync.thermal_offset_ms - apart_ns / 1e6:.0f} would '
                'make up for it')

    def _rising(self, items: Sequence[Pair | Frame], *,
                counted: bool = True) -> list[Pair | Frame]:
        """The items that are newer than all before them; counted: whether others are a loss."""
        limit_ns = max(_OTHER_CLOCK_NS, self._settings.source_timeout_s * 1e9)
        rising = []
        for item in items:
            frame = getattr(item, self.base) if isinstance(item, Pair) else item
            stamp_ns = frame.stamp_ns or frame.arrival_ns
            if self._newest_out_ns is not None and 0 <= self._newest_out_ns - stamp_ns <= limit_ns:
                self.dropped['already_out'] += counted
                continue
            self._newest_out_ns = stamp_ns
            rising.append(item)
        return rising
