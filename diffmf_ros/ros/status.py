# SPDX-License-Identifier: Apache-2.0
"""What the node counts, and how it reports it: /diagnostics once a second, fused/status with every
image."""

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from ..core.frames import FusionResult, Issue, Level, Mode
from ..core.sync.source_selector import SourceSelector
from ..core.sync.stream_health import StreamHealth, StreamState
from ..core.sync.stream_measures import OUTLIER_SHARE, LatencyMeter
from .messages import key_values, make_header

PERIOD_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """Counts since activation, at one instant.

    counted has rgb_in, thermal_in, waiting (frames that wait for a partner), pairs, reused (pairs
    whose thermal frame was in the pair before too), alone (frames to be handed on by themselves),
    in_work (pairs and such frames of which an image is being made) and fused (every image that
    went out, also one of a single camera); modes has the same images by mode; dropped maps a
    reason to the frames or pairs lost to it, among them 'overtaken' and 'failed' pairs; refused
    has those of undecodable messages by stream. Latencies, and the age of the newest image (since
    its later frame arrived), are nan before the first.

    At any instant every frame is in one place, and every pair:

        rgb_in + thermal_in = waiting + 2 pairs - reused + refused + dropped by the pairing
        pairs + alone = in_work + fused + all other dropped - refused
    """

    counted: Mapping[str, int] = field(default_factory=Counter)
    dropped: Mapping[str, int] = field(default_factory=Counter)
    refused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=Counter)
    latency_p50_ms: float = float('nan')
    latency_p99_ms: float = float('nan')
    age_ms: float = float('nan')
    mode: str = 'none'
    warnings: tuple[str, ...] = ()
    issues: tuple[Issue, ...] = ()
    last_error: str = ''


