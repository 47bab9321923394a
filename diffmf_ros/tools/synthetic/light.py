# SPDX-License-Identifier: Apache-2.0
"""Light that falls on the street from fixed places: its lamps by night, the sun past the houses by
day."""

from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class Light:
    """What lights the textures.

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
