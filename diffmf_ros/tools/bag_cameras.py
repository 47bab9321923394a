# SPDX-License-Identifier: Apache-2.0
"""The pictures of both cameras of a recording, and the calibrations that belong to them.

Crop, orientation and extra rows are taken off as the node does it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..core.alignment.camera import CalibrationError, CameraModel
from ..core.frames import RGB, THERMAL, Pair
from ..core.imaging.camera_picture import CameraPicture
from ..core.settings import Settings


class BagCameras:
    """Crops and turns the frames of a recording, and its camera infos with them."""

    def __init__(self, infos: Mapping[str, CameraModel | None], settings: Settings, *,
                 changed: Callable[[str, CameraModel | None], None]):
        """Take what the recording says of its cameras.

        Args:
            infos: the calibrations of the images as recorded, by stream.
            settings: those of the crops and orientations.
            changed: called with the stream and the calibration of its pictures, with the first
                pair and whenever it is another one.
        """
        self._problems: dict[str, str] = {}
        self._infos, self._settings, self._changed = infos, settings, changed
        self._pictures = {stream: CameraPicture(stream) for stream in (RGB, THERMAL)}
        self._known: dict[str, tuple] = {}
        self._cameras: dict[str, CameraModel | None] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the newest pictures of a camera have no calibration, of every camera."""
        return tuple(self._problems.values())

    def camera(self, stream: str) -> CameraModel | None:
        """Return the calibration of the newest picture of a camera, or None."""
        return self._cameras.get(stream)

    def pair(self, pair: Pair) -> Pair:
        """Return the pair with the pictures in its frames. Raises FrameError as CameraPicture."""
        frames = {RGB: pair.rgb, THERMAL: pair.thermal}
        for stream, frame in frames.items():
            frames[stream] = self._pictures[stream].of(frame, self._settings)
            self._follow(stream)
        return replace(pair, rgb=frames[RGB], thermal=frames[THERMAL])

    def _follow(self, stream: str) -> None:
        picture = self._pictures[stream]
        if self._known.get(stream) == picture.state[:2]:
            return
        self._known[stream], info = picture.state[:2], self._infos.get(stream)
        self._problems.pop(stream, None)
        try:
            camera = info and picture.camera(info, self._settings)
        except CalibrationError as error:
            self._problems[stream] = f'{stream}/camera_info: {error}'
            camera = None
        self._cameras[stream] = camera
        self._changed(stream, camera)
