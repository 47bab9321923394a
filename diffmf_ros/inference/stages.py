# SPDX-License-Identifier: Apache-2.0
"""How long the stages of a pair take."""

import time
from contextlib import contextmanager


class StageClock:
    """Milliseconds of wall time by stage; a stage may be entered more than once."""

    def __init__(self):
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str):
        """Count the time of the `with` block for this stage, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: 1e3 * (time.perf_counter() - start)})

    def add(self, timings_ms: dict[str, float]) -> None:
        """Add what another clock measured."""
        for stage, spent_ms in timings_ms.items():
            self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent_ms
