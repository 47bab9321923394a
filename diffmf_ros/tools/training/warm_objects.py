# SPDX-License-Identifier: Apache-2.0
"""Warm objects of a thermal image, one by one, and how each of them is to look in the fused image.

Used to make training targets only: it sees whole objects and may take its time, which a network
and the node may not. All images are H x W float32 in [0, 1]; lengths are given for an image 480
pixels high.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ...core.imaging.warm_contrast import smoothstep

LEVEL = 1 / 255
WARMER = 14 * LEVEL, 45 * LEVEL  # above the thermal ground: not warm, warm
# Above the ground, from which on pixels form an object, and objects in it.
OBJECTS = 28 * LEVEL, 50 * LEVEL, 85 * LEVEL
OF_RANGE = 0.05, 0.25  # share of the range from the thermal median to its 99.5th percentile
GROUND_PX = 68  # objects wider than twice this belong to the ground
SMALLEST_PX = 30  # area of an object
LARGEST_SHARE = 0.03  # of the image; larger ones are buildings and roads, not targets
# A person dark in the visible image stays dark if that shows at least so much of the contrast.
KEEP_DARK = 0.6
THERMAL_LOOK = 0.95  # share of thermal in the look of an object, and of a large one
THERMAL_LOOK_LARGE = 0.5
FINE_PX = 2.0  # sigma; finer visible detail stays on an object: clothes, lettering, windows
BRIGHTEST = 245 * LEVEL
LARGEST_LIFT = 0.35
ENOUGH = 0.97  # of the better camera's contrast
ROUNDS = 3  # of correcting the contrast; neighbors change each other


@dataclass(frozen=True)
class WarmScene:
    """What a crop does not show of the image it comes from.

    Attributes:
        height_px: Height of the whole image at the scale of the crop.
        median, hot: Median and 99.5th percentile of thermal in the whole image, [0, 1].
    """

    height_px: float
    median: float
    hot: float

    @property
    def scale(self) -> float:
        """Size of the image relative to one 480 pixels high."""
        return self.height_px / 480

    @property
    def area_px(self) -> float:
        """Area of a whole 4:3 image of this height."""
        return self.height_px ** 2 * 4 / 3

    @classmethod
    def of(cls, ir: np.ndarray, *, scale: float = 1.0) -> 'WarmScene':
        """Return what describes a whole thermal image, of which crops are taken at this scale."""
        median, hot = np.percentile(ir[::2, ::2], (50, 99.5))
        return cls(scale * ir.shape[0], float(median), float(max(hot, median + 40 * LEVEL)))


@dataclass(frozen=True)
class WarmObject:
    """An object and its surround inside a window of the image.

    Attributes:
        window: The part of the image that holds both.
        pixels, surround: Bool masks within the window.
        weight: Float mask, 1 inside and soft at the edge: where the object may be changed.
        area_px: Number of its pixels.
        contrast: The contrast it is to have, negative if it is to stay darker than its surround.
    """

    window: tuple[slice, slice]
    pixels: np.ndarray
    surround: np.ndarray
    weight: np.ndarray
    area_px: int
    contrast: float = 0.0

    def contrast_in(self, image: np.ndarray) -> float:
        """Return mean(object) - mean(surround) of an H x W image."""
        part = image[self.window]
        return float(part[self.pixels].mean() - part[self.surround].mean())


def blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Return a Gaussian blur of an H x W float32 image."""
    return cv2.GaussianBlur(image, (0, 0), max(sigma_px, 0.3))


