# SPDX-License-Identifier: Apache-2.0
"""Fine detail that one camera has where the other one is flat, as far as fusing lost it.

In the dark, in a plain sky and before a plain wall only thermal has edges and texture; where
everything is equally warm only the visible image has. There is nothing to choose there, so the
fused image can have all of it.

Around upright warm objects a part of the detail is that of thermal instead: visible edges of what
is behind a person, or of the person when the cameras are not quite in line, cost a detector the
person. Warm objects themselves are left alone, with what touches them.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .gray_range import percentiles

SHORT_SIDE = 600  # pixels that the shorter side of the fine images stays below
# An image is flat where no gradient of it reaches so many levels a pixel nearby, as in the
# measures detail and thermal_detail (tools/evaluation/perception.py).
SMOOTH_PX, NEARBY = 1.5, np.ones((5, 5), np.uint8)
VISIBLE = 2.0, 3.0  # levels a pixel: flat, structure
THERMAL = 1.6, 2.4  # the same, to keep visible detail out
SHOWN = 0.8, 1.2  # the same, to be shown itself
# Steepness is kept in steps of 1 / STEPS level a pixel.
STEPS = 16
# Thermal limits grow with the noise: what the flattest parts, this share of the image, are steeper
# than by rounding to levels. But not beyond MOST_GROWN: all of a meadow from above is texture.
FLATTEST_PERCENT, ROUNDED, NOISE, MOST_GROWN = 5, 0.5625, 4.0, 3.0
DETAIL_PX = 4.0  # finer than this Gaussian is detail
GAIN = 1.2  # of thermal detail that is missing: optics and enlarging have blurred it
# Of faint visible detail where the view is bright, in levels of the mean nearby: noise of thermal
# lies over it. In the dark it is grain and lamps, which cost a detector people.
VISIBLE_GAIN, BRIGHT, BRIGHT_NEARBY = 1.3, (50.0, 100.0), 1 / 15  # of the height
MOST_ADDED_LEVELS = 1.5  # to it: strong detail needs no help
MOST_LEVELS = 20.0  # of detail: the edge of a cold sky would have a halo
BESIDE_PX = 5  # of a warm object: left alone
AROUND = 1 / 13  # of the height: what is nearer than half of it is around an upright object
OF_THERMAL = 0.4  # share of thermal in the detail there, in place of visible


@dataclass(frozen=True, eq=False)
class FineDetail:
    """Fine detail that a fused image should have.

    Attributes:
        wanted: levels of detail, H x W float32.
        share: how much of the detail of the fused image gives way to it, H x W float32.
    """

    wanted: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, thermal: np.ndarray, luma: np.ndarray, warm: np.ndarray, upright: np.ndarray,
           seen: np.ndarray | None = None) -> 'FineDetail':
        """Measure the detail that a fused image should have.

        Args:
            thermal, luma: white-hot thermal and luminance of the visible image, H x W uint8.
            warm: where warm objects are, h x w float32, 0 to 1: a thumbnail of the same view.
            upright: where those are that are no wider than tall; as warm.
            seen: h x w bool, what both cameras see; None: all of it.
        """
        steep, visible = _steepness(thermal), _steepness(luma)
        grown = _growth(cv2.resize(steep, warm.shape[::-1], interpolation=cv2.INTER_NEAREST), seen)
        structured = _above(visible, *VISIBLE)
        shown = _times(_above(steep, *(grown * limit for limit in SHOWN)), 255 - structured)
        both = _times(_above(steep, *(grown * limit for limit in THERMAL)), structured)
        free, around = (cv2.resize(image, luma.shape[::-1])
                        for image in _surround(warm, upright, seen, luma.shape[0]))
        share = _times(free, cv2.max(255 - cv2.blur(both, (3, 3)), around))
        sharpened = _sharpened(luma, around)
        around = cv2.convertScaleAbs(around, alpha=OF_THERMAL)
        of_thermal, of_luma = _times(free, cv2.blur(shown, (3, 3))), _times(share, 255 - around)
        # In place and of one type, which takes half of the time.
        gain = of_thermal.astype(np.float32)
        gain *= np.float32((GAIN - 1) / 255 ** 2)
        gain += np.float32(1 / 255)
        of_thermal = cv2.max(of_thermal, _times(free, around))
        wanted, of_visible = (each.astype(np.float32) for each in (of_thermal, of_luma))
        wanted *= _fine(thermal)
        of_visible *= sharpened
        wanted += of_visible
        wanted *= gain
        gain *= share.astype(np.float32)
        return cls(wanted, gain)

    def missing(self, fused: np.ndarray) -> np.ndarray:
        """Return the levels that a fused luminance, H x W uint8, lacks: H x W float32."""
        lacking = _fine(fused)
        lacking *= self.share
        np.subtract(self.wanted, lacking, out=lacking)
        return np.clip(lacking, -MOST_LEVELS, MOST_LEVELS, out=lacking)


def _steepness(gray: np.ndarray) -> np.ndarray:
    """Return the steepest gradient nearby in an H x W uint8 image: H x W uint8, in STEPS."""
    smooth = cv2.GaussianBlur(gray, (0, 0), SMOOTH_PX)
    right, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=STEPS / 8)
                   for axis in ((1, 0), (0, 1)))
    return cv2.dilate(cv2.convertScaleAbs(cv2.magnitude(right, down)), NEARBY)


def _sharpened(luma: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Return the detail of an H x W uint8 image, faint detail stronger where the view is bright.

    Not so around people, by the share around, 255: all.
    """
    visible, most = _fine(luma), MOST_ADDED_LEVELS / (VISIBLE_GAIN - 1)
    added = np.clip(visible, -most, most)
    added *= _times(_bright(luma), 255 - around)
    added *= np.float32((VISIBLE_GAIN - 1) / 255)
    return np.add(visible, added, out=visible)


