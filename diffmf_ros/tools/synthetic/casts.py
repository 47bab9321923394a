# SPDX-License-Identifier: Apache-2.0
"""Who moves in the street: the scripts of the synthetic drive, and the path that each row of them means."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .light import PERIOD_M


class Mover(NamedTuple):
    """kind, body height, start (x, metres ahead of the rig) at time 0, velocity (x, z) over ground in m/s."""

    kind: str
    height_m: float
    start: tuple[float, float]
    velocity: tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Where an actor is, relative to the rig along the street: x, z_ahead, heading (x, z), stride phase."""

    x_m: float
    ahead_m: float
    heading: tuple[float, float]
    phase: float


NIGHT = (
    Mover('person', 1.78, (-3.4, 25.0), (1.25, 0.0)),
    Mover('person', 1.70, (6.1, 26.0), (0.0, -1.2)),
    Mover('person', 1.82, (-6.2, 22.0), (0.0, 1.4)),
    Mover('person', 1.66, (7.2, 19.0), (0.0, 1.3)),
    Mover('person', 1.72, (7.9, 19.4), (0.0, 1.3)),
    Mover('cyclist', 1.75, (3.1, 10.5), (0.0, 3.6)),
    Mover('car', 1.45, (-1.9, 50.0), (0.0, -5.0)),
    Mover('car', 1.45, (-12.0, 67.0), (4.5, 0.0)),
    Mover('person', 1.75, (1.0, 58.0), (-0.8, 0.0)),
    Mover('person', 1.80, (6.6, 62.0), (0.0, -0.4)),
    Mover('person', 1.68, (-2.0, 76.0), (0.7, 0.0)),
    Mover('person', 1.73, (-6.4, 70.0), (0.0, 0.5)),
)
SMOKE = (
    Mover('person', 1.78, (-2.6, 19.0), (0.95, 0.0)),
    Mover('person', 1.70, (3.9, 21.0), (-0.8, 0.2)),
    Mover('person', 1.82, (-4.2, 13.0), (0.25, 1.3)),
    Mover('person', 1.66, (0.6, 24.0), (0.5, -0.3)),
    Mover('person', 1.74, (5.6, 13.5), (-0.35, 0.9)),
    Mover('car', 1.45, (-1.9, 34.0), (0.0, -1.6)),
)
STREET = (
    Mover('person', 1.78, (-3.0, 16.0), (1.1, 0.2)),
    Mover('person', 1.70, (3.6, 20.0), (-0.9, 0.5)),
    Mover('person', 1.82, (-6.4, 13.0), (0.0, 1.2)),
    Mover('person', 1.64, (-7.1, 13.6), (0.0, 1.2)),
    Mover('person', 1.74, (6.4, 15.0), (0.0, 1.0)),
    Mover('person', 1.80, (2.9, 11.5), (0.0, 1.6)),
    Mover('person', 1.68, (-1.0, 33.0), (0.6, -0.4)),
    Mover('person', 1.76, (-6.3, 38.0), (0.0, -1.2)),
    Mover('person', 1.72, (0.5, 44.0), (-0.7, -0.3)),
    Mover('cyclist', 1.75, (3.5, 17.0), (0.0, 1.9)),
    Mover('car', 1.45, (-1.9, 46.0), (0.0, -4.0)),
)
# Cars follow each other at a third of the street's period, so there is always one that dazzles.
GLARE = (
    Mover('person', 1.78, (-2.2, 17.0), (0.9, 0.3)),
    Mover('person', 1.70, (-3.9, 14.0), (0.0, 1.2)),
    Mover('person', 1.82, (-6.2, 16.0), (0.0, 1.4)),
    Mover('person', 1.66, (0.4, 24.0), (-0.5, 0.2)),
    Mover('person', 1.74, (3.1, 15.0), (0.0, 1.3)),
    Mover('person', 1.72, (-0.3, 38.0), (-0.3, -0.5)),
    Mover('car', 1.45, (-1.9, 26.0), (0.0, -0.6)),
    Mover('car', 1.45, (-1.9, 52.7), (0.0, -0.6)),
    Mover('car', 1.45, (-1.9, 79.4), (0.0, -0.6)),
)
# The travelling window is as long as the street's period, so whoever crosses a street stays on it.
_NEAR_M = 5.5


def path_of(mover: Mover, *, rig_speed: float, phase: float) -> Callable[[float], Pose]:
    """Return the pose over time: straight on, and in again at the far end of the travelling window.

    Crossing people turn round at the pavements; a crossing car that has left comes again.
    """
    start, velocity = mover.start, mover.velocity
    stride = {'person': 2 * math.pi / 1.45, 'cyclist': 2 * math.pi / 5.0, 'car': 0.0}[mover.kind]
    pace = math.hypot(*velocity)
    reach = 17.0 if mover.kind == 'car' else 6.3

    def pose(t_s: float) -> Pose:
        ahead = _NEAR_M + (start[1] + (velocity[1] - rig_speed) * t_s - _NEAR_M) % PERIOD_M
        x, heading = start[0] + velocity[0] * t_s, velocity
        if velocity[0] and mover.kind == 'car':
            x = (x + reach) % (2 * reach) - reach
        elif velocity[0]:
            walked = (x + reach) % (4 * reach)
            back = walked > 2 * reach
            x = 3 * reach - walked if back else walked - reach
            heading = (-velocity[0], velocity[1]) if back else velocity
        return Pose(x, ahead, heading, phase + stride * pace * t_s)

    return pose
