# SPDX-License-Identifier: Apache-2.0
"""Cars of the synthetic street: a solid hatchback, warm where a running engine makes it so.

Coordinates as in shapes.py, before the car is turned: x right, height up, z towards its front.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from .shapes import Part

_MATERIALS = {'glass': (.02, .022, .026), 'rubber': (.015, .015, .015), 'dark': (.02, .02, .02),
              'plate': (.25, .25, .22), 'tail': (.26, .015, .01), 'lens': (.30, .31, .33),
              'hub': (.12, .12, .12)}
_SNOW = (.76, .77, .79)
_TAIL = 3.0  # tail lamps do not grow with the headlamps
_W, _R, _FRONT, _REAR = .86, .62, 2.1, -2.0
# Faces that span the car: layer, (x, x) at the lower and upper edge, (height, z) of both edges,
# material, warmth in K when the engine runs, and warmth of a parked car (its top faces the cold
# sky).
_ENDS = (
    (0, (_W, -_W), (_W, -_W), (.28, _FRONT), (.72, _FRONT), 'paint', 15, 0),
    (1, (.5, -.5), (.5, -.5), (.36, _FRONT), (.62, _FRONT), 'dark', 26, 0),
    (1, (.82, .56), (.82, .56), (.52, _FRONT), (.66, _FRONT), 'lens', 17, 0),
    (1, (-.56, -.82), (-.56, -.82), (.52, _FRONT), (.66, _FRONT), 'lens', 17, 0),
    (0, (_W, -_W), (_W, -_W), (.72, _FRONT), (.95, .95), 'paint', 18, -1),
    (0, (_W, -_W), (_R, -_R), (.95, .95), (1.42, .25), 'paint', 4, -1),
    (1, (.76, -.76), (.55, -.55), (.99, .89), (1.36, .33), 'glass', 6, -2),
    (0, (_R, -_R), (_R, -_R), (1.42, .25), (1.45, -1.2), 'paint', 3, -2),
    (0, (-_W, _W), (-_R, _R), (.95, _REAR), (1.45, -1.2), 'paint', 4, -1),
    (1, (-.68, .68), (-.52, .52), (1.02, -1.89), (1.38, -1.31), 'glass', 6, -2),
    (0, (-_W, _W), (-_W, _W), (.28, _REAR), (.95, _REAR), 'paint', 9, -1),
    (1, (.25, .6), (.25, .6), (.20, _REAR - .02), (.34, _REAR - .02), 'dark', 38, 0),
    (1, (-.26, .26), (-.26, .26), (.55, _REAR - .01), (.68, _REAR - .01), 'plate', 8, -1),
    (1, (-.84, -.62), (-.84, -.62), (.66, _REAR - .01), (.90, _REAR - .01), 'tail', 10, -1),
    (1, (.62, .84), (.62, .84), (.66, _REAR - .01), (.90, _REAR - .01), 'tail', 10, -1),
    (0, (-_W, _W), (-_W, _W), (.14, _REAR + .2), (.30, _REAR + .2), 'dark', 14, 0),
    (0, (_W, -_W), (_W, -_W), (.14, _FRONT - .2), (.30, _FRONT - .2), 'dark', 18, 0),
)


def _wheel(axle: float, radius: float) -> tuple[tuple[float, float], ...]:
    turns = (-2 * math.pi * k / 14 for k in range(14))
    return tuple((axle + radius * math.cos(turn), .31 + radius * math.sin(turn)) for turn in turns)


def _half_width(height: float) -> float:
    """The cabin narrows from the belt line to the roof."""
    return _W - (_W - _R) * min(max((height - .95) / .47, 0.0), 1.0)


# Both flanks: layer, outline (z, height), how far it stands out, material, warmth running and
# parked.
_FLANKS = (
    (0, ((_REAR, .28), (_REAR, .95), (.95, .95), (_FRONT, .72), (_FRONT, .28)), 0, 'paint', 7, -1),
    (0, ((_REAR, .95), (-1.2, 1.45), (.25, 1.42), (.95, .95)), 0, 'paint', 6, -1),
    (1, ((-1.65, .99), (-1.15, 1.38), (-.55, 1.38), (-.55, .99)), 0, 'glass', 5, -2),
    (1, ((-.45, .99), (-.45, 1.38), (.18, 1.36), (.72, .99)), 0, 'glass', 5, -2),
    *((layer, _wheel(axle, radius), .01, material, warm, 0)
      for axle in (-1.25, 1.3)
      for layer, radius, material, warm in ((2, .31, 'rubber', 15), (3, .17, 'hub', 24))),
)


@cache
def _faces(running: bool) -> tuple[tuple[int, np.ndarray, str, float], ...]:
    """Return (layer, polygon N x 3, material, warmth); corners run clockwise seen from outside."""
    hot, faces = float(running), []
    for layer, low_x, high_x, low, high, material, warm, parked in _ENDS:
        points = np.array([(low_x[0], *low), (low_x[1], *low), (high_x[1], *high),
                           (high_x[0], *high)], float)
        faces.append((layer, points, material, hot * warm + (1 - hot) * parked))
    for sign in (1.0, -1.0):
        for layer, outline, stand_out, material, warm, parked in _FLANKS:
            points = np.array([(sign * (_half_width(height) + stand_out), height, z)
                               for z, height in outline])
            points = points[::-1] if sign > 0 else points
            faces.append((layer, points, material, hot * warm + (1 - hot) * parked))
    return tuple(faces)


@dataclass(frozen=True)
class Car:
    """A small hatchback; paint as reflectance.

    Running cars are warm at engine, wheels and exhaust.

    headlamps: radiance of its lamps, 0 when off. snow: whether it lies on bonnet and roof.
    """

    paint: tuple[float, float, float]
    running: bool
    headlamps: float = 0.0
    snow: bool = False

    def parts(self, heading: tuple[float, float], eye: tuple[float, float, float]) -> list[Part]:
        """Return the faces that the eye (x, height, z relative to the car) sees, far ones first.
        """
        yaw = math.atan2(heading[0], heading[1])
        turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0],
                         [-math.sin(yaw), 0, math.cos(yaw)]])
        seen = []
        for layer, points, material, warmth in _faces(self.running):
            placed = points @ turn.T
            a, b = placed[1] - placed[0], placed[2] - placed[0]
            outward = (b[1] * a[2] - b[2] * a[1], b[2] * a[0] - b[0] * a[2],
                       b[0] * a[1] - b[1] * a[0])
            towards = eye - placed[:4].mean(axis=0)
            if np.dot(outward, towards) > 0:
                level = outward[1] > .7 * math.hypot(*outward)
                seen.append((layer, -math.hypot(*towards),
                             self._part(placed, material, warmth, level)))
        return [part for _, _, part in sorted(seen, key=lambda item: item[:2])]

    def _part(self, points: np.ndarray, material: str, warmth: float, level: bool) -> Part:
        if material == 'paint' and level and self.snow:
            return Part(points, _SNOW, -1.5)
        albedo = self.paint if material == 'paint' else _MATERIALS[material]
        tint = {'lens': (1.0, .93, .80), 'tail': (.12, .006, .004)}.get(material, (0.0, 0.0, 0.0))
        light = min(self.headlamps, _TAIL) if material == 'tail' else self.headlamps
        return Part(points, albedo, warmth,
                    (light * tint[0], light * tint[1], light * tint[2]))