def _bright(luma: np.ndarray) -> np.ndarray:
    """Return 255 where the view is bright and 0 where it is dark, for an H x W uint8 image."""
    side = 2 * round(BRIGHT_NEARBY * luma.shape[0] / 8) + 1
    mean = cv2.blur(cv2.resize(luma, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA),
                    (side, side))
    return cv2.resize(_above(mean, *(level / STEPS for level in BRIGHT)), luma.shape[::-1])


def _growth(steepness: np.ndarray, seen: np.ndarray | None) -> float:
    """Return by how much noise raises the thermal limits.

    Args:
        steepness: of thermal, h x w uint8, in STEPS; no noise is where it does not see.
        seen: as for FineDetail.of.
    """
    if seen is not None:
        whole = cv2.erode(seen.view(np.uint8), NEARBY, borderValue=1).view(bool)
        steepness = steepness[whole][::4]
    else:
        steepness = steepness[::2, ::2]  # says as much
    if not steepness.size:
        return 1.0
    floor = percentiles(steepness, FLATTEST_PERCENT)[0] / STEPS
    return min(1 + NOISE * max(floor - ROUNDED, 0.0), MOST_GROWN)


def _above(steepness: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 up to low levels a pixel, 255 from high on, and a straight rise between them."""
    return cv2.LUT(steepness, _rise(low, high))


@lru_cache(maxsize=16)
def _rise(low: float, high: float) -> np.ndarray:
    levels = np.arange(256) / STEPS
    return np.uint8(255 * np.clip((levels - low) / (high - low), 0, 1))


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of two shares, uint8, of which 255 is all."""
    return cv2.multiply(a, b, scale=1 / 255)


def _surround(warm: np.ndarray, upright: np.ndarray, seen: np.ndarray | None,
              height_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what is not beside a warm object, and what is around an upright one: h x w uint8.

    255 is all of it; height_px is that of the images whose thumbnail warm is.
    """
    factor = height_px / warm.shape[0]
    beside = 2 * round(BESIDE_PX / factor) + 1
    border = 2 * round(2.5 * DETAIL_PX / factor) + 1  # where one camera ends is an edge
    around = 2 * round(AROUND * warm.shape[0] / 2) + 1
    warm, upright = (cv2.convertScaleAbs(share, alpha=255) for share in (warm, upright))
    free = 255 - cv2.dilate(warm, np.ones((beside, beside), np.uint8))
    if seen is not None:
        whole = cv2.erode(seen.view(np.uint8), np.ones((border, border), np.uint8), borderValue=1)
        free = cv2.multiply(free, whole)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (around, around))
    return free, cv2.GaussianBlur(cv2.dilate(upright, disc), (0, 0), around / 6)


def _fine(gray: np.ndarray) -> np.ndarray:
    """Return an H x W uint8 image without what is broader than DETAIL_PX, float32.

    What is broad is taken from a thumbnail.
    """
    small = cv2.resize(gray, (gray.shape[1] // 2, gray.shape[0] // 2),
                       interpolation=cv2.INTER_AREA).astype(np.float32)
    broad = cv2.GaussianBlur(small, (0, 0), DETAIL_PX / 2)
    return cv2.subtract(gray, cv2.resize(broad, gray.shape[::-1]), dtype=cv2.CV_32F)
