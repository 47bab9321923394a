# SPDX-License-Identifier: Apache-2.0
"""Why frames of a recording left without a partner, by the stamps of both cameras."""

from collections.abc import Sequence

import numpy as np

from ..core.frames import RGB, THERMAL
from ..core.settings import SyncSettings
from ..core.sync.pairing import BEGIN_RATIO, MARGIN

# Frames of one camera that the pairing sees before it knows how fast the camera is.
_FIRST_FRAMES = 5
# One camera is faster than the other from this ratio of their rates on.
_FASTER = 1.02


def typical_distance_ms(rgb_ns: Sequence[int], thermal_ns: Sequence[int]) -> float:
    """Return the median of every thermal stamp minus the RGB stamp that is closest to it."""
    rgb, thermal = np.unique(rgb_ns), np.asarray(thermal_ns)
    right = np.searchsorted(rgb, thermal).clip(0, len(rgb) - 1)
    left = (right - 1).clip(0)
    away = np.stack((thermal - rgb[left], thermal - rgb[right]))
    closest = np.take_along_axis(away, np.abs(away).argmin(axis=0)[None], axis=0)
    return float(np.median(closest)) / 1e6


def why_unpaired(stamps_ns: dict[str, list[int]], paired_ns: Sequence[int], sync: SyncSettings,
                 *, distance_ms: float) -> str:
    """Return why frames left without a partner, and the setting that keeps them where one does.

    Args:
        stamps_ns: the stamps of the frames of RGB and THERMAL that decoded, with the offsets; at
            least one of each.
        paired_ns: those of the RGB frames that got a partner.
        sync: the settings of the pairing.
        distance_ms: the typical distance of the stamps.
    """
    left_ns = np.setdiff1d(stamps_ns[RGB], paired_ns)
    rgb_ms, thermal_ms = (_period_ms(stamps_ns[stream]) for stream in (RGB, THERMAL))
    if abs(distance_ms) <= sync.max_distance_ms and len(left_ns) and rgb_ms and thermal_ms:
        slower = thermal_ms / rgb_ms
        hold = f'sync.hold_last_ms {np.ceil(MARGIN * thermal_ms):.0f} keeps'
        known_ns = sorted(stamps_ns[THERMAL])[:_FIRST_FRAMES][-1]
        early = int((left_ns <= known_ns).sum())
        if sync.hold_last_ms < 0 and slower >= BEGIN_RATIO and 2 * early >= len(left_ns):
            until_s = (known_ns - min(stamps_ns[RGB])) / 1e9
            return (f'{early} of rgb came in the first {until_s:.1f} s, before the rate of '
                    f'the slower thermal camera was known; {hold} those after the first thermal '
                    'frame')
        if sync.hold_last_ms <= 0 and slower >= _FASTER:
            return (f'rgb has {1e3 / rgb_ms:.1f} frames a second and thermal '
                    f'{1e3 / thermal_ms:.1f}, so {len(left_ns)} of rgb are left over; {hold} '
                    'them')
    return (f'the thermal stamps are typically {distance_ms:+.1f} ms from the closest one of rgb; '
            f'sync.max_distance_ms is {sync.max_distance_ms:g}')


def _period_ms(stamps_ns: Sequence[int]) -> float:
    """Return the usual time between two frames, 0 where there are too few."""
    gaps_ns = np.diff(np.unique(stamps_ns))
    return float(np.median(gaps_ns)) / 1e6 if len(gaps_ns) else 0.0
