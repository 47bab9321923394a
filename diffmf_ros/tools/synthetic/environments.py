# SPDX-License-Identifier: Apache-2.0
"""Light, weather and movers of every scene of the synthetic drive; light falls from fixed places:
lamps by night, the sun past the houses by day.

`ENVIRONMENTS` holds them by name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# The travelling window is as long as the street's period, so whoever crosses a street stays on it.
_NEAR_M = 5.5
Color = tuple[float, float, float]
PERIOD_M = 80.0
HALF_WIDTH_M = 9.0
CROSS_STREET_M = (64.0, 73.0)
LAMP_SPACING_M = 20.0
LAMP_X_M = 4.6
LAMP_HEIGHT_M = 6.1
# The sun stands at 45 degrees, to the right and a little behind: houses shade the right side of
# the street.
_SUN_DRIFT = 0.4
_PENUMBRA_M = 0.12


class Mover(NamedTuple):
    """kind, body height, start (x, metres ahead of the rig) at time 0, velocity (x, z) over ground
    in m/s."""

    kind: str
    height_m: float
    start: tuple[float, float]
    velocity: tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Where an actor is, relative to the rig along the street: x, z_ahead, heading (x, z), stride
    phase."""

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


def path_of(mover: Mover, *, rig_speed: float, phase: float) -> Callable[[float], Pose]:
    """Return the pose over time: straight on, and in again at the far end of the travelling
    window.

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


@dataclass(frozen=True)
class Environment:
    """Light and weather.

    Colors are linear (R, G, B); temperatures degrees Celsius, differences kelvin.

    summary: one line for lists of scenes.
    cast: the movers, rows of `Mover`; scattered: whether the seed moves their starting points.
    skin_k, clothing: how much warmer a face is than the air, and the share of it that clothes let
    out.
    sky_c: (zenith, horizon).
    lamp: irradiance under a street lamp or, with sun, of the sun where no house shades it.
    headlight: irradiance of the own low beam at 10 m; headlamps: radiance of the lamps of other
    cars.
    scatter: share of bright light that the lens spreads over 100 px (dirt and rain: glare).
    windows: brightness of lit windows; shadow: darkness of the ground under people and cars.
    coats, hues, car_paint: range of the reflectance of coats, its spread over R, G, B, and that of
    cars;
    trousers: their reflectance as a share of the coat's.
    smoke, smoke_color: optical depth of the densest sheet in the visible, radiance of thick smoke.
    fog_per_m: extinction of the visible; fog has the color of the horizon.
    snow: share of the ground under snow, which then falls, too.
    heat: how much of the day's warmth road and walls hold, sun_k: what the sun adds.
    auto_gain: whether the 8-bit thermal camera sets black and white by each picture; else
    gray_range_k, relative to the air, are black and white.
    """

    summary: str
    cast: tuple[Mover, ...]
    air_c: float
    skin_k: float
    sky_c: tuple[float, float]
    speed_m_s: float
    ambient: Color
    sky: tuple[Color, Color]
    exposure: float
    coats: tuple[float, float]
    car_paint: float
    lamp: Color = (0.0, 0.0, 0.0)
    sun: bool = False
    headlight: float = 0.0
    headlamps: float = 0.0
    scatter: float = 0.0
    windows: float = 0.0
    shadow: float = 0.5
    hues: float = 0.12
    trousers: float = 0.8
    clothing: float = 1.0
    scattered: bool = True
    smoke: float = 0.0
    smoke_color: Color = (0.50, 0.51, 0.52)
    fog_per_m: float = 0.0
    snow: float = 0.0
    heat: float = 1.0
    sun_k: float = 0.0
    auto_gain: bool = False
    gray_range_k: tuple[float, float] = (-5.0, 19.0)


_NIGHT = Environment(
    'unlit walkers on a dark street', NIGHT, air_c=11.0, skin_k=20.0, sky_c=(-10.0, 4.0),
    speed_m_s=3.0,
    ambient=(.010, .013, .021), sky=((.0010, .0016, .0042), (.010, .009, .011)), exposure=5.0,
    coats=(.0245, .042), car_paint=.035, lamp=(.40, .285, .155), headlight=.20, headlamps=2.5,
    windows=1.0, shadow=0.0, scattered=False)
_SMOKE = Environment(
    'white smoke, brighter than people', SMOKE, air_c=15.0, skin_k=17.0, sky_c=(-8.0, 8.0),
    speed_m_s=1.5,
    ambient=(.60, .63, .68), sky=((.50, .58, .70), (.72, .75, .78)), exposure=1.5,
    coats=(.07, .12), car_paint=.16, smoke=4.6, scattered=False)

ENVIRONMENTS = {
    'night': _NIGHT,
    'smoke': _SMOKE,
    'soot': replace(
        _SMOKE, summary='black smoke, darker than people', coats=(.15, .50), hues=.3, trousers=.5,
        smoke=8.0,
        smoke_color=(.026, .025, .024), scattered=True),
    'fog': Environment(
        'fog by day, sight about 40 m', STREET, air_c=6.0, skin_k=19.0, sky_c=(2.0, 5.0),
        speed_m_s=1.5,
        ambient=(.55, .57, .60), sky=((.60, .62, .64), (.58, .60, .62)), exposure=1.4,
        coats=(.03, .25), car_paint=.12, hues=.25, trousers=.6, clothing=.8, shadow=.3,
        fog_per_m=.09),
    'glare': replace(
        _NIGHT, summary='dazzling lamps of oncoming cars by night', cast=GLARE, speed_m_s=1.5,
        headlamps=150.0, scatter=.4, coats=(.03, .12), hues=.25, scattered=True),
    'snow': Environment(
        'dark coats on a snowy day', STREET, air_c=-3.0, skin_k=24.0, sky_c=(-14.0, -6.0),
        speed_m_s=1.5,
        ambient=(.74, .78, .84), sky=((.66, .69, .73), (.74, .76, .78)), exposure=1.9,
        coats=(.02, .05), car_paint=.10, clothing=.6, snow=.85, shadow=.35, heat=.4,
        gray_range_k=(-8.0, 16.0)),
    'day': Environment(
        'a sunny day, the road as warm as people', STREET, air_c=20.0, skin_k=13.0,
        sky_c=(-6.0, 8.0),
        speed_m_s=1.5, ambient=(.36, .42, .52), sky=((.16, .30, .62), (.48, .58, .72)),
        exposure=1.5, coats=(.03, .35), car_paint=.16, hues=.3, trousers=.4,
        lamp=(1.75, 1.62, 1.40), sun=True,
        heat=1.5, sun_k=6.0, gray_range_k=(-8.0, 18.0)),
    'dusk': Environment(
        'a warm evening, gray background in thermal', STREET, air_c=24.0, skin_k=9.5,
        sky_c=(21.0, 26.0),
        speed_m_s=1.5, ambient=(.050, .055, .075), sky=((.06, .08, .16), (.20, .16, .15)),
        exposure=4.0, coats=(.03, .20), car_paint=.08, hues=.3, trousers=.5, lamp=(.25, .18, .10),
        headlight=.08,
        headlamps=2.0, windows=.8, shadow=.3, heat=2.2, auto_gain=True),
}


def scene_list() -> str:
    """Return the scenes as text for a help page: name (summary), name (summary)."""
    return ', '.join(f'{name} ({environment.summary})' for name,
                     environment in ENVIRONMENTS.items())


@dataclass(frozen=True)
class Light:
    """Lamps, sun and lit windows of a scene.

    lamp: radiance of the lamps or of the sun (R, G, B), 0 when off. windows: brightness of lit
    windows.
    sun: the light is the sun's. sun_k: how much it warms what it falls on.
    """

    lamp: tuple[float, float, float]
    windows: float
    sun: bool = False
    sun_k: float = 0.0

    def irradiance(self, along_m: np.ndarray | float, across_m: np.ndarray | float,
                   height_m: np.ndarray | float) -> np.ndarray:
        """Return the light on a level surface: 1 under a lamp, or in the sun."""
        return (sun_light if self.sun else lamp_light)(along_m, across_m, height_m)


def lamp_light(along_m: np.ndarray | float, across_m: np.ndarray | float,
               height_m: np.ndarray | float) -> np.ndarray:
    """Return the irradiance of the lamps on a level surface (inverse square, cosine): 1 under a
    lamp."""
    light = np.float32(0)
    drop = LAMP_HEIGHT_M - height_m
    for lamp, side, works in lamps():
        if works:
            distance = (along_m - lamp + PERIOD_M / 2) % PERIOD_M - PERIOD_M / 2
            square = distance**2 + (across_m - side * (LAMP_X_M - 1.0))**2 + drop**2
            light = light + LAMP_HEIGHT_M**3 * np.maximum(drop, 0.3) / square**2
    return light


def lamps() -> list[tuple[float, float, bool]]:
    """Return (position along the road, side, works) of every lamp of one period."""
    spots = np.arange(7.0, PERIOD_M, LAMP_SPACING_M)
    # Every other one is broken or saves energy: a street with light and dark stretches.
    return [(float(z), side, (side > 0) == (k % 2 == 0)) for k,
            z in enumerate(spots) for side in (-1.0, 1.0)]


def sun_light(along_m: np.ndarray | float, across_m: np.ndarray | float,
              height_m: np.ndarray | float) -> np.ndarray:
    """Return the share of the sun that passes the houses on the right, 0 to 1, with a short
    penumbra."""
    away = HALF_WIDTH_M - across_m
    passed = (along_m - _SUN_DRIFT * away) % PERIOD_M  # where the ray crosses the house fronts
    roof = 7.0 + 1.3 * (np.floor(passed / 10.7) % 2) + 0.5 * (np.floor(passed / 16.1) % 2)
    roof = np.where((passed > CROSS_STREET_M[0]) & (passed < CROSS_STREET_M[1]), -100.0, roof)
    return np.clip((away + height_m - roof) / _PENUMBRA_M + 0.5, 0.0, 1.0).astype(np.float32)
