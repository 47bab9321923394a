# SPDX-License-Identifier: Apache-2.0
"""What the node counts, and how it reports it on /diagnostics."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from ..core.latency import LatencyMeter

PERIOD_S = 1.0


@dataclass(frozen=True)
class Totals:
    """Counts since activation, at one instant.

    counted has rgb_in, thermal_in, pairs and fused; dropped maps a reason to the frames or pairs lost
    to it, among them 'overtaken' and 'failed' pairs. Latencies are nan before the first image.
    """

    counted: Mapping[str, int] = field(default_factory=Counter)
    dropped: Mapping[str, int] = field(default_factory=Counter)
    latency_p50_ms: float = float('nan')
    latency_p99_ms: float = float('nan')
    mode: str = 'none'
    warnings: tuple[str, ...] = ()
    last_error: str = ''


class Tally:
    """Counters that the executor thread and the worker thread both write."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counted: Counter = Counter()
        self._dropped: Counter = Counter()
        self._latency = LatencyMeter()
        self._last: dict = {}

    def count(self, name: str) -> None:
        """Add one to rgb_in, thermal_in or pairs."""
        with self._lock:
            self._counted[name] += 1

    def drop(self, reason: str, *, error: str = '') -> None:
        """Count a lost frame or pair under reason; error, when given, becomes the last error."""
        with self._lock:
            self._dropped[reason] += 1
            if error:
                self._last['last_error'] = error

    def fused(self, *, latency_ms: float, mode: str, warnings: tuple[str, ...]) -> None:
        """Count a published image; latency_ms from the arrival of its later frame to publishing."""
        with self._lock:
            self._counted['fused'] += 1
            self._latency.add(latency_ms)
            self._last.update(mode=mode, warnings=warnings)

    def totals(self, unpaired: Mapping[str, int]) -> Totals:
        """Return the counts so far; unpaired are the frames that the pairing dropped, by reason."""
        with self._lock:
            return Totals(counted=Counter(self._counted), dropped=self._dropped + Counter(unpaired),
                          latency_p50_ms=self._latency.quantile(0.5),
                          latency_p99_ms=self._latency.quantile(0.99), **self._last)


class Reporter:
    """Publishes the state of the fusion on /diagnostics, comparing each report with the one before."""

    def __init__(self, node: Node, *, model: str, device: str):
        """Publish under the name of node, with its clock; model and device are shown as they are."""
        self._node = node
        self._fixed = {'model': model, 'device': device}
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._before = Totals()
        self._before_ns = node.get_clock().now().nanoseconds

    def publish(self, totals: Totals, *, scale: float, complaints: list[str], problems: Sequence[str]) -> None:
        """Publish one report. scale is the working size of the network; the rest is as in judge."""
        now = self._node.get_clock().now()
        level, message = judge(totals, self._before, complaints, problems)
        values = values_of(totals) | self._fixed | {'scale': f'{scale:g}'}
        values['rate_out_hz'] = f'{self._rate_hz(totals, now.nanoseconds):.2f}'
        status = DiagnosticStatus(
            level=level, name=f'{self._node.get_name()}: fusion', message=message,
            hardware_id=self._fixed['device'],
            values=[KeyValue(key=key, value=value) for key, value in values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = now.to_msg()
        self._publisher.publish(array)
        self._before, self._before_ns = totals, now.nanoseconds

    def destroy(self) -> None:
        """Take the publisher away."""
        self._node.destroy_publisher(self._publisher)

    def _rate_hz(self, totals: Totals, now_ns: int) -> float:
        """Images a second of the node's clock since the last report; nan when that clock stood or jumped."""
        elapsed_ns = now_ns - self._before_ns
        if elapsed_ns <= 0:
            return float('nan')
        return grown(totals.counted, self._before.counted, 'fused') * 1e9 / elapsed_ns


def grown(now: Mapping[str, int], before: Mapping[str, int], name: str) -> int:
    """By how much the counter name grew."""
    return now.get(name, 0) - before.get(name, 0)


# Losses that are the normal price of unequal rates, of a slow network, or of stopping.
EXPECTED_DROPS = {'unpaired', 'overtaken', 'stopped'}


def judge(now: Totals, before: Totals, complaints: Sequence[str],
          problems: Sequence[str] = ()) -> tuple[bytes, str]:
    """Return level and message of a report, from what changed since the one before.

    complaints are conditions of the inputs that hold now, problems are parts of the fusion that do not
    work and are done without. ERROR: pairs failed and none was fused, or there is a problem. WARN: a
    stream is silent, something was dropped for another reason than unequal rates, the last image
    carries a warning, or there is a complaint.
    """
    fused = grown(now.counted, before.counted, 'fused')
    if grown(now.dropped, before.dropped, 'failed') and not fused:
        return DiagnosticStatus.ERROR, '; '.join((f'fusion fails: {now.last_error}', *problems))
    found = [f'no {stream} frames' for stream in ('rgb', 'thermal')
             if not grown(now.counted, before.counted, f'{stream}_in')]
    for reason in sorted(set(now.dropped) - EXPECTED_DROPS):
        if count := grown(now.dropped, before.dropped, reason):
            found.append(f'{count} dropped: {reason}')
    found += [*now.warnings, *complaints]
    if problems:
        return DiagnosticStatus.ERROR, '; '.join((*problems, *found))
    if found:
        return DiagnosticStatus.WARN, '; '.join(found)
    return DiagnosticStatus.OK, 'fusing' if fused else 'frames arrive, none paired yet'


def values_of(totals: Totals) -> dict[str, str]:
    """Return the key values of a report that stem from the counters."""
    values = {name: str(totals.counted.get(name, 0)) for name in ('rgb_in', 'thermal_in', 'pairs', 'fused')}
    values |= {f'dropped.{reason}': str(count) for reason, count in sorted(totals.dropped.items())}
    values['latency_p50_ms'] = f'{totals.latency_p50_ms:.1f}'
    values['latency_p99_ms'] = f'{totals.latency_p99_ms:.1f}'
    return values | {'mode': totals.mode, 'last_error': totals.last_error}
