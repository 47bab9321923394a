# SPDX-License-Identifier: Apache-2.0
"""From scene and view to a geometry buffer: surface values, depth and labels for every pixel.

It is a painter's algorithm: far background, ground, walls, then props and actors from far to near,
each with an anti-aliased alpha. One code path serves both cameras; only the values differ:
'visible' has reflectance R G B and emission R G B, 'thermal' has the temperature in degrees
Celsius. Every array of values carries alpha as its last channel, which makes painting one
multiplication and one addition.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .environments import HALF_WIDTH_M, PERIOD_M
from .scene import LANE_X_M, Actor, Scene
from .shapes import Part, box

VISIBLE, THERMAL = 'visible', 'thermal'
_CHANNELS = {VISIBLE: 7, THERMAL: 2}
_FAR_M = 400.0
_SHIFT = 4  # fractional bits of polygon corners


@dataclass(frozen=True)
class View:
    """An upright pinhole view along the street.

    Position is (x, height, z) in metres of the world.
    """

    width: int
    height: int
    focal_px: float
    cx: float
    cy: float
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def at(self, x: float, height: float, z: float) -> 'View':
        """Return this view from another position."""
        return replace(self, position=(x, height, z))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return pixel coordinates, N x 2, of points N x 3 (x, height, z ahead of the camera)."""
        scale = self.focal_px / points[:, 2]
        return np.column_stack([self.cx + scale * (points[:, 0] - self.position[0]),
                                self.cy + scale * (self.position[1] - points[:, 1])])


@dataclass
class Buffer:
    """values H x W x C float32 (alpha last, 1), depth_m H x W float32, label H x W uint8 (0: no
    actor)."""

    values: np.ndarray
    depth_m: np.ndarray
    label: np.ndarray

    def over(self, origin: tuple[int, int], layer: np.ndarray, depth_m, label: int = 0) -> None:
        """Paint a layer h x w x C, premultiplied by its last channel, with its corner at origin
        (x, y)."""
        x, y = origin
        region = np.s_[y:y + layer.shape[0], x:x + layer.shape[1]]
        alpha = layer[..., -1]
        # Alpha in every channel: numpy is several times slower when it broadcasts over a short
        # last axis.
        self.values[region] *= cv2.merge([1 - alpha] * layer.shape[2])
        self.values[region] += layer
        solid = alpha > 0.5
        np.copyto(self.depth_m[region], depth_m, where=solid, casting='same_kind')
        self.label[region][solid] = label


