# SPDX-License-Identifier: Apache-2.0
"""Detail that one camera has where the other one is flat, as far as fusing lost it.

In the dark, in a plain sky and before a plain wall only thermal has edges and texture; where
everything is equally warm only the visible image has. There is nothing to choose there, so the
fused image can have all of it. Warm objects are left alone, with what lies next to them: where
the cameras are not quite in line, visible edges would come back beside a person of thermal.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

SMOOTH_PX = 0.75  # Gaussian before structure is measured: pixel noise is none
# The spread around a pixel is the largest minus the smallest level of 5 x 5 pixels. A spread of
# FLAT levels, or of NOISE standard deviations of the noise where that is more, is no structure;
# twice as much is. Noise alone usually spreads over 4 of its standard deviations.
WINDOW = np.ones((5, 5), np.uint8)
FLAT, NOISE = 3.0, 6.0
# Keeps the standard deviation of noise.
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
DEVIATION = 0.6745  # median of the absolute values of noise, in standard deviations
DETAIL_PX = 2.0  # finer than this Gaussian is detail
GAIN = 1.5  # of thermal: enlarging the thumbnail blurs it again
MOST = 8.0  # levels of detail: the edge of a cold sky would have a halo
BESIDE = np.ones((13, 13), np.uint8)  # what is next to a warm object: 3 times DETAIL_PX


@dataclass(frozen=True, eq=False)
class FineDetail:
    """Detail that a fused image should have, as only one of the cameras has any.

    Attributes:
        wanted: levels of detail, h x w float32.
        share: how much of the detail of the fused image is to give way to it, h x w float32.
    """

    wanted: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, thermal: np.ndarray, luma: np.ndarray, warm: np.ndarray,
           seen: np.ndarray | None = None) -> 'FineDetail':
        """Measure the detail that only one camera has.

        Args:
            thermal, luma: fine thumbnails of one view, h x w uint8: white-hot thermal, luminance
                of the visible image.
            warm: where warm objects are, h x w float32, 0 to 1.
            seen: h x w bool, what both cameras see; None: all of it.
        """
        elsewhere: Any = 1 - cv2.dilate(warm, BESIDE)
        if seen is not None:
            elsewhere *= cv2.erode(seen.view(np.uint8), WINDOW, borderValue=1)
        warm_structure, visible_structure = _structure(thermal), _structure(luma)
        of_thermal = GAIN * elsewhere * warm_structure * (1 - visible_structure)
        of_luma = elsewhere * visible_structure * (1 - warm_structure)
        share = of_thermal + of_luma
        # Visible noise stays beside thermal detail: a network keeps it, too.
        return cls(of_thermal * _fine(thermal) + share * _fine(luma), share)

    def missing(self, fused: np.ndarray) -> np.ndarray:
        """Return the levels that a fused luminance lacks, h x w float32.

        Args:
            fused: a thumbnail of the same view, h x w uint8.
        """
        return np.clip(self.wanted - self.share * _fine(fused), -MOST, MOST)


def median_noise(gray: np.ndarray) -> float:
    """Return the standard deviation of the noise of an h x w uint8 image, in levels.

    A filter without response to planes leaves noise and edges (Immerkaer, Fast Noise Variance
    Estimation, 1996). Edges hardly move the median, taken in every fourth row and column.
    """
    left = cv2.filter2D(gray, cv2.CV_32F, LAPLACIAN)
    return float(np.median(np.abs(left[::4, ::4]))) / DEVIATION


def _structure(gray: np.ndarray) -> np.ndarray:
    """Return how surely each pixel of an h x w uint8 image lies in structure, 0 to 1."""
    smooth = cv2.GaussianBlur(gray, (0, 0), SMOOTH_PX)
    spread = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, WINDOW).astype(np.float32)
    flat = max(FLAT, NOISE * median_noise(gray))
    return np.clip(spread / flat - 1, 0, 1)


def _fine(gray: np.ndarray) -> np.ndarray:
    """Return an h x w uint8 image without what is broader than DETAIL_PX, float32."""
    levels = gray.astype(np.float32)
    return levels - cv2.GaussianBlur(levels, (0, 0), DETAIL_PX)
