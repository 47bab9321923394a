# SPDX-License-Identifier: Apache-2.0
"""Weight-free fusion: the degraded mode, and the baseline that every network must beat.

Regions: a region gets its thermal contrast to what lies around it, wherever that is clearer than
its visible contrast. A person who is dark in RGB and warm in thermal keeps one of the two
contrasts, never their mixture, in which he would vanish. The surround is a local median for
ordinary pixels, and the mean of the cold pixels nearby for warm ones, so that nothing warm darkens
its surround.

Details, in three finer bands: thermal adds what the visible band does not show already, as far as
it rises above its own noise. Thermal that shows nothing leaves the visible image as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# All lengths are shares of the image height, so that a larger image is fused like a smaller one.
_REGION_SHARE = 1 / 40  # side of the smoothing: regions are what is larger
_GRID_PX = 40  # height of the coarse grid, at most
# Of the coarse grid: so wide that a person is less than half of it, and smoothed so that no median
# that jumps between two surfaces flips a decision.
_MEDIAN_PX, _MEDIAN_SMOOTHING_PX = 11, 9
_SURROUND_SHARE = 1 / 7  # side of the window of the cold pixels around warm ones
_CLOTHES_SHARE = 1 / 8  # side of the window for clothes of one person
_ROOM_SHARE = 1 / 4  # side of the window in which room for thermal contrast is judged and made

# In levels of 255.
_DEAD = 2.0 / 255  # thermal contrast of a region that does not count; medians are whole levels
_WARM, _WARM_RAMP = 3 / 255, 10 / 255  # above the local median from here on
_QUIET = 0.2 / 255  # amplitude of a detail below which thermal is noise, however still the camera
_SOFT = 1.5 / 255  # between keeping and taking, beside the ramp below
_MOST_LOWERED = 40 / 255  # of the surround of thermal contrast that has no room
_DISTINCT = 25 / 255  # visible contrast of a region that is plainly there

# A thermal contrast replaces the visible one from these ratios on. Where the two have opposite
# signs the warm one is preferred; what is colder than its surround has to be much clearer.
_OPPOSED, _SAME, _COLD = 0.6, 0.9, 2.0
_BRIGHTEST = 0.72  # where warm contrast would have to rise above this, the dark visible one stays
_LITTLE = 0.05  # weight of the median beside the cold pixels nearby
_RAMP_SHARE = 0.2  # of the sum of both contrasts, between keeping the one and taking the other
_WINDOW_PX = 3  # of the local energy of a detail, in every second pixel
_NOISE_PERCENTILE = 25  # of the local energies of a band: its plainest parts
_NOISE_SHARE = 0.6
_MASKING = 0.03  # visible energy hides so much thermal energy
_OPPOSED_ENERGY = 0.5  # of the visible details: from here opposite thermal ones replace them
_LOWERING = 20.0  # times the mean excess: few pixels of a window are warm


@dataclass(frozen=True)
class _Regions:
    """The fused regions and what was decided, each h x w float32; decisions are shares of 0 to 1.

    opposed: warm contrast replaces a visible one of the other sign; kept: a visible contrast stays
    against a warm one; blind: thermal contrast where the visible image shows nothing.
    """

    fused: np.ndarray
    opposed: np.ndarray
    kept: np.ndarray
    blind: np.ndarray


@dataclass(frozen=True)
class _Energies:
    """Local means of ir squared, y squared and ir times y of a band, each h x w float32.

    noise is the energy of thermal noise: that of its plainest quarter.
    """

    ir: np.ndarray
    y: np.ndarray
    both: np.ndarray
    noise: np.float32


def fuse(ir: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fuse thermal and visible luminance without a network.

    fuse(x, x) is x, and fuse(c, y) is y for a constant c, to rounding.

    Args:
        ir: thermal, H x W float32 in [0, 1]; any size from 1x1 on.
        y: visible luminance, the same.

    Returns:
        H x W float32 in [0, 1].
    """
    fine, half = _band((ir, y))
    middle, quarter = _band(half)
    window = _window(_REGION_SHARE, quarter[0])
    smooth = [cv2.blur(cv2.blur(plane, window), (3, 3)) for plane in quarter]
    broad = [plane - low for plane, low in zip(quarter, smooth)]

    size = quarter[0].shape[::-1]
    energies = _energies(broad, size)
    regions = _fuse_regions(*smooth, noise=energies.noise)
    fused = regions.fused + _weighted(broad, energies, regions)
    fused -= _excess(fused, regions.blind)
    for band in middle, fine:
        fused = cv2.pyrUp(fused, dstsize=band[0].shape[::-1])
        fused += _weighted(band, _energies(band, size), regions)
    return np.clip(fused, 0, 1, out=fused)


