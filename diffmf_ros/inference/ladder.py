# SPDX-License-Identifier: Apache-2.0
"""When a network that fails is tried again, and at which working size.

Counts pairs; looks at no clock.
"""

from ..core.sync.adaptive_scale import steps_from

# Pairs without the network after one failure, two in a row, three ... : 1, 2, 4 ... up to this, 2
# s at 30 Hz.
LONGEST_PAUSE = 64
# A size that failed so often in a row is too much.
FAILURES_PER_STEP = 2
# Pairs in a row after which a failure is over: a second at 30 Hz, so that a report every second
# shows each one.
RECOVERED = 32
LONGEST_PATIENCE = 4096


class Ladder:
    """Steps down when the network fails and up again when it works. For one thread at a time.

    After every failure the network rests for some pairs, longer for each failure in a row. After
    two in a row, or when memory ran out, the working size goes one step down
    (core/sync/adaptive_scale.py). At the smallest size it stays, and what is left is classical
    fusion with an attempt every LONGEST_PAUSE pairs. After RECOVERED pairs that worked the size
    goes one step up; a step up that is undone doubles the number of pairs to wait for, up to
    LONGEST_PATIENCE, until a size has held for longer than that.
    """

    def __init__(self):
        self.largest = 1.0  # working size that the network is trusted with
        self.failures = 0  # in a row
        self.pause = 0  # pairs that the network still rests
        self._last_reason = ''
        self._at_this_size = 0
        self._worked = 0
        self._since_step = 0
        self._patience = RECOVERED
        self._went_up = False

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence, until RECOVERED pairs in a row have worked; then empty."""
        if not self._last_reason:
            return ''
        times = {0: 'lately', 1: ''}.get(self.failures, f'{self.failures} times in a row')
        return f'the network failed{times and " "}{times}: {self._last_reason}'

    def admits(self) -> bool:
        """Whether the network may have the next pair; ask once a pair."""
        if self.pause:
            self.pause -= 1
            return False
        return True

    def succeeded(self) -> None:
        """Note a pair that worked."""
        self.failures = self._at_this_size = 0
        self._worked += 1
        self._since_step += 1
        if self._worked >= RECOVERED:
            self._last_reason = ''
        if self.largest < 1 and self._since_step >= self._patience:
            self._step_to(min(step for step in steps_from(1.0) if step > self.largest))

    def failed(self, reason: str, *, scale: float, out_of_memory: bool = False) -> None:
        """Note a pair that failed at this working size."""
        self._last_reason, self._worked = reason, 0
        self.failures += 1
        self._at_this_size += 1
        self.pause = min(2 ** (self.failures - 1), LONGEST_PAUSE)
        smaller = [step for step in steps_from(1.0) if step < scale]
        if smaller and (out_of_memory or self._at_this_size >= FAILURES_PER_STEP):
            if self._since_step > LONGEST_PATIENCE:
                self._patience = RECOVERED
            elif self._went_up:
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            self._step_to(smaller[0])

    def _step_to(self, scale: float) -> None:
        self._went_up = scale > self.largest
        self.largest = scale
        self._at_this_size = self._since_step = 0
