# SPDX-License-Identifier: Apache-2.0
"""Checks of the images of a pair, before and after fusing: blind cameras, hidden warm targets."""

from dataclasses import dataclass, field

import numpy as np

from ..core.checks.hidden_targets import hidden_targets
from ..core.checks.input_doubts import InputDoubts
from ..core.checks.sight_monitor import SightMonitor
from ..core.checks.thumbnails import Thumbnails, luma_thumbnail, thumbnails
from ..core.frames import RGB, THERMAL, Issue
from ..core.imaging.veil import veil_map
from .prepare import Image, PreparedPair

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

    def __init__(self):
        self._monitor = SightMonitor()
        self._doubts = InputDoubts()

    def before(self, prepared: PreparedPair) -> Verdict:
        """Judge both images of a pair.

        Raises:
            FrameError: a frame is not usable.
        """
        pair, levels, mapping = prepared.pair, prepared.levels, prepared.mapping
        settings = prepared.settings
        doubts = self._doubts.judge(pair.thermal, levels, mapping, settings.thermal)
        if not settings.health.detect_blind:
            return Verdict(tuple(doubt for doubt in doubts if doubt.code != 'thermal_sliver'))
        images = thumbnails(pair, levels, mapping)
        seen = self._monitor.judge(images, pair.rgb.stamp_ns or pair.rgb.arrival_ns)
        blind = {issue.stream for issue in seen if issue.blind}
        # That a camera shows nothing says more than that it shows little.
        issues = seen + tuple(doubt for doubt in doubts if doubt.code != 'thermal_sliver'
                              or THERMAL not in blind)
        if blind == {RGB, THERMAL}:
            return Verdict(issues, mapping.grid, images)
        if blind:
            return Verdict(issues, {RGB: THERMAL, THERMAL: RGB}[blind.pop()], images)
        veil = veil_map(images.thermal_on_grid, images.luma_on_grid, images.seen)
        return Verdict(issues, images=images, veil=veil)

    def after(self, image: Image, verdict: Verdict, *, color: str) -> tuple[Issue, ...]:
        """Return the issues of a fused pair: of verdict, and warm targets that the image hides."""
        if verdict.images is None or color not in _COLORS_WITH_LUMA:
            return verdict.issues
        fused = luma_thumbnail(*image)
        return verdict.issues + self._monitor.compare(
            hidden_targets(verdict.images.thermal_on_grid, fused))