class Counters:
    """Counters that the executor thread and the worker thread both write."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counted: Counter = Counter()
        self._dropped: Counter = Counter()
        self._modes: Counter = Counter()
        self._refused: defaultdict[str, Counter] = defaultdict(Counter)
        self._latency = LatencyMeter()
        self._newest_ms = float('nan')
        self._last: dict = {}

    def count(self, name: str, *, pairs: int = 0, reused: int = 0, in_work: int = 0) -> None:
        """Add one to a counter, and the pairs that a frame completed, with those of a used one.

        in_work are the pairs and frames that are now handed to the worker.
        """
        with self._lock:
            self._counted.update({name: 1}, pairs=pairs, reused=reused, in_work=in_work)

    def drop(self, reason: str, *, error: str = '', stream: str = '',
             in_work: bool = False) -> None:
        """Count a lost frame or pair under reason; error, when given, becomes the last error.

        stream names the camera, RGB or THERMAL, of a message that could not be decoded; in_work:
        it had been handed to the worker.
        """
        with self._lock:
            self._dropped[reason] += 1
            self._counted['in_work'] -= in_work
            if stream:
                self._refused[stream][reason] += 1
            if error:
                self._last['last_error'] = error

    def fused(self, *, latency_ms: float, mode: str, warnings: tuple[str, ...],
              issues: tuple[Issue, ...] = ()) -> None:
        """Count a published image, in the moment it went out; latency_ms from the arrival of its
        later frame."""
        with self._lock:
            self._counted['fused'] += 1
            self._counted['in_work'] -= 1
            self._modes[mode] += 1
            self._latency.add(latency_ms)
            self._newest_ms = time.monotonic() * 1e3 - latency_ms
            self._last.update(mode=mode, warnings=warnings, issues=issues)

    def totals(self, unpaired: Mapping[str, int], *, alone: int = 0,
               waiting: int = 0) -> Snapshot:
        """Return the counts so far.

        unpaired are the frames that pairing and selector dropped, by reason; alone those that the
        selector handed on by themselves; waiting those that the pairing still has.
        """
        with self._lock:
            return Snapshot(counted=self._counted + Counter(alone=alone, waiting=waiting),
                            dropped=self._dropped + Counter(unpaired),
                            refused={stream: Counter(reasons) for stream,
                                     reasons in self._refused.items()},
                            modes=Counter(self._modes),
                            age_ms=time.monotonic() * 1e3 - self._newest_ms,
                            latency_p50_ms=self._latency.quantile(0.5),
                            latency_p99_ms=self._latency.quantile(0.99), **self._last)


class DiagnosticsPublisher:
    """Publishes the state of the fusion and of both cameras, comparing each report with the one
    before.

    A report has three statuses: '<node>: fusion', '<node>: rgb' and '<node>: thermal'. model and
    device are shown as they are; assign them when they change. publisher is that of the reports.
    """

    def __init__(self, node: Node, *, model: str, device: str):
        """Publish under the name of node, with its clock."""
        self.model, self.device = model, device
        self._node = node
        self.publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._before = Snapshot()
        self._before_ns = node.get_clock().now().nanoseconds
        self._published_s = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether the last report is two periods old: the node's clock is simulated and stands
        still."""
        return time.monotonic() - self._published_s > 2 * PERIOD_S

    def publish(self, totals: Snapshot, *, scale: float, issues: Sequence[Issue],
                selector: SourceSelector, now_ns: int,
                incompatible: Mapping[str, str] | None = None,
                memory: Mapping[str, int] | None = None, notes: Sequence[str] = (),
                disabled: bool = False) -> None:
        """Publish one report.

        scale is the working size of the network; issues are those that hold now. now_ns is the
        time on the clock of selector; incompatible maps a topic to the QoS policy in which a
        publisher does not match; memory maps a kind (rss, cuda) to bytes; notes are facts worth
        knowing that are no issue; disabled: somebody wants it to do nothing, so all is well.
        """
        now = self._node.get_clock().now()
        mismatches = [f'{topic}: a publisher offers incompatible {policy}'
                      for topic, policy in (incompatible or {}).items()]
        values = values_of(totals) | {
            'rate_out_hz': number(self._rate_hz(totals, now.nanoseconds), 2),
            'model': self.model, 'device': self.device, 'scale': f'{scale:g}',
            'incompatible_qos': '; '.join(mismatches),
            **{f'memory_{kind}_mb': number(size / 1e6) for kind, size in (memory or {}).items()}}
        values |= sources_values(selector, now_ns, notes)
        issues = [*(Issue('incompatible_qos', text) for text in mismatches), *issues]
        values['issues'] = ', '.join(dict.fromkeys(
            issue.code for issue in (*issues, *totals.issues)))
        level, message = judge(totals, self._before, issues, reason=selector.reason,
                               alarm=selector.alarm)
        fusion = DiagnosticStatus(level=level, name=f'{self._name}: fusion', message=message,
                                  hardware_id=self.device, values=key_values(values))
        array = DiagnosticArray(status=[fusion, *self._cameras(totals, selector, now_ns)])
        if disabled:
            for status in array.status:
                status.level, status.message = DiagnosticStatus.OK, 'disabled'
        array.header.stamp = now.to_msg()
        self.publisher.publish(array)
        self._before, self._before_ns = totals, now.nanoseconds
        self._published_s = time.monotonic()

    def destroy(self) -> None:
        """Take the publisher away."""
        self._node.destroy_publisher(self.publisher)

    @property
    def _name(self) -> str:
        return self._node.get_fully_qualified_name().lstrip('/')

    def _cameras(self, totals: Snapshot, selector: SourceSelector,
                 now_ns: int) -> list[DiagnosticStatus]:
        cameras = []
        for name, health in selector.streams.items():
            refused = totals.refused.get(name, {})
            before = self._before.refused.get(name, {})
            cameras.append(stream_status(
                f'{self._name}: {name}', health, now_ns, starting=selector.starting,
                refused=refused,
                newly_refused={reason: grown(refused, before, reason) for reason in refused},
                issues=[issue.text for issue in totals.issues if issue.stream == name]))
        return cameras

    def _rate_hz(self, totals: Snapshot, now_ns: int) -> float:
        """Images a second of the node's clock since the last report; nan when that clock stood or
        jumped."""
        elapsed_ns = now_ns - self._before_ns
        if elapsed_ns <= 0:
            return float('nan')
        return grown(totals.counted, self._before.counted, 'fused') * 1e9 / elapsed_ns


def grown(now: Mapping[str, int], before: Mapping[str, int], name: str) -> int:
    """By how much the counter name grew."""
    return now.get(name, 0) - before.get(name, 0)


# Losses that are the normal price of unequal rates, of a slow network, of a change of sources, or
# of stopping.
EXPECTED_DROPS = {'unpaired', 'overtaken', 'already_out', 'one_camera', 'stopped'}


