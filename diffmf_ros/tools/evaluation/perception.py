# SPDX-License-Identifier: Apache-2.0
"""What a person looks for: hot targets that stand out, visible detail that stays, a picture that
is calm.

The definitions are this project's. Unlike the metrics of the literature they know which source is
which. All images are H x W of levels 0..255, uint8 or float. A value that an image does not
define, such as the salience of hot targets where nothing is hotter than the rest, is NaN.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

HOT_PERCENTILE = 98
SURROUND_SHARE = 1 / 30  # radius of the surround over the shorter side: 16 pixels of 480
SMALLEST_CONTRAST = 1.0  # gray level; a ratio to less than that says nothing
FLAT_SIGMA = 1.5  # the noise of a thermal camera is not structure
FLAT_LEVELS = 2.0  # per pixel
FLAT_WINDOW = 5
STILL_LEVELS = 2.0  # of a smoothed difference of two frames
STILL_SIGMA = 2.0


def salience(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Contrast of hot targets in the fused image over that in the pixel-wise maximum of the
    sources.

    Hot is what is at or above the 98th percentile of ir, its surround the rest of what lies within
    1/30 of the shorter side of it. Contrast is mean(hot) - mean(surround). 1 is as salient as in
    the maximum, negative darker than the surround. NaN where nothing is hotter than the rest and
    where the maximum shows less than a gray level of contrast (bright surround in vi_y): it sets
    no standard then.
    """
    hot = (ir >= np.percentile(ir, HOT_PERCENTILE)).astype(np.uint8)
    radius = max(1, round(min(ir.shape) * SURROUND_SHARE))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    surround = (cv2.dilate(hot, disc) - hot).astype(bool)
    hot = hot.astype(bool)
    if not surround.any():
        return np.nan

    def contrast(image):
        return float(np.mean(image[hot], dtype=np.float64)
                     - np.mean(image[surround], dtype=np.float64))

    possible = contrast(np.maximum(ir, vi_y))
    return contrast(fused) / possible if possible >= SMALLEST_CONTRAST else np.nan


def detail(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Share of the visible gradient that the fused image keeps where infrared is flat (0..1).

    Flat is where no gradient of ir, smoothed by a Gaussian of 1.5 pixels, reaches 2 levels a pixel
    within 5 x 5 pixels. Of the fused gradient counts what points along the visible one, at each
    pixel at most as much as is there: more contrast is not rewarded, and edges the other way round
    are lost. Gradients are Sobel's over 8. NaN where ir is flat nowhere or vi_y has no gradient
    there.
    """
    return _kept_where_flat(ir, vi_y, fused, least=0)


def thermal_detail(ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> float:
    """Share of the thermal gradient that the fused image keeps where the visible one is flat
    (0..1).

    The mirror image of detail, with ir and vi_y in each other's places, but only thermal gradients
    of at least 2 levels a pixel count: the noise of a thermal camera is no detail that a clear sky
    should get.
    """
    return _kept_where_flat(vi_y, ir, fused, least=FLAT_LEVELS)


def _kept_where_flat(flat_source: np.ndarray, source: np.ndarray, fused: np.ndarray, *,
                     least: float) -> float:
    smooth = cv2.GaussianBlur(np.asarray(flat_source, np.float32), (0, 0), FLAT_SIGMA)
    flat = cv2.dilate(np.hypot(*_gradient(smooth)),
                      np.ones((FLAT_WINDOW, FLAT_WINDOW))) < FLAT_LEVELS
    (sx, sy), (fx, fy) = ([part[flat] for part in _gradient(image)] for image in (source, fused))
    there = np.hypot(sx, sy)
    counts = (there > 0) & (there >= least)
    if not np.any(counts):
        return np.nan
    there, along = there[counts], ((sx * fx + sy * fy)[counts]) / there[counts]
    return float(np.sum(np.clip(along, 0, there)) / np.sum(there))


@dataclass(frozen=True)
class Flicker:
    """Mean change from frame to frame in static areas, in gray levels, and the share of pixels
    they are."""

    fused: float
    ir: float
    vi_y: float
    static_share: float

    @property
    def ratio(self) -> float:
        """That of the fused frames over the mean of the two inputs.

        NaN when the inputs do not change at all.
        """
        inputs = (self.ir + self.vi_y) / 2
        return self.fused / inputs if inputs > 0 else np.nan


class FlickerMeter:
    """Takes (ir, vi_y, fused) of consecutive frames of one clip and keeps only the last ones.

    Static are the pixels whose difference of two frames, smoothed by a Gaussian of 2 pixels, stays
    below 2 levels in both inputs: what remains there is noise, gain control and the fusion's own
    doing.
    """

    def __init__(self):
        self._last = None
        self._changes = np.zeros(3)
        self._static = self._pixels = 0

    def add(self, ir: np.ndarray, vi_y: np.ndarray, fused: np.ndarray) -> None:
        """Take the next frame.

        A frame of another size starts anew, without a difference to the last.
        """
        frame = np.stack([ir, vi_y, fused]).astype(np.float32)
        if self._last is not None and self._last.shape == frame.shape:
            changes = frame - self._last
            still = [np.abs(cv2.GaussianBlur(change, (0, 0), STILL_SIGMA)) < STILL_LEVELS
                     for change in changes[:2]]
            static = still[0] & still[1]
            self._changes += np.abs(changes[:, static]).sum(axis=1, dtype=np.float64)
            self._static += int(static.sum())
            self._pixels += static.size
        self._last = frame

    def interrupt(self) -> None:
        """Say that a frame is missing: the next one is not compared with the last."""
        self._last = None

    def result(self) -> Flicker:
        """Return the means over all frames so far.

        NaN where there were no static pixels or fewer than two frames.
        """
        if not self._static:
            return Flicker(np.nan, np.nan, np.nan, 0.0 if self._pixels else np.nan)
        ir, vi_y, fused = (float(total / self._static) for total in self._changes)
        return Flicker(fused, ir, vi_y, self._static / self._pixels)


def flicker(frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Flicker:
    """Measure consecutive (ir, vi_y, fused) of one clip; see FlickerMeter."""
    meter = FlickerMeter()
    for frame in frames:
        meter.add(*frame)
    return meter.result()


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and down, H x W float32, in levels a pixel."""
    source = np.asarray(image, np.float32)
    return cv2.Sobel(source, cv2.CV_32F, 1, 0,
                     scale=1 / 8), cv2.Sobel(source, cv2.CV_32F, 0, 1, scale=1 / 8)