def disc(radius_px: int) -> np.ndarray:
    """Return the structuring element of a disc."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1,) * 2)


def thermal_ground(ir: np.ndarray, scene: WarmScene) -> np.ndarray:
    """Return thermal without what is warmer than its surround and narrower than twice GROUND_PX.

    A morphological opening, H x W.
    """
    smooth = blur(ir, 1.5)
    small = cv2.resize(smooth, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
    radius = max(2, int(GROUND_PX * scene.scale / 4))
    opened = blur(cv2.morphologyEx(small, cv2.MORPH_OPEN, disc(radius)), radius / 2)
    return np.minimum(cv2.resize(opened, ir.shape[::-1]), smooth)


def warmth(ir: np.ndarray, ground: np.ndarray, scene: WarmScene) -> np.ndarray:
    """Return how surely each pixel belongs to something warm, 0 to 1."""
    smooth = blur(ir, 0.7)
    of_range = (smooth - scene.median) / (scene.hot - scene.median)
    return (smoothstep(smooth - ground, *WARMER)
            * smoothstep(of_range, *OF_RANGE)).astype(np.float32)


def find_objects(ir: np.ndarray, ground: np.ndarray, warm: np.ndarray,
                 scene: WarmScene) -> list[WarmObject]:
    """Return the connected warm objects that have a surround to be seen against.

    An object may lie in another one: a person before a warm wall. The outer one comes first.
    """
    above = blur(ir, 0.7) - ground
    masks = (((above > least) & (warm > 0.5)).astype(np.uint8) for least in OBJECTS)
    return [item for mask in masks for item in _connected(mask, warm, scene.scale)]


def _connected(mask, warm, scale):
    """The connected parts of a mask (H x W uint8) as objects."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[label])
        if area < SMALLEST_PX * scale ** 2:
            continue
        margin = int(8 * scale) + max(3, min(width, height) // 3)
        window = (slice(max(0, y - margin), y + height + margin),
                  slice(max(0, x - margin), x + width + margin))
        pixels = labels[window] == label
        own, others = pixels.astype(np.uint8), mask[window] > 0
        reach = max(2, min(margin - 2, int(5 * scale) + min(width, height) // 5))
        edge = cv2.dilate(own, disc(max(1, int(2 * scale)))) > 0
        surround = (cv2.dilate(own, disc(reach)) > 0) & ~edge & ~others
        if surround.sum() < 10:
            surround = ~others
        if surround.sum() >= 5:
            near = blur(cv2.dilate(own, disc(max(1, int(3 * scale)))).astype(np.float32), 1.0)
            weight = np.minimum(warm[window], near)
            found.append(WarmObject(window, pixels, surround, weight, area))
    return found


def show_objects(objects: list[WarmObject], ir: np.ndarray, y: np.ndarray, fused: np.ndarray,
                 scene: WarmScene) -> tuple[np.ndarray, np.ndarray]:
    """Draw every object with the contrast of the camera that shows it better.

    An object that is dark in y and shown well by it stays dark, with all that lies in it; every
    other one gets the look of thermal, brighter than its surround. Large ones keep more of the
    visible image.

    Args:
        objects: As find_objects returns them, outer ones first.
        ir, y, fused: Thermal, visible luminance, and the picture so far, H x W in [0, 1].
        scene: What describes the whole image.

    Returns:
        The picture with the objects, and the share of thermal in it, 0 to 1.
    """
    image, shares, targets = fused.copy(), np.zeros_like(fused), []
    dark = np.zeros(fused.shape, bool)  # what was drawn dark: its warmer parts stay so too
    for item in objects:
        window, pixels = item.window, item.pixels
        large = item.area_px > LARGEST_SHARE * scene.area_px
        if dark[window][pixels].mean() > 0.5:
            continue
        visible, thermal = item.contrast_in(y), item.contrast_in(ir)
        best = max(abs(visible), abs(thermal))
        ground = float(fused[window][item.surround].mean())
        no_room = ground + 0.9 * best > 1.05 and ground - 0.9 * best > -0.05
        if visible < 0 and (abs(visible) >= KEEP_DARK * abs(thermal) or no_room):
            lift = max(ground - best, 0) - float(y[window][pixels].mean())
            lift = max(min(0, lift), -LARGEST_LIFT)
            look, best = fused[window] + lift, -best
            dark[window][pixels] = not large
        else:
            share = np.float32(THERMAL_LOOK_LARGE if large else THERMAL_LOOK)
            look = y[window] + share * (ir[window] - blur(y[window], FINE_PX * scene.scale))
            mean = float(look[pixels].mean())
            lift = np.clip(ground + best - mean, 0, min(LARGEST_LIFT, max(0, BRIGHTEST - mean)))
            look = look + (0 if large else 1) * lift
            np.maximum(shares[window], share * item.weight, out=shares[window])
        image[window] += item.weight * (look - image[window])
        if not large:
            targets.append(replace(item, contrast=best))
    return _with_contrast(np.clip(image, 0, 1), targets), shares


def _with_contrast(image: np.ndarray, objects: list[WarmObject]) -> np.ndarray:
    """Return image with each object lifted or lowered until its contrast is enough, in place."""
    for _ in range(ROUNDS):
        for item in objects:
            contrast = item.contrast_in(image)
            if contrast * item.contrast > 0 and abs(contrast) >= ENOUGH * abs(item.contrast):
                continue
            if contrast * item.contrast < 0 and abs(contrast) > 0.9 * abs(item.contrast):
                continue  # visible enough the other way round
            change = np.clip(item.contrast - contrast, -0.2, 0.2)
            change = change / max(float(item.weight[item.pixels].mean()), 0.3)
            image[item.window] = np.clip(image[item.window] + change * item.weight, 0, 1)
    return image