def judge(now: Snapshot, before: Snapshot, issues: Sequence[Issue], *,
          reason: str = '', alarm: bool = False) -> tuple[bytes, str]:
    """Return level and message of a report, from what changed since the one before.

    issues are those that hold now; reason and alarm are those of the selector. ERROR: pairs failed
    and no image went out, an issue says so, or both cameras are out. WARN: a camera is out or
    late, something was dropped for another reason than unequal rates, the last image carries a
    warning, or there is an issue.
    """
    problems = [issue.text for issue in issues if issue.level is Level.ERROR]
    complaints = [issue.text for issue in issues if issue.level is Level.WARN]
    fused = grown(now.counted, before.counted, 'fused')
    if grown(now.dropped, before.dropped, 'failed') and not fused:
        return DiagnosticStatus.ERROR, '; '.join((f'fusion fails: {now.last_error}', *problems))
    found = [reason] if reason else []
    for dropped in sorted(set(now.dropped) - EXPECTED_DROPS):
        if count := grown(now.dropped, before.dropped, dropped):
            found.append(f'{count} dropped: {dropped}')
    found += [*now.warnings, *complaints]
    if problems or alarm:
        return DiagnosticStatus.ERROR, '; '.join((*problems, *found))
    if found:
        return DiagnosticStatus.WARN, '; '.join(found)
    return DiagnosticStatus.OK, 'fusing' if fused else 'frames arrive, none paired yet'


def values_of(totals: Snapshot) -> dict[str, str]:
    """Return the key values of a report that stem from the counters."""
    values = {name: str(totals.counted.get(name, 0))
              for name in ('rgb_in', 'thermal_in', 'waiting', 'pairs', 'reused', 'alone',
                           'in_work', 'fused')}
    values |= {f'out.{mode}': str(count) for mode, count in sorted(totals.modes.items())}
    values |= {f'dropped.{reason}': str(count) for reason, count in sorted(totals.dropped.items())}
    values |= {name: number(getattr(totals, name))
               for name in ('latency_p50_ms', 'latency_p99_ms', 'age_ms')}
    return values | {'mode': totals.mode, 'last_error': totals.last_error}


def account(totals: Snapshot, selector: SourceSelector, now_ns: int) -> str:
    """Return a sentence for the log: what has become of every frame since activation.

    What is missing is known by the gaps of the stamps; of a silence only its length is known.
    """
    counted, cameras = Counter(totals.counted), []
    for name, health in selector.streams.items():
        silent_s = health.silent_s(now_ns)
        cameras.append(f'{name} {counted[f"{name}_in"]} received, {health.missing} missing'
                       + (f', silent for {silent_s:.1f} s' if silent_s else ''))
    dropped = ', '.join(f'{count} {reason}' for reason, count in sorted(totals.dropped.items()))
    again = f' ({counted["reused"]} with the thermal frame before)' if counted['reused'] else ''
    return (f'frames so far: {"; ".join(cameras)}; {counted["waiting"]} wait for a partner, '
            f'{counted["pairs"]} pairs{again}, {counted["alone"]} frames alone; '
            f'{counted["fused"]} images out, {counted["in_work"]} in work; dropped: '
            f'{dropped or "none"}')


def sources_values(selector: SourceSelector, now_ns: int,
                   notes: Sequence[str] = ()) -> dict[str, str]:
    """Return the key values of a report that stem from the two cameras and what is used of them.
    """
    zero = [f'{name}: {ZERO_STAMPS}' for name, health in selector.streams.items()
            if unstamped(health)]
    return {'sources': selector.sources(now_ns).value, 'fallback': selector.reason,
            'rate_rgb_hz': number(selector.rgb.rate_hz(now_ns), 2),
            'rate_thermal_hz': number(selector.thermal.rate_hz(now_ns), 2),
            'notes': '; '.join([*notes, *zero])}


def status_message(result: FusionResult, *, name: str, rgb: StreamState, thermal: StreamState,
                   model: str, scale: float, offset_ms: float | None = None, held: bool = False,
                   reason: str = '') -> DiagnosticArray:
    """Return the message for fused/status that belongs to an image: same header, one status.

    name is '<node>: image'; offset_ms (thermal minus RGB, corrected) and held are those of the
    pair, None and False for a single frame; reason is that of the selector. ERROR: the network did
    not give this image although one is in use; WARN: a camera is missing from it, or there is a
    warning.
    """
    said = [*filter(None, (reason,)), *result.warnings]
    level = DiagnosticStatus.WARN if said or result.mode not in (
        Mode.FUSED, Mode.CLASSICAL) else DiagnosticStatus.OK
    if result.mode is Mode.CLASSICAL and not model.startswith('classical'):
        level = DiagnosticStatus.ERROR
    values = {'mode': result.mode.value, 'rgb': rgb.value, 'thermal': thermal.value,
              'offset_ms': 'N/A' if offset_ms is None else f'{offset_ms:.3f}',
              'held': str(held).lower(), 'model': model, 'scale': f'{scale:g}',
              'warnings': '; '.join(result.warnings)}
    if any(result.trim_px):
        values['trim_px'] = ' '.join(map(str, result.trim_px))
    if result.issues:
        values['issues'] = ', '.join(issue.code for issue in result.issues)
    status = DiagnosticStatus(level=level, name=name, message='; '.join(said) or result.mode.value,
                              values=key_values(values))
    return DiagnosticArray(header=make_header(result.stamp_ns, result.frame_id), status=[status])


