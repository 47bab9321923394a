# SPDX-License-Identifier: Apache-2.0
"""What there is without a network: classical fusion, and when that fails the image of one camera."""

from ..core.frames import RGB, THERMAL, FrameError, Mode
from ..core.imaging import classical
from ..core.settings import Settings
from .host_path import HostPath
from .inputs import Inputs
from .network import Image, Job
from .stages import StageClock

ALONE = {RGB: Mode.RGB_ONLY, THERMAL: Mode.THERMAL_ONLY}


class StandIn:
    """Makes an image of every usable pair. problem: why classical fusion failed on the last pair, or nothing."""

    def __init__(self, inputs: Inputs):
        self.problem = ''
        self._inputs = inputs
        self._path = HostPath(classical.fuse)

    def __call__(self, job: Job, settings: Settings, stage: StageClock) -> tuple[Image, Mode, tuple[str, ...]]:
        """Return image, mode and warnings. Raises FrameError when a frame is not usable."""
        try:
            image = job.run(self._path, scale=1.0, stage=stage)
        except FrameError:
            raise
        except Exception as error:  # whatever it is, there is the image of the grid's camera
            self.problem = f'classical fusion raised {type(error).__name__}: {error}'
        else:
            self.problem = ''
            return image, Mode.CLASSICAL, ()
        frame = job.pair.rgb if job.mapping.grid == RGB else job.pair.thermal
        return (self._inputs.image(frame, settings), ALONE[frame.stream],
                (f'{self.problem}; the {frame.stream} image was passed on',))
