# SPDX-License-Identifier: Apache-2.0
"""Rows and columns of a thermal image that are no picture.

Telemetry and reference pixels beside it.
"""

from dataclasses import replace

import numpy as np

from ..frames import Frame
from ..settings import ThermalSettings
from .gray_range import foreign_rows

# (width, height) of the usual sensors: FLIR Lepton, Boson, Tau, Hadron; Seek; InfiRay and DJI.
SENSORS = ((80, 60), (160, 120), (320, 240), (320, 256), (640, 480), (640, 512), (336, 256),
           (206, 156), (256, 192), (384, 288))
# Telemetry takes 1 (Boson) to 4 rows (Tau), reference pixels 2 columns (Seek).
MOST_ROWS = 4


class ExtraRows:
    """Cuts the rows and columns that are no picture off the frames of one thermal camera.

    `cut` has the counts at top, bottom, left and right that were cut off last. Once found they
    stay, as long as the size of the frames does: the picture must not jump.
    """

    def __init__(self) -> None:
        self.cut = (0, 0, 0, 0)
        self._known: tuple | None = None

    def without(self, frame: Frame, settings: ThermalSettings) -> Frame:
        """Return frame without its extra rows.

        Frame itself when it has none, or they were cut off.
        """
        if frame.trimmed:
            return frame
        asked = settings.extra_rows_top, settings.extra_rows_bottom
        if (frame.size, asked) != self._known:
            self._known = frame.size, asked
            self.cut = self._found(frame) if min(asked) < 0 else (*asked, 0, 0)
            if sum(self.cut[:2]) >= frame.size[1]:
                self.cut = (0, 0, 0, 0)
        if not any(self.cut):
            return frame
        (width, height), (top, bottom, left, right) = frame.size, self.cut
        return replace(frame, pixels=frame.pixels[top:height - bottom, left:width - right],
                       trimmed=True)

    def _found(self, frame: Frame) -> tuple[int, int, int, int]:
        """Return the counts on all sides by the size of a usual sensor and by what the lines hold."""
        if frame.pixels.ndim != 2 or frame.pixels.dtype == np.uint8 or frame.size in SENSORS:
            return 0, 0, 0, 0
        extra = [(frame.size[0] - width, frame.size[1] - height) for width, height in SENSORS]
        extra = [lines for lines in extra if min(lines) >= 0 and max(lines) <= MOST_ROWS]
        if not extra:
            return 0, 0, 0, 0
        columns, rows = min(extra, key=sum)
        return *_beside(frame.pixels, rows), *_beside(frame.pixels.T, columns)


def _beside(pixels: np.ndarray, count: int) -> tuple[int, int]:
    """Return (count, 0) for reference rows at the top, (0, count) at the bottom."""
    first, last = foreign_rows(pixels) if count else (0, 0)
    return (count, 0) if first > last else (0, count)
