# SPDX-License-Identifier: Apache-2.0
"""The working size that the session asks of the pipeline: the one that is set, or one that keeps up."""

import threading

from ..core.frames import FusionResult, Mode, Pair
from ..core.settings import Settings
from ..core.sync.adaptive_scale import AdaptiveScale


class WorkingScale:
    """`value` is the scale of the next pair, 1 for classical fusion, which has no working size.

    `complaint` says when a setting is in vain for that reason, else it is empty. Pairs
    arrive in the executor's thread and are fused in the worker's.
    """

    def __init__(self, settings: Settings):
        classical = settings.model == 'classical'
        idle = [name for name, asked in (('scale', settings.scale < 1), ('adaptive_scale', settings.adaptive_scale))
                if asked and classical]
        self.complaint = f'{" and ".join(idle)} without effect: classical fusion has no working size' if idle else ''
        self._set = 1.0 if classical else settings.scale
        self._adaptive = AdaptiveScale(settings.scale) if settings.adaptive_scale and not classical else None
        self._lock = threading.Lock()

    @property
    def value(self) -> float:
        """The scale of the next pair."""
        return self._adaptive.scale if self._adaptive else self._set

    def arrived(self, pair: Pair) -> None:
        """Note a pair, also one that will be overtaken."""
        if self._adaptive:
            with self._lock:
                self._adaptive.arrived(pair.rgb.stamp_ns)

    def fused(self, result: FusionResult, *, busy_ms: float) -> bool:
        """Note how long it took to fuse and publish a pair; return whether the scale is now another one."""
        if self._adaptive is None or result.mode is not Mode.FUSED:
            return False
        before = self.value
        with self._lock:
            self._adaptive.fused(busy_ms)
        return self.value != before