class Painter:
    """Paints one scene for one camera kind; keeps what does not change from frame to frame."""

    def __init__(self, scene: Scene, view: View, kind: str):
        self.scene, self.view, self.kind = scene, view, kind
        self._background = self._paint_background()
        self._props = [Sketch(prop.parts, kind, scene.environment.air_c) if prop.parts else None
                       for prop in scene.props]
        shadows = scene.shadows if kind == VISIBLE else {}
        self._shadows = {of: Sketch(parts, kind, scene.environment.air_c) for of,
                         parts in shadows.items()}

    def paint(self, t_s: float, offset_m: tuple[float, float, float]) -> Buffer:
        """Return the buffer at time t_s, seen offset_m (x, height, z) from the rig's origin at the
        road."""
        view = self._view_at(t_s, offset_m)
        buffer = Buffer(self._background.values.copy(), self._background.depth_m.copy(),
                        np.zeros((view.height, view.width), np.uint8))
        self._paint_ground(buffer, view)
        for side in (-1.0, 1.0):
            self._paint_wall(buffer, view, side)
        for ahead, x, label, sketch in sorted(self._things(view, t_s),
                                              key=lambda thing: -thing[0]):
            placed = sketch.draw(view, x, ahead, light=self._lamps_at(x, view.position[2] + ahead))
            if placed is None:
                continue
            (left, top), layer = placed
            if abs(x) > HALF_WIDTH_M:  # in the side street: the house fronts may hide it
                wall = buffer.depth_m[top:top + layer.shape[0],
                                      left:left + layer.shape[1]] < ahead - 3.0
                layer[wall] = 0.0
            buffer.over((left, top), layer, depth_m=ahead, label=label)
        return buffer

    def draw_actor(self, actor: Actor, t_s: float, offset_m: tuple[float, float, float]):
        """Return ((x, y), premultiplied layer) of one actor alone, or None when it is out of
        sight."""
        view = self._view_at(t_s, offset_m)
        ahead, x, _, sketch = self._actor(actor, view, t_s)
        return sketch.draw(view, x, ahead)

    def _view_at(self, t_s: float, offset_m: tuple[float, float, float]) -> View:
        return self.view.at(LANE_X_M + offset_m[0], offset_m[1],
                            self.scene.rig_z_m(t_s) + offset_m[2])

    def _things(self, view: View, t_s: float):
        """Yield (distance ahead, x, label, sketch) of everything that stands or moves in the
        street."""
        x, height, z = view.position
        for prop, sketch in zip(self.scene.props, self._props, strict=True):
            ahead = (prop.z_m - z - 2.4) % PERIOD_M + 2.4
            if prop.car is not None:
                eye = (x - prop.x_m, height, -ahead)
                sketch = Sketch(prop.car.parts((0.0, 1.0), eye), self.kind,
                                self.scene.environment.air_c)
                yield from self._shadow('car', ahead, prop.x_m)
            yield ahead, prop.x_m, 0, sketch
        for actor in self.scene.actors:
            ahead, x_m, label, sketch = self._actor(actor, view, t_s)
            yield from self._shadow(actor.kind, ahead, x_m)
            yield ahead, x_m, label, sketch

    def _shadow(self, kind: str, ahead: float, x_m: float):
        if kind in self._shadows:
            yield ahead + 0.01, x_m, 0, self._shadows[kind]  # just behind, so it is painted before

    def _actor(self, actor: Actor, view: View, t_s: float):
        pose = actor.path(t_s)
        ahead = pose.ahead_m - (view.position[2] - self.scene.rig_z_m(t_s))
        parts = actor.shape(pose, (view.position[0] - pose.x_m, view.position[1], -ahead))
        return ahead, pose.x_m, actor.label, Sketch(parts, self.kind, self.scene.environment.air_c)

    def _lamps_at(self, x_m: float, z_m: float) -> np.ndarray:
        """Fixed lights on the camera's side of something upright: half of a level surface's."""
        return 0.5 * float(self.scene.light.irradiance(z_m, x_m, 1.2)) * np.array(
            self.scene.environment.lamp)

    def _paint_ground(self, buffer: Buffer, view: View) -> None:
        """The road: below the horizon every row has one depth."""
        first = int(np.floor(view.cy + 1.5))
        edges = np.arange(first, view.height + 1) - 0.5
        depth = view.focal_px * view.position[1] / (edges - view.cy)
        middle = view.focal_px * view.position[1] / (edges[:-1] + 0.5 - view.cy)
        u = np.arange(view.width)
        across = view.position[0] + (u[None, :] - view.cx) * middle[:, None] / view.focal_px
        z = view.position[2]
        strip = self.scene.ground[0 if self.kind == VISIBLE else 1]
        texels = strip.view(z + depth, across)
        if self.kind == VISIBLE:
            color = texels[..., :3]
            lamps = [texels[..., 3] * light for light in self.scene.environment.lamp]
            texels = np.dstack([color, color * cv2.merge(lamps), np.ones_like(lamps[0])])
        else:
            texels = np.dstack([texels + self.scene.environment.air_c, np.ones_like(texels)])
        outside = np.abs(across) >= HALF_WIDTH_M
        texels[outside] = buffer.values[first:][outside]
        buffer.values[first:] = texels
        buffer.depth_m[first:] = middle[:, None]

    def _paint_wall(self, buffer: Buffer, view: View, side: float) -> None:
        """House fronts: beside the vanishing point every column has one depth."""
        gap = abs(side * HALF_WIDTH_M - view.position[0])
        if side < 0:
            edges = np.arange(int(np.ceil(view.cx - 1.5)), -2, -1) + 0.5
        else:
            edges = np.arange(int(np.floor(view.cx + 1.5)), view.width + 1) - 0.5
        away = np.abs(edges - view.cx)
        depth = view.focal_px * gap / away
        columns = (edges[:-1] + edges[1:]) / 2
        middle = view.focal_px * gap / np.abs(columns - view.cx)
        v = np.arange(view.height)
        height = view.position[1] - (v[None, :] - view.cy) * middle[:, None] / view.focal_px
        strip = self.scene.walls[side][0 if self.kind == VISIBLE else 1]
        z = view.position[2]
        layer = strip.view(z + depth, height).transpose(1, 0, 2)
        if side < 0:
            layer, middle, columns = layer[:, ::-1], middle[::-1], columns[::-1]
        if self.kind == THERMAL:
            layer = np.dstack([layer[..., 0] + layer[..., 1] * self.scene.environment.air_c,
                               layer[..., 1]])
        buffer.over((round(columns[0]), 0), np.ascontiguousarray(layer),
                    middle[None, :].astype(np.float32))

    def _paint_background(self) -> Buffer:
        """Sky, and a skyline so far away that it does not move."""
        view, environment = self.view, self.scene.environment
        elevation = np.clip((view.cy - np.arange(view.height)) / view.focal_px / 0.45, 0,
                            1)[:, None, None]
        values = np.ones((view.height, view.width, _CHANNELS[self.kind]), np.float32)
        if self.kind == VISIBLE:
            top, low = (np.array(color, np.float32) for color in environment.sky)
            values[..., :3], values[..., 3:6] = 0.0, low + (top - low) * elevation**0.7
            below = np.arange(view.height) > view.cy + 1
            values[below, :, :3], values[below, :, 3:6] = .08, 0.0
        else:
            zenith, horizon = environment.sky_c
            values[..., :1] = horizon + (zenith - horizon) * np.sqrt(elevation)
            values[np.arange(view.height) > view.cy + 1, :, 0] = environment.air_c
        buffer = Buffer(values, np.full(values.shape[:2], _FAR_M, np.float32),
                        np.zeros(values.shape[:2], np.uint8))
        skyline = Sketch(_skyline(environment.windows), self.kind, environment.air_c)
        corner, layer = skyline.draw(view.at(0.0, 1.5, 0.0), 0.0, _FAR_M)
        buffer.over(corner, layer, depth_m=_FAR_M)
        return buffer


