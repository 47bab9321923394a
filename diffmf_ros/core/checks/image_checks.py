# SPDX-License-Identifier: Apache-2.0
"""Checks of the images of a pair, before and after fusing.

Blind cameras, hidden warm targets, gray ranges that do not fit, little overlap.
"""

from dataclasses import dataclass, field

import numpy as np

from ..alignment.warp import Mapping
from ..frames import RGB, THERMAL, Frame, Issue, Pair
from ..imaging.color import split_luma
from ..imaging.thermal import STRETCHED, Levels
from ..imaging.veil import VeilMonitor
from ..settings import Settings, ThermalSettings
from .hidden_targets import hidden_targets
from .sight_monitor import SightMonitor
from .thumbnails import Thumbnails, luma_thumbnail, thumbnails

# A range that the settings fix is doubted when it misses all but this part of the pixels.
FITTING_SHARE = 0.05
# An 8-bit camera is doubted when this share of its pixels lies within so few levels, until it
# fills more.
SLIVER_SHARE = 0.99
SLIVER_LEVELS, FILLED_LEVELS = 24, 40
# Both cameras are to see this part of the grid.
OVERLAP_SHARE = 0.1
_SAMPLES = 100
# Smaller images have too few pixels for a share of them.
SMALLEST_SIDE_PX = 32


class InputDoubts:
    """Judges pairs one after another; the texts stay the same while what they say lasts."""

    def __init__(self) -> None:
        self._sliver = False

    def judge(self, thermal: Frame, levels: Levels, mapping: Mapping,
              settings: ThermalSettings) -> tuple[Issue, ...]:
        """Return what is odd about a pair.

        Args:
            thermal: the raw frame.
            levels: the values that become black and white.
            mapping: what brings both images onto one grid.
            settings: those of the gain control.

        Returns:
            What there is to report, once for each doubt.
        """
        sample = thermal.pixels[::max(1, thermal.size[1] // _SAMPLES),
                                ::max(1, thermal.size[0] // _SAMPLES)]
        if thermal.encoding in STRETCHED:
            found = _range_issue(sample, levels, settings)
        elif min(thermal.size) < SMALLEST_SIDE_PX:
            found = None
        else:
            found = self._sliver_issue(sample if sample.ndim == 2 else split_luma(
                np.ascontiguousarray(sample), thermal.encoding)[0])
        return tuple(filter(None, (found, _overlap_issue(mapping))))

    def _sliver_issue(self, sample: np.ndarray) -> Issue | None:
        tail = (1 - SLIVER_SHARE) / 2
        low, high = np.quantile(sample, (tail, 1 - tail))
        self._sliver = high - low < (FILLED_LEVELS if self._sliver else SLIVER_LEVELS)
        return Issue('thermal_sliver', '8-bit thermal uses a small part of its range, and what it '
                     'shows of the scene is coarse: switch on the gain control of the camera, or '
                     'let it send 16 bits',
                     THERMAL) if self._sliver else None


def _range_issue(sample: np.ndarray, levels: Levels, settings: ThermalSettings) -> Issue | None:
    if settings.gain_control == 'agc':
        return None
    inside = (sample > levels.low) & (sample < levels.high)
    if inside.mean() >= FITTING_SHARE:
        return None
    names = {'radiometric': 'thermal.radiometric_unit, _low_k and _high_k',
             'linear': 'thermal.linear_low and _high'}
    return Issue('thermal_range', f'nearly all thermal values lie outside of {levels.low:g} to '
                 f'{levels.high:g}, the range of thermal.gain_control {settings.gain_control}: '
                 f'check {names[settings.gain_control]}', THERMAL)


def _overlap_issue(mapping: Mapping) -> Issue | None:
    share = mapping.overlap
    if share >= OVERLAP_SHARE:
        return None
    return Issue('little_overlap', f'the two cameras share {100 * share:.1f} % of the '
                 f'{mapping.grid} image: is the '
                 'alignment that of these cameras, in this direction, in pixels and metres?')


# Of these a fused image has the luminance; a palette has another one.
_COLORS_WITH_LUMA = ('keep_chroma', 'gray')


@dataclass(frozen=True)
class Verdict:
    """What a look at both images of a pair gave.

    survivor: the stream to pass on alone because the other camera is blind; empty: both are fused.
    veil: where RGB is veiled, the share of thermal in its place (see veil_map); None: nowhere.
    """

    issues: tuple[Issue, ...] = ()
    survivor: str = ''
    images: Thumbnails | None = field(default=None, repr=False)
    veil: np.ndarray | None = field(default=None, repr=False)


class ImageChecks:
    """Judges the images of pairs, with hysteresis: see SightMonitor. For one thread at a time."""

    def __init__(self) -> None:
        self._monitor = SightMonitor()
        self._veil = VeilMonitor()
        self._doubts = InputDoubts()

    def before(self, pair: Pair, levels: Levels, mapping: Mapping, settings: Settings) -> Verdict:
        """Judge both images of a pair.

        Args:
            pair: upright pictures.
            levels: the gray range of thermal.
            mapping: what brings both onto one grid.
            settings: those of the groups thermal and health count, and whether images are
                averaged in time: without, the veil map is that of each pair by itself too.

        Returns:
            What was found.

        Raises:
            FrameError: a frame is not usable.
        """
        doubts = self._doubts.judge(pair.thermal, levels, mapping, settings.thermal)
        if not settings.health.detect_blind:
            return Verdict(tuple(doubt for doubt in doubts if doubt.code != 'thermal_sliver'))
        images = thumbnails(pair, levels, mapping)
        time_ns = pair.rgb.stamp_ns or pair.rgb.arrival_ns
        seen = self._monitor.judge(images, time_ns)
        blind = {issue.stream for issue in seen if issue.blind}
        # That a camera shows nothing says more than that it shows little.
        issues = seen + tuple(doubt for doubt in doubts if doubt.code != 'thermal_sliver'
                              or THERMAL not in blind)
        if blind == {RGB, THERMAL}:
            return Verdict(issues, mapping.grid, images)
        if blind:
            return Verdict(issues, {RGB: THERMAL, THERMAL: RGB}[blind.pop()], images)
        veil = self._veil(images.thermal_on_grid, images.luma_on_grid, images.seen,
                          stamp_ns=time_ns if settings.output.temporal_filter else 0)
        return Verdict(issues, images=images, veil=veil)

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
        if verdict.images is None or color not in _COLORS_WITH_LUMA:
            return verdict.issues
        fused = luma_thumbnail(*image)
        return verdict.issues + self._monitor.compare(
            hidden_targets(verdict.images.thermal_on_grid, fused))
