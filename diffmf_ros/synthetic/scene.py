# SPDX-License-Identifier: Apache-2.0
"""The world of the synthetic drive: a street, its weather, and who moves on it; a function of seed and time.

World axes: x right of the street's middle, height above the road, z along the street, all in metres.
The street repeats every PERIOD_M; people and cars of the cast live in a window that travels with the
rig, so a drive may be as long as one likes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import textures
from .cameras import DriveError
from .cars import Car
from .shapes import Part, Person, box, cyclist, lamp_post, sign, tree

LANE_X_M = 1.75


@dataclass(frozen=True)
class Environment:
    """Light and weather. Colours are linear (R, G, B); temperatures degrees Celsius.

    headlight is the irradiance of the own low beam at 10 m; sky_c is (zenith, horizon); skin_k is how
    much warmer a face is than the air; smoke is the optical depth of the densest sheet in the visible.
    """

    air_c: float
    skin_k: float
    sky_c: tuple[float, float]
    speed_m_s: float
    ambient: tuple[float, float, float]
    lamp: tuple[float, float, float]
    headlight: float
    windows: float
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    exposure: float
    smoke: float


ENVIRONMENTS = {
    'night': Environment(
        air_c=11.0, skin_k=20.0, sky_c=(-10.0, 4.0), speed_m_s=3.0, ambient=(.010, .013, .021),
        lamp=(.40, .285, .155), headlight=.20, windows=1.0, sky=((.0010, .0016, .0042), (.010, .009, .011)),
        exposure=5.0, smoke=0.0),
    'smoke': Environment(
        air_c=15.0, skin_k=17.0, sky_c=(-8.0, 8.0), speed_m_s=1.5, ambient=(.60, .63, .68),
        lamp=(0.0, 0.0, 0.0), headlight=0.0, windows=0.0, sky=((.50, .58, .70), (.72, .75, .78)),
        exposure=1.5, smoke=4.6),
}


@dataclass(frozen=True)
class Pose:
    """Where an actor is, relative to the rig along the street: x, z_ahead, heading (x, z), stride phase."""

    x_m: float
    ahead_m: float
    heading: tuple[float, float]
    phase: float


@dataclass(frozen=True)
class Actor:
    """One mover. shape(pose, eye) gives its parts; path(t_s) its pose. label is its value in label images."""

    label: int
    kind: str
    path: Callable[[float], Pose] = field(repr=False)
    shape: Callable[[Pose, tuple[float, float, float]], list[Part]] = field(repr=False)


@dataclass(frozen=True)
class Prop:
    """Something that stands in the street and is as warm as the air; flat props always face the camera."""

    x_m: float
    z_m: float
    parts: tuple[Part, ...]
    car: Car | None = None


class Scene:
    """A street of one seed: textures, props and actors."""

    def __init__(self, name: str, seed: int):
        if name not in ENVIRONMENTS:
            raise DriveError(f'the scene must be one of {", ".join(ENVIRONMENTS)}; got {name!r}')
        self.environment = ENVIRONMENTS[name]
        rng = np.random.default_rng([seed, 1])
        light = textures.Light(self.environment.lamp, self.environment.windows)
        self.ground = textures.make_ground(rng)
        self.walls = {side: textures.make_wall(rng, light, side) for side in (-1.0, 1.0)}
        self.props = tuple(_props(rng, self.environment))
        self.actors = tuple(_cast(rng, self.environment, name))

    def rig_z_m(self, t_s: float) -> float:
        """Position of the rig along the street at time t_s."""
        return self.environment.speed_m_s * t_s


def _props(rng: np.random.Generator, environment: Environment):
    glow = 4.0 if environment.windows else 0.0
    for z, side, works in textures.lamps():
        yield Prop(side * (textures.LAMP_X_M + 1.5), z,
                   tuple(lamp_post(side, glow=glow if works else 0.0)))
    for z in np.arange(2.0, 62.0, 10.0):
        for side in (-1.0, 1.0):
            if rng.uniform() < .75:
                yield Prop(side * rng.uniform(6.6, 7.0), float(z + rng.uniform(0, 3)), tuple(tree(rng)))
    yield Prop(5.9, 19.5, tuple(sign('crossing')))
    yield Prop(-5.9, 26.5, tuple(sign('crossing')))
    yield Prop(5.9, 41.0, tuple(sign('limit')))
    paints = ((.30, .03, .03), (.05, .09, .22), (.36, .37, .38), (.10, .11, .11), (.28, .26, .20))
    for side, spots in ((-1.0, (9.5, 16.2, 35.6, 42.0)), (1.0, (9.6, 29.0, 48.6))):
        for z in spots:
            yield Prop(side * 4.55, z, (), Car(paints[rng.integers(len(paints))], running=False))
    # Where the cross street leaves, the next house shows its side wall.
    for side in (-1.0, 1.0):
        yield Prop(side * 13.0, textures.CROSS_STREET_M[1], tuple(_side_wall(rng, environment)))


def _side_wall(rng: np.random.Generator, environment: Environment) -> list[Part]:
    parts = [Part(box(-4.0, 0.0, 4.0, 8.6), (.24, .20, .16), 0.2)]
    for x in (-2.8, -.6, 1.6):
        for height in (1.2, 4.0, 6.4):
            lit = rng.uniform() < .3
            tone = environment.windows * (.25 if lit else 0.0)
            parts.append(Part(box(x, height, x + 1.0, height + 1.4), (.05, .05, .05), -.2,
                              (tone, tone * .7, tone * .35)))
    return parts


def _cast(rng: np.random.Generator, environment: Environment, name: str):
    """Yield the actors; their clothes and paint are nearly as dark as the unlit street."""
    dark = .035 if name == 'night' else .10

    def person(height: float) -> Callable:
        tint = dark * rng.uniform(.7, 1.2) * rng.uniform(.88, 1.12, 3)
        figure = Person(height, tuple(tint), tuple(tint * .8), environment.skin_k)
        return lambda pose, eye: figure.parts(pose.phase, pose.heading)

    def car(tone: float) -> Callable:
        figure = Car((tone, tone * 1.05, tone * 1.15), running=True)
        return lambda pose, eye: figure.parts(pose.heading, eye)

    speed = environment.speed_m_s
    script = _NIGHT if name == 'night' else _SMOKE
    for label, (kind, size, start, velocity) in enumerate(script, start=1):
        if kind == 'person':
            shape = person(size)
        elif kind == 'car':
            shape = car(.035 if name == 'night' else .16)
        else:
            shape = lambda pose, eye: cyclist(pose.phase, environment.skin_k)  # noqa: E731
        yield Actor(label, kind, _path(kind, start, velocity, speed, rng.uniform(0, 6.28)), shape)


# kind, body height, (x, z ahead at t = 0), velocity (x, z) over ground in m/s
_NIGHT = (
    ('person', 1.78, (-3.4, 25.0), (1.25, 0.0)),
    ('person', 1.70, (6.1, 26.0), (0.0, -1.2)),
    ('person', 1.82, (-6.2, 22.0), (0.0, 1.4)),
    ('person', 1.66, (7.2, 19.0), (0.0, 1.3)),
    ('person', 1.72, (7.9, 19.4), (0.0, 1.3)),
    ('cyclist', 1.75, (3.1, 10.5), (0.0, 3.6)),
    ('car', 1.45, (-1.9, 50.0), (0.0, -5.0)),
    ('car', 1.45, (-12.0, 67.0), (4.5, 0.0)),
)
_SMOKE = (
    ('person', 1.78, (-2.6, 19.0), (0.95, 0.0)),
    ('person', 1.70, (3.9, 21.0), (-0.8, 0.2)),
    ('person', 1.82, (-4.2, 13.0), (0.25, 1.3)),
    ('person', 1.66, (0.6, 24.0), (0.5, -0.3)),
    ('person', 1.74, (5.6, 13.5), (-0.35, 0.9)),
    ('car', 1.45, (-1.9, 34.0), (0.0, -1.6)),
)
# The travelling window is as long as the street's period, so whoever crosses a street stays on it.
_NEAR_M = 5.5


def _path(kind: str, start, velocity, rig_speed: float, phase: float) -> Callable[[float], Pose]:
    """Return the pose over time: straight on, and in again at the far end of the travelling window.

    Crossing people turn round at the pavements; a crossing car that has left comes again.
    """
    stride = {'person': 2 * math.pi / 1.45, 'cyclist': 2 * math.pi / 5.0, 'car': 0.0}[kind]
    pace = math.hypot(*velocity)
    reach = 17.0 if kind == 'car' else 6.3

    def pose(t_s: float) -> Pose:
        ahead = _NEAR_M + (start[1] + (velocity[1] - rig_speed) * t_s - _NEAR_M) % textures.PERIOD_M
        x, heading = start[0] + velocity[0] * t_s, velocity
        if velocity[0] and kind == 'car':
            x = (x + reach) % (2 * reach) - reach
        elif velocity[0]:
            walked = (x + reach) % (4 * reach)
            back = walked > 2 * reach
            x = 3 * reach - walked if back else walked - reach
            heading = (-velocity[0], velocity[1]) if back else velocity
        return Pose(x, ahead, heading, phase + stride * pace * t_s)

    return pose
