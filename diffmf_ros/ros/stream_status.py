# SPDX-License-Identifier: Apache-2.0
"""The status of one camera for /diagnostics, with the keys that the dashboards of NVIDIA's
greenwave_monitor read."""

import math
from collections.abc import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from ..core.sync.stream_health import StreamHealth, StreamState
from ..core.sync.stream_measures import OUTLIER_SHARE
from .messages import key_values

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
    """Whether the stream comes without stamps now."""
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
        'refused': str(health.refused_count),
        'duplicates': str(health.duplicates),
        'equal_images': str(health.equal_images),
    }
