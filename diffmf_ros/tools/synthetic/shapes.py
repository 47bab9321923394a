# SPDX-License-Identifier: Apache-2.0
"""What stands and moves on the road, as colored, warm polygons: people, lamps, signs, trees,
and cars, which are warm where a running engine makes them so.

A shape is a list of parts in painting order. Coordinates are metres: x right, height up, z away
from the camera, from the point where the shape touches the ground. Colors are linear reflectances
(R, G, B) in 0..1, emission is radiance on the scale where a lit white wall is about 1,
temperatures are degrees Celsius above the air.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

_BLACK = (0.0, 0.0, 0.0)
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


@dataclass(frozen=True)
class Part:
    """One flat polygon: points N x 3 (x, height, z) in metres, reflectance, emission, warmth in K.

    With alpha below 1 it is a shadow: it darkens what is behind it, and thermal does not see it.
    """

    points: np.ndarray
    albedo: tuple[float, float, float]
    warmth_k: float
    emission: tuple[float, float, float] = _BLACK
    alpha: float = 1.0


def disc(x: float, height: float, radius: tuple[float, float], corners: int = 16) -> np.ndarray:
    """Return an ellipse that faces the camera, corners x 3."""
    angle = np.arange(corners) * (2 * math.pi / corners)
    return np.column_stack(
        [x + radius[0] * np.cos(angle), height + radius[1] * np.sin(angle), np.zeros(corners)])


def box(x0: float, h0: float, x1: float, h1: float) -> np.ndarray:
    """Return an upright rectangle that faces the camera, 4 x 3."""
    return np.array([[x0, h0, 0.0], [x1, h0, 0.0], [x1, h1, 0.0], [x0, h1, 0.0]])


def limb(start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> np.ndarray:
    """Return the outline of a tapered, round-ended limb from start to end (x, height), 14 x 3."""
    along = math.atan2(end[1] - start[1], end[0] - start[0])
    turn = np.linspace(-math.pi / 2, math.pi / 2, 7)
    tip = np.column_stack([end[0] + r1 * np.cos(along + turn), end[1] + r1 * np.sin(along + turn)])
    base = np.column_stack(
        [start[0] - r0 * np.cos(along + turn), start[1] - r0 * np.sin(along + turn)])
    outline = np.concatenate([tip, base])
    return np.column_stack([outline, np.zeros(len(outline))])


def ground_shadow(half_m: tuple[float, float], darkness: float) -> list[Part]:
    """Return the soft shadow of something half_m (x, z) large on the ground below it; darkness
    below 0.5."""
    parts = []
    for grown, alpha in ((1.25, .35), (1.1, .7), (.9, 1.0)):
        flat = disc(0.0, 0.0, (half_m[0] * grown, half_m[1] * grown))[:, [0, 2, 1]]
        parts.append(Part(flat, _BLACK, 0.0, alpha=alpha * darkness))
    return parts


def _below(point: tuple[float, float], length: float, angle: float) -> tuple[float, float]:
    return point[0] + length * math.sin(angle), point[1] - length * math.cos(angle)


@dataclass(frozen=True)
class Person:
    """A walker: height in metres, clothes as reflectances, skin_k how much warmer the face is than
    air.

    clothing: how much of the usual warmth the clothes let out; thick coats have less than 1.
    """

    height_m: float
    coat: tuple[float, float, float]
    trousers: tuple[float, float, float]
    skin_k: float
    clothing: float = 1.0

    @property
    def _cloth_k(self) -> float:
        return self.clothing * self.skin_k

    def parts(self, phase: float, heading: tuple[float, float]) -> list[Part]:
        """Return the parts at a phase of the stride (radians), walking towards heading (x, z)."""
        side = heading[0] / math.hypot(*heading)
        away = heading[1] > 0
        h, swing = self.height_m, 0.34 * abs(side) + 0.08
        direction = 1.0 if side >= 0 else -1.0
        hip, shoulder = 0.525 * h, 0.81 * h
        half = (0.045 + 0.045 * (1 - abs(side))) * h
        legs = [self._leg((offset * half, hip), phase + turn, swing * direction)
                for offset, turn in ((-0.7, 0.0), (0.7, math.pi))]
        arms = [self._arm((offset * (half + 0.045 * h), shoulder - 0.02 * h), phase + turn,
                          swing * direction)
                for offset, turn in ((-1.0, math.pi), (1.0, 0.0))]
        lean = 0.02 * h * direction * abs(side)
        body = self._torso(half, hip, lean)
        return arms[0] + legs[0] + legs[1] + body + self._head(lean, away,
                                                               direction * abs(side)) + arms[1]

    def _torso(self, half: float, hip: float, lean: float) -> list[Part]:
        h = self.height_m
        # How far out in half widths, height, and share of the lean, up one side.
        side = ((1.25, hip - 0.05 * h, 0.0), (1.2, 0.66 * h, 0.5), (1.5, 0.79 * h, 1.0),
                (0.9, 0.835 * h, 1.0))
        right, left = (np.array([(sign * half * out + share * lean, height, 0.0) for out, height,
                                 share in side])
                       for sign in (1, -1))
        inner = right[::-1] - (0.45 * half, 0.0, 0.0)
        # The light comes a little from the left, so the right flank is darker.
        red, green, blue = self.coat
        shade = 0.75 * red, 0.75 * green, 0.75 * blue
        return [Part(np.concatenate([right, left[::-1]]), self.coat, 0.56 * self._cloth_k),
                Part(np.concatenate([right, inner]), shade, 0.56 * self._cloth_k),
                Part(disc(lean, 0.72 * h, (half * 0.8, 0.07 * h)), self.coat,
                     0.64 * self._cloth_k)]

    def _leg(self, hip: tuple[float, float], phase: float, swing: float) -> list[Part]:
        h = self.height_m
        thigh = swing * math.sin(phase)
        bend = 1.1 * abs(swing) * max(0.0, math.sin(phase + 1.9)) * (1 if swing >= 0 else -1)
        knee = _below(hip, 0.25 * h, thigh)
        ankle = _below(knee, 0.235 * h, thigh - bend)
        reach = math.copysign(0.07 * h * min(1.0, abs(swing) * 2), swing)
        toe = ankle[0] + reach, ankle[1] - 0.018 * h
        return [Part(limb(hip, knee, 0.052 * h, 0.038 * h), self.trousers, 0.50 * self._cloth_k),
                Part(limb(knee, ankle, 0.036 * h, 0.024 * h), self.trousers, 0.42 * self._cloth_k),
                Part(limb(ankle, toe, 0.024 * h, 0.020 * h), (0.03, 0.03, 0.03),
                     0.25 * self._cloth_k)]

    def _arm(self, shoulder: tuple[float, float], phase: float, swing: float) -> list[Part]:
        h = self.height_m
        elbow = _below(shoulder, 0.165 * h, 0.8 * swing * math.sin(phase))
        wrist = _below(elbow, 0.14 * h, 0.8 * swing * math.sin(phase) + 0.35 * swing)
        hand = _below(wrist, 0.03 * h, 0.0)
        return [Part(limb(shoulder, elbow, 0.032 * h, 0.027 * h), self.coat, 0.48 * self._cloth_k),
                Part(limb(elbow, wrist, 0.026 * h, 0.020 * h), self.coat, 0.45 * self._cloth_k),
                Part(limb(wrist, hand, 0.020 * h, 0.017 * h), (0.22, 0.14, 0.10),
                     0.80 * self.skin_k)]

    def _head(self, lean: float, away: bool, side: float) -> list[Part]:
        h = self.height_m
        skin, hair = (0.22, 0.14, 0.10), (0.03, 0.025, 0.02)
        x = lean * 1.4
        neck = Part(limb((lean, 0.82 * h), (x, 0.88 * h), 0.032 * h, 0.03 * h), skin,
                    0.85 * self.skin_k)
        skull = Part(disc(x, 0.932 * h, (0.05 * h, 0.066 * h)), hair, 0.62 * self.skin_k)
        if away:
            return [neck, skull]
        face = Part(disc(x + 0.014 * h * side, 0.918 * h, (0.04 * h, 0.05 * h)), skin, self.skin_k)
        return [neck, skull, face]


def cyclist(phase: float, skin_k: float) -> list[Part]:
    """Return a rider without lights, seen from behind."""
    coat, dark = (0.035, 0.04, 0.05), (0.02, 0.02, 0.02)
    lift = 0.14 * math.sin(phase)
    parts = [Part(box(-0.025, 0.02, 0.025, 0.70), dark, 3.0),
             Part(limb((-0.28, 1.02), (0.28, 1.02), 0.02, 0.02), dark, 0.5)]
    for side, up in ((-1.0, lift), (1.0, -lift)):
        hip, knee = (0.10 * side, 0.98), (0.16 * side, 0.66 + up)
        parts += [Part(limb(hip, knee, 0.09, 0.065), dark, 0.55 * skin_k),
                  Part(limb(knee, (0.12 * side, 0.26 + up), 0.06, 0.045), dark, 0.48 * skin_k),
                  Part(limb((0.19 * side, 1.38), (0.30 * side, 1.05), 0.05, 0.04), coat,
                       0.5 * skin_k)]
    torso = np.array([[-.17, .92, 0], [.17, .92, 0], [.21, 1.25, 0], [.23, 1.42, 0], [.1, 1.5, 0],
                      [-.1, 1.5, 0], [-.23, 1.42, 0], [-.21, 1.25, 0]])
    parts += [Part(torso, coat, 0.58 * skin_k),
              Part(limb((0, 1.48), (0, 1.56), 0.055, 0.05), (0.22, 0.14, 0.10), 0.9 * skin_k),
              Part(disc(0, 1.65, (0.09, 0.115)), (0.05, 0.05, 0.05), 0.55 * skin_k)]
    return parts


def lamp_post(side: float, *, glow: float) -> list[Part]:
    """Return a street lamp whose arm reaches over the road (side: -1 left of it, 1 right)."""
    metal = (0.10, 0.10, 0.10)
    light = (glow * 1.0, glow * 0.78, glow * 0.48)
    return [Part(box(-0.07, 0, 0.07, 6.0), metal, -0.6),
            Part(limb((0, 5.95), (-1.5 * side, 6.2), 0.05, 0.04), metal, -0.6),
            Part(disc(-1.5 * side, 6.14, (0.32, 0.10)), (0.3, 0.3, 0.3), 2.0, light)]


def sign(kind: str) -> list[Part]:
    """Return a traffic sign on a post: 'limit' (a round one) or 'crossing' (a blue square)."""
    post = Part(box(-0.03, 0, 0.03, 2.6), (0.25, 0.25, 0.25), -0.3)
    if kind == 'limit':
        face = [Part(disc(0, 2.35, (.33, .33), 24), (.75, .05, .04), -0.3),
                Part(disc(0, 2.35, (.25, .25), 24), (.9, .9, .9), -0.3),
                Part(limb((-.10, 2.46), (-.10, 2.25), .022, .022), (.02, .02, .02), -0.3),
                Part(limb((-.14, 2.35), (-.06, 2.35), .02, .02), (.02, .02, .02), -0.3),
                Part(disc(.09, 2.35, (.075, .125)), (.02, .02, .02), -0.3),
                Part(disc(.09, 2.35, (.035, .085)), (.9, .9, .9), -0.3)]
        return [post, *face]
    triangle = np.array([[-.2, 2.16, 0], [.2, 2.16, 0], [0, 2.52, 0]])
    return [post, Part(box(-.31, 2.02, .31, 2.64), (.05, .14, .60), -0.3),
            Part(triangle, (.9, .9, .9), -0.3),
            Part(disc(0, 2.42, (.03, .03)), (.02, .02, .02), -0.3),
            Part(limb((0, 2.37), (0.02, 2.2), .03, .04), (.02, .02, .02), -0.3)]


def tree(rng: np.random.Generator, *, snow: float = 0.0) -> list[Part]:
    """Return a street tree: a trunk and a cloud of leaves, its shaded underside painted first.

    snow: how much of the upper leaves it covers, 0 to 1.
    """
    height, spread = rng.uniform(4.6, 6.2), rng.uniform(1.3, 1.8)
    parts = [Part(limb((0, 0), (rng.uniform(-.15, .15), height * .55), .14, .08), (.06, .045, .03),
                  -0.2)]
    for k in range(90):
        level = (k / 90 + rng.uniform(-.15, .15)) * .5
        angle, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 1))
        x = spread * reach * math.cos(angle)
        middle = height * (.68 + .30 * reach * math.sin(angle) * .8)
        tone = 0.5 + level + 0.25 * math.sin(angle) + rng.uniform(-.12, .12)
        white = snow * min(max(2 * level, 0.0), 1.0) * .6
        red, green, blue = (channel * tone * (1 - white) + .75 * white
                            for channel in (.05, .075, .028))
        size = rng.uniform(.16, .42)
        parts.append(Part(disc(x, middle, (size, size * rng.uniform(.6, .9)), 9),
                          (red, green, blue), rng.uniform(-.5, .1)))
    return parts


def _wheel(axle: float, radius: float) -> tuple[tuple[float, float], ...]:
    turns = (-2 * math.pi * k / 14 for k in range(14))
    return tuple((axle + radius * math.cos(turn), .31 + radius * math.sin(turn)) for turn in turns)


def _half_width(height: float) -> float:
    """Return half the width of the cabin, which narrows from the belt line to the roof."""
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
