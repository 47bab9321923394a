# SPDX-License-Identifier: Apache-2.0
"""Rows of a thermal image that are no picture: telemetry, which cameras send above or below it."""

from dataclasses import replace

import numpy as np

from ..frames import Frame
from ..settings import ThermalSettings
from .gray_range import foreign_rows

# (width, height) of the usual sensors: FLIR Lepton, Boson, Tau, Hadron; Seek; InfiRay and DJI.
SENSORS = ((80, 60), (160, 120), (320, 240), (320, 256), (640, 480), (640, 512), (336, 256), (206, 156), (256, 192),
           (384, 288))
# Telemetry takes 1 (Boson) to 4 rows (Tau).
MOST_ROWS = 4


class ExtraRows:
    """Cuts the rows that are no picture off the frames of one thermal camera.

    `top` and `bottom` are the rows that were cut off last. Once found they stay, as long as the size
    of the frames does: the picture must not jump.
    """

    def __init__(self):
        self.top = self.bottom = 0
        self._known: tuple | None = None

    def without(self, frame: Frame, settings: ThermalSettings) -> Frame:
        """Return frame without its extra rows; frame itself when it has none, or they were cut off."""
        if frame.trimmed:
            return frame
        asked = settings.extra_rows_top, settings.extra_rows_bottom
        if (frame.size, asked) != self._known:
            self._known = frame.size, asked
            self.top, self.bottom = self._found(frame) if min(asked) < 0 else asked
        if not self.top + self.bottom or self.top + self.bottom >= frame.size[1]:
            return frame
        return replace(frame, pixels=frame.pixels[self.top:frame.size[1] - self.bottom], trimmed=True)

    def _found(self, frame: Frame) -> tuple[int, int]:
        """Return the rows at top and bottom by the size of a usual sensor and by what the rows hold."""
        width, height = frame.size
        counts = [height - rows for columns, rows in SENSORS if columns == width and 0 < height - rows <= MOST_ROWS]
        if not counts or frame.pixels.ndim != 2 or frame.pixels.dtype == np.uint8:
            return 0, 0
        first, last = foreign_rows(frame.pixels)
        return (counts[0], 0) if first > last else (0, counts[0])