ZERO_STAMPS = 'zero stamps: arrival time is used'
_LEVELS = {StreamState.OK: DiagnosticStatus.OK, StreamState.STALE: DiagnosticStatus.WARN,
           StreamState.FROZEN: DiagnosticStatus.WARN, StreamState.LOST: DiagnosticStatus.ERROR}


def stream_status(name: str, health: StreamHealth, now_ns: int, *, starting: bool,
                  refused: Mapping[str, int], newly_refused: Mapping[str, int],
                  issues: Sequence[str] = ()) -> DiagnosticStatus:
    """Return the status of a camera. refused counts its messages by reason, newly_refused since
    the last report.

    issues are sentences about what its newest image shows.
    starting: a camera that has not been seen is a warning yet, no error.
    """
    status = health.status(now_ns)
    state = status.state
    found = [f'{count} refused: {reason}' for reason,
             count in sorted(newly_refused.items()) if count]
    found += issues
    found += filter(None, (ZERO_STAMPS if unstamped(health) else '', health.hint))
    level = DiagnosticStatus.WARN if starting and not health.seen else _LEVELS[state]
    if found:
        level = max(level, DiagnosticStatus.WARN)
    summary = status.detail if status.seen or health.refused_count else 'no frames'
    values = _values(health, state, now_ns)
    values |= {f'refused.{reason}': str(count) for reason, count in sorted(refused.items())}
    return DiagnosticStatus(level=level, name=name,
                            message='; '.join(filter(None, (summary, *found))) or state.value,
                            values=key_values(values | greenwave_values(health)))


def unstamped(health: StreamHealth) -> bool:
    """Return whether the stream comes without stamps now."""
    return health.newest_stamp_ns == 0


def number(value: float, digits: int = 1) -> str:
    """Return value as text, 'N/A' for nan."""
    return 'N/A' if math.isnan(value) else f'{value:.{digits}f}'


def greenwave_values(health: StreamHealth) -> dict[str, str]:
    """Return the keys of greenwave_diagnostics.hpp (NVIDIA-ISAAC-ROS/greenwave_monitor), also
    those of NITROS.

    Its dashboards read the first five and match them with the status by its name. Rates in Hz, by
    arrival (node) and by stamp (msg); the delay is arrival minus stamp of the newest frame; jitter
    in microseconds, against the usual gap of the stream itself: nobody has to configure an
    expected frequency, so that is what stands there, with the tolerance in percent beyond which a
    gap counts as an outlier.
    """
    median_period_ns = health.stamps.median_period_ns
    mean_node_us, max_node_us = health.arrivals.jitter_us()
    mean_msg_us, max_msg_us = health.stamps.jitter_us()
    return {
        'frame_rate_node': number(health.arrivals.rate_hz(), 3),
        'frame_rate_msg': number(health.stamps.rate_hz(), 3),
        'current_delay_from_realtime_ms': number(health.delay_ms, 3),
        'expected_frequency': number(1e9 / median_period_ns if median_period_ns else 0.0, 3),
        'tolerance': number(100 * OUTLIER_SHARE if median_period_ns else 0.0, 3),
        'num_non_increasing_msg': str(health.not_increasing),
        'num_jitter_outliers_msg': str(health.stamps.outliers),
        'num_jitter_outliers_node': str(health.arrivals.outliers),
        'max_abs_jitter_msg': number(max_msg_us, 0),
        'max_abs_jitter_node': number(max_node_us, 0),
        'mean_abs_jitter_msg': number(mean_msg_us, 0),
        'mean_abs_jitter_node': number(mean_node_us, 0),
        'total_dropped_frames': str(health.missing),
    }


def _values(health: StreamHealth, state: StreamState, now_ns: int) -> dict[str, str]:
    return {
        'state': state.value,
        'rate_hz': number(health.rate_hz(now_ns), 2),
        'age_ms': number(health.age_ms(now_ns)),
        'frames': str(health.frames),
        'missing': str(health.missing),
        'missing_percent': number(100 * health.missing_share),
        'silent_s': number(health.silent_s(now_ns)),
        'refused': str(health.refused_count),
        'duplicates': str(health.duplicates),
        'equal_images': str(health.equal_images),
    }
