# SPDX-License-Identifier: Apache-2.0
"""The world of the synthetic drive: a street, its weather, and who moves on it; a function of seed
and time.

The world axes are x right of the street's middle, height above the road and z along the street,
all in meters. The street repeats every PERIOD_M; people and cars of the cast live in a window that
travels with the rig, so a drive may be as long as one likes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import textures
from .cameras import DriveError
from .environments import (
    CROSS_STREET_M,
    ENVIRONMENTS,
    LAMP_X_M,
    Environment,
    Light,
    Mover,
    Pose,
    lamps,
    path_of,
)
from .shapes import Car, Part, Person, box, cyclist, ground_shadow, lamp_post, sign, tree

LANE_X_M = 1.75
# What an actor's shadow on the ground is like: half its width and length in metres.
_SHADOW_M = {'person': (.42, .26), 'cyclist': (.30, .85), 'car': (.98, 2.2)}


@dataclass(frozen=True)
class Actor:
    """One mover. shape(pose, eye) gives its parts; path(t_s) its pose. label is its value in label
    images."""

    label: int
    kind: str
    path: Callable[[float], Pose] = field(repr=False)
    shape: Callable[[Pose, tuple[float, float, float]], list[Part]] = field(repr=False)


@dataclass(frozen=True)
class Prop:
    """Something that stands in the street and is as warm as the air.

    Flat props always face the camera.
    """

    x_m: float
    z_m: float
    parts: tuple[Part, ...]
    car: Car | None = None


class Scene:
    """A street of one seed: textures, props, actors, and the shadow of each kind of actor."""

    def __init__(self, name: str, seed: int):
        if name not in ENVIRONMENTS:
            raise DriveError(f'the scene must be one of {", ".join(ENVIRONMENTS)}; got {name!r}')
        environment = self.environment = ENVIRONMENTS[name]
        rng = np.random.default_rng([seed, 1])
        self.light = Light(environment.lamp, environment.windows, environment.sun,
                           environment.sun_k)
        self.ground = textures.make_ground(rng, self.light, heat=environment.heat,
                                           snow=environment.snow)
        self.walls = {side: textures.make_wall(rng, self.light, side, heat=environment.heat)
                      for side in (-1.0, 1.0)}
        self.props = tuple(_props(rng, environment))
        self.actors = tuple(_actors(rng, environment, seed))
        self.shadows = {kind: ground_shadow(size, environment.shadow) for kind,
                        size in _SHADOW_M.items() if environment.shadow}

    def rig_z_m(self, t_s: float) -> float:
        """Position of the rig along the street at time t_s."""
        return self.environment.speed_m_s * t_s


def _props(rng: np.random.Generator, environment: Environment):
    glow = 3.2 if environment.windows else 0.0
    for z, side, works in lamps():
        yield Prop(side * (LAMP_X_M + 1.5), z, tuple(lamp_post(side, glow=glow if works else 0.0)))
    for z in np.arange(2.0, 62.0, 10.0):
        for side in (-1.0, 1.0):
            if rng.uniform() < .75:
                x, z_m = side * rng.uniform(6.6, 7.0), float(z + rng.uniform(0, 3))
                yield Prop(x, z_m, tuple(tree(rng, snow=environment.snow)))
    yield Prop(5.9, 19.5, tuple(sign('crossing')))
    yield Prop(-5.9, 26.5, tuple(sign('crossing')))
    yield Prop(5.9, 41.0, tuple(sign('limit')))
    paints = ((.30, .03, .03), (.05, .09, .22), (.36, .37, .38), (.10, .11, .11), (.28, .26, .20))
    for side, spots in ((-1.0, (9.5, 16.2, 35.6, 42.0)), (1.0, (9.6, 29.0, 48.6))):
        for z in spots:
            paint = paints[rng.integers(len(paints))]
            yield Prop(side * 4.55, z, (), Car(paint, running=False, snow=bool(environment.snow)))
    # Where the cross street leaves, the next house shows its side wall.
    for side in (-1.0, 1.0):
        yield Prop(side * 13.0, CROSS_STREET_M[1], tuple(_side_wall(rng, environment)))


def _side_wall(rng: np.random.Generator, environment: Environment) -> list[Part]:
    parts = [Part(box(-4.0, 0.0, 4.0, 8.6), (.24, .20, .16), 0.2)]
    for x in (-2.8, -.6, 1.6):
        for height in (1.2, 4.0, 6.4):
            lit = rng.uniform() < .3
            tone = environment.windows * (.25 if lit else 0.0)
            parts.append(Part(box(x, height, x + 1.0, height + 1.4), (.05, .05, .05), -.2,
                              (tone, tone * .7, tone * .35)))
    return parts


def _actors(rng: np.random.Generator, environment: Environment, seed: int):
    """Yield the actors: the environment's cast, in clothes and paint that the seed picks."""
    places = np.random.default_rng([seed, 7])
    for label, mover in enumerate(environment.cast, start=1):
        if environment.scattered:
            x, ahead = mover.start + places.uniform(-1, 1, 2) * (0.4, 2.5)
            mover = mover._replace(start=(float(x), float(ahead)))
        shape = _shape(rng, environment, mover)
        path = path_of(mover, rig_speed=environment.speed_m_s, phase=rng.uniform(0, 6.28))
        yield Actor(label, mover.kind, path, shape)


def _shape(rng: np.random.Generator, environment: Environment, mover: Mover) -> Callable:
    if mover.kind == 'person':
        tint = rng.uniform(*environment.coats) * rng.uniform(1 - environment.hues,
                                                             1 + environment.hues, 3)
        trousers = tint[::-1] * environment.trousers
        figure = Person(mover.height_m, tuple(tint), tuple(trousers), environment.skin_k,
                        environment.clothing)
        return lambda pose, eye: figure.parts(pose.phase, pose.heading)
    if mover.kind == 'car':
        tone = environment.car_paint
        car = Car((tone, tone * 1.05, tone * 1.15), running=True, headlamps=environment.headlamps)
        return lambda pose, eye: car.parts(pose.heading, eye)
    return lambda pose, eye: cyclist(pose.phase, environment.skin_k)
