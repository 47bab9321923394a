# SPDX-License-Identifier: Apache-2.0
"""The image a network is trained towards: what a careful retoucher would make of a pair.

The base is the visible image, replaced by thermal where the visible image is bright and empty
(smoke, fog, glare). Detail comes from the camera that has it, band by band, and warm objects are
drawn one by one (warm_objects.py). The rules are this project's own; docs/training.md has the
reasons and what each is worth. All images are H x W float32 in [0, 1].
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .warm_objects import (
    LEVEL,
    WarmObject,
    WarmScene,
    blur,
    disc,
    find_objects,
    show_objects,
    smoothstep,
    thermal_ground,
    warmth,
)

BANDS_PX = 2.0, 6.0, 16.0  # sigmas that separate three bands of detail from the base
VEIL_SHARE = 0.85  # of thermal in the base of what is fully veiled
VEILED_FROM = 0.3, 0.5  # luminance of the base: no veil, veil
STRUCTURE_FLOOR = 4 * LEVEL  # thermal structure below this opens no veil
FLAT_VISIBLE = 1.5, 4.0  # visible gradient in levels a pixel: flat, not flat
PRESENT_THERMAL = 0.2, 0.8  # thermal gradient in levels a pixel: noise, structure
VISIBLE_FIRST = 2.0  # how much less energy visible detail needs than thermal detail to be chosen
DARKEST = 3 * LEVEL  # detail is lifted so that it is not cut off at black
LARGEST_SHIFT = 22 * LEVEL  # of the base, to keep detail inside the range


@dataclass(frozen=True)
class TrainingTarget:
    """What a network is to make of a pair, and how much each pixel matters.

    Attributes:
        image: H x W float32 in [0, 1].
        warm: H x W float32, 1 on warm objects, 0 elsewhere.
        share: H x W float32, the share of thermal in the base, 0 to 1.
    """

    image: np.ndarray
    warm: np.ndarray
    share: np.ndarray


def noise_sigma(image: np.ndarray) -> float:
    """Return the standard deviation of the noise of an image, at least half a level.

    After Immerkaer (1996), with the median in place of the mean.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    median = float(np.median(np.abs(cv2.filter2D(image, cv2.CV_32F, kernel))))
    return max(median / 0.6745 / 6, 0.5 * LEVEL)


def denoised(y: np.ndarray) -> np.ndarray:
    """Return visible luminance without as much noise as is measured (non-local means).

    A clean image comes back as it is.
    """
    sigma = noise_sigma(y) / LEVEL
    if sigma <= 1.2:
        return y
    levels = np.rint(y / LEVEL).astype(np.uint8)
    strength = float(min(1.3 * sigma, 8))
    return np.float32(LEVEL) * cv2.fastNlMeansDenoising(levels, None, strength, 5, 13)


def fused_target(ir: np.ndarray, y: np.ndarray, scene: WarmScene) -> TrainingTarget:
    """Return what a network is to make of a pair.

    Args:
        ir, y: Thermal and visible luminance without their noise, H x W float32 in [0, 1].
        scene: What describes the whole image that they are cut from.
    """
    ground = thermal_ground(ir, scene)
    warm = warmth(ir, ground, scene)
    objects = find_objects(ir, ground, warm, scene)
    bands = _Bands(ir, y, ir - warm * np.maximum(ir - ground, 0), scene.scale)
    veil = bands.veil()
    fused = bands.fused(veil)
    opened = _opened_veil(objects, ir, fused, bands.empty(), scene)
    if opened is not None:
        veil = np.maximum(veil, opened)
        fused = bands.fused(veil)
    image, share = show_objects(objects, ir, y, fused, scene)
    return TrainingTarget(image, warm, np.maximum(VEIL_SHARE * veil, share))


