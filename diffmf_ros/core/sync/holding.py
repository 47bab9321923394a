# SPDX-License-Identifier: Apache-2.0
"""How long a thermal frame is held for later RGB frames when nobody has said so: one period of a slow camera."""

# Held from a thermal period of this many RGB periods on: beside 30 Hz, that is 21 Hz and less. Cameras of nearly one
# rate lose few frames, and a pair of their closest frames is worth more.
BEGIN_RATIO = 1.4
END_RATIO = 1.25
# A period and this part of it, for jitter: a frame that is dropped is not replaced.
MARGIN = 1.25
# Frames of a slower camera say too little about what moves now.
LONGEST_PERIOD_NS = 500_000_000


class AutomaticHold:
    """Follows the usual periods of both cameras.

    `hold_ns` is how much older than an RGB frame the thermal frame may be; 0: no frame is held.
    """

    def __init__(self) -> None:
        self.hold_ns = 0

    def reset(self) -> None:
        """Start again: other recordings may have other periods."""
        self.hold_ns = 0

    def follow(self, rgb_period_ns: int, thermal_period_ns: int) -> int:
        """Return hold_ns by the present periods; 0 for one that is not known, which changes nothing."""
        if rgb_period_ns and thermal_period_ns:
            slower = thermal_period_ns / rgb_period_ns
            held = slower >= (END_RATIO if self.hold_ns else BEGIN_RATIO) and thermal_period_ns <= LONGEST_PERIOD_NS
            self.hold_ns = round(MARGIN * thermal_period_ns) if held else 0
        return self.hold_ns


class FixedHold:
    """The same for a time that somebody has chosen."""

    def __init__(self, hold_ns: int):
        self.hold_ns = hold_ns

    def reset(self) -> None:
        """Nothing is learned here."""

    def follow(self, rgb_period_ns: int, thermal_period_ns: int) -> int:
        """Return hold_ns."""
        return self.hold_ns
