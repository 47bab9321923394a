# SPDX-License-Identifier: Apache-2.0
"""Light, weather and movers of every scene of the synthetic drive; `ENVIRONMENTS` holds them by name."""

from dataclasses import dataclass, replace

from . import casts

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Environment:
    """Light and weather. Colors are linear (R, G, B); temperatures degrees Celsius, differences kelvin.

    summary: one line for lists of scenes.
    cast: the movers, rows of casts.py; scattered: whether the seed moves their starting points.
    skin_k, clothing: how much warmer a face is than the air, and the share of it that clothes let out.
    sky_c: (zenith, horizon).
    lamp: irradiance under a street lamp or, with sun, of the sun where no house shades it.
    headlight: irradiance of the own low beam at 10 m; headlamps: radiance of the lamps of other cars.
    scatter: share of bright light that the lens spreads over 100 px (dirt and rain: glare).
    windows: brightness of lit windows; shadow: darkness of the ground under people and cars.
    coats, hues, car_paint: range of the reflectance of coats, its spread over R, G, B, and that of cars;
    trousers: their reflectance as a share of the coat's.
    smoke, smoke_color: optical depth of the densest sheet in the visible, radiance of thick smoke.
    fog_per_m: extinction of the visible; fog has the color of the horizon.
    snow: share of the ground under snow, which then falls, too.
    heat: how much of the day's warmth road and walls hold, sun_k: what the sun adds.
    auto_gain: whether the 8-bit thermal camera sets black and white by each picture; else gray_range_k,
    relative to the air, are black and white.
    """

    summary: str
    cast: tuple[casts.Mover, ...]
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
    'unlit walkers on a dark street', casts.NIGHT, air_c=11.0, skin_k=20.0, sky_c=(-10.0, 4.0), speed_m_s=3.0,
    ambient=(.010, .013, .021), sky=((.0010, .0016, .0042), (.010, .009, .011)), exposure=5.0,
    coats=(.0245, .042), car_paint=.035, lamp=(.40, .285, .155), headlight=.20, headlamps=2.5, windows=1.0,
    shadow=0.0, scattered=False)
_SMOKE = Environment(
    'white smoke, brighter than people', casts.SMOKE, air_c=15.0, skin_k=17.0, sky_c=(-8.0, 8.0), speed_m_s=1.5,
    ambient=(.60, .63, .68), sky=((.50, .58, .70), (.72, .75, .78)), exposure=1.5, coats=(.07, .12),
    car_paint=.16, smoke=4.6, scattered=False)

ENVIRONMENTS = {
    'night': _NIGHT,
    'smoke': _SMOKE,
    'soot': replace(
        _SMOKE, summary='black smoke, darker than people', coats=(.15, .50), hues=.3, trousers=.5, smoke=8.0,
        smoke_color=(.026, .025, .024), scattered=True),
    'fog': Environment(
        'fog by day, sight about 40 m', casts.STREET, air_c=6.0, skin_k=19.0, sky_c=(2.0, 5.0), speed_m_s=1.5,
        ambient=(.55, .57, .60), sky=((.60, .62, .64), (.58, .60, .62)), exposure=1.4, coats=(.03, .25),
        car_paint=.12, hues=.25, trousers=.6, clothing=.8, shadow=.3, fog_per_m=.09),
    'glare': replace(
        _NIGHT, summary='dazzling lamps of oncoming cars by night', cast=casts.GLARE, speed_m_s=1.5,
        headlamps=150.0, scatter=.4, coats=(.03, .12), hues=.25, scattered=True),
    'snow': Environment(
        'dark coats on a snowy day', casts.STREET, air_c=-3.0, skin_k=24.0, sky_c=(-14.0, -6.0), speed_m_s=1.5,
        ambient=(.74, .78, .84), sky=((.66, .69, .73), (.74, .76, .78)), exposure=1.9, coats=(.02, .05),
        car_paint=.10, clothing=.6, snow=.85, shadow=.35, heat=.4,
        gray_range_k=(-8.0, 16.0)),
    'day': Environment(
        'a sunny day, the road as warm as people', casts.STREET, air_c=20.0, skin_k=13.0, sky_c=(-6.0, 8.0),
        speed_m_s=1.5, ambient=(.36, .42, .52), sky=((.16, .30, .62), (.48, .58, .72)), exposure=1.5,
        coats=(.03, .35), car_paint=.16, hues=.3, trousers=.4, lamp=(1.75, 1.62, 1.40), sun=True, heat=1.5, sun_k=6.0,
        gray_range_k=(-8.0, 18.0)),
    'dusk': Environment(
        'a warm evening, gray background in thermal', casts.STREET, air_c=24.0, skin_k=9.5, sky_c=(21.0, 26.0),
        speed_m_s=1.5, ambient=(.050, .055, .075), sky=((.06, .08, .16), (.20, .16, .15)), exposure=4.0,
        coats=(.03, .20), car_paint=.08, hues=.3, trousers=.5, lamp=(.25, .18, .10), headlight=.08, headlamps=2.0,
        windows=.8, shadow=.3, heat=2.2, auto_gain=True),
}


def scene_list() -> str:
    """Return the scenes as text for a help page: name (summary), name (summary)."""
    return ', '.join(f'{name} ({environment.summary})' for name, environment in ENVIRONMENTS.items())
