# SPDX-License-Identifier: Apache-2.0
"""Procedural textures of the street: road and pavement, house fronts, soft periodic noise.

Colors are linear (R, G, B) reflectances, light is linear radiance, temperatures are kelvin above
air.

Long periodic planes, the road and the house fronts beside it, are seen without aliasing: from a
camera that looks along the road, every image row of the ground (every column of a wall) has one
depth. So the exact box filter along the road is a difference of a running sum, and only the filter
across it needs a small pyramid. Without this the far lane markings flicker.
"""

import cv2
import numpy as np

from .environments import CROSS_STREET_M, HALF_WIDTH_M, PERIOD_M, Light

_LEVELS = 4
ROAD_M = 5.6
WALL_HEIGHT_M = 10.24
_GROUND_STEP = 0.025
_WALL_STEP = 0.04
_PLASTERS = ((.30, .14, .10), (.42, .34, .22), (.33, .33, .34), (.26, .30, .24), (.45, .40, .34),
             (.36, .22, .15))
_LAMPLIGHT = ((1.0, .66, .30), (1.0, .78, .45), (.80, .90, 1.0), (1.0, .58, .22))
_NEON = ((.9, .12, .2), (.1, .7, .9), (.2, .9, .35), (1.0, .6, .1))


class Strip:
    """A texture of shape length x across x channels that repeats along the road.

    Channels are premultiplied by alpha where the texture has one. step_m is (along, across) the
    size of a texel, across_m the position of the first texel's edge across the road.
    """

    def __init__(self, texels: np.ndarray, *, step_m: tuple[float, float], across_m: float):
        texels = np.ascontiguousarray(texels, np.float32)
        self._along_m, self._step_m = step_m
        self._across_m = across_m
        self._mean = texels.mean(axis=0)
        # Without its mean the running sum stays small (float32 is enough) and is itself periodic.
        self._sum = np.zeros((len(texels) + 1, *texels.shape[1:]), np.float32)
        # Line by line: cumsum along the first axis takes ten times as long.
        running = np.zeros(texels.shape[1:])
        for until, line in zip(self._sum[1:], texels - self._mean, strict=True):
            running += line
            until[:] = running

    def lines(self, edges_m: np.ndarray) -> np.ndarray:
        """Return the mean texels between neighboring edges along the road, (n - 1) x across x
        channels."""
        running = self._running(edges_m)
        extent = (np.diff(edges_m) / self._along_m).astype(np.float32)[:, None, None]
        return np.diff(running, axis=0) / extent + self._mean

    def _running(self, along_m: np.ndarray) -> np.ndarray:
        position = along_m / self._along_m
        index = np.floor(position).astype(int)
        fraction = (position - index).astype(np.float32)[:, None, None]
        index %= len(self._sum) - 1
        below = self._sum[index]
        return below + fraction * (self._sum[index + 1] - below)

    def view(self, edges_m: np.ndarray, across_m: np.ndarray) -> np.ndarray:
        """Return n x m x channels: line i covers edges_m[i]..edges_m[i + 1], its pixels lie at
        across_m[i].

        Positions across the road outside the texture give zero in every channel.
        """
        lines = self.lines(edges_m)
        # The footprint of a pixel across the road, in texels, picks the pyramid level of its line.
        footprint = np.abs(across_m[:, 1] - across_m[:, 0]) / self._step_m
        level = np.clip(np.log2(np.maximum(footprint, 1.0)).round().astype(int), 0, _LEVELS - 1)
        out = np.empty((*across_m.shape, lines.shape[2]), np.float32)
        for k in np.unique(level):
            rows = np.flatnonzero(level == k)
            source = _shrunk(lines[rows], 2 ** int(k))
            map_x = (across_m[rows] - self._across_m) / (self._step_m * 2**k) - 0.5
            map_y = np.broadcast_to(np.arange(len(rows), dtype=np.float32)[:, None], map_x.shape)
            out[rows] = _remap(source, map_x.astype(np.float32), np.ascontiguousarray(map_y))
        return out