def _band(images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the finest details of ir and y, H x W each, and at half the size what is left."""
    halves = [cv2.pyrDown(image) for image in images]
    details = [image - cv2.pyrUp(half, dstsize=image.shape[::-1])
               for image, half in zip(images, halves)]
    return details, halves


def _fuse_regions(ir: np.ndarray, y: np.ndarray, *, noise: np.float32) -> _Regions:
    """Fuse smoothed ir and y, h x w: what is larger than the details."""
    ir_around, y_around = _surround(ir, y)
    ir_contrast, y_contrast = ir - ir_around, y - y_around
    # Thermal below its noise says nothing.
    ir_size = np.maximum(abs(ir_contrast) - (_DEAD + np.sqrt(noise)), 0)
    y_size = abs(y_contrast)
    warm, opposed = ir_contrast > 0, ir_contrast * y_contrast < 0
    clash = warm & opposed
    # Room and clothes are judged nearby: all parts of a person have to be decided alike.
    room = np.clip(_BRIGHTEST - cv2.blur(y_around, _window(_ROOM_SHARE, y)), 0, 1)
    share, window = clash.astype(np.float32), _window(_CLOTHES_SHARE, y)
    nearby = cv2.blur(y_size * share, window) / (cv2.blur(share, window) + np.float32(1e-3))
    y_compared = np.where(clash, nearby, y_size)
    # A shadow in fog is nothing to keep.
    plain = clash * np.clip(y_compared * (1 / _DISTINCT), 0, 1)
    ir_size -= plain * np.maximum(ir_size - room, 0)
    ratio = np.where(warm, _SAME + (_OPPOSED - _SAME) * opposed, _COLD).astype(np.float32)
    taken = np.clip((ir_size - ratio * y_compared)
                    / (_RAMP_SHARE * (ir_size + y_compared) + _SOFT), 0, 1)
    distinct = np.clip(y_size * (1 / _DISTINCT), 0, 1)
    fused = y + taken * (ir_contrast - y_contrast)
    return _Regions(fused, taken * opposed, clash * (1 - taken) * distinct, taken * (1 - distinct))


def _surround(ir: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return what lies around each pixel of ir and y, h x w each."""
    medians = []
    for image in (ir, y):
        median = cv2.medianBlur(cv2.convertScaleAbs(_coarse(image), alpha=255), _MEDIAN_PX)
        median = cv2.blur(median.astype(np.float32) * np.float32(1 / 255),
                          (_MEDIAN_SMOOTHING_PX, _MEDIAN_SMOOTHING_PX))
        medians.append(cv2.resize(median, ir.shape[::-1]))
    warm = np.clip((ir - medians[0] - _WARM) * (1 / _WARM_RAMP), 0, 1)
    cold = 1 - warm
    window = _window(_SURROUND_SHARE, ir)
    share = cv2.blur(cold, window) + _LITTLE
    # A little of the median, for where everything nearby is warm.
    return [median + warm * ((cv2.blur(image * cold, window) + _LITTLE * median) / share - median)
            for image, median in zip((ir, y), medians)]


def _weighted(band: Sequence[np.ndarray], energies: _Energies, regions: _Regions) -> np.ndarray:
    """Return the sum of the thermal and visible details of a band, each times its gain, H x W."""
    noise = np.float32(max(_NOISE_SHARE * energies.noise, _QUIET ** 2))
    ir, y, both = energies.ir, energies.y, energies.both
    above = np.maximum(ir - noise, 0) * (1 - regions.kept)
    added = above / (above + _MASKING * y + noise)
    shown = np.clip(both / (y + 1e-12), 0, 1)  # so much of thermal is in the visible band already
    # Opposite edges cancel when they are added: the stronger one is chosen.
    clash = (np.clip(-2 * both / np.sqrt(ir * y + 1e-12) - 0.2, 0, 1)
             * np.clip(above / noise, 0, 1))
    above *= 1 + regions.opposed
    above *= above
    chosen = above / (above + np.square(_OPPOSED_ENERGY * y) + noise * noise)
    gains = added + clash * (chosen - added), 1 - added * shown * (1 - clash) - clash * chosen
    size = band[0].shape[::-1]
    ir, y = (plane * cv2.resize(gain, size) for plane, gain in zip(band, gains))
    ir += y
    return ir


def _excess(fused: np.ndarray, blind: np.ndarray) -> np.ndarray:
    """Return how far to lower the image, h x w, so that thermal over bright emptiness has room."""
    grid = _coarse(blind * np.maximum(fused - 1, 0))
    window = _window(_ROOM_SHARE, grid)
    lower = np.minimum(_LOWERING * cv2.blur(cv2.blur(grid, window), window), _MOST_LOWERED)
    return cv2.resize(lower, fused.shape[::-1])


def _energies(band: Sequence[np.ndarray], size: tuple[int, int]) -> _Energies:
    """Return the energies of a band of ir and y at size (width, height)."""
    ir, y = band
    if ir.shape[::-1] != size:  # every second pixel says enough
        half = (ir.shape[1] + 1) // 2, (ir.shape[0] + 1) // 2
        ir, y = (cv2.resize(plane, half, interpolation=cv2.INTER_NEAREST) for plane in band)
    products = [ir * ir, y * y, ir * y]
    if ir.shape[::-1] != size:
        products = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in products]
    ir, y, both = (cv2.blur(product, (_WINDOW_PX, _WINDOW_PX)) for product in products)
    # The running sums of blur can end a little below 0.
    noise = max(np.percentile(ir[::4, ::4], _NOISE_PERCENTILE), 0)
    return _Energies(ir, y, both, np.float32(noise))


def _coarse(image: np.ndarray) -> np.ndarray:
    """Return the image on the coarse grid: halved until it is no higher than that."""
    while image.shape[0] > _GRID_PX:
        image = cv2.pyrDown(image)
    return image


def _window(share: float, image: np.ndarray) -> tuple[int, int]:
    """Return a square window: its side is the odd number near share of the height, from 3 on."""
    side = max(3, 2 * round((share * image.shape[0] - 1) / 2) + 1)
    return side, side
