# SPDX-License-Identifier: Apache-2.0
"""Checks of the images of a pair, before and after fusing.

Blind cameras, hidden warm targets, gray ranges that do not fit, little overlap.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from ..alignment.warp import Mapping
from ..frames import RGB, THERMAL, Frame, Issue, Pair
from ..imaging.color import COLORS_WITH_LUMA, split_luma
from ..imaging.stream_filters import VeilMonitor
from ..imaging.thermal import STRETCHED, Levels
from ..settings import Settings, ThermalSettings
from .sight_monitor import JUDGED_SIDE, SightMonitor, Thumbnails, reduced, thumbnails

# A range that the settings fix is doubted when it misses all but this part of the pixels.
FITTING_SHARE = 0.05
# An 8-bit camera is doubted when this share of its pixels lies within so few levels, until it
# fills more.
SLIVER_SHARE = 0.99
SLIVER_LEVELS, FILLED_LEVELS = 24, 40
# Both cameras are to see this part of the grid.
OVERLAP_SHARE = 0.1
# Two cameras differ by more levels in the mean; a picture and its JPEG by less.
SAME_LEVELS = 1.5
# The smallest thermal sensors have 4 rows (MLX90621).
SMALLEST_SIDE = 4
_SAMPLES = 100
# Thermal in floats with this share of NaN and infinity is doubted.
INVALID_SHARE = 0.05


class InputDoubts:
    """Judges pairs one after another; the texts stay the same while what they say lasts."""

    def __init__(self) -> None:
        self._sliver = False

    def judge(self, pair: Pair, levels: Levels, mapping: Mapping,
              settings: ThermalSettings) -> tuple[Issue, ...]:
        """Return what is odd about a pair.

        Args:
            pair: raw frames.
            levels: the values that become black and white.
            mapping: what brings both images onto one grid.
            settings: those of the gain control.

        Returns:
            What there is to report, once for each doubt.
        """
        thermal = pair.thermal
        height, width = thermal.pixels.shape[:2]
        sample = thermal.pixels[::max(1, height // _SAMPLES), ::max(1, width // _SAMPLES)]
        found: Issue | None = None
        if thermal.encoding in STRETCHED:
            if settings.gain_control != 'agc':
                found = _range_issue(sample, levels, settings)
        elif settings.gain_control != 'agc':
            found = Issue('idle_gain_control', f'thermal.gain_control {settings.gain_control} has '
                          'no effect on thermal of 8 bits, which the camera has stretched: set it '
                          'to agc, or let the camera send 16 bits', THERMAL)
        elif min(height, width) >= JUDGED_SIDE:  # fewer pixels are too few for a share of them
            found = self._sliver_issue(sample if sample.ndim == 2 else split_luma(
                np.ascontiguousarray(sample), thermal.encoding)[0])
        overlap = _overlap_issue(mapping) if mapping.overlap < OVERLAP_SHARE else None
        invalid = _invalid_issue(thermal.pixels) if thermal.encoding == '32FC1' else None
        small = [_small_issue(frame) for frame in (pair.rgb, thermal)
                 if min(frame.pixels.shape[:2]) < SMALLEST_SIDE]
        return tuple(issue for issue in (found, overlap, invalid, *small) if issue)

    def _sliver_issue(self, sample: np.ndarray) -> Issue | None:
        tail = (1 - SLIVER_SHARE) / 2
        low, high = np.quantile(sample, (tail, 1 - tail))
        self._sliver = high - low < (FILLED_LEVELS if self._sliver else SLIVER_LEVELS)
        return Issue('thermal_sliver', '8-bit thermal uses a small part of its range, and what it '
                     'shows of the scene is coarse: switch on the gain control of the camera, or '
                     'let it send 16 bits',
                     THERMAL) if self._sliver else None


def _range_issue(sample: np.ndarray, levels: Levels, settings: ThermalSettings) -> Issue | None:
    """Return how the values do not fit a range that is fixed.

    What fills little of it (wide_range) is wrong only where nothing is left to see.
    """
    names = {'radiometric': 'thermal.radiometric_unit, _low_k and _high_k',
             'linear': 'thermal.linear_low and _high'}
    check = (f'{levels.low:g} to {levels.high:g}, the range of thermal.gain_control '
             f'{settings.gain_control}: check {names[settings.gain_control]}')
    inside = sample[(sample > levels.low) & (sample < levels.high)]
    if inside.size < FITTING_SHARE * sample.size:
        return Issue('thermal_range', f'nearly all thermal values lie outside of {check}', THERMAL)
    low, high = np.quantile(inside, ((1 - SLIVER_SHARE) / 2, (1 + SLIVER_SHARE) / 2))
    if 255 * (high - low) < SLIVER_LEVELS * (levels.high - levels.low):
        return Issue('wide_range', f'the thermal values, {low:.5g} to {high:.5g}, fill little of '
                     + check, THERMAL)
    return None


def _invalid_issue(pixels: np.ndarray) -> Issue | None:
    # All pixels count: a sample may hit each of a camera's dead rows, or none.
    share = 1 - np.count_nonzero(np.isfinite(pixels)) / pixels.size
    return Issue('thermal_invalid', f'{100 * share:.0f} % of the thermal pixels are NaN or '
                 'infinity and are shown as if they were at an end of the range: look at the '
                 'camera, its driver or the mask that is applied',
                 THERMAL) if share >= INVALID_SHARE else None


def _small_issue(frame: Frame) -> Issue:
    height, width = frame.pixels.shape[:2]
    return Issue(f'{frame.stream}_small', f'{frame.stream} has {width}x{height} pixels, too few '
                 'to tell whether it shows anything '
                 f'(expected {SMALLEST_SIDE} a side at least): is it the right file or topic?',
                 frame.stream)


def _overlap_issue(mapping: Mapping) -> Issue:
    return Issue('little_overlap', f'the two cameras share {100 * mapping.overlap:.1f} % of the '
                 f'{mapping.grid} image: is the '
                 'alignment that of these cameras, in this direction, in pixels and metres?')


# Size in pixels of the surround of a target, and gray levels by which it is warmer than the mean.
_SURROUND = (31, 31)
_WARMER = 40
# Smaller thumbnails are not judged: a few pixels of noise would be a target.
_LEAST_SIDE = 48
# Deviations of its surround by which it is warmer: noise and clutter are no targets.
_CLEARER = 3.0
# Least pixels of a target in the thumbnail, and the largest share of the thumbnail.
_LEAST_PIXELS, _LARGEST_SHARE = 4, 0.05
# Only the largest ones are compared, to bound the time.
_MOST_TARGETS = 6
# Hidden: less than a fifth of its contrast in thermal is left, or less than the eye sees.
_LEFT, _VISIBLE = 0.2, 8.0


@dataclass(frozen=True)
class Target:
    """A warm spot: the part of the image around it, masks of its own and of the cool pixels."""

    part: tuple[slice, slice]
    inside: np.ndarray
    around: np.ndarray

    def contrast(self, gray: np.ndarray) -> tuple[float, float]:
        """Measure the target in an image.

        Args:
            gray: h x w uint8.

        Returns:
            Mean of the target minus that of its surround, and the deviation of the surround.
        """
        part = gray[self.part]
        mean, deviation = cv2.meanStdDev(part, mask=self.around)
        return cv2.mean(part, self.inside)[0] - mean.item(), deviation.item()


def hidden_targets(thermal: np.ndarray, fused: np.ndarray) -> int:
    """Count the warm targets without contrast in the fused image.

    Args:
        thermal: h x w uint8, white-hot.
        fused: luminance of the fused image, the same size.

    Returns:
        Their number.
    """
    count = 0
    for target in warm_targets(thermal):
        warmth, clutter = target.contrast(thermal)
        if warmth >= max(_WARMER, _CLEARER * clutter):
            count += abs(target.contrast(fused)[0]) < max(_LEFT * warmth, _VISIBLE)
    return count


def warm_targets(thermal: np.ndarray) -> list[Target]:
    """Return the largest warm spots of a thermal thumbnail.

    Args:
        thermal: h x w uint8, white-hot.

    Returns:
        The targets, the largest first.
    """
    if min(thermal.shape) < _LEAST_SIDE:
        return []
    warm = cv2.compare(cv2.subtract(thermal, cv2.blur(thermal, _SURROUND)), _WARMER, cv2.CMP_GT)  # type: ignore[call-overload]
    _, labels, spots, _ = cv2.connectedComponentsWithStats(warm, ltype=cv2.CV_16U)
    targets = []
    for label in np.argsort(-spots[1:, cv2.CC_STAT_AREA])[:2 * _MOST_TARGETS] + 1:
        x, y, across, down, area = spots[label].tolist()
        if not _LEAST_PIXELS <= area <= _LARGEST_SHARE * thermal.size:
            continue
        margin = max(2, (across + down) // 4)
        part = np.s_[max(0, y - margin):y + down + margin, max(0, x - margin):x + across + margin]
        around = cv2.bitwise_not(warm[part])
        if cv2.countNonZero(around) >= _LEAST_PIXELS:
            targets.append(Target(part, cv2.compare(labels[part], int(label), cv2.CMP_EQ), around))  # type: ignore[call-overload]
    return targets[:_MOST_TARGETS]


# Doubts whether there is anything to see, which the setting detect_blind switches off, too.
_OF_SIGHT = 'thermal_sliver', 'wide_range', 'rgb_small', 'thermal_small'
SAME_PICTURE = Issue('same_picture', 'rgb and thermal show the same picture: is one camera, topic '
                     'or file given for both?')


@dataclass(frozen=True)
class Verdict:
    """What a look at both images of a pair gave.

    survivor: the stream to pass on alone because the other camera is blind; empty: both are fused.
    veil: where RGB is veiled, the share of thermal in its place (see veil_map); None: nowhere.
    anew: whether the pair was judged by itself, as after a gap.
    """

    issues: tuple[Issue, ...] = ()
    survivor: str = ''
    images: Thumbnails | None = field(default=None, repr=False)
    veil: np.ndarray | None = field(default=None, repr=False)
    anew: bool = True


class ImageChecks:
    """Judges the images of pairs, with hysteresis: see SightMonitor. For one thread at a time."""

    def __init__(self) -> None:
        self._monitor = SightMonitor()
        self._veil = VeilMonitor()
        self._doubts = InputDoubts()

    def before(self, pair: Pair, levels: Levels, mapping: Mapping, settings: Settings,
               images: Thumbnails | None = None) -> Verdict:
        """Judge both images of a pair.

        Args:
            pair: upright pictures.
            levels: the gray range of thermal.
            mapping: what brings both onto one grid.
            settings: those of the groups thermal and health count, and whether images are
                averaged in time: without, the veil map is that of each pair by itself too.
            images: thumbnails of the pair where there are some already.

        Returns:
            What was found.

        Raises:
            FrameError: a frame is not usable.
        """
        doubts = self._doubts.judge(pair, levels, mapping, settings.thermal)
        if not settings.health.detect_blind:
            return Verdict(tuple(doubt for doubt in doubts if doubt.code not in _OF_SIGHT))
        images = images or thumbnails(pair, levels, mapping)
        time_ns = pair.rgb.stamp_ns or pair.rgb.arrival_ns
        seen = self._monitor.judge(images, time_ns)
        blind = {issue.stream for issue in seen if issue.blind}
        # That a camera shows nothing says more than that it shows little, but not why.
        void = 'thermal_sliver' if THERMAL in blind else 'wide_range'
        issues = seen + tuple(doubt for doubt in doubts if doubt.code != void)
        if blind == {RGB, THERMAL}:
            return Verdict(issues, mapping.grid, images)
        if blind:
            return Verdict(issues, {RGB: THERMAL, THERMAL: RGB}[blind.pop()], images)
        thermal, luma = images.thermal_on_grid, images.luma_on_grid
        if cv2.norm(thermal, luma, cv2.NORM_L1) < SAME_LEVELS * luma.size:
            issues += (SAME_PICTURE,)
        veil = self._veil(thermal, luma, images.seen,
                          stamp_ns=time_ns if settings.output.temporal_filter else 0)
        return Verdict(issues, images=images, veil=veil, anew=self._monitor.anew)

    def after(self, image: tuple[np.ndarray, str], verdict: Verdict, *,
              color: str) -> tuple[Issue, ...]:
        """Judge a fused image.

        Args:
            image: (pixels, encoding) of the fused image.
            verdict: that of its pair.
            color: how it is colored, as output.color names it.

        Returns:
            The issues of verdict, and warm targets that the image hides.
        """
        if verdict.images is None or color not in COLORS_WITH_LUMA:
            return verdict.issues
        pixels, encoding = image
        fused = split_luma(reduced(pixels), encoding)[0]
        return verdict.issues + self._monitor.compare(
            hidden_targets(verdict.images.thermal_on_grid, fused), anew=verdict.anew)
