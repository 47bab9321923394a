# SPDX-License-Identifier: Apache-2.0
"""The synthetic drive: timed frames of an RGB and a thermal camera, and the truth about them.

Times are true times in nanoseconds after the start of the drive. A header stamp is START_NS plus
the true time, plus, for thermal, the clock error that `DriveRig.thermal_offset_ms` undoes.

Who of the people in a picture stands out follows from the truth: the contrast of a person is the
mean of its pixels minus the mean of a ring around it, in gray levels. Its sign does not count: a
dark walker on snow is seen as well as a bright one by night.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ...core.frames import RGB, THERMAL, Frame
from ...io.bags import START_NS
from .cameras import Camera, DriveError, DriveRig, make_rig
from .environments import ENVIRONMENTS
from .render import THERMAL as THERMAL_VALUES
from .render import VISIBLE, Buffer, Painter
from .scene import Actor, Scene
from .sensors import ThermalSensor, VisibleSensor, veil_of


@dataclass(frozen=True)
class DriveSettings:
    """What to render; two drives with equal settings are equal to the bit."""

    scene: str = 'night'
    seed: int = 0
    seconds: float = 6.0
    thermal_rate_hz: int = 9
    thermal_bits: int = 8

    def __post_init__(self):
        if self.scene not in ENVIRONMENTS:
            raise DriveError(f'the scene must be one of {", ".join(ENVIRONMENTS)}; got '
                             f'{self.scene!r}')
        if self.thermal_bits not in (8, 16):
            raise DriveError(f'thermal has 8 or 16 bits, got {self.thermal_bits}')
        if not 0.2 <= self.seconds <= 600:
            raise DriveError(f'a drive lasts 0.2 to 600 seconds, got {self.seconds}')
        if self.seed < 0:
            raise DriveError(f'the seed must not be negative, got {self.seed}')


@dataclass(frozen=True)
class ActorTruth:
    """One visible actor on the RGB grid at one instant.

    box_px is (left, top, right, bottom), right and bottom exclusive, around its visible pixels;
    silhouette_px is how many it would cover in the picture if nothing stood before it;
    temperature_c is the mean surface temperature of the visible ones.
    """

    label: int
    kind: str
    box_px: tuple[int, int, int, int]
    visible_px: int
    silhouette_px: int
    distance_m: float
    temperature_c: float


@dataclass(frozen=True)
class DriveTruth:
    """The truth at one instant: labels H x W uint8 on the RGB grid (0: no actor), and the actors.
    """

    labels: np.ndarray
    actors: tuple[ActorTruth, ...]


@dataclass(frozen=True)
class DriveFrame:
    """A frame as the camera delivered it, and when it was truly exposed, after the start of the
    drive."""

    frame: Frame
    index: int
    exposure_ns: int


# Actors with fewer visible pixels than this are specks: they stay in the labels but get no box.
MIN_VISIBLE_PX = 24


class Drive:
    """Renders a drive. Every frame can be had alone and in any order.

    What it paints with, which takes a second, is made when the first frame is asked for.
    """

    def __init__(self, settings: DriveSettings):
        self.settings = settings
        self.rig: DriveRig = make_rig(thermal_rate_hz=settings.thermal_rate_hz)
        self._last_rgb: tuple[int, Buffer] | None = None

    @cached_property
    def scene(self) -> Scene:
        """The street and who moves on it."""
        return Scene(self.settings.scene, self.settings.seed)

    @cached_property
    def _sensors(self) -> dict[str, VisibleSensor | ThermalSensor]:
        environment, seed = self.scene.environment, self.settings.seed
        veil = veil_of(environment, seed)
        return {RGB: VisibleSensor(self.rig.rgb, environment, seed, veil),
                THERMAL: ThermalSensor(self.rig.thermal, environment, seed, veil,
                                       self.settings.thermal_bits)}

    @cached_property
    def _painters(self) -> dict[str, Painter]:
        return {RGB: Painter(self.scene, self._sensors[RGB].view, VISIBLE),
                THERMAL: Painter(self.scene, self._sensors[THERMAL].view, THERMAL_VALUES)}

    @cached_property
    def _truth_painter(self) -> Painter:
        return Painter(self.scene, self._sensors[RGB].view, THERMAL_VALUES)

    def camera(self, stream: str) -> Camera:
        """Return the camera of a stream, 'rgb' or 'thermal'."""
        return self.rig.rgb if stream == RGB else self.rig.thermal

    def count(self, stream: str) -> int:
        """Return how many frames of a stream the drive has: those exposed before its end."""
        return int(np.ceil(self.settings.seconds * self.camera(stream).rate_hz - 1e-9))

    def frame(self, stream: str, index: int) -> DriveFrame:
        """Render one frame: rgb8, mono8 or mono16."""
        camera = self.camera(stream)
        exposure_ns = camera.exposure_ns(index)
        buffer = self._paint(self._painters[stream], camera, exposure_ns)
        if stream == RGB:
            self._last_rgb = exposure_ns, buffer
        pixels = self._sensors[stream].develop(buffer, exposure_ns / 1e9, index)
        encoding = 'rgb8' if stream == RGB else f'mono{self.settings.thermal_bits}'
        frame = Frame(stream, START_NS + camera.stamp_ns(index), camera.frame_id, pixels, encoding,
                      arrival_ns=START_NS + camera.recorded_ns(index))
        return DriveFrame(frame, index, exposure_ns)

    def order(self, *, from_s: float = 0.0) -> list[tuple[str, int]]:
        """Return (stream, index) of all frames exposed since from_s, in the order in which they
        reach a recorder."""
        every = [(stream, index) for stream in (RGB, THERMAL)
                 for index in range(self.count(stream))
                 if self.camera(stream).exposure_ns(index) >= round(from_s * 1e9)]
        return sorted(every, key=lambda item: self.camera(item[0]).recorded_ns(item[1]))

    def frames(self, *, from_s: float = 0.0) -> Iterator[DriveFrame]:
        """Yield all frames exposed since from_s, in the order in which they reach a recorder."""
        for stream, index in self.order(from_s=from_s):
            yield self.frame(stream, index)

    def truth(self, exposure_ns: int) -> DriveTruth:
        """Return the truth on the RGB grid at a true time, which need not be that of an RGB frame.
        """
        if self._last_rgb is not None and self._last_rgb[0] == exposure_ns:
            buffer = self._last_rgb[1]
        else:
            buffer = self._paint(self._truth_painter, self.rig.rgb, exposure_ns)
        actors = (self._actor_truth(buffer, actor, exposure_ns) for actor in self.scene.actors)
        return DriveTruth(buffer.label, tuple(actor for actor in actors if actor is not None))

    def _paint(self, painter: Painter, camera: Camera, exposure_ns: int) -> Buffer:
        return painter.paint(exposure_ns / 1e9, self._offset_m(camera))

    def _offset_m(self, camera: Camera) -> tuple[float, float, float]:
        x, y, z = camera.position_m
        return x, self.rig.height_m - y, z

    def _actor_truth(self, buffer: Buffer, actor: Actor, exposure_ns: int) -> ActorTruth | None:
        mask = buffer.label == actor.label
        visible = int(mask.sum())
        if visible < MIN_VISIBLE_PX:
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        (x, y), layer = self._truth_painter.draw_actor(
            actor, exposure_ns / 1e9, self._offset_m(self.rig.rgb))
        seen = mask[y:y + layer.shape[0], x:x + layer.shape[1]]
        celsius = layer[..., 0][seen].sum() / layer[..., 1][seen].sum()
        return ActorTruth(actor.label, actor.kind, box, visible, int((layer[..., 1] > 0.5).sum()),
                          round(float(buffer.depth_m[mask].mean()), 3), round(float(celsius), 3))


PEOPLE = ('person', 'cyclist')
# A person is judged from this height on, and when at least this share of the silhouette is not
# hidden; smaller and more hidden ones are ignored: neither found nor missed.
MIN_HEIGHT_PX = 45
MIN_VISIBLE_SHARE = 0.5
# From this |contrast| on a person counts as seen: about the standard deviation of noise and
# texture in the ring around people in the RGB image (21 levels in the night drive, 22 at dusk). A
# person that differs by less from its surround than the surround differs from itself goes under.
VISIBLE_LEVELS = 20.0
# The ring keeps clear of the outline, where blur and parallax mix person and surround, and of
# other actors.
RING_GAP_PX, RING_WIDTH_PX = 2, 8


@dataclass(frozen=True)
class Sighting:
    """One person in several pictures of one instant.

    It holds the truth, and the contrast in each picture, in gray levels.
    """

    actor: ActorTruth
    contrasts: tuple[float, ...]

    @property
    def seen(self) -> tuple[bool, ...]:
        """Whether the person stands out, picture by picture."""
        return tuple(abs(contrast) >= VISIBLE_LEVELS for contrast in self.contrasts)


def counts(actor: ActorTruth) -> bool:
    """Tell whether an actor is a person tall and unhidden enough to be judged."""
    return (actor.kind in PEOPLE and actor.box_px[3] - actor.box_px[1] >= MIN_HEIGHT_PX
            and actor.visible_px >= MIN_VISIBLE_SHARE * actor.silhouette_px)


def contrast(image: np.ndarray, inside: np.ndarray, *, others: np.ndarray | None = None) -> float:
    """Return the contrast of a region: its mean minus the mean of the ring around it.

    Args:
        image: H x W, gray levels.
        inside: H x W bool, the region, not empty.
        others: H x W bool, what the ring leaves out besides the region.

    Returns:
        Gray levels; 0 when the ring is empty.
    """
    taken = inside if others is None else inside | others
    ring = _grown(inside, RING_GAP_PX + RING_WIDTH_PX) & ~_grown(taken, RING_GAP_PX)
    return float(image[inside].mean() - image[ring].mean()) if ring.any() else 0.0


def sightings(truth: DriveTruth, *images: np.ndarray) -> list[Sighting]:
    """Judge every person that counts in pictures of the instant of a truth.

    Args:
        truth: labels and actors on the RGB grid.
        images: pictures on that grid, H x W gray or H x W x 3 R G B, uint8; of color, the
            luminance counts.

    Raises:
        ValueError: a picture has another size than the labels.
    """
    for image in images:
        if image.shape[:2] != truth.labels.shape:
            raise ValueError(f'expected pictures of the size of the labels {truth.labels.shape}, '
                             f'got {image.shape[:2]}')
    gray = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            for image in images]
    reach, found = RING_GAP_PX + RING_WIDTH_PX + 1, []
    for actor in filter(counts, truth.actors):
        left, top, right, bottom = actor.box_px
        near = np.s_[max(top - reach, 0):bottom + reach, max(left - reach, 0):right + reach]
        labels = truth.labels[near]
        contrasts = (contrast(image[near], labels == actor.label, others=labels > 0)
                     for image in gray)
        found.append(Sighting(actor, tuple(contrasts)))
    return found


def _grown(mask: np.ndarray, by_px: int) -> np.ndarray:
    side = 2 * by_px + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
