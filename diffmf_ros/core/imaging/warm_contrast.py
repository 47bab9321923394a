# SPDX-License-Identifier: Apache-2.0
"""Contrast of warm objects: what a camera shows clearly stands out in the fused image too.

A network draws some people half dark and half light, or as gray as what is behind them. Every
warm object of the size of a person gets the contrast that the better camera has, as far as black
and white leave room for it: bright, as thermal has it, or dark, where it is clearly dark in the
visible image, such as a coat before snow.

A network also paints spots that stand out in neither camera, such as white patches on a road that
is warm all over. What is no warm object is lowered to what one of the cameras shows, and gets the
detail that only one of them has.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .gray_range import percentiles
from .missing_detail import FineDetail
from .stream_filters import LONGEST_GAP_NS

LEAST_SIDE_PX = 100  # of a thumbnail; smaller ones say too little, and nothing is changed
# Lengths in heights of the image; what is wider than GROUND belongs to the ground.
GROUND, NOISE, EDGE, RING = 1 / 8, 1 / 300, 1 / 340, 1 / 35
LEVELS = 28, 50, 85  # above the ground, in gray levels: an object may lie in an object
OF_RANGE = 0.1  # of the way from the median of thermal to its hot end
HOT_PERCENTILE, LEAST_RANGE = 99.5, 40
SMALLEST = 1 / 90  # root of the area, in heights: 5 pixels of 480
LARGE = 0.01, 0.03  # share of the image: changed in full, not changed
SLENDER, FILLED = 5, 0.25  # longer over shorter side; share of the bounding box
MOST = 64  # objects of a level, the largest ones: what has more is a texture, and takes its time
CONTRAST = 20.0, 40.0  # in thermal, in gray levels: not changed, changed in full
DARK = 0.6  # share of the contrast in thermal that makes an object dark in the visible image
DRAWN = 0.3  # one that the fused image shows by so much the other way round stays so
STAYS_DARK, STAYS_BRIGHT = 10.0, 0.3  # so do those of the pair before: levels; share of contrast
BLACK, WHITE = 5.0, 245.0
ROUNDS, STEP = 2, 60.0  # of correction, as neighbors change each other; levels in each
# Spots: what is narrower than this, in heights, and at least so many levels brighter above its
# surround than in either camera, where the fused image is brighter than the visible one. What a
# camera shows may be wider: part of a warm wall, beside something dark of the visible image.
SPOT, SHOWN, SPOT_LEVELS, SPOT_LIFT = 1 / 4, 0.55, 10.0, (10.0, 30.0)
# The square by which cameras and network may differ in place.
_NEAR = np.ones((5, 5), np.uint8)


@dataclass(frozen=True)
class WarmObjects:
    """Objects that do not touch each other, and the ring around each.

    Attributes:
        pixels: flat indices of the pixels of all objects and then of all rings.
        part: what each of them belongs to: object i is part i, its ring part count + i.
        sizes: number of pixels of each part.
        share: part of the image that each object covers.
        upright: which objects are at least as tall as wide, as people are and cars are not.
    """

    pixels: np.ndarray
    part: np.ndarray
    sizes: np.ndarray
    share: np.ndarray
    upright: np.ndarray

    def means(self, *images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the means of h x w images in each object, and in the ring around it.

        0 where there is no ring.
        """
        count, divisors = len(self.share), np.maximum(self.sizes, 1)
        means = [np.bincount(self.part, image.reshape(-1)[self.pixels], 2 * count) / divisors
                 for image in images]
        return [(each[:count], each[count:]) for each in means]

    def contrast(self, image: np.ndarray) -> np.ndarray:
        """Return the mean of each object minus that of the ring around it, in an h x w image."""
        (inside, around), = self.means(image)
        return inside - around

    def inner_means(self, *images: np.ndarray) -> list[np.ndarray]:
        """Return the means of h x w images in each object."""
        count = len(self.share)
        inside = self.sizes[:count].sum()
        pixels, part = self.pixels[:inside], self.part[:inside]
        return [np.bincount(part, image.reshape(-1)[pixels], count) / self.sizes[:count]
                for image in images]

    def drawn(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return an h x w float32 image with one value in each object and 0 elsewhere."""
        image = np.zeros(shape, np.float32)
        inside = self.sizes[:len(self.share)].sum()
        image.reshape(-1)[self.pixels[:inside]] = values[self.part[:inside]]
        return image


@dataclass(frozen=True, eq=False)
class WarmView:
    """Warm objects and fine detail of both cameras in one view, whatever the fused image is.

    Attributes:
        thermal, luma: fine thumbnails, h x w uint8: white-hot thermal, visible luminance.
        seen: h x w bool, what both cameras see; None: all of it.
        found: warm objects and their contrast in thermal, by level, outer ones first.
        warm: how surely a pixel is one of a warm object, h x w float32, 0 to 1.
        shown: by how much a pixel or one beside it stands out in a camera, h x w uint8.
        detail: what is fine, away from warm objects.
    """

    thermal: np.ndarray
    luma: np.ndarray
    seen: np.ndarray | None
    found: list[tuple[WarmObjects, np.ndarray]]
    warm: np.ndarray
    shown: np.ndarray
    detail: FineDetail

    @classmethod
    def of(cls, thermal: np.ndarray, luma: np.ndarray, seen: np.ndarray | None = None, *,
           fine: tuple[np.ndarray, np.ndarray] | None = None) -> 'WarmView | None':
        """Look at thumbnails of one view. None where they are too small to say anything.

        Args:
            thermal, luma, seen: as the attributes.
            fine: thermal and luma on the grid of fine detail, H x W uint8; None: the thumbnails.
        """
        if min(thermal.shape) < LEAST_SIDE_PX:
            return None
        warm, upright = np.zeros((2, *thermal.shape), np.float32)
        found = [(objects, objects.contrast(thermal)) for objects in find_objects(thermal, seen)]
        for objects, contrast in found:
            sure = smoothstep(contrast, *CONTRAST)
            np.maximum(warm, objects.drawn(sure, warm.shape), out=warm)
            np.maximum(upright, objects.drawn(sure * objects.upright, warm.shape), out=upright)
        shown = cv2.max(*(_above_surround(image, SHOWN) for image in (thermal, luma)))
        return cls(thermal, luma, seen, found, warm, cv2.dilate(shown, _NEAR),
                   FineDetail.of(*(fine or (thermal, luma)), warm, upright, seen))


class WarmContrast:
    """Measures by how much the images of a stream of pairs are to be lifted. For one thread.

    It remembers which ones were bright and which were dark: a threshold would make them blink.
    """

    def __init__(self) -> None:
        self._side: np.ndarray | None = None
        self._stamp_ns = 0

    def __call__(self, fused: np.ndarray, view: WarmView, *,
                 stamp_ns: int = 0) -> np.ndarray | None:
        """Measure what the warm objects of a fused image lack, and its detail elsewhere.

        Args:
            fused: luminance of the fused image on the grid of fine detail, H x W uint8.
            view: what the cameras show.
            stamp_ns: time of the pair; 0: it is judged by itself.

        Returns:
            Levels to add, H x W float32; None where nothing is lacking.
        """
        since_ns = stamp_ns - self._stamp_ns if self._stamp_ns and stamp_ns else 0
        before, self._stamp_ns = self._side, stamp_ns
        shape = view.thermal.shape
        if before is None or not 0 < since_ns <= LONGEST_GAP_NS or before.shape != shape:
            before = np.zeros(shape, np.float32)
        self._side = side = np.zeros(shape, np.float32)
        small = _thumbnail(fused, shape)
        detail = view.detail.missing(fused)
        image = small + _thumbnail(detail, shape)
        drawn = image.copy()
        image -= _spots(small, view)
        corrections = [(objects, *_goals(objects, contrast, image, view.luma, side, before))
                       for objects, contrast in view.found]
        for _ in range(ROUNDS):
            for objects, goal, trust in corrections:
                _correct(image, objects, goal, trust)
        lift = detail
        if (image != drawn).any():
            lift = detail + enlarged(image - drawn, detail.shape)
        return lift if np.abs(lift).max() >= 1 else None


def lifted(image: np.ndarray, lift: np.ndarray | None) -> np.ndarray:
    """Add levels to every channel of an image.

    Args:
        image: H x W or H x W x 3 uint8; not changed.
        lift: levels, a float32 image of the same view, which may be coarser; None: none.

    Returns:
        An image of the same shape.
    """
    if lift is None:
        return image
    lift = enlarged(lift, image.shape)
    if image.ndim == 3:
        lift = cv2.merge([lift] * image.shape[2])
    return cv2.add(image, lift, dtype=cv2.CV_8U)


def enlarged(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a coarse image in another shape, without steps."""
    return image if image.shape == shape[:2] else cv2.resize(
        image, shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _thumbnail(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an H x W image averaged to h x w."""
    return image if image.shape == shape else cv2.resize(
        image, shape[::-1], interpolation=cv2.INTER_AREA)


def find_objects(thermal: np.ndarray, seen: np.ndarray | None = None) -> list[WarmObjects]:
    """Return what is warmer than its surround at the scale of people.

    Args:
        thermal: h x w uint8, white-hot.
        seen: h x w bool, where to look; None: everywhere.

    Returns:
        The objects by level, outer ones first; levels without any are left out.
    """
    height = thermal.shape[0]
    smooth = cv2.GaussianBlur(thermal, (0, 0), max(NOISE * height, 0.3))
    above = _above_surround(smooth, GROUND)
    median, hot = percentiles(smooth[::2, ::2], 50, HOT_PERCENTILE)
    least = int(median + OF_RANGE * max(hot - median, LEAST_RANGE))
    above = cv2.bitwise_and(above, cv2.threshold(smooth, least, 255, cv2.THRESH_BINARY)[1])
    if seen is not None and not seen.all():
        above[~seen] = 0
    found = (_connected(above, level, seen) for level in LEVELS)
    return [objects for objects in found if objects is not None]


def _connected(above: np.ndarray, level: int, seen: np.ndarray | None) -> WarmObjects | None:
    """Return the connected parts of more than a level that may be people."""
    height = above.shape[0]
    warm = cv2.compare(above, level, cv2.CMP_GT)  # type: ignore[call-overload]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(warm, ltype=cv2.CV_16U)
    width, tall, area = (stats[:, column] for column in (
        cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    wanted = (area >= (SMALLEST * height) ** 2) & (area <= LARGE[1] * above.size)
    wanted &= np.maximum(width, tall) <= SLENDER * np.minimum(width, tall)
    wanted &= area >= FILLED * width * tall
    wanted[0] = False
    wanted[np.argsort(-area * wanted, kind='stable')[MOST:]] = False
    count = np.count_nonzero(wanted)
    if not count:
        return None
    pixels = np.flatnonzero(warm.view(bool))
    number = np.where(wanted, np.cumsum(wanted), 0)[labels.reshape(-1)[pixels]]
    pixels, number = pixels[number > 0], number[number > 0]
    objects = np.zeros(above.shape, np.uint16)
    objects.reshape(-1)[pixels] = number
    reach = 2 * max(2, round(RING * height)) + 1
    rings = cv2.dilate(objects, np.ones((reach, reach), np.uint8))
    free = (rings > 0) & (cv2.dilate(warm, np.ones((3, 3), np.uint8)) == 0)
    if seen is not None:
        free &= seen
    ring = np.flatnonzero(free)
    part = np.concatenate([number - 1, rings.reshape(-1)[ring].astype(np.intp) + (count - 1)])
    return WarmObjects(np.concatenate([pixels, ring]), part,
                       np.bincount(part, minlength=2 * count), area[wanted] / above.size,
                       (tall >= width)[wanted])


def _above_surround(image: np.ndarray, width: float) -> np.ndarray:
    """Return by how much parts narrower than width, in heights, are above what is around them."""
    side = 2 * round(width * image.shape[0] / 2) + 1
    return cv2.morphologyEx(image, cv2.MORPH_TOPHAT,
                            cv2.getStructuringElement(cv2.MORPH_RECT, (side, side)))


def _spots(fused: np.ndarray, view: WarmView) -> np.ndarray:
    """Return by how much bright spots of the fused image exceed what a camera shows, in levels.

    0 on warm objects, and where only one camera sees.
    """
    excess = cv2.subtract(_above_surround(fused, SPOT), view.shown,
                          dtype=cv2.CV_32F) - SPOT_LEVELS
    lift = cv2.subtract(fused, view.luma, dtype=cv2.CV_32F)
    excess = np.maximum(excess, 0, out=excess) * smoothstep(lift, *SPOT_LIFT)
    excess *= 1 - cv2.dilate(view.warm, _NEAR)
    if view.seen is not None:
        excess *= view.seen
    return cv2.GaussianBlur(excess, (0, 0), max(EDGE * fused.shape[0], 0.3))


def _goals(objects: WarmObjects, warm: np.ndarray, fused: np.ndarray, luma: np.ndarray,
           side: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contrast that objects are to have, and how surely they are to be changed.

    Args:
        objects: those of one level.
        warm: their contrasts in thermal.
        fused, luma: the two images, h x w.
        side: 1 in bright objects so far, -1 in dark ones; these are drawn into it.
        before: that of the pair before.

    Returns:
        Levels, negative for what is to be dark, and 0 to 1.
    """
    (light, behind), (mean, ground) = objects.means(luma, fused)
    square, outer, last = objects.inner_means(fused * fused, side, before)
    visible, drawn = light - behind, mean - ground
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    # As bright as the better camera, as dark as the visible one, and neither black nor white.
    bright = np.minimum(np.maximum(warm, visible), np.maximum(WHITE - spread - ground, 0))
    dark = np.maximum(np.minimum(-visible, ground - spread - BLACK), 0)
    is_dark = (visible < 0) & ((dark >= DARK * warm) | (dark > bright))
    other_way = np.where(is_dark, drawn > 0, drawn < 0)
    is_dark ^= other_way & (np.abs(drawn) >= DRAWN * np.maximum(warm, np.abs(visible)))
    is_dark |= (last < -0.5) & (dark > STAYS_DARK)
    is_dark &= ~((last > 0.5) & (bright > STAYS_BRIGHT * warm))
    is_dark &= outer <= 0.5
    trust = smoothstep(warm, *CONTRAST) * (1 - smoothstep(objects.share, *LARGE))
    # What lies in a dark object stays as it is.
    trust[(outer < -0.5) | (objects.sizes[len(warm):] == 0)] = 0
    goal = np.where(is_dark, -dark, bright)
    trust[np.abs(drawn) * np.sign(drawn * goal) >= np.abs(goal)] = 0
    own = objects.drawn(np.where((outer < -0.5) | is_dark, -1.0, 1.0), side.shape)
    np.copyto(side, own, where=own != 0)
    return goal, trust


def _correct(image: np.ndarray, objects: WarmObjects, goal: np.ndarray,
             trust: np.ndarray) -> None:
    """Lift or lower objects towards their contrast, in place; none has too much already."""
    change = np.clip((goal - objects.contrast(image)) * trust, -STEP, STEP)
    change[change * goal < 0] = 0
    if change.any():
        cv2.add(image, cv2.GaussianBlur(objects.drawn(change, image.shape), (0, 0),
                                        max(EDGE * image.shape[0], 0.3)), dst=image)
        np.clip(image, 0, 255, out=image)


def smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below low, 1 above high, and a smooth rise between them."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
