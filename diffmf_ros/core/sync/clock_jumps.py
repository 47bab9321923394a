# SPDX-License-Identifier: Apache-2.0
"""Detection of clock jumps: stamps of two streams that start again, as in a looped recording.

A stamp more than 0.25 s behind the newest of its stream is a jump; less is one frame that overtook
another. Two frames of a 9 Hz camera span 0.22 s, and a transport that keeps only the newest frames
does not reorder more; a shorter recording in a loop cannot be told from that. Until the other
stream jumps too, its stamps above the midpoint of the jump are old and are dropped; this ends too
when the first stream reaches the midpoint itself.
"""

from enum import Enum

from ..frames import RGB, THERMAL

JUMP_NS = 250_000_000


class StampKind(Enum):
    """Kind of a stamp: NORMAL, JUMP (forget both streams), STALE (before the jump: refuse it)."""

    NORMAL = 'normal'
    JUMP = 'jump'
    STALE = 'stale'


class ClockJumpDetector:
    """Detector of jumps in the stamps of both streams, in the order of arrival."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all stamps."""
        self._newest_ns: dict[str, int] = {}
        self._behind: str | None = None
        self._middle_ns = 0

    def judge(self, stream: str, stamp_ns: int) -> StampKind:
        """Return the kind of the next stamp of a stream.

        Args:
            stream: rgb or thermal.
            stamp_ns: in nanoseconds, after the offsets.

        Returns:
            NORMAL, JUMP or STALE.
        """
        other = THERMAL if stream == RGB else RGB
        newest_ns = self._newest_ns.get(stream, stamp_ns)
        if stamp_ns < newest_ns - JUMP_NS:
            self._newest_ns = {stream: stamp_ns}
            self._behind, self._middle_ns = other, (newest_ns + stamp_ns) // 2
            return StampKind.JUMP
        if stream == self._behind:
            if stamp_ns > self._middle_ns and self._newest_ns[other] <= self._middle_ns:
                return StampKind.STALE
            self._behind = None
        self._newest_ns[stream] = max(newest_ns, stamp_ns)
        return StampKind.NORMAL
