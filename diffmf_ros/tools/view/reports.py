# SPDX-License-Identifier: Apache-2.0
"""From the node's diagnostics to what a page shows of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVELS = ('ok', 'warning', 'error', 'stale')


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
