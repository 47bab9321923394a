# SPDX-License-Identifier: Apache-2.0
"""Color trust: how much of the RGB image's chroma a fused luminance gets.

Chroma is scaled by the ratio of fused to visible luminance, which keeps the saturation (as in
HSV) where fusion brightens or darkens. Where fusion brightens what was dark, the chroma is mostly
sensor noise: there it is despeckled and faded. Where fused and visible luminance are equal the
chroma is left exactly as it is.

All decisions are made at half size, on chroma cleaned by a 3 x 3 median (a 6 x 6 neighborhood of
the full image). core.color uses the arrays, inference.color_trust_tensors does the same on a device.
"""

import cv2
import numpy as np

NEUTRAL = 128  # of Cr and Cb
FLOAT_NEUTRAL = 0.5  # of those of a float image, for OpenCV
WINDOW_PX = 3  # side of the median and of the mean, at half size
# Brightness, Y + |Cr| + |Cb| in levels, up to which chroma is noise, and over which it gains full
# trust. Chroma counts, because saturated blue and red have little luminance.
UNTRUSTED_LEVELS = 12.0
RAMP_LEVELS = 40.0
# Lift of fused over visible luminance, in levels, from which chroma without trust is gone.
LIFT_LEVELS = 20.0
LARGEST_GAIN = 1.5  # more would amplify the noise of the chroma


def chroma_map(luma: np.ndarray, ycrcb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what turns the chroma of the visible image into that of the fused one.

    Args:
        luma: fused luminance, H x W uint8.
        ycrcb: the visible image as core.color.split_luma gives it, H x W x 3 uint8.

    Returns:
        gain, red and blue, each H x W float32: the fused Cr is gain * visible Cr + red, neutral at
        FLOAT_NEUTRAL, and Cb the same with blue.
    """
    height, width = luma.shape
    half = _halved(ycrcb)
    clean = cv2.medianBlur(half, WINDOW_PX)
    y, fused = _mean(cv2.extractChannel(half, 0)), _mean(_halved(luma.astype(np.float32)))
    cr, cb = (cv2.extractChannel(clean, i).astype(np.float32) - NEUTRAL for i in (1, 2))
    gain, share = weights(fused, y, cr, cb)
    neutral = FLOAT_NEUTRAL - NEUTRAL * gain
    planes = gain, neutral + share * cr, neutral + share * cb
    return tuple(_doubled(plane)[:height, :width] for plane in planes)  # type: ignore[return-value]


def weights(fused: np.ndarray, y: np.ndarray, cr: np.ndarray, cb: np.ndarray) -> tuple:
    """Return the factors of the camera's and of the cleaned chroma, whose sum is the result's.

    Args:
        fused, y: smoothed fused and visible luminance, h x w float32 in 0..255; arrays or
            tensors.
        cr, cb: cleaned chroma, h x w float32 around 0.
    """
    trust = ((y + abs(cr) + abs(cb) - UNTRUSTED_LEVELS) / RAMP_LEVELS).clip(0, 1)
    doubt = (1 - trust) * ((fused - y) / LIFT_LEVELS).clip(0, 1)
    kept = (fused.clip(1) / y.clip(1)).clip(0, LARGEST_GAIN) * (1 - doubt)
    return kept * (1 - doubt), kept * doubt


def _halved(image: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels, rounded for uint8; an odd last row or column counts twice."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    size = image.shape[1] // 2, image.shape[0] // 2
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _doubled(image: np.ndarray) -> np.ndarray:
    size = 2 * image.shape[1], 2 * image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _mean(image: np.ndarray) -> np.ndarray:
    window = WINDOW_PX, WINDOW_PX
    return cv2.boxFilter(image, cv2.CV_32F, window, borderType=cv2.BORDER_REPLICATE)