def _skyline(windows: float) -> list[Part]:
    rng = np.random.default_rng(7)
    parts = []
    for x in np.arange(-300, 300, 11.0):
        top = rng.uniform(8, 22) + 8 * np.exp(-(x / 60)**2)
        parts.append(Part(box(x, -2.0, x + 12, top), (.10, .11, .13), -0.5))
        for _ in range(3 if windows else 0):
            left, low, glow = x + rng.uniform(1, 9), rng.uniform(3, max(top - 2, 4)), .10 * windows
            parts.append(Part(box(left, low, left + 1.6, low + 1.6), (.1, .1, .1), -0.5,
                              (glow, glow * .7, glow * .4)))
    return parts


class Sketch:
    """Parts of a shape, packed: all corners in one array, and one row of values for each part."""

    def __init__(self, parts: Sequence[Part], kind: str, air_c: float):
        self.points = np.concatenate([part.points for part in parts])
        ends = np.cumsum([len(part.points) for part in parts]).tolist()
        self.spans = list(zip([0, *ends[:-1]], ends, strict=True))
        self.table = np.zeros((len(parts) + 1, _CHANNELS[kind]), np.float32)
        for row, part in zip(self.table[1:], parts, strict=True):
            row[:] = (*part.albedo, *part.emission,
                      1.0) if kind == VISIBLE else (part.warmth_k + air_c, 1.0)
            row *= part.alpha

    def draw(self, view: View, x_m: float, ahead_m: float, *, light: np.ndarray | None = None):
        """Return ((x, y), premultiplied layer) with the foot at x_m, ahead_m.

        None when out of sight.

        light (R, G, B) is irradiance that does not come from the camera; it is added as emission.

        Polygons are filled as part numbers on a finer grid, looked up, and averaged: exact
        coverage, and one fill a part whatever the number of channels.
        """
        placed = self.points + (x_m, 0.0, ahead_m)
        if placed[:, 2].min() < 0.8:
            return None
        corners = view.project(placed)
        x0, y0 = np.maximum(np.floor(corners.min(axis=0) - 1), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corners.max(axis=0) + 2),
                            (view.width, view.height)).astype(int)
        if x1 <= x0 or y1 <= y0:
            return None
        fine = 4 if (x1 - x0) * (y1 - y0) < 3_000 else 2
        number = np.zeros(((y1 - y0) * fine, (x1 - x0) * fine), np.uint8)
        # Pixel centers are integers; on the finer grid the same point lies at (p + 0.5) * fine -
        # 0.5.
        scaled = ((corners - (x0, y0) + 0.5) * fine - 0.5) * 2**_SHIFT
        scaled = np.round(scaled).astype(np.int32)
        for index, (start, end) in enumerate(self.spans, start=1):
            cv2.fillPoly(number, [scaled[start:end]], index, cv2.LINE_8, _SHIFT)
        table = self.table
        if light is not None and table.shape[1] == _CHANNELS[VISIBLE]:
            table = table.copy()
            table[:, 3:6] += table[:, :3] * light.astype(np.float32)
        layer = cv2.resize(table.take(number, axis=0), (int(x1 - x0), int(y1 - y0)),
                           interpolation=cv2.INTER_AREA)
        return (int(x0), int(y0)), layer
