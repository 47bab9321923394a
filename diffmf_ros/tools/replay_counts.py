# SPDX-License-Identifier: Apache-2.0
"""Counts what became of the frames of a bag, and says why frames were left out."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..core.frames import RGB, THERMAL, DiffmfError, Frame, FrameError, FusionResult

# Reasons of the pairing, which are no fault of a frame.
_PAIRING = {
    'unpaired': 'no frame of the other camera was close enough and free',
    'late': 'older than a frame of its camera that was fused before',
    'duplicate': 'a frame of the same camera has the same stamp',
    'clock_jump': 'the stamps went back',
    'overflow': 'more than 64 frames waited for a partner',
}


class ReplayError(DiffmfError):
    """Nothing of a bag could be fused."""


@dataclass
class ReplayCounts:
    """What became of the frames of a bag; modes and dropped are counted by name and reason.

    by_camera: frames that decoded, of each camera. reasons: the first sentence of each reason in dropped.
    distance_ms: where frames left unpaired, the median of every thermal stamp minus the closest RGB stamp, corrected.
    problems: what was not as the settings ask for, a sentence each.
    """

    frames: int = 0
    pairs: int = 0
    by_camera: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    distance_ms: float | None = None
    problems: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._digest = hashlib.sha256()
        self._stamps_ns: dict[str, list[int]] = {RGB: [], THERMAL: []}

    @property
    def sha256(self) -> str:
        """Hash of the stamps and pixels of all fused images, in hexadecimal digits."""
        return self._digest.hexdigest()

    @property
    def refused(self) -> int:
        """Number of frames and pairs that could not be used, other than for want of a partner."""
        return sum(count for reason, count in self.dropped.items() if reason not in _PAIRING)

    def came(self, frame: Frame, *, offset_ns: int) -> None:
        """Count a frame that decoded; offset_ns is added to its stamp before pairing."""
        self.frames += 1
        self.by_camera[frame.stream] += 1
        self._stamps_ns[frame.stream].append(frame.stamp_ns + offset_ns)

    def refuse(self, stream: str, error: FrameError) -> None:
        """Count a frame, or a pair (stream ''), that cannot be used."""
        self.dropped[error.reason] += 1
        self.reasons.setdefault(error.reason, f'{stream}: {error}' if stream else str(error))

    def unmatched(self, dropped: Counter, *, max_distance_ms: float) -> None:
        """Count frames that left without a partner, by reason."""
        self.dropped.update(dropped)
        for reason in dropped:
            self.reasons[reason] = _PAIRING.get(reason, reason)
        if dropped['unpaired'] and all(self._stamps_ns.values()):
            self.distance_ms = _typical_distance_ms(*self._stamps_ns.values())
            self.reasons['unpaired'] += (f' (the thermal stamps are typically {self.distance_ms:+.1f} ms from the '
                                         f'closest one of rgb; sync.max_distance_ms is {max_distance_ms:g})')

    def fused(self, result: FusionResult) -> None:
        """Count a fused image."""
        self.modes[result.mode.value] += 1
        self._digest.update(result.stamp_ns.to_bytes(8, 'little', signed=True))
        self._digest.update(np.ascontiguousarray(result.pixels).data)

    def lines(self) -> list[str]:
        """Return a line for every reason why frames were left out, the most frequent first."""
        return [f'{count} {reason}: {self.reasons.get(reason, reason)}' for reason, count in self.dropped.most_common()]

    def as_dict(self) -> dict:
        """Return plain types, for JSON."""
        return {'frames': self.frames, 'rgb_frames': self.by_camera[RGB], 'thermal_frames': self.by_camera[THERMAL],
                'pairs': self.pairs, 'modes': dict(self.modes), 'dropped': dict(self.dropped), 'reasons': self.reasons,
                'thermal_minus_rgb_ms': self.distance_ms, 'problems': sorted(self.problems), 'sha256': self.sha256}

    def require_images(self) -> None:
        """Raise ReplayError, with the reasons, unless at least one image was fused."""
        if not self.modes:
            came = ' and '.join(f'{self.by_camera[stream]} of {stream}' for stream in (RGB, THERMAL))
            raise ReplayError(f'nothing was fused: {came} came; left out: {"; ".join(self.lines()) or "nothing"}')


def _typical_distance_ms(rgb_ns: list[int], thermal_ns: list[int]) -> float:
    """Return the median of every thermal stamp minus the RGB stamp that is closest to it."""
    rgb, thermal = np.unique(rgb_ns), np.asarray(thermal_ns)
    right = np.searchsorted(rgb, thermal).clip(0, len(rgb) - 1)
    left = (right - 1).clip(0)
    away = np.stack((thermal - rgb[left], thermal - rgb[right]))
    return float(np.median(np.take_along_axis(away, np.abs(away).argmin(axis=0)[None], axis=0))) / 1e6
