# SPDX-License-Identifier: Apache-2.0
"""A network and the path that pairs take through it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.alignment.geometry import Mapping
from ..core.frames import Pair
from ..core.imaging.thermal import Levels
from ..core.packages import pip_install
from ..core.settings import Settings
from .errors import EngineError, NetworkFailure
from .host_path import HostPath, StageClock

# An image and its encoding.
Image = tuple[np.ndarray, str]


@dataclass(frozen=True)
class PreparedPair:
    """A pair with all that a path has to know to fuse it."""

    pair: Pair
    levels: Levels
    mapping: Mapping
    color: str

    def run(self, path, *, scale: float, stage: StageClock) -> Image:
        """Fuse it on a path, at this working size."""
        return path(self.pair, levels=self.levels, mapping=self.mapping, color=self.color,
                    scale=scale, stage=stage)

    def kind(self, scale: float) -> tuple[Any, ...]:
        """What decides which operations it needs, and so how long it takes."""
        rgb, thermal = self.pair.rgb, self.pair.thermal
        return (rgb.size, rgb.encoding, thermal.size, thermal.encoding, self.mapping.grid,
                self.color, scale)


class Network:
    """The network that settings name, on the path of its device. For one thread at a time.

    A torch network on a GPU takes pairs on the device path, others on the host path. Raises
    DiffmfError at construction when weights, device, precision or backend are not usable, and when
    a library is missing.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._engine = make_engine(settings)
        self.renew()

    @property
    def name(self) -> str:
        """Such as 'diffmf light'."""
        return name_of(self.settings)

    @property
    def device(self) -> str:
        """Device, precision and backend."""
        return self._engine.description

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without."""
        return *self._engine.problems, *self.path.problems

    def renew(self) -> None:
        """Give up all that is kept from pair to pair: buffers, and on a device plans and graphs.
        """
        # onnxruntime takes host arrays
        if self.settings.engine == 'torch' and self._engine.device == 'cuda':
            from .device_path import DevicePath
            self.path = DevicePath(self._engine)
        else:
            self.path = HostPath(self._engine)

    def __call__(self, job: PreparedPair, *, scale: float) -> tuple[Image, dict[str, float]]:
        """Return the fused image and the milliseconds by stage.

        Raises FrameError, and whatever the network raises.
        """
        stage = StageClock()
        pixels, encoding = job.run(self.path, scale=scale, stage=stage)
        if pixels.shape[1::-1] != tuple(job.mapping.size):
            raise NetworkFailure(f'the network returned an image of '
                                 f'{pixels.shape[1]}x{pixels.shape[0]}, expected '
                                 f'{job.mapping.size[0]}x{job.mapping.size[1]}')
        return (pixels, encoding), stage.timings_ms


def name_of(settings: Settings) -> str:
    """Return model and preset."""
    return f'{settings.model} {settings.network_preset}'


class LibraryMissing(EngineError):
    """A network needs a library that is not installed: torch, einops or safetensors.

    needs: which network needs what.
    """

    def __init__(self, needs: str, error: ImportError):
        """needs: what needs it; error: its import."""
        self.needs = f'{needs} needs {(error.name or "torch").partition(".")[0]}'
        super().__init__(f'{self.needs}, which cannot be imported ({error}); '
                         f'{pip_install("torch")}')


def make_engine(settings: Settings):
    """Return the engine that settings name.

    Raises LibraryMissing without torch, and what the engine raises.
    """
    if settings.engine == 'onnx':
        from .onnx_engine import OnnxEngine
        return OnnxEngine(settings)
    try:
        from .engine import Engine
        return Engine(settings)  # imports the model, and with it einops
    except ImportError as error:
        raise LibraryMissing(name_of(settings), error) from error