def _shrunk(lines: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return lines
    rows, across, channels = lines.shape
    return lines[:, :across - across % factor].reshape(rows, -1, factor, channels).mean(axis=2)


def _remap(source: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    # OpenCV promises remap for up to four channels.
    parts = [cv2.remap(np.ascontiguousarray(source[..., i:i + 4]), map_x, map_y, cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_CONSTANT, borderValue=0)
             for i in range(0, source.shape[2], 4)]
    return np.concatenate([part.reshape(*map_x.shape, -1) for part in parts], axis=2)


def soft_noise(rng: np.random.Generator, shape: tuple[int, int],
               cell: tuple[int, int]) -> np.ndarray:
    """Return smooth noise of about unit variance, periodic along both axes, of the given shape."""
    rows, columns = max(2, shape[0] // cell[0]), max(2, shape[1] // cell[1])
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    grid = np.pad(grid, 2, mode='wrap')
    step = shape[0] / rows, shape[1] / columns
    big = cv2.resize(grid, (round(step[1] * (columns + 4)), round(step[0] * (rows + 4))),
                     interpolation=cv2.INTER_CUBIC)
    top, left = round(2 * step[0]), round(2 * step[1])
    return big[top:top + shape[0], left:left + shape[1]]


def make_ground(rng: np.random.Generator, light: Light, *, heat: float = 1.0,
                snow: float = 0.0) -> tuple[Strip, Strip]:
    """Return the street's surface: (reflectance R G B, irradiance of the fixed lights) and (warmth
    in kelvin).

    heat is how much of the day's warmth it holds, snow the share that lies under snow.
    """
    rows, columns = round(PERIOD_M / _GROUND_STEP), round(2 * HALF_WIDTH_M / _GROUND_STEP)
    x = ((np.arange(columns) + .5) * _GROUND_STEP - HALF_WIDTH_M)[None, :]
    z = ((np.arange(rows) + .5) * _GROUND_STEP)[:, None]
    crossing = (z > CROSS_STREET_M[0]) & (z < CROSS_STREET_M[1])
    road = (np.abs(x) < ROAD_M) | crossing
    asphalt = _asphalt(rng, (rows, columns))
    gray = np.where(road, asphalt, _paving(rng, x, z))
    kerb = (np.abs(np.abs(x) - ROAD_M - .12) < .12) & ~crossing
    gray = np.where(kerb, .30 + .02 * soft_noise(rng, gray.shape, (12, 12)), gray)
    paint = _markings(x, z) * np.clip(.82 + .22 * soft_noise(rng, gray.shape, (5, 5)), .15, 1.0)
    gray = gray * (1 - paint) + .62 * paint
    color = np.where(road[..., None], (1.0, .99, .97), (1.04, .98, .90))
    irradiance = light.irradiance(z, x, 0.0)
    visible = np.dstack([np.maximum(gray, .01)[..., None] * color, irradiance])
    coarse = gray[::4, ::4].shape
    near_wheels = np.exp(-((np.abs(np.abs(x) - 1.75) - .75) / .35)**2)[:, ::4]
    warm = np.where(road[::4, ::4], 1.6 + .35 * near_wheels, .2) - .25 * paint[::4, ::4]
    warm = warm + .35 * soft_noise(rng, coarse, (90, 40)) + .12 * soft_noise(rng, coarse, (12, 12))
    warm = heat * warm + light.sun_k * irradiance[::4, ::4]
    if snow:
        cover = _snow_cover(rng, x, z, snow)
        white = .78 + .03 * soft_noise(rng, gray.shape, (40, 30))
        visible[..., :3] += cover[..., None] * (white[..., None] * (.97, .99, 1.02)
                                                - visible[..., :3])
        warm -= cover[::4, ::4] * (warm + 1.2)
    step = 4 * _GROUND_STEP
    return (Strip(visible, step_m=(_GROUND_STEP, _GROUND_STEP), across_m=-HALF_WIDTH_M),
            Strip(warm[..., None], step_m=(step, step), across_m=-HALF_WIDTH_M))


def _snow_cover(rng: np.random.Generator, x: np.ndarray, z: np.ndarray,
                share: float) -> np.ndarray:
    """Return how much snow lies on the ground, 0..1: worn away under wheels and in patches."""
    shape = len(z), x.shape[1]
    thick = soft_noise(rng, shape, (200, 60)) + .5 * soft_noise(rng, shape,
                                                                (30, 16)) + 3 * share - 1
    wheels = np.exp(-((np.abs(np.abs(x) - 1.75) - .75) / .25)**2) * 3.4
    return np.clip(.5 + thick - wheels, 0.0, 1.0).astype(np.float32)


def _asphalt(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    grain = rng.standard_normal(shape, dtype=np.float32) * .014
    gray = .085 + grain + .008 * soft_noise(rng, shape,
                                            (120, 60)) + .005 * soft_noise(rng, shape, (8, 8))
    for _ in range(9):  # repaired patches
        row, column = rng.integers(0, shape[0] - 200), rng.integers(150, shape[1] - 250)
        height, width = rng.integers(50, 180), rng.integers(30, 90)
        gray[row:row + height, column:column + width] *= rng.choice([.72, .8, 1.25])
    canvas = np.zeros(shape, np.uint8)
    for _ in range(26):  # cracks
        start = rng.integers((140, 0), (shape[1] - 140, shape[0]))
        walk = np.cumsum(rng.integers((-14, 6), (15, 40), (14, 2)), axis=0) + start
        cv2.polylines(canvas, [walk.astype(np.int32)], False, 255, 1, cv2.LINE_AA)
    for _ in range(7):  # manholes
        center = int(rng.integers(220, shape[1] - 220)), int(rng.integers(20, shape[0] - 20))
        cv2.circle(canvas, center, 13, 255, 2, cv2.LINE_AA)
        cv2.circle(canvas, center, 8, 110, 3, cv2.LINE_AA)
    return gray * (1 - canvas.astype(np.float32) / 255 * .55)


def _paving(rng: np.random.Generator, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    row, column = np.floor(z / .5).astype(int), np.floor((x + HALF_WIDTH_M) / .5).astype(int)
    tone = rng.uniform(.13, .21, (row.max() + 1, column.max() + 1))
    slabs = tone[row, column]
    joint = (np.abs(z / .5 - np.round(z / .5)) < .04) | (np.abs(x / .5 - np.round(x / .5)) < .04)
    return np.where(joint, .07, slabs) + .012 * rng.standard_normal(slabs.shape, dtype=np.float32)


def _markings(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the white paint, 0..1: center dashes, edge lines, stop lines and zebra crossings."""
    zebra = (z > 60.5) & (z < 63.5)
    clear = (z < 59) | (z > CROSS_STREET_M[1] + 1)
    dash = (np.abs(x) < .07) & (z % 6 < 3) & clear
    edge = (np.abs(np.abs(x) - 3.5) < .06) & clear
    stop = (np.abs(z - 59.4) < .2) & (x > .2) & (x < 3.5)
    bars = zebra & (np.abs(x) < 5.2) & (x % 1.0 < .5)
    bays = (np.abs(x) > 3.5) & (np.abs(x) < ROAD_M) & (np.abs(z % 6.5 - 1) < .05) & clear
    second = (z > 22) & (z < 25) & (np.abs(x) < 5.2) & (x % 1.0 < .5)
    dash &= ~((z > 21) & (z < 26))
    return (dash | edge | stop | bars | bays | second).astype(np.float32)


def make_wall(rng: np.random.Generator, light: Light, side: float, *,
              heat: float = 1.0) -> tuple[Strip, Strip]:
    """Return a row of house fronts at x = side * HALF_WIDTH_M, premultiplied by alpha.

    The visible channels are reflectance R G B, emission R G B and alpha, the thermal ones warmth
    and alpha.
    """
    rows, columns = round(PERIOD_M / _WALL_STEP), round(WALL_HEIGHT_M / _WALL_STEP)
    albedo, glow = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns, 3),
                                                                      np.float32)
    alpha, warm = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    start = 0.0
    while start < CROSS_STREET_M[0]:
        stop = start + rng.uniform(8, 13)
        stop = CROSS_STREET_M[0] if stop > CROSS_STREET_M[0] - 5 else stop
        _house(rng, light, (start, stop), albedo, glow, alpha, warm)
        start = stop
    _house(rng, light, (CROSS_STREET_M[1], PERIOD_M), albedo, glow, alpha, warm)
    height = ((np.arange(columns) + .5) * _WALL_STEP)[None, :]
    z = ((np.arange(rows) + .5) * _WALL_STEP)[:, None]
    lit = light.irradiance(z, np.array(side * (HALF_WIDTH_M - 1.5)), np.minimum(height, 5.0))
    glow += albedo * (.55 * lit)[..., None] * np.array(light.lamp, np.float32)
    albedo *= (1 + .06 * soft_noise(rng, alpha.shape, (30, 20)))[..., None]
    warm += .5 * soft_noise(rng, alpha.shape, (220, 80)) + .15 * soft_noise(
        rng, alpha.shape, (25, 25))
    warm += 1.5 * (heat - 1) + .8 * light.sun_k * lit
    visible = np.dstack([albedo, glow, np.ones_like(alpha)]) * alpha[..., None]
    thermal = (np.dstack([warm, np.ones_like(alpha)]) * alpha[..., None])[::2, ::2]
    return (Strip(visible, step_m=(_WALL_STEP, _WALL_STEP), across_m=0.0),
            Strip(thermal, step_m=(2 * _WALL_STEP, 2 * _WALL_STEP), across_m=0.0))


def _house(rng, light: Light, span: tuple[float, float], albedo, glow, alpha, warm) -> None:
    """Paint one house front over span (metres along the road) into the texture arrays."""
    a, b = (round(edge / _WALL_STEP) for edge in span)
    top = round(rng.uniform(7.2, 10.0) / _WALL_STEP)
    plaster = np.array(_PLASTERS[rng.integers(len(_PLASTERS))], np.float32)
    alpha[a:b, :top] = 1.0
    wall = albedo[a:b, :top]
    wall[:] = plaster * rng.uniform(.8, 1.1)
    if plaster[0] > 1.6 * plaster[2]:
        _bricks(rng, wall)
    wall += rng.standard_normal(wall.shape[:2], dtype=np.float32)[..., None] * .012
    for level in (round(3.1 / _WALL_STEP), top - 6):  # storey ledge and cornice
        wall[:, level:level + 5] = plaster * 1.25
    warm[a:b, :top] = rng.uniform(-.4, .5)
    _shop(rng, light, (a, b), albedo, glow, warm)
    pitch = round(rng.uniform(1.9, 2.5) / _WALL_STEP)
    width, height = round(1.05 / _WALL_STEP), round(1.5 / _WALL_STEP)
    margin = ((b - a) % pitch + pitch - width) // 2
    for floor in np.arange(3.9, top * _WALL_STEP - 1.9, 2.8):
        for left in range(a + margin, b - width, pitch):
            _window(rng, light, (left, round(floor / _WALL_STEP), width, height), albedo, glow,
                    warm)


def _bricks(rng, wall: np.ndarray) -> None:
    course, length = 3, 7
    rows, columns = wall.shape[0] // length + 2, wall.shape[1] // course + 1
    tone = rng.uniform(.75, 1.2, (rows, columns)).astype(np.float32)
    h = np.arange(wall.shape[1]) // course
    z = (np.arange(wall.shape[0])[:, None] + (h % 2)[None, :] * (length // 2)) // length
    wall *= tone[z, h[None, :]][..., None]
    wall[:, ::course] *= .82


def _window(rng, light: Light, place: tuple[int, int, int, int], albedo, glow, warm) -> None:
    left, low, width, height = place
    glass = np.s_[left:left + width, low:low + height]
    albedo[left - 2:left + width + 2, low - 2:low + height + 2] = .42
    albedo[glass] = .05
    warm[glass] -= .35
    if light.windows and rng.uniform() < .34:
        color = np.array(_LAMPLIGHT[rng.integers(len(_LAMPLIGHT))], np.float32)
        shade = np.linspace(1.0, .55, height, dtype=np.float32)[::-1] ** 1.2
        curtain = np.where(np.abs(np.linspace(-1, 1, width)) > rng.uniform(.45, 1.0), .45, 1.0)
        level = light.windows * rng.uniform(.10, .42)
        glow[glass] = level * curtain[:, None, None] * shade[None, :, None] * color
    for bar in (np.s_[left + width // 2, low:low + height],
                np.s_[left:left + width, low + 2 * height // 3]):
        albedo[bar], glow[bar] = .35, glow[bar] * .15


def _shop(rng, light: Light, span: tuple[int, int], albedo, glow, warm) -> None:
    """Paint the ground floor: shop windows, a door, and a sign above them."""
    a, b = span
    low, high = round(.55 / _WALL_STEP), round(2.5 / _WALL_STEP)
    lit = bool(light.windows) and rng.uniform() < .40
    albedo[a:b, :low] *= .6
    color = np.array(_LAMPLIGHT[rng.integers(len(_LAMPLIGHT))], np.float32)
    left, pane = a + round(.5 / _WALL_STEP), round(1.7 / _WALL_STEP)
    while left + pane < b - round(.4 / _WALL_STEP):
        glass = np.s_[left:left + pane, low:high]
        albedo[glass] = .05
        warm[glass] -= .3
        if lit:
            goods = .55 + .3 * soft_noise(rng, (pane, high - low), (7, 9))
            glow[glass] = light.windows * .03 * np.clip(goods, .1, 1.2)[..., None] * color
        left += pane + round(.22 / _WALL_STEP)
    board = np.s_[a + 12:b - 12, round(2.62 / _WALL_STEP):round(3.02 / _WALL_STEP)]
    neon = np.array(_NEON[rng.integers(len(_NEON))], np.float32)
    albedo[board] = neon * .35 + .04
    letters = np.zeros(albedo[board].shape[:2], np.float32)
    for start in range(18, len(letters) - 24, 8):
        if rng.uniform() < .82:
            letters[start:start + 5, 3:8] = rng.integers(0, 2, (5, 5)) * .6 + .4
    albedo[board] += letters[..., None] * .3
    if lit:
        glow[board] = light.windows * (.07 * neon + .30 * letters[..., None] * (neon * .6 + .4))