class _Bands:
    """Detail of both cameras in three bands, and how they are fused on a base.

    ground is thermal without warm objects: these would cast dark rings on their surround.
    """

    def __init__(self, ir, y, ground, scale):
        self._scale, self._ir, self._y = scale, ir, y
        self._sigmas = [scale * sigma for sigma in BANDS_PX]
        self._smooth_y = [y, *(blur(y, sigma) for sigma in self._sigmas)]
        self._smooth_i = [ground, *(blur(ground, sigma) for sigma in self._sigmas)]
        self._noise_y, self._noise_i = noise_sigma(y), noise_sigma(ir)
        self._bright = smoothstep(self._smooth_y[3], *VEILED_FROM)
        energy_y = blur((y - self._smooth_y[2]) ** 2, 6 * scale)
        self._energy_y = np.maximum(energy_y - self._noise_y ** 2, 0)
        self._open = (1 - smoothstep(_gradient(y, 1.0, scale), *FLAT_VISIBLE)) * smoothstep(
            _gradient(ground, 1.5, scale), *PRESENT_THERMAL)

    def veil(self) -> np.ndarray:
        """Return where the visible image is bright and has less structure than thermal, 0 to 1."""
        scale = self._scale
        energy_i = blur((self._ir - blur(self._ir, 6 * scale)) ** 2, 6 * scale)
        energy_i = np.maximum(energy_i - (3 * self._noise_i) ** 2 - STRUCTURE_FLOOR ** 2, 0)
        share = energy_i / (energy_i + 4 * self._energy_y + (3 * LEVEL) ** 2)
        return blur(smoothstep(blur(share * self._bright, 40 * scale), 0.35, 0.65), 10 * scale)

    def empty(self) -> np.ndarray:
        """Return where the visible image is bright and flat, whatever thermal shows, 0 to 1."""
        return smoothstep(-np.sqrt(self._energy_y) / LEVEL, -10, -4) * self._bright

    def fused(self, veil: np.ndarray) -> np.ndarray:
        """Return base and detail of both cameras, without warm objects.

        veil is H x W, 0 to 1: where thermal is the base.
        """
        share = VEIL_SHARE * veil
        fused = (1 - share) * self._smooth_y[3] + share * blur(self._ir, self._sigmas[2])
        floors = 2 * self._noise_i, self._noise_i, LEVEL
        for band in (2, 1, 0):
            detail_y, detail_i = (smooth[band] - smooth[band + 1]
                                  for smooth in (self._smooth_y, self._smooth_i))
            near = max(1.0, self._sigmas[band])
            energy_y = VISIBLE_FIRST * blur(detail_y ** 2, near)
            energy_i = np.maximum(blur(detail_i ** 2, near) - floors[band] ** 2, 0)
            energy_i = energy_i * (1 + 2 * veil)
            chosen = energy_i ** 2 / (energy_i ** 2 + energy_y ** 2 + LEVEL ** 4)
            shown = np.maximum(chosen, self._open) if band < 2 else chosen
            fused = fused + (1 - chosen) * detail_y + shown * detail_i
        return _inside_range(fused, 5 * self._scale)


def _inside_range(fused, sigma_px):
    """Return fused with its base shifted, smoothly and little, where detail leaves [0, 1]."""
    for beyond, sign in ((np.maximum(DARKEST - fused, 0), 1), (np.maximum(fused - 1, 0), -1)):
        fused = fused + sign * np.minimum(2.6 * blur(beyond, sigma_px), LARGEST_SHIFT)
    return fused


def _gradient(image, sigma_px, scale):
    """Mean length of the gradient nearby, in levels a pixel."""
    smooth = blur(image, sigma_px) / LEVEL
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    return blur(np.hypot(x, y), 1.5 * scale)


def _opened_veil(objects: list[WarmObject], ir, fused, empty, scene: WarmScene):
    """Return where a veil opens around objects that it leaves no room to be brighter, 0 to 1.

    None where nothing does.
    """
    lacking = np.zeros_like(ir)
    for item in objects:
        if not 60 * scene.scale ** 2 <= item.area_px <= 0.03 * scene.area_px:
            continue
        around = ~item.pixels & (item.weight == 0) | item.surround
        ground, thermal = (float(image[item.window][around].mean()) for image in (fused, ir))
        lack = ground + 0.9 * item.contrast_in(ir) - 1
        if lack > 0 and empty[item.window][around].mean() >= 0.3:
            part = lacking[item.window]
            opened = min(1.0, lack / max(ground - thermal, 0.05))
            part[item.pixels] = np.maximum(part[item.pixels], opened)
    if not lacking.any():
        return None
    radius = max(3, int(0.09 * scene.height_px))
    spread = blur(cv2.dilate(lacking, disc(radius)), 0.6 * radius)
    return np.clip(spread * np.clip(1.5 * blur(empty, 6 * scene.scale), 0, 1), 0, 1)
